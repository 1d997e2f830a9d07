/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Histograms by key. */
#ifndef JITTERSCOPE_SERIES_H
#define JITTERSCOPE_SERIES_H

#include "kernel.h"
#include "abi.h"
#include "account.h"

/* A histogram is larger than the stack: a new one is copied from here. */
static const struct histogram no_durations;

/* The histogram under a key; NULL, and counted, when the map has no room for it. */
static __always_inline struct histogram *series_of(void *map, const void *key)
{
	struct histogram *h = bpf_map_lookup_elem(map, key);

	if (h)
		return h;
	bpf_map_update_elem(map, key, &no_durations, BPF_NOEXIST);
	h = bpf_map_lookup_elem(map, key);
	if (!h)
		account(overflow);
	return h;
}

#endif
