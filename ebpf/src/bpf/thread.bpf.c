// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * thread: the span that the thread was in which sent on a connection, as its SDK says in the thread's own
 * memory, read in the system call that sends or connects.
 */
#include "kernel.h"
#include "abi.h"
#include "instrumented.h"
#include "sequence.h"
#include "span.h"
#include "span_end.h"
#include "span_store.h"
#include "thread_local.h"
#include "thread_process.h"

/* Which sources are wanted. */
const volatile u32 reads_threads, reads_instrumentation;

/* What is known of the running thread. */
enum known_by {
	KNOWN_BY_NONE,	 /* nobody says anything of it */
	KNOWN_BY_OTHERS, /* somebody says of some threads what they are at */
	KNOWN_BY_ITSELF, /* its process does */
};

/*
 * Who says what the running thread is at; what it is at is in the link, if it is in a span. A process that
 * speaks for itself knows better than who watches it.
 */
static __always_inline enum known_by ask_thread(struct span_context *c)
{
	struct thread_place place;

	c->process = bpf_get_current_pid_tgid() >> 32;
	if (reads_threads && find_place(&place, c->process)) {
		c->link.source = SPAN_SOURCE_THREAD;
		c->state = read_thread_context(&c->link, &place) ? SPAN_KNOWN : SPAN_UNKNOWN;
		return KNOWN_BY_ITSELF;
	}
	if (!reads_instrumentation)
		return KNOWN_BY_NONE;
	c->state = read_instrumented_context(&c->link) ? SPAN_KNOWN : SPAN_UNKNOWN;
	return KNOWN_BY_OTHERS;
}

static __always_inline void keep(struct sock *sk, struct span_context *fresh)
{
	struct span_context *c;
	u64 key;

	fresh->check = check_of(fresh);
	if (span_storage == SPAN_STORAGE_SOCKET) {
		c = bpf_sk_storage_get(&thread_contexts, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (c)
			*c = *fresh;
		return;
	}
	key = (u64)sk;
	bpf_map_update_elem(&thread_by_address, &key, fresh, BPF_ANY);
}

/* Whoever listened has a queue for those who ask: an accepted socket is a copy of the one that listened. */
static __always_inline u8 role_of(struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_max_ack_backlog) ? SPAN_ROLE_SERVER : SPAN_ROLE_CLIENT;
}

static __always_inline int is_same_span(const struct span_link *a, const struct span_link *b)
{
	return is_same_trace(a, b) && *(const u64 *)a->span_id == *(const u64 *)b->span_id;
}

/* Whether no byte was written to the connection yet. */
static __always_inline int is_unused(struct tcp_sock *tp)
{
	return !BPF_CORE_READ(tp, bytes_sent) && BPF_CORE_READ(tp, write_seq) == BPF_CORE_READ(tp, snd_nxt);
}

/* What the send has to do with what was sent before. `last`: what is kept of the socket. */
static __always_inline void follow(struct span_context *c, const struct span_context *last, struct sock *sk)
{
	if (is_unused((void *)sk))
		return;
	c->others = 1;
	if (!last || last->state != SPAN_KNOWN || c->state != SPAN_KNOWN || !is_kept_for(last, sk))
		return;
	/* The same goes on, unless something came in between that nobody saw. */
	if (!is_same_span(&last->link, &c->link) || is_before(c->start, last->start) ||
	    is_before(last->end, c->start))
		return;
	c->start = last->start;
	c->others = last->others;
}

/* Whether this is the answer to a request that names another trace. */
static __always_inline int is_contradicted(const struct span_context *c, struct sock *sk)
{
	struct span_context request;

	if (!take_context(&request, context_of(sk), sk) || request.link.role != SPAN_ROLE_SERVER)
		return 0;
	return request.answer == BPF_CORE_READ((struct tcp_sock *)sk, write_seq) &&
	       !is_same_trace(&request.link, &c->link);
}

/* `count` bytes more are written to the socket, which is locked. */
static __always_inline int sends(struct sock *sk, u64 count)
{
	struct span_context c = {}, *last;
	struct tcp_sock *tp = (void *)sk;

	if (ask_thread(&c) == KNOWN_BY_NONE)
		return 0;
	last = thread_context_of(sk);
	c.link.role = role_of(sk);
	if (c.state == SPAN_KNOWN)
		c.captured_at = bpf_ktime_get_ns();
	else if (!last)
		return 0;
	c.start = BPF_CORE_READ(tp, write_seq);
	c.end = c.start + count;
	c.answer = BPF_CORE_READ(tp, rcv_nxt);
	c.ports = ports_of(sk);
	if (c.state == SPAN_KNOWN && is_contradicted(&c, sk)) {
		distrust(&c, last);
		return 0;
	}
	follow(&c, last, sk);
	if (c.state == SPAN_KNOWN && c.start == BPF_CORE_READ(tp, write_seq))
		count_span(captured, c.link.source);
	keep(sk, &c);
	return 0;
}

/* Once for each piece that a call copies. */
SEC("tp_btf/tcp_sendmsg_locked")
int sends_btf(u64 *ctx)
{
	struct msghdr *message = (void *)ctx[1];

	return sends((void *)ctx[0], message->msg_iter.count);
}

SEC("fentry/tcp_sendmsg_locked")
int sends_fentry(u64 *ctx)
{
	return sends((void *)ctx[0], ctx[2]);
}

/* A socket wants to connect. Its own port may not be chosen yet, and its stream has no positions. */
static __always_inline void connects(struct sock *sk)
{
	struct span_context c = {};

	ask_thread(&c);
	if (c.state == SPAN_KNOWN) {
		c.state = SPAN_CONNECTING;
		c.captured_at = bpf_ktime_get_ns();
		count_span(captured, c.link.source);
	} else if (!thread_context_of(sk)) {
		return;
	}
	c.link.role = SPAN_ROLE_CLIENT;
	c.ports = ports_of(sk) & 0xffff0000;
	keep(sk, &c);
}

SEC("tp_btf/inet_sock_set_state")
int state_btf(u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];

	if ((u32)ctx[2] == TCP_SYN_SENT && sk->sk_protocol == IPPROTO_TCP)
		connects(sk);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
