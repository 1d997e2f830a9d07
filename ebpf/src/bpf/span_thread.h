/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What an anomaly of a connection has to do with the thread that sent on it last. Nothing is known of the
 * protocol: requests may overlap, answers come in any order. So what was sent belongs to its sender by its
 * position, and what comes in only while nothing but the one was ever sent.
 */
#ifndef JITTERSCOPE_SPAN_THREAD_H
#define JITTERSCOPE_SPAN_THREAD_H

#include "kernel.h"
#include "abi.h"
#include "sequence.h"
#include "span_store.h"

/* What of a connection an anomaly is about. */
enum span_matter {
	MATTER_PACKET,	   /* one that begins at a position of its stream */
	MATTER_STREAM,	   /* whatever is on its way in one direction */
	MATTER_CONNECTION, /* the whole, as for a reset: of the request that has no answer yet */
};

static __always_inline struct span_context *thread_context_of(struct sock *sk)
{
	u64 key;

	if (span_storage == SPAN_STORAGE_SOCKET)
		return bpf_sk_storage_get(&thread_contexts, sk, NULL, 0);
	if (span_storage != SPAN_STORAGE_ADDRESS)
		return NULL;
	key = (u64)sk;
	return bpf_map_lookup_elem(&thread_by_address, &key);
}

/* Whether its process is still there, and was not found out. The instrumentation forgets threads by itself.
 */
static __always_inline int is_trusted(const struct span_context *c)
{
	u32 process = c->process;
	struct thread_process *p;

	if (c->link.source == SPAN_SOURCE_INSTRUMENTATION)
		return 1;
	p = bpf_map_lookup_elem(&thread_processes, &process);
	return p && p->state == THREAD_KNOWN;
}

/* Whether somebody has sent since of whom nothing is known. */
static __always_inline int is_more_sent(const struct span_context *c, struct tcp_sock *tp)
{
	return is_before(c->end, BPF_CORE_READ(tp, write_seq));
}

/* Whether the peer has said nothing since the last send. */
static __always_inline int is_unanswered(const struct span_context *c, struct tcp_sock *tp)
{
	return c->link.role == SPAN_ROLE_CLIENT && c->answer == BPF_CORE_READ(tp, rcv_nxt) &&
	       !is_more_sent(c, tp);
}

/* Whether the last bytes that are on their way are the sender's. */
static __always_inline int is_in_flight(const struct span_context *c, struct tcp_sock *tp)
{
	u32 written = BPF_CORE_READ(tp, write_seq), confirmed = BPF_CORE_READ(tp, snd_una);

	return is_before(confirmed, written) && is_before(confirmed, c->end) && !is_before(c->end, written);
}

static __always_inline int is_of_last_send(const struct span_context *c, struct sock *sk,
					   const enum span_matter matter, u8 direction, u32 position)
{
	struct tcp_sock *tp = (void *)sk;

	if (c->state == SPAN_CONNECTING)
		return BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_SYN_SENT;
	if (matter == MATTER_CONNECTION)
		return is_in_flight(c, tp) || is_unanswered(c, tp);
	if (direction != DIRECTION_TRANSMIT)
		return c->link.role == SPAN_ROLE_CLIENT && !c->others && !is_more_sent(c, tp) &&
		       (matter == MATTER_STREAM || !is_before(position, c->answer));
	if (matter == MATTER_STREAM)
		return is_in_flight(c, tp) && !is_before(BPF_CORE_READ(tp, snd_una), c->start);
	return !is_before(position, c->start) && is_before(position, c->end);
}

#endif
