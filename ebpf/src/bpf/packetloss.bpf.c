// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * packetloss: every packet that the kernel frees without delivering it, counted exactly by whom it hit and
 * why, and a few of them, rate limited, as events.
 */
#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "drop_event.h"
#include "entity.h"
#include "events.h"
#include "exemplar.h"
#include "limit.h"
#include "origin.h"
#include "packet.h"
#include "span_packet.h"
#include "verdict.h"

/* Arguments of the kfree_skb tracepoint: 2 (skb, location), 3 with a reason (5.17), 4 with rx_sk (6.11). */
const volatile u32 arguments;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct drop_key);
	__type(value, u64);
} drops SEC(".maps");

EXEMPLARS(struct drop_key);

static __always_inline void dropped(void *ctx, struct packet *p, struct sock *rx_sk, u64 location, u32 reason,
				    u32 source, const struct span_link *span)
{
	struct exemplar shown = {.value = 1, .link = *span};
	struct entity entity;
	struct drop_key k = {};
	struct origin o = {};
	struct settings *set = settings_of_probe();
	u64 now = bpf_ktime_get_boot_ns();

	find_origin(&o, p, rx_sk);
	k.netns = o.netns;
	k.netns_cookie = o.netns_cookie;
	k.cgroup = o.cgroup;
	k.reason = reason;
	k.source = source;
	k.location = source == DROP_SOURCE_KFREE_SKB && reason == reason_not_specified ? location : 0;
	k.family = p->family;
	k.protocol = p->protocol;
	k.direction = o.direction;
	k.host = o.host;
	count(&drops, &k);
	if (is_shown(span)) {
		find_packet_facts(&shown.facts, p, k.direction);
		show(&exemplars, &k, &shown);
	}

	entity = (struct entity){.netns = k.netns, .netns_cookie = k.netns_cookie, .cgroup = k.cgroup};
	if (set && is_admitted(&entity, now))
		submit(ctx, &k, &o, p, location, now, set, span);
}

/* The span of a packet whose type the verifier knows, by the socket that was to receive it, else its own. */
static __always_inline void find_drop_span(struct span_link *span, struct sk_buff *skb, struct sock *rx_sk,
					   const struct packet *p)
{
	struct sock *sk;

	if (rx_sk) {
		find_packet_span(span, rx_sk, p);
		return;
	}
	sk = skb->sk;
	if (sk)
		find_packet_span(span, sk, p);
}

/* The body of both forms; `ctx` holds the tracepoint's arguments, of which only those there may be read. */
static __always_inline int freed(u64 *ctx, const int typed)
{
	struct sk_buff *skb = (void *)ctx[0];
	struct sock *rx_sk = NULL;
	struct span_link span = {};
	struct packet p = {};
	u32 reason = 0, verdict;

	if (arguments >= 3)
		reason = ctx[2];
	if (arguments >= 4)
		rx_sk = (void *)ctx[3];
	verdict = verdict_of(reason, ctx[1]);
	if (verdict == VERDICT_HARMLESS)
		goto ignore;
	look(&p, skb, typed);
	if (!is_network(&p, rx_sk))
		goto ignore;
	parse(&p);
	if (verdict == VERDICT_HARMLESS_IF_MULTICAST && is_multicast(&p))
		goto ignore;
	if (verdict == VERDICT_HARMLESS_IF_FIN && tcp_flags(&p) & TCP_FIN)
		goto ignore;
	if (typed)
		find_drop_span(&span, skb, rx_sk, &p);
	dropped(ctx, &p, rx_sk, ctx[1], reason, DROP_SOURCE_KFREE_SKB, &span);
	return 0;
ignore:
	account(ignored);
	return 0;
}

SEC("tp_btf/kfree_skb")
int packetloss_btf(u64 *ctx)
{
	return freed(ctx, 1);
}

SEC("raw_tp/kfree_skb")
int packetloss_raw(u64 *ctx)
{
	return freed(ctx, 0);
}

/* tcp_conn_request() refuses a SYN when the accept queue is full, and its callers then consume the packet. */
static __always_inline int connection_requested(void *ctx, struct sock *sk, struct sk_buff *skb)
{
	struct span_link none = {};
	struct packet p = {};

	if (BPF_CORE_READ(sk, sk_ack_backlog) <= BPF_CORE_READ(sk, sk_max_ack_backlog))
		return 0;
	look(&p, skb, 0);
	parse(&p);
	dropped(ctx, &p, sk, 0, 0, DROP_SOURCE_LISTEN_OVERFLOW, &none);
	return 0;
}

SEC("fentry/tcp_conn_request")
int listen_overflow_fentry(u64 *ctx)
{
	return connection_requested(ctx, (void *)ctx[2], (void *)ctx[3]);
}

SEC("kprobe/tcp_conn_request")
int listen_overflow_kprobe(struct pt_regs *ctx)
{
	return connection_requested(ctx, (void *)PT_REGS_PARM3_CORE(ctx), (void *)PT_REGS_PARM4_CORE(ctx));
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
