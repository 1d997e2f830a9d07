// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * kernellatency: how long packets of TCP and UDP take between their device and their socket, in which stage.
 *
 * Functions are hooked where another file of the kernel calls them: what is only called beside its
 * definition, like ip_rcv_finish(), is a part of its caller in most kernels, and its hook stays silent. What
 * reaches a socket or leaves one is seen at the root of the cgroup hierarchy, which every socket is below.
 *
 * What is kept of a packet's socket is then of this very packet already: on the way out the source of spans
 * has seen it before its interface does, on the way in programs of a cgroup run in the order in which they
 * were attached, and the sources are attached first. Were it the other way round, a packet that begins a
 * request would have no link.
 */
#include "kernel.h"
#include "abi.h"
#include "cgroup_skb.h"
#include "departure.h"
#include "entity.h"
#include "flow_sample.h"
#include "passage.h"
#include "passage_tell.h"
#include "span_cgroup.h"

/* 1: functions where packets begin their way out are hooked. */
const volatile u32 departures_seen = 1;

/* A packet comes from its device: from there on everything happens to it once, wherever it waited before. */
SEC("tp_btf/netif_receive_skb")
int received_btf(u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	struct passage p = {.direction = DIRECTION_RECEIVE};
	struct sampled_flow f = {};

	if (skb->protocol == bpf_htons(ETH_P_IP))
		read_flow(&f, 4, skb->data);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		read_flow(&f, 6, skb->data);
	p.family = f.family;
	p.sampling = f.family ? sampling_of(f.ends) : 0;
	if (p.sampling) {
		p.entered[RECEIVE_PREROUTING] = bpf_ktime_get_ns();
		begin_passage((u64)skb, &p);
	} else {
		forget_passage((u64)skb);
	}
	return 0;
}

SEC("cgroup_skb/ingress")
int arrived(struct __sk_buff *ctx)
{
	struct sk_buff *skb = address_of(ctx);
	struct arrival a = {.skb = skb};
	struct entity entity = {};
	struct passage p;
	struct sock *sk;
	struct net *net;

	if (!end_passage(&p, (u64)skb, DIRECTION_RECEIVE))
		return ALLOW;
	sk = BPF_CORE_READ(skb, sk);
	net = BPF_CORE_READ(sk, __sk_common.skc_net.net);
	a.sk = sk;
	a.kept = context_at(ctx);
	entity.netns = net_inode(net);
	entity.netns_cookie = net_cookie(net);
	entity.cgroup = bpf_skb_cgroup_id(ctx);
	tell(&p, &entity, &a, bpf_ktime_get_ns());
	return ALLOW;
}

static __always_inline int routed(u64 skb)
{
	enter(skb, DIRECTION_RECEIVE, RECEIVE_ROUTING);
	return 0;
}

static __always_inline int delivered(u64 skb)
{
	enter(skb, DIRECTION_RECEIVE, RECEIVE_LOCAL_IN);
	return 0;
}

static __always_inline int posted(u64 skb)
{
	enter(skb, DIRECTION_TRANSMIT, SEND_POSTROUTING);
	return 0;
}

SEC("cgroup_skb/egress")
int left(struct __sk_buff *ctx)
{
	struct sk_buff *skb = address_of(ctx);

	if (departures_seen)
		enter((u64)skb, DIRECTION_TRANSMIT, SEND_NEIGHBOUR);
	else
		depart_late(ctx, skb);
	return ALLOW;
}

/* A packet that has come to its interface, still in the hands of the same sender. */
SEC("tp_btf/net_dev_queue")
int queued_btf(u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	struct arrival a = {.skb = skb};
	struct entity entity = {};
	struct sock *sk = skb->sk;
	struct passage p;

	if (!end_passage(&p, (u64)skb, DIRECTION_TRANSMIT) || !sk)
		return 0;
	a.sk = (void *)p.socket;
	if (sk->__sk_common.skc_state == TCP_NEW_SYN_RECV) {
		/* Programs of cgroups see the listener in place of its request. */
		a.sk = full_socket((void *)(u64)sk);
		if ((u64)sk != p.socket && (u64)a.sk != p.socket)
			return 0;
		entity_of(&entity, a.sk);
	} else if ((u64)sk == p.socket) {
		entity_of_typed(&entity, sk);
		a.kept = context_of(sk);
	} else {
		return 0;
	}
	tell(&p, &entity, &a, bpf_ktime_get_ns());
	return 0;
}

SEC("tp_btf/kfree_skb")
int dropped_btf(u64 *ctx)
{
	forget_passage(ctx[0]);
	return 0;
}

SEC("tp_btf/consume_skb")
int consumed_btf(u64 *ctx)
{
	forget_passage(ctx[0]);
	return 0;
}

/* Both forms of a hook at a function that has the packet as its argument `n`, counted from one. */
#define AT(function, n, body, ...)                                       \
	SEC("fentry/" #function)                                         \
	int function##_fentry(u64 *ctx)                                  \
	{                                                                \
		return body(ctx[n - 1], ##__VA_ARGS__);                  \
	}                                                                \
	SEC("kprobe/" #function)                                         \
	int function##_kprobe(struct pt_regs *ctx)                       \
	{                                                                \
		return body(PT_REGS_PARM##n##_CORE(ctx), ##__VA_ARGS__); \
	}

AT(tcp_v4_early_demux, 1, routed)
AT(udp_v4_early_demux, 1, routed)
AT(ip_route_input_noref, 1, routed)
AT(ip_local_deliver, 1, delivered)
AT(tcp_v6_early_demux, 1, routed)
AT(udp_v6_early_demux, 1, routed)
AT(ip6_route_input, 1, routed)
AT(ip6_input, 1, delivered)

#define SEGMENT(skb, family)  segment_departs((void *)(skb), family)
#define DATAGRAM(skb, family) datagram_departs((void *)(skb), family)

AT(ip_queue_xmit, 2, SEGMENT, 4)
AT(ip_build_and_send_pkt, 1, SEGMENT, 4)
AT(ip_send_skb, 2, DATAGRAM, 4)
AT(ip_output, 3, posted)
AT(ip6_xmit, 2, SEGMENT, 6)
AT(ip6_send_skb, 1, DATAGRAM, 6)
AT(ip6_output, 3, posted)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
