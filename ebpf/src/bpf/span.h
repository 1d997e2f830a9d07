/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The span that an anomaly belongs to, from what is kept of its socket. Sockets must be of a type that the
 * verifier knows, which only programs have that are attached by type.
 *
 * Requests of HTTP/1 follow each other on a connection, each after the answer to the one before. So what one
 * side sends as an answer belongs to the last request, and what the other side sends does as long as nothing
 * was answered: after that it may be the next request, which nobody has seen yet. Of HTTP/2 all of a
 * request's packets have been seen, and its end; a packet that has not may always begin another one.
 */
#ifndef JITTERSCOPE_SPAN_H
#define JITTERSCOPE_SPAN_H

#include "kernel.h"
#include "abi.h"
#include "limit.h"
#include "sequence.h"
#include "span_store.h"
#include "span_thread.h"

static __always_inline struct span_context *context_of(struct sock *sk)
{
	u64 key;

	if (span_storage == SPAN_STORAGE_SOCKET)
		return bpf_sk_storage_get(&contexts, sk, NULL, 0);
	if (span_storage != SPAN_STORAGE_ADDRESS)
		return NULL;
	key = (u64)sk;
	return bpf_map_lookup_elem(&contexts_by_address, &key);
}

static __always_inline u32 ports_of(struct sock *sk)
{
	struct inet_sock *inet = (void *)sk;

	return BPF_CORE_READ(inet, inet_sport) | (u32)BPF_CORE_READ(sk, __sk_common.skc_dport) << 16;
}

/*
 * Whether it was kept for this connection: sockets are connected anew, addresses used again. One that was
 * about to connect may have had no port yet.
 */
static __always_inline int is_kept_for(const struct span_context *c, struct sock *sk)
{
	u32 ports = ports_of(sk);

	if (c->ports != ports && (c->ports & 0xffff || c->ports >> 16 != ports >> 16))
		return 0;
	return !c->cookie || c->cookie == (u64)BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
}

/* Where what was written ends. That nothing more comes takes a position too, and is part of no answer. */
static __always_inline u32 end_of_data(struct tcp_sock *tp)
{
	u8 state = BPF_CORE_READ((struct sock *)tp, __sk_common.skc_state);
	int finishing = state == TCP_FIN_WAIT1 || state == TCP_CLOSING || state == TCP_LAST_ACK;

	return BPF_CORE_READ(tp, write_seq) - finishing;
}

static __always_inline int is_answered(const struct span_context *c, struct tcp_sock *tp)
{
	if (c->link.role == SPAN_ROLE_CLIENT)
		return is_before(c->answer, BPF_CORE_READ(tp, rcv_nxt));
	return is_before(c->answer, end_of_data(tp));
}

/* Who asks never learns where an answer ends; who answers knows what of it has not arrived yet. */
static __always_inline int is_under_way(const struct span_context *c, struct tcp_sock *tp)
{
	if (c->extent == EXTENT_UNTOLD ? !is_answered(c, tp) : c->extent == EXTENT_OPEN)
		return 1;
	if (c->link.role != SPAN_ROLE_SERVER)
		return 0;
	return is_before(BPF_CORE_READ(tp, snd_una),
			 c->extent == EXTENT_CLOSED ? c->answer_end : end_of_data(tp));
}

/* Something of the side that asks. */
static __always_inline int is_of_request(const struct span_context *c, struct tcp_sock *tp,
					 const enum span_matter matter, u8 direction, u32 position)
{
	int may_go_on = c->extent == EXTENT_UNTOLD
				? !is_answered(c, tp)
				: c->extent == EXTENT_OPEN && direction == DIRECTION_TRANSMIT;

	if (matter == MATTER_STREAM)
		return may_go_on;
	if (c->extent != EXTENT_UNTOLD)
		return is_within(position, c->start, c->end);
	return !is_before(position, c->start) && (is_before(position, c->end) || may_go_on);
}

static __always_inline int is_of_last_request(const struct span_context *c, struct sock *sk,
					      const enum span_matter matter, u8 direction, u32 position)
{
	struct tcp_sock *tp = (void *)sk;

	if (matter == MATTER_CONNECTION)
		return is_under_way(c, tp);
	if ((c->link.role == SPAN_ROLE_CLIENT) == (direction == DIRECTION_TRANSMIT))
		return is_of_request(c, tp, matter, direction, position);
	if (c->extent == EXTENT_CLOSED)
		return matter == MATTER_PACKET && is_within(position, c->answer, c->answer_end);
	return matter == MATTER_STREAM || !is_before(position, c->answer);
}

/* Takes a copy of what is kept of the socket; false if that is no span, or none of this connection. */
static __always_inline int take_context(struct span_context *c, const struct span_context *kept,
					struct sock *sk)
{
	if (!kept)
		return 0;
	*c = *kept;
	if (c->check != check_of(c) || (c->state != SPAN_KNOWN && c->state != SPAN_CONNECTING))
		return 0;
	return is_kept_for(c, sk);
}

/* Whether the link was made. `is_of`: whether it surely belongs to the context. */
static __always_inline int judge_span(struct span_link *link, const struct span_context *c, int is_of,
				      int anomaly)
{
	struct settings *set = settings_of_probe();

	if (!set)
		return 0;
	if (bpf_ktime_get_ns() - c->captured_at > set->span_age) {
		if (anomaly)
			count_span(expired, c->link.source);
		return 0;
	}
	if (!is_of) {
		if (anomaly)
			count_span(ambiguous, c->link.source);
		return 0;
	}
	if (anomaly)
		count_span(used, c->link.source);
	*link = c->link;
	return 1;
}

/* What is kept of a socket, or not. */
struct kept {
	const struct span_context *request, *thread;
};

/*
 * Fills `link`, which must be zero, if the span is known and surely the right one. What the request itself
 * said goes before what its thread said. `anomaly`: what it is about is one, and what becomes of it is
 * counted; else it is only shown with a counter.
 */
static __always_inline void look_for_span(struct span_link *link, struct kept kept, struct sock *sk,
					  const enum span_matter matter, u8 direction, u32 position,
					  int anomaly)
{
	struct span_context c;

	if (!span_storage)
		return;
	if (take_context(&c, kept.request, sk) &&
	    judge_span(link, &c, is_of_last_request(&c, sk, matter, direction, position), anomaly))
		return;
	if (take_context(&c, kept.thread, sk) && is_trusted(&c))
		judge_span(link, &c, is_of_last_send(&c, sk, matter, direction, position), anomaly);
}

/* What is kept of a socket whose type the verifier knows. */
static __always_inline struct kept kept_of(struct sock *sk)
{
	return (struct kept){context_of(sk), thread_context_of(sk)};
}

/* The same of an anomaly. */
static __always_inline void find_span(struct span_link *link, struct sock *sk, const enum span_matter matter,
				      u8 direction, u32 position)
{
	if (span_storage)
		look_for_span(link, kept_of(sk), sk, matter, direction, position, 1);
}

#endif
