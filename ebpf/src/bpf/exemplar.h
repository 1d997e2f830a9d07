/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The last anomaly that each counter counted, of those that are to be shown with it. User space takes them.
 */
#ifndef JITTERSCOPE_EXEMPLAR_H
#define JITTERSCOPE_EXEMPLAR_H

#include "kernel.h"
#include "abi.h"
#include "limit.h"
#include "span_store.h"

/* Of those counters that had one since user space looked. */
#define EXEMPLARS(key_type)                          \
	struct {                                     \
		__uint(type, BPF_MAP_TYPE_LRU_HASH); \
		__uint(max_entries, 1024);           \
		__type(key, key_type);               \
		__type(value, struct exemplar);      \
	} exemplars SEC(".maps")

/* To be called after `value` was added under `key`, so that the sum contains it. */
static __always_inline void exemplify(void *map, const void *key, const struct span_link *link, u64 value)
{
	struct settings *set = settings_of_probe();
	struct exemplar e = {.value = value, .link = *link};

	if (!span_storage || !set || !set->exemplars)
		return;
	if (set->exemplars == EXEMPLARS_SAMPLED && !(link->source && link->flags & SPAN_SAMPLED))
		return;
	e.time = bpf_ktime_get_boot_ns();
	bpf_map_update_elem(map, key, &e, BPF_ANY);
}

#endif
