/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A dropped packet as an event: filled in the ring, in place. */
#ifndef JITTERSCOPE_DROP_EVENT_H
#define JITTERSCOPE_DROP_EVENT_H

#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "device.h"
#include "events.h"
#include "origin.h"
#include "packet.h"

static __always_inline void fill_device(struct drop_event *e, const struct packet *p, const struct origin *o)
{
	struct net_device *dev = o->dev;

	if (!dev && o->net)
		dev = device_by_index(o->net, p->iif) ?: route_device(p);
	e->ifindex = dev ? BPF_CORE_READ(dev, ifindex) : p->iif;
	if (dev)
		bpf_probe_read_kernel_str(e->interface, sizeof(e->interface), dev->name);
}

static __always_inline void fill_stack(void *ctx, struct drop_event *e, const struct settings *set)
{
	long bytes;

	if (!set->stack)
		return;
	bytes = bpf_get_stack(ctx, e->stack, sizeof(e->stack), 0);
	if (bytes > 0)
		e->frames = bytes / sizeof(e->stack[0]);
}

static __always_inline void submit(void *ctx, const struct drop_key *k, const struct origin *o,
				   const struct packet *p, u64 location, u64 now, const struct settings *set,
				   const struct span_link *span)
{
	struct drop_event *e = reserve_event(sizeof(*e));
	struct sock *sk = o->sk;

	if (!e)
		return;
	e->time = now;
	e->location = location;
	e->netns_cookie = k->netns_cookie;
	e->cgroup = k->cgroup;
	if (sk)
		e->socket_cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	e->netns = k->netns;
	e->reason = k->reason;
	e->source = k->source;
	e->length = p->length;
	e->family = k->family;
	e->protocol = k->protocol;
	e->direction = k->direction;
	e->host = k->host;
	e->happened_in = net_inode(o->net);
	e->span = *span;
	parse_addresses(p, e->source_address, e->destination_address);
	parse_transport(p, e);
	fill_device(e, p, o);
	fill_stack(ctx, e, set);
	end_event(e);
}

#endif
