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

/* Inode of the host's network namespace. */
const volatile u32 host_netns;

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

static __always_inline u32 net_inode(struct net *net)
{
	return net ? BPF_CORE_READ(net, ns.inum) : 0;
}

static __always_inline u64 net_cookie(struct net *net)
{
	struct net___v5_10 *old = (void *)net;

	if (!net)
		return 0;
	if (bpf_core_field_exists(old->net_cookie.counter))
		return BPF_CORE_READ(old, net_cookie.counter);
	if (bpf_core_field_exists(net->net_cookie))
		return BPF_CORE_READ(net, net_cookie);
	return 0;
}

static __always_inline void charge(struct origin *o, struct net *net)
{
	o->netns = net_inode(net);
	o->netns_cookie = net_cookie(net);
}

static __always_inline u64 cgroup_of(struct sock *sk)
{
	struct sock_cgroup_data___v5_10 *old = (void *)sk + bpf_core_field_offset(struct sock, sk_cgrp_data);
	struct cgroup *cgroup;

	if (bpf_core_field_exists(old->val)) {
		cgroup = (void *)BPF_CORE_READ(old, val);
		if ((u64)cgroup & 1)
			return 0;
	} else {
		cgroup = BPF_CORE_READ(sk, sk_cgrp_data.cgroup);
	}
	return cgroup ? BPF_CORE_READ(cgroup, kn, id) : 0;
}

/* A request or time-wait socket is only its common part; the request knows its listener. */
static __always_inline struct sock *full_socket(struct sock *sk)
{
	u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);

	if (state == TCP_NEW_SYN_RECV)
		return BPF_CORE_READ(sk, __sk_common.skc_listener);
	return state == TCP_TIME_WAIT ? NULL : sk;
}

static __always_inline struct net_device *route_device(struct sk_buff *skb)
{
	struct dst_entry *dst = (void *)(BPF_CORE_READ(skb, _skb_refdst) & ~1UL);

	return (s64)dst < 0 ? BPF_CORE_READ(dst, dev) : NULL;
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

static __always_inline int charge_mac(struct origin *o, struct sk_buff *skb, u32 offset, u8 direction)
{
	struct neighbour_key key = {.kind = NEIGHBOUR_MAC};
	u16 mac = BPF_CORE_READ(skb, mac_header);

	if (mac == HEADER_UNSET)
		return 0;
	bpf_probe_read_kernel(key.address, 6, BPF_CORE_READ(skb, head) + mac + offset);
	return charge_neighbour(o, &key, direction);
}

static __always_inline int charge_address(struct origin *o, u8 family, const u8 *v4, const u8 *v6,
					  u8 direction)
{
	struct neighbour_key key = {.kind = family};

	if (family == 4)
		__builtin_memcpy(key.address, v4, 4);
	else if (family == 6)
		__builtin_memcpy(key.address, v6, 16);
	else
		return 0;
	return charge_neighbour(o, &key, direction);
}

static __always_inline int charge_pair(struct origin *o, struct net_device *dev, u8 direction)
{
	struct net *net = pair_net(dev, o->net);

	if (!net)
		return 0;
	charge(o, net);
	o->direction = direction;
	o->host = 1;
	return 1;
}

static __always_inline int is_bridge(struct net_device *dev)
{
	return dev && device_kind(dev) == DEVICE_BRIDGE;
}

/*
 * The host had the packet in its hands: charge the container whose interface it came in by, else the one it
 * was leaving by. A packet that has to do with none stays the host's.
 */
static __always_inline void charge_container(struct origin *o, struct sk_buff *skb, const struct packet *p)
{
	s32 iif = BPF_CORE_READ(skb, skb_iif);
	struct net_device *in = NULL, *out = o->dev;

	if (out && BPF_CORE_READ(out, ifindex) == iif) {
		in = out;
		out = route_device(skb);
	} else {
		in = device_by_index(o->net, iif);
	}
	if (charge_pair(o, in, DIRECTION_TRANSMIT))
		return;
	if (is_bridge(in) && (charge_mac(o, skb, 6, DIRECTION_TRANSMIT) ||
			      charge_address(o, p->family, p->v4.source, p->v6.source, DIRECTION_TRANSMIT)))
		return;
	if (out != in && charge_pair(o, out, DIRECTION_RECEIVE))
		return;
	if (out != in && is_bridge(out))
		charge_address(o, p->family, p->v4.destination, p->v6.destination, DIRECTION_RECEIVE);
}

/* Fills `o`. `rx_sk` is the socket that was to receive the packet, where the kernel says so. */
static __always_inline void find_origin(struct origin *o, struct sk_buff *skb, struct sock *rx_sk,
					const struct packet *p)
{
	struct sock *sk = rx_sk ?: BPF_CORE_READ(skb, sk);
	struct net *sk_net = sk ? BPF_CORE_READ(sk, __sk_common.skc_net.net) : NULL;
	struct net_device *dev = BPF_CORE_READ(skb, dev);

	o->direction = rx_sk || BPF_CORE_READ(skb, skb_iif) ? DIRECTION_RECEIVE : DIRECTION_TRANSMIT;
	o->net = device_net(dev);
	if (o->net)
		o->dev = dev;
	else if (!sk_net)
		o->net = device_net(route_device(skb));
	if (rx_sk || !o->net)
		o->net = sk_net;

	charge(o, o->net);
	if (sk_net == o->net) {
		o->sk = sk ? full_socket(sk) : NULL;
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
		charge_container(o, skb, p);
}

#endif
