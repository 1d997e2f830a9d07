/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The rate limiter of events: a token bucket per entity, and the settings that it obeys. */
#ifndef JITTERSCOPE_LIMIT_H
#define JITTERSCOPE_LIMIT_H

#include "kernel.h"
#include "abi.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct settings);
} settings SEC(".maps");

/* User space deletes the entries of namespaces that are gone. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct entity);
	__type(value, struct limiter);
} limiters SEC(".maps");

/* The node's own, and everybody's for whom `limiters` has no room. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct limiter);
} node_limiter SEC(".maps");

static __always_inline struct settings *settings_of_probe(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

/* Whether something that took so long is an event. */
static __always_inline int is_slow(u64 ns)
{
	struct settings *set = settings_of_probe();

	return set && ns >= set->threshold;
}

static __always_inline struct limiter *limiter_of(const struct entity *key, u64 now)
{
	struct limiter fresh = {.since = now}, *l;
	u32 zero = 0;

	if (!key->netns && !key->netns_cookie && !key->cgroup)
		return bpf_map_lookup_elem(&node_limiter, &zero);
	l = bpf_map_lookup_elem(&limiters, key);
	if (l)
		return l;
	bpf_map_update_elem(&limiters, key, &fresh, BPF_NOEXIST);
	l = bpf_map_lookup_elem(&limiters, key);
	return l ?: bpf_map_lookup_elem(&node_limiter, &zero);
}

/*
 * True when the entity may have one more event. `admitted` only ever changes by atomic addition, so races
 * between CPUs can refuse an event too many but never admit more than rate * time + burst. What the entity
 * did not use while it was quiet is forfeited; that store may race, which costs at most the accuracy of the
 * forfeit. Needs no atomic fetch, which kernels before 5.12 refuse.
 */
static __always_inline int admit(const struct entity *key, const struct settings *set, u64 now)
{
	struct limiter *l = limiter_of(key, now);
	u64 elapsed, refill, forfeited;

	if (!l)
		return 0;
	if (!l->since)
		l->since = now;
	/* Another CPU may have begun the bucket after this one looked at the clock. */
	elapsed = now > l->since ? now - l->since : 0;
	refill = elapsed / 1000 * set->rate / 1000000;
	forfeited = l->forfeited;
	if (l->admitted + forfeited < refill) {
		forfeited = refill - l->admitted;
		l->forfeited = forfeited;
	}
	__sync_fetch_and_add(&l->admitted, 1);
	if (*(volatile u64 *)&l->admitted + forfeited <= refill + set->burst)
		return 1;
	__sync_fetch_and_add(&l->admitted, -1);
	return 0;
}

#endif
