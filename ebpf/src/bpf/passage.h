/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Packets between their device and their socket: when they entered which stage. */
#ifndef JITTERSCOPE_PASSAGE_H
#define JITTERSCOPE_PASSAGE_H

#include "kernel.h"
#include "abi.h"
#include "account.h"

/*
 * By the address of the sk_buff. Whoever frees a packet says so, and its entry goes. Should that ever be
 * missed, the entry is replaced as soon as the address begins a way again.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct passage);
} packets SEC(".maps");

static __always_inline void begin_passage(u64 packet, const struct passage *p)
{
	if (bpf_map_update_elem(&packets, &packet, p, BPF_ANY))
		account(overflow);
}

static __always_inline void forget_passage(u64 packet)
{
	if (bpf_map_lookup_elem(&packets, &packet))
		bpf_map_delete_elem(&packets, &packet);
}

/* A stage begins when it is entered for the first time. */
static __always_inline void enter(u64 packet, u8 direction, u32 stage)
{
	struct passage *p = bpf_map_lookup_elem(&packets, &packet);

	if (p && p->direction == direction && !p->entered[stage])
		p->entered[stage] = bpf_ktime_get_ns();
}

/* Takes a packet off its way; false when it was on none, or on the other one. */
static __always_inline int end_passage(struct passage *taken, u64 packet, u8 direction)
{
	struct passage *p = bpf_map_lookup_elem(&packets, &packet);

	if (!p)
		return 0;
	*taken = *p;
	bpf_map_delete_elem(&packets, &packet);
	return taken->direction == direction;
}

/* A part of the way; unknown unless both ends of it were seen, in this order. */
static __always_inline u64 part(u64 from, u64 to)
{
	return from && to >= from ? to - from : PASSAGE_UNKNOWN;
}

/* How long each stage took of a way that ended at `end`; returns the whole, as far as it was seen. */
static __always_inline u64 measure(const struct passage *p, u64 end, u64 stages[PASSAGE_STAGES])
{
	u64 first = p->entered[0], second = p->entered[1], third = p->entered[2];

	/* A packet whose socket and route were known has not been routed. */
	if (!second && p->direction == DIRECTION_RECEIVE)
		stages[0] = part(first, third);
	else
		stages[0] = part(first, second);
	stages[1] = part(second, third);
	stages[2] = part(third, end);
	return part(first ?: third, end);
}

#endif
