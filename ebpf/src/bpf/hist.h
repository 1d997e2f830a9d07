/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Histograms of durations with exponential buckets: the index is exact, by a search among whole nanoseconds.
 */
#ifndef JITTERSCOPE_HIST_H
#define JITTERSCOPE_HIST_H

#include "kernel.h"
#include "abi.h"

/*
 * The largest duration, in ns, of each bucket but the last. Powers of 2^(1/4) seconds, rounded down: of whole
 * nanoseconds, those up to the rounded bound are those up to the bound.
 */
const volatile u64 histogram_bounds[HISTOGRAM_BUCKETS - 1];

static __always_inline u32 bucket_of(u64 ns, const volatile u64 *bounds)
{
	u32 bucket = 0, step;

#pragma unroll
	for (step = HISTOGRAM_BUCKETS / 2; step; step /= 2)
		if (ns > bounds[(bucket + step - 1) & (HISTOGRAM_BUCKETS - 1)])
			bucket += step;
	return bucket;
}

/* Counts one duration in a histogram with bounds of its own. CPUs share the histogram. */
static __always_inline void observe_within(struct histogram *h, u64 ns, const volatile u64 *bounds)
{
	__sync_fetch_and_add(&h->buckets[bucket_of(ns, bounds) & (HISTOGRAM_BUCKETS - 1)], 1);
	__sync_fetch_and_add(&h->sum, ns);
}

static __always_inline void observe(struct histogram *h, u64 ns)
{
	observe_within(h, ns, histogram_bounds);
}

#endif
