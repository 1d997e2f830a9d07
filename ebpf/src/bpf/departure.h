/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Where packets of sockets begin their way out. */
#ifndef JITTERSCOPE_DEPARTURE_H
#define JITTERSCOPE_DEPARTURE_H

#include "kernel.h"
#include "abi.h"
#include "cgroup_skb.h"
#include "flow_sample.h"
#include "passage.h"

static __always_inline void depart(struct sk_buff *skb, u8 family, u64 ends)
{
	struct passage p = {
		.direction = DIRECTION_TRANSMIT,
		.family = family,
		.socket = (u64)BPF_CORE_READ(skb, sk),
	};

	/* What the kernel answers without a socket is nobody's. */
	p.sampling = p.socket ? sampling_of(ends) : 0;
	if (p.sampling) {
		p.entered[SEND_LOCAL_OUT] = bpf_ktime_get_ns();
		begin_passage((u64)skb, &p);
	} else {
		forget_passage((u64)skb);
	}
}

/* A segment has no IP header yet: its socket knows the ends, and a request is enough of a socket for that. */
static __always_inline int segment_departs(struct sk_buff *skb, u8 family)
{
	struct sock_common *sk = (void *)BPF_CORE_READ(skb, sk);
	u16 own = bpf_htons(BPF_CORE_READ(sk, skc_num)), peer = BPF_CORE_READ(sk, skc_dport);
	struct in6_addr from = {}, to = {};
	u32 from4, to4;

	if (family == 4) {
		from4 = BPF_CORE_READ(sk, skc_rcv_saddr);
		to4 = BPF_CORE_READ(sk, skc_daddr);
		depart(skb, family, end_v4(&from4, own) + end_v4(&to4, peer));
	} else {
		BPF_CORE_READ_INTO(&from, sk, skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&to, sk, skc_v6_daddr);
		depart(skb, family, end_v6(&from, own) + end_v6(&to, peer));
	}
	return 0;
}

/* What else is sent this way, ICMP above all, is the kernel's own. */
static __always_inline int datagram_departs(struct sk_buff *skb, u8 family)
{
	struct sampled_flow f = {};
	u8 *header = BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, network_header);

	read_flow(&f, family, header);
	if (f.protocol == IPPROTO_UDP)
		depart(skb, family, f.ends);
	else
		forget_passage((u64)skb);
	return 0;
}

/*
 * When TCP decided to send it: the kernel keeps that with the packet for its queue; 0: unknown. Since 5.18 a
 * flag tells it from the time at which a packet was received.
 */
static __always_inline u64 tcp_departure(struct sk_buff *skb)
{
	struct sk_buff___v6_10 *old = (void *)skb;
	u64 is_departure = 1;

	if (bpf_core_field_exists(skb->tstamp_type))
		is_departure = BPF_CORE_READ_BITFIELD_PROBED(skb, tstamp_type) == 1;
	else if (bpf_core_field_exists(old->mono_delivery_time))
		is_departure = BPF_CORE_READ_BITFIELD_PROBED(old, mono_delivery_time);
	return is_departure ? BPF_CORE_READ(skb, tstamp) : 0;
}

/* Where no function is hooked, this is where packets begin their way out. */
static __always_inline void depart_late(struct __sk_buff *ctx, struct sk_buff *skb)
{
	struct passage p = {.direction = DIRECTION_TRANSMIT, .socket = (u64)BPF_CORE_READ(skb, sk)};
	u64 now = bpf_ktime_get_ns(), departed;
	struct sampled_flow f = {};
	struct ipv4_start v4;
	struct ipv6_start v6;

	if (ctx->protocol == bpf_htons(ETH_P_IP) && !bpf_skb_load_bytes(ctx, 0, &v4, sizeof(v4)))
		flow_of_v4(&f, &v4);
	else if (ctx->protocol == bpf_htons(ETH_P_IPV6) && !bpf_skb_load_bytes(ctx, 0, &v6, sizeof(v6)))
		flow_of_v6(&f, &v6);
	p.family = f.family;
	p.sampling = f.family && has_ports(f.protocol) ? sampling_of(f.ends) : 0;
	if (!p.sampling)
		return forget_passage((u64)skb);
	departed = f.protocol == IPPROTO_TCP ? tcp_departure(skb) : 0;
	/* Pacing writes times that are still to come. */
	if (departed <= now)
		p.entered[SEND_LOCAL_OUT] = departed;
	p.entered[SEND_NEIGHBOUR] = now;
	begin_passage((u64)skb, &p);
}

#endif
