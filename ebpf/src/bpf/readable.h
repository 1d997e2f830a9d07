/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Since when the bytes of a TCP connection have been readable, by their positions in the stream. All of this
 * happens under the lock of the socket.
 */
#ifndef JITTERSCOPE_READABLE_H
#define JITTERSCOPE_READABLE_H

#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "sequence.h"
#include "wait.h"

/*
 * Arrivals that a reader has not come to, a power of two. What arrives beyond counts with the newest of them,
 * from the last of their times, so that nobody seems to have waited longer than he did.
 */
#define ARRIVALS 32

/* Who reads although no system call does: a softirq. No task has this number. */
#define NOBODY 1

struct arrival {
	u64 since; /* CLOCK_MONOTONIC, ns; 0: unknown, it was before the probe */
	u32 start; /* position of its first byte */
	u32 reserved;
};

struct stream {
	u64 reader; /* whose call reads at present, and has been counted; 0: nobody's */
	u32 taken;  /* what comes before this position has been read */
	u32 ready;  /* what comes before this position has been told to be readable */
	u32 first;
	u32 count;
	struct socket_wait_key key;
	struct arrival arrivals[ARRIVALS]; /* a ring */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct stream);
} streams SEC(".maps");

static __always_inline struct arrival *arrival_at(struct stream *s, u32 index)
{
	return &s->arrivals[(s->first + index) & (ARRIVALS - 1)];
}

static __always_inline void add_arrival(struct stream *s, u32 start, u64 since)
{
	struct arrival *a;

	if (s->count == ARRIVALS) {
		arrival_at(s, ARRIVALS - 1)->since = since;
		account(overflow);
		return;
	}
	a = arrival_at(s, s->count++);
	a->start = start;
	a->since = since;
}

/* Begins with what has been read and what has come so far; since when the rest waits nobody knows. */
static __always_inline void begin_stream(struct sock *sk)
{
	struct stream *s = bpf_sk_storage_get(&streams, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	struct tcp_sock *tp = (void *)sk;

	if (!s) {
		account(overflow);
		return;
	}
	find_key(&s->key, sk, IPPROTO_TCP);
	s->reader = 0;
	s->first = 0;
	s->count = 0;
	s->taken = BPF_CORE_READ(tp, copied_seq);
	s->ready = BPF_CORE_READ(tp, rcv_nxt);
	if (s->taken != s->ready)
		add_arrival(s, s->taken, 0);
}

/*
 * A call that reads, and waits in between, has let go of the lock when more arrives; what it takes then is
 * another read. A call that has the lock finds what arrived meanwhile.
 */
static __always_inline void stream_ready(struct sock *sk)
{
	struct stream *s = bpf_sk_storage_get(&streams, sk, NULL, 0);
	struct tcp_sock *tp = (void *)sk;
	u32 next;

	if (!s) {
		begin_stream(sk);
		return;
	}
	if (!sk->sk_lock.owned)
		s->reader = 0;
	next = BPF_CORE_READ(tp, rcv_nxt);
	if (!is_before(s->ready, next))
		return;
	add_arrival(s, s->ready, bpf_ktime_get_ns());
	s->ready = next;
}

/* Forgets the arrivals all of whose bytes come before the position. */
static __always_inline void forget_arrivals(struct stream *s, u32 position)
{
	int i;

	for (i = 0; i < ARRIVALS; i++) {
		if (s->count < 2 || is_before(position, arrival_at(s, 1)->start))
			break;
		s->first++;
		s->count--;
	}
	if (is_before(position, s->ready))
		return;
	s->ready = position;
	s->count = 0;
}

/*
 * Something was copied to a reader, or looked at: then the position stays where it was. The first piece that
 * a call takes has waited the longest, and counts for it.
 */
static __always_inline void stream_taken(struct sock *sk)
{
	struct stream *s = bpf_sk_storage_get(&streams, sk, NULL, 0);
	u64 since = 0, reader = NOBODY, now;
	struct tcp_sock *tp = (void *)sk;
	u32 position, first;
	int called;

	if (!s)
		return;
	position = BPF_CORE_READ(tp, copied_seq);
	if (!is_before(s->taken, position))
		return;
	now = bpf_ktime_get_ns();
	if (s->count && !is_before(s->taken, arrival_at(s, 0)->start))
		since = arrival_at(s, 0)->since;
	first = s->taken;
	s->taken = position;
	forget_arrivals(s, position);
	/* A softirq reads for the kernel, on top of whatever task. */
	called = sk->sk_lock.owned != 0;
	if (called)
		reader = bpf_get_current_pid_tgid();
	if (s->reader == reader)
		return;
	s->reader = reader;
	if (since && since <= now)
		read_waited(sk, &s->key, now - since, first, called);
}

/* The call has come to its end. */
static __always_inline void stream_left(struct sock *sk)
{
	struct stream *s = bpf_sk_storage_get(&streams, sk, NULL, 0);

	if (s && s->reader == bpf_get_current_pid_tgid())
		s->reader = 0;
}

#endif
