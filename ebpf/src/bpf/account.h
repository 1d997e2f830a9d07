/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Counting what a probe saw and what became of it, and counting by key. */
#ifndef JITTERSCOPE_ACCOUNT_H
#define JITTERSCOPE_ACCOUNT_H

#include "kernel.h"
#include "abi.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct account);
} accounts SEC(".maps");

/*
 * Atomic although the value is this CPU's own: kernels before 5.12 do not keep a softirq from running the
 * program on top of itself.
 */
#define account_add(field, n)                                                \
	do {                                                                 \
		u32 _zero = 0;                                               \
		struct account *_a = bpf_map_lookup_elem(&accounts, &_zero); \
		if (_a)                                                      \
			__sync_fetch_and_add(&_a->field, n);                 \
	} while (0)

#define account(field) account_add(field, 1)

/* Adds `n` under `key`; a full map is the account's overflow. */
static __always_inline void add(void *map, const void *key, u64 n)
{
	u64 zero = 0, *value = bpf_map_lookup_elem(map, key);

	if (!value) {
		bpf_map_update_elem(map, key, &zero, BPF_NOEXIST);
		value = bpf_map_lookup_elem(map, key);
	}
	if (value)
		__sync_fetch_and_add(value, n);
	else
		account_add(overflow, n);
}

static __always_inline void count(void *map, const void *key)
{
	add(map, key, 1);
}

#endif
