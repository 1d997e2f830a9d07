// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * tcpreset: resets of connections, sent and received, with the state that they met and, since 6.10, the
 * kernel's reason. Before that the tracepoint does not fire for a packet without a whole socket, such as one
 * for a closed port: there the functions that answer it are hooked.
 */
#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "device.h"
#include "entity.h"
#include "events.h"
#include "exemplar.h"
#include "packet.h"
#include "span.h"

/* Arguments of the tcp_send_reset tracepoint: 2 (sk, skb), 3 with a reason (6.10). */
const volatile u32 arguments;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct reset_key);
	__type(value, u64);
} resets SEC(".maps");

EXEMPLARS(struct reset_key);

/* The answered packet's receiver is this side. */
static __always_inline void fill_from_packet(struct connection *c, const struct packet *p, u8 state)
{
	c->family = p->family;
	c->protocol = p->protocol;
	c->state = state;
	parse_addresses(p, c->peer_address, c->local_address);
	parse_ports(p, &c->peer_port, &c->local_port);
}

/*
 * A reset that this side sends on behalf of `sk`, or of no socket, in answer to `skb`, or to none. `typed`
 * says that the verifier knows the socket's type.
 */
static __always_inline int answered(struct sock *sk, struct sk_buff *skb, u32 reason, const int typed)
{
	struct reset_key k = {.direction = DIRECTION_TRANSMIT, .state = TCP_CLOSE, .reason = reason};
	struct exemplar shown = {.value = 1};
	struct packet p = {};
	struct reset_event *e;
	struct net *net;

	if (skb) {
		look(&p, skb, 0);
		parse(&p);
		k.family = p.family;
	} else if (sk) {
		k.family = family_of(sk);
	}
	if (sk) {
		entity_of(&k.entity, sk);
		k.state = BPF_CORE_READ(sk, __sk_common.skc_state);
	} else {
		net = device_net(p.dev);
		k.entity.netns = net_inode(net);
		k.entity.netns_cookie = net_cookie(net);
	}
	if (typed && sk)
		find_span(&shown.link, sk, MATTER_CONNECTION, k.direction, 0);
	count(&resets, &k);
	if (is_shown(&shown.link)) {
		if (skb)
			find_packet_facts(&shown.facts, &p, DIRECTION_RECEIVE);
		else if (sk)
			find_socket_facts(&shown.facts, sk);
		show(&exemplars, &k, &shown);
	}
	e = begin_event_of(&k.entity, sizeof(*e));
	if (!e)
		return 0;
	e->key = k;
	e->head.span = shown.link;
	if (skb)
		fill_from_packet(&e->head.connection, &p, k.state);
	else if (sk)
		fill_connection(&e->head.connection, sk);
	if (sk)
		e->head.socket_cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	end_event(e);
	return 0;
}

static __always_inline int sent(u64 *ctx, const int typed)
{
	return answered((void *)ctx[0], (void *)ctx[1], arguments >= 3 ? ctx[2] + 1 : 0, typed);
}

/* Whether the packet is for an address of this host, which net/ipv{4,6}/tcp_ipv{4,6}.c ask before they
 * answer. */
static __always_inline int is_local(const struct packet *p)
{
	/* p->route inside the macros would be relocated too. */
	struct rt6_info *v6 = (void *)p->route;
	struct rtable *v4 = (void *)p->route;

	if (p->family == 6)
		return BPF_CORE_READ(v6, rt6i_flags) & RTF_LOCAL;
	return BPF_CORE_READ(v4, rt_type) == RTN_LOCAL;
}

/*
 * tcp_v4_send_reset() and tcp_v6_send_reset() before 6.10: for a whole socket the tracepoint in them fires,
 * and a reset is not answered.
 */
static __always_inline int unseen(struct sock *sk, struct sk_buff *skb)
{
	struct packet p = {};
	u8 state;

	if (sk) {
		state = BPF_CORE_READ(sk, __sk_common.skc_state);
		if (state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV)
			return 0;
	}
	look(&p, skb, 0);
	parse(&p);
	if (tcp_flags(&p) & TCP_RST || (!sk && !is_local(&p)))
		return 0;
	return answered(sk, skb, 0, 0);
}

static __always_inline int received(u64 *ctx, const int typed)
{
	struct reset_key k = {.direction = DIRECTION_RECEIVE};
	struct sock *sk = (void *)ctx[0];
	struct exemplar shown = {.value = 1};
	struct reset_event *e;

	entity_of(&k.entity, sk);
	k.state = BPF_CORE_READ(sk, __sk_common.skc_state);
	k.family = family_of(sk);
	if (typed)
		find_span(&shown.link, sk, MATTER_CONNECTION, k.direction, 0);
	count(&resets, &k);
	if (is_shown(&shown.link)) {
		find_socket_facts(&shown.facts, sk);
		show(&exemplars, &k, &shown);
	}
	e = begin_event(&k.entity, sk, sizeof(*e));
	if (!e)
		return 0;
	e->key = k;
	e->head.span = shown.link;
	end_event(e);
	return 0;
}

SEC("tp_btf/tcp_send_reset")
int sent_btf(u64 *ctx)
{
	return sent(ctx, 1);
}

SEC("raw_tp/tcp_send_reset")
int sent_raw(u64 *ctx)
{
	return sent(ctx, 0);
}

SEC("fentry/tcp_v4_send_reset")
int unseen_v4_fentry(u64 *ctx)
{
	return unseen((void *)ctx[0], (void *)ctx[1]);
}

SEC("kprobe/tcp_v4_send_reset")
int unseen_v4_kprobe(struct pt_regs *ctx)
{
	return unseen((void *)PT_REGS_PARM1_CORE(ctx), (void *)PT_REGS_PARM2_CORE(ctx));
}

SEC("fentry/tcp_v6_send_reset")
int unseen_v6_fentry(u64 *ctx)
{
	return unseen((void *)ctx[0], (void *)ctx[1]);
}

SEC("kprobe/tcp_v6_send_reset")
int unseen_v6_kprobe(struct pt_regs *ctx)
{
	return unseen((void *)PT_REGS_PARM1_CORE(ctx), (void *)PT_REGS_PARM2_CORE(ctx));
}

SEC("tp_btf/tcp_receive_reset")
int received_btf(u64 *ctx)
{
	return received(ctx, 1);
}

SEC("raw_tp/tcp_receive_reset")
int received_raw(u64 *ctx)
{
	return received(ctx, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
