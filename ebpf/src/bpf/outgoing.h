/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Packets on their way out: those in the queues of interfaces, and those in the hands of a driver on each
 * CPU. */
#ifndef JITTERSCOPE_OUTGOING_H
#define JITTERSCOPE_OUTGOING_H

#include "kernel.h"
#include "abi.h"
#include "origin.h"
#include "packet.h"

/* How deep transmissions nest (a tunnel over a bridge over a bond): XMIT_RECURSION_LIMIT, net/core/dev.h. */
#define NESTED 8

/*
 * A packet in a queue. Whoever frees it says so, and the entry goes. Should that ever be missed, another
 * packet at the same address is told by its length.
 */
struct queued {
	u64 since; /* CLOCK_MONOTONIC, ns */
	struct net_device *dev;
	u64 length;
};

/* A tag that the kernel writes into the packet for a device that cannot. */
#define VLAN_TAG 4

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct sk_buff *);
	__type(value, struct queued);
} queue SEC(".maps");

/* A packet in a driver's hands, which may free it before it returns: what is to be told of it is kept here.
 */
struct transmission {
	struct sk_buff *skb;
	struct net_device *dev;
	struct queued queued; /* since 0: unknown */
	u64 since;	      /* CLOCK_MONOTONIC, ns */
	struct transmit_key key;
	struct packet_ends ends;
	u32 length;
	u32 reserved;
};

/* Drivers are called with softirqs off: on a CPU calls nest, and nothing else comes in between. */
struct transmissions {
	u64 depth;
	struct transmission nested[NESTED];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct transmissions);
} transmissions SEC(".maps");

static __always_inline struct transmissions *transmissions_here(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&transmissions, &zero);
}

/* Room for one more. That it is full only shows that ends were missed: nothing nests so deep. */
static __always_inline struct transmission *begin_transmission(struct transmissions *all)
{
	if (all->depth >= NESTED)
		all->depth = 0;
	return &all->nested[all->depth++ & (NESTED - 1)];
}

/* The innermost one of this packet, with those inside of it taken away; NULL: it began before the probe. */
static __always_inline struct transmission *end_transmission(struct transmissions *all, struct sk_buff *skb,
							     struct net_device *dev)
{
	struct transmission *t;
	u64 i, depth = all->depth;

	for (i = 1; i <= NESTED && i <= depth; i++) {
		t = &all->nested[(depth - i) & (NESTED - 1)];
		if (t->skb == skb && t->dev == dev) {
			all->depth = depth - i;
			return t;
		}
	}
	return NULL;
}

/* Takes the packet from the queue, if it is the one that came in. */
static __always_inline void take_queued(struct queued *taken, struct sk_buff *skb, struct net_device *dev)
{
	/* A number of its own: what a helper has seen of the stack, kernels before 6.18 take for no pointer
	 * any more. */
	u64 address = (u64)skb;
	struct queued *q = bpf_map_lookup_elem(&queue, &address);

	taken->since = 0;
	if (!q)
		return;
	if (q->dev == dev && (q->length == skb->len || q->length + VLAN_TAG == skb->len))
		*taken = *q;
	bpf_map_delete_elem(&queue, &address);
}

static __always_inline void look_at_outgoing(struct transmission *t, struct sk_buff *skb,
					     struct net_device *dev)
{
	struct packet p = {};
	struct origin o = {};

	look(&p, skb, 1);
	parse(&p);
	find_origin(&o, &p, NULL);
	__builtin_memset(&t->key, 0, sizeof(t->key));
	__builtin_memset(&t->ends, 0, sizeof(t->ends));
	t->key.entity.netns = o.netns;
	t->key.entity.netns_cookie = o.netns_cookie;
	t->key.entity.cgroup = o.cgroup;
	t->key.family = p.family;
	t->key.host = o.host;
	bpf_probe_read_kernel_str(t->key.interface, sizeof(t->key.interface), dev->name);
	parse_ends(&p, &t->ends);
	t->length = p.length - (u32)(p.network - skb->data);
}

#endif
