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

/*
 * Without branches: the verifier would walk through every bucket, with all that follows. Neither durations
 * nor bounds have their highest bit set.
 */
static __always_inline u64 bucket_of(u64 ns, const volatile u64 *bounds)
{
	u64 bucket = 0, step, index;

	ns &= ~0ULL >> 1;
#pragma unroll
	for (step = HISTOGRAM_BUCKETS / 2; step; step /= 2) {
		index = bucket + step - 1;
		FORGET_RANGE(index);
		/* Bits of this step and beyond the array are never set in it. */
		bucket += step * ((bounds[index & (HISTOGRAM_BUCKETS - 1 - step)] - ns) >> 63);
	}
	FORGET_RANGE(bucket);
	return bucket & (HISTOGRAM_BUCKETS - 1);
}

/* Counts one duration in a histogram with bounds of its own; its bucket. CPUs share the histogram. */
static __always_inline u32 observe_within(struct histogram *h, u64 ns, const volatile u64 *bounds)
{
	u64 bucket = bucket_of(ns, bounds);

	__sync_fetch_and_add(&h->buckets[bucket], 1);
	__sync_fetch_and_add(&h->sum, ns);
	return bucket;
}

static __always_inline u32 observe(struct histogram *h, u64 ns)
{
	return observe_within(h, ns, histogram_bounds);
}

#endif
