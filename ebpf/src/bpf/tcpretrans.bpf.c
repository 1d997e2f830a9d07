// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * tcpretrans: segments that TCP sends again, counted as RetransSegs counts them, by connection's owner and
 * cause. On kernels whose tracepoint fires only for what left the machine (before 6.16) failed transmissions
 * are not seen.
 */
#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "entity.h"
#include "events.h"
#include "exemplar.h"
#include "span.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct retransmit_key);
	__type(value, u64);
} retransmits SEC(".maps");

EXEMPLARS(struct retransmit_key);

/*
 * The probe for a lost tail is sent by its timer, which stays pending meanwhile, and never while losses are
 * being repaired (net/ipv4/tcp_output.c, tcp_send_loss_probe, tcp_schedule_loss_probe).
 */
static __always_inline u32 type_of(struct inet_connection_sock *icsk, u8 state)
{
	u8 repair = BPF_CORE_READ_BITFIELD_PROBED(icsk, icsk_ca_state);

	if (state == TCP_SYN_SENT)
		return RETRANSMIT_SYN;
	if (state == TCP_SYN_RECV)
		return RETRANSMIT_SYN_ACK;
	if (repair == TCP_CA_LOSS)
		return RETRANSMIT_TIMEOUT;
	if (repair != TCP_CA_RECOVERY && BPF_CORE_READ(icsk, icsk_pending) == ICSK_TIME_LOSS_PROBE)
		return RETRANSMIT_TAIL_LOSS_PROBE;
	return RETRANSMIT_FAST;
}

static __always_inline void retransmitted(struct sock *owner, struct sock *ends, u32 type, u32 segments,
					  u32 attempts, const struct span_link *span)
{
	struct tcp_sock *tp = (void *)owner;
	struct exemplar shown = {.value = segments, .link = *span};
	struct retransmit_key k = {};
	struct retransmit_event *e;

	entity_of(&k.entity, owner);
	k.type = type;
	k.family = family_of(ends);
	add(&retransmits, &k, segments);
	if (is_shown(span)) {
		find_socket_facts(&shown.facts, ends);
		show(&exemplars, &k, &shown);
	}
	e = begin_event(&k.entity, ends, sizeof(*e));
	if (!e)
		return;
	e->head.span = *span;
	e->type = type;
	e->segments = segments;
	e->attempts = attempts;
	if (owner == ends) {
		e->congestion_window = BPF_CORE_READ(tp, snd_cwnd);
		e->smoothed_rtt = BPF_CORE_READ(tp, srtt_us) >> 3;
	}
	end_event(e);
}

/* `typed` says that the verifier knows the socket's type. */
static __always_inline int segment(u64 *ctx, const int typed)
{
	struct sock *sk = (void *)ctx[0];
	struct inet_connection_sock *icsk = (void *)sk;
	struct sk_buff *skb = (void *)ctx[1];
	struct tcp_skb_cb *control = (void *)skb + bpf_core_field_offset(struct sk_buff, cb);
	u32 type = type_of(icsk, BPF_CORE_READ(sk, __sk_common.skc_state));
	struct span_link span = {};

	if (typed)
		find_span(&span, sk, MATTER_PACKET, DIRECTION_TRANSMIT, BPF_CORE_READ(control, seq));
	retransmitted(sk, sk, type, BPF_CORE_READ(control, tcp_gso_segs),
		      BPF_CORE_READ(icsk, icsk_retransmits), &span);
	return 0;
}

/* The request is not a socket yet: its ends are in it, its owner is the listener. */
static __always_inline int syn_ack(u64 *ctx)
{
	struct sock *listener = (void *)ctx[0];
	struct request_sock *request = (void *)ctx[1];
	struct span_link none = {};

	retransmitted(listener, (void *)request, RETRANSMIT_SYN_ACK, 1,
		      BPF_CORE_READ(request, num_retrans) + 1, &none);
	return 0;
}

SEC("tp_btf/tcp_retransmit_skb")
int segment_btf(u64 *ctx)
{
	return segment(ctx, 1);
}

SEC("raw_tp/tcp_retransmit_skb")
int segment_raw(u64 *ctx)
{
	return segment(ctx, 0);
}

SEC("tp_btf/tcp_retransmit_synack")
int syn_ack_btf(u64 *ctx)
{
	return syn_ack(ctx);
}

SEC("raw_tp/tcp_retransmit_synack")
int syn_ack_raw(u64 *ctx)
{
	return syn_ack(ctx);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
