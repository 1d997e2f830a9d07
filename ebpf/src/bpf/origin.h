/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Whose a packet is: the namespace and cgroup to charge, the direction as they see it, and whether the host
 * handled it on their behalf. Everything comes from the packet and its socket, never from the current task.
 */
#ifndef JITTERSCOPE_ORIGIN_H
#define JITTERSCOPE_ORIGIN_H

#include "kernel.h"
#include "abi.h"
#include "device.h"
#include "entity.h"
#include "packet.h"

/*
 * Addresses of containers behind a bridge, kept by user space: once a frame has gone up through its bridge
 * nothing else tells which port it came in by.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct neighbour_key);
	__type(value, struct neighbour);
} neighbours SEC(".maps");

struct origin {
	struct net *net;	/* where the packet was; NULL when nothing tells */
	struct net_device *dev; /* believed device, or NULL */
	struct sock *sk;	/* full socket of the charged entity, or NULL */
	u64 netns_cookie;
	u64 cgroup;
	u32 netns; /* charged */
	u8 direction;
	u8 host;
};

static __always_inline void charge(struct origin *o, struct net *net)
{
	o->netns = net_inode(net);
	o->netns_cookie = net_cookie(net);
}

static __always_inline struct net_device *route_device(const struct packet *p)
{
	struct dst_entry *route = p->route; /* p->route inside the macro would be relocated too */

	return (s64)route < 0 ? BPF_CORE_READ(route, dev) : NULL;
}

static __always_inline int charge_neighbour(struct origin *o, const struct neighbour_key *key, u8 direction)
{
	struct neighbour *n = bpf_map_lookup_elem(&neighbours, key);

	if (!n)
		return 0;
	o->netns = n->netns;
	o->netns_cookie = n->netns_cookie;
	o->direction = direction;
	o->host = 1;
	return 1;
}

/* Who sent a frame that came up through its bridge, by its source MAC address, else by its IP address. */
static __always_inline int charge_sender(struct origin *o, const struct packet *p)
{
	struct neighbour_key key = {.kind = NEIGHBOUR_MAC};

	if (p->mac) {
		bpf_probe_read_kernel(key.address, 6, p->mac + 6);
		if (charge_neighbour(o, &key, DIRECTION_TRANSMIT))
			return 1;
	}
	key = (struct neighbour_key){.kind = p->family};
	if (p->family == 4)
		__builtin_memcpy(key.address, p->v4.source, 4);
	else
		__builtin_memcpy(key.address, p->v6.source, 16);
	return charge_neighbour(o, &key, DIRECTION_TRANSMIT);
}

static __always_inline int charge_receiver(struct origin *o, const struct packet *p)
{
	struct neighbour_key key = {.kind = p->family};

	if (p->family == 4)
		__builtin_memcpy(key.address, p->v4.destination, 4);
	else
		__builtin_memcpy(key.address, p->v6.destination, 16);
	return charge_neighbour(o, &key, DIRECTION_RECEIVE);
}

/* Charges the container behind one of the host's devices, if there is one. */
static __always_inline int charge_behind(struct origin *o, struct net_device *dev, const struct packet *p,
					 u8 direction)
{
	enum device_kind kind = device_kind(dev);
	struct net *net;

	if (kind == DEVICE_BRIDGE)
		return direction == DIRECTION_TRANSMIT ? charge_sender(o, p) : charge_receiver(o, p);
	if (kind != DEVICE_PAIR)
		return 0;
	net = pair_net(dev, o->net);
	if (!net)
		return 0;
	charge(o, net);
	o->direction = direction;
	o->host = 1;
	return 1;
}

/*
 * The host had the packet in its hands: charge the container whose interface it came in by, else the one it
 * was leaving by. A packet that has to do with none stays the host's.
 */
static __always_inline void charge_container(struct origin *o, const struct packet *p)
{
	struct net_device *in, *out = o->dev;

	if (out && BPF_CORE_READ(out, ifindex) == p->iif) {
		in = out;
		out = route_device(p);
	} else {
		in = device_by_index(o->net, p->iif);
	}
	if (in && charge_behind(o, in, p, DIRECTION_TRANSMIT))
		return;
	if (out && out != in)
		charge_behind(o, out, p, DIRECTION_RECEIVE);
}

/* Fills `o`. `rx_sk` is the socket that was to receive the packet, where the kernel says so. */
static __always_inline void find_origin(struct origin *o, const struct packet *p, struct sock *rx_sk)
{
	struct sock *sk = rx_sk ?: p->sk;
	struct net *sk_net = sk ? BPF_CORE_READ(sk, __sk_common.skc_net.net) : NULL;

	o->direction = rx_sk || p->iif ? DIRECTION_RECEIVE : DIRECTION_TRANSMIT;
	o->net = device_net(p->dev);
	if (o->net)
		o->dev = p->dev;
	else if (!sk_net)
		o->net = device_net(route_device(p));
	if (rx_sk || !o->net)
		o->net = sk_net;

	charge(o, o->net);
	if (sk && sk_net == o->net) {
		o->sk = full_socket(sk);
	} else if (sk_net && o->netns == host_netns) {
		/* A container's own packet, on its way through the host. */
		charge(o, sk_net);
		o->sk = full_socket(sk);
		o->direction = DIRECTION_TRANSMIT;
		o->host = 1;
	} else if (sk_net) {
		/* Sent by someone else, still carrying the sender's socket: only received here. */
		o->direction = DIRECTION_RECEIVE;
	}
	if (o->sk)
		o->cgroup = cgroup_of(o->sk);
	else if (o->netns && o->netns == host_netns)
		charge_container(o, p);
}

#endif
