/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Writes to TCP connections whose last byte has not left for the first time. All of this happens under the
 * lock of the socket, but for the end of a call.
 */
#ifndef JITTERSCOPE_UNSENT_H
#define JITTERSCOPE_UNSENT_H

#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "wait.h"

/* Writes of one connection that wait, a power of two. One more takes the place of the newest. */
#define WRITES 16

/* Room for connections. */
#define MOST_UNSENT 8192

struct write {
	u64 since; /* CLOCK_MONOTONIC, ns */
	u32 start; /* position of its first byte */
	u32 end;   /* position after its last byte */
	struct caller by;
	u32 reserved;
};

struct unsent {
	u64 writer;  /* whose call is writing; 0: nobody's */
	u64 sent_at; /* CLOCK_MONOTONIC, ns: when something left for the first time last */
	u32 sent;    /* what comes before this position has left */
	u32 first;
	u32 count;
	u32 reserved;
	struct socket_wait_key key;
	struct write writes[WRITES]; /* a ring */
};

/* Larger than the stack: a new one is copied from here. */
static const struct unsent nothing_unsent;

/*
 * By the address of the socket: the packets that leave do not tell it in a way that storage takes. A
 * connection keeps its entry until it closes; once half of the room is taken, only while something is unsent.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MOST_UNSENT);
	__type(key, u64);
	__type(value, struct unsent);
} unsent SEC(".maps");

/* Entries of `unsent`. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} entries SEC(".maps");

static __always_inline void count_entries(s64 more)
{
	u32 zero = 0;
	u64 *count = bpf_map_lookup_elem(&entries, &zero);

	if (count)
		__sync_fetch_and_add(count, more);
}

static __always_inline int is_crowded(void)
{
	u32 zero = 0;
	u64 *count = bpf_map_lookup_elem(&entries, &zero);

	return count && *count > MOST_UNSENT / 2;
}

static __always_inline void forget_unsent(const u64 *key)
{
	if (!bpf_map_delete_elem(&unsent, key))
		count_entries(-1);
}

static __always_inline struct write *write_at(struct unsent *u, u32 index)
{
	return &u->writes[(u->first + index) & (WRITES - 1)];
}

static __always_inline struct write *newest_write(struct unsent *u)
{
	return u->count ? write_at(u, u->count - 1) : NULL;
}

/* Counts the writes all of whose bytes have left. `typed` says that the verifier knows the socket's type. */
static __always_inline void settle(struct unsent *u, struct sock *sk, const int typed)
{
	struct write *w;
	int i;

	for (i = 0; i < WRITES; i++) {
		w = write_at(u, 0);
		if (!u->count || (s32)(u->sent - w->end) < 0)
			break;
		u->first++;
		u->count--;
		if (w->since <= u->sent_at)
			write_waited(sk, &u->key, u->sent_at - w->since, w->start, &w->by, typed);
	}
}

/* The newest write ended at this position, short of what it wanted, and perhaps without a byte. */
static __always_inline void cut_short(struct unsent *u, struct sock *sk, u32 end, const int typed)
{
	struct write *w = newest_write(u);

	if (!w || (s32)(end - w->end) >= 0)
		return;
	w->end = end;
	if ((s32)(end - w->start) <= 0)
		u->count--;
	else
		settle(u, sk, typed);
}

static __always_inline struct unsent *unsent_of(struct sock *sk, const u64 *key)
{
	struct unsent *u = bpf_map_lookup_elem(&unsent, key);

	if (u)
		return u;
	if (!bpf_map_update_elem(&unsent, key, &nothing_unsent, BPF_NOEXIST))
		count_entries(1);
	u = bpf_map_lookup_elem(&unsent, key);
	if (!u) {
		account(overflow);
		return NULL;
	}
	find_key(&u->key, sk, IPPROTO_TCP);
	u->sent = BPF_CORE_READ((struct tcp_sock *)sk, snd_nxt);
	return u;
}

/* A call has come to write so many bytes more: `fresh` is its beginning, else it may have done so before. */
static __always_inline void writing(struct sock *sk, u32 left, const int fresh, const int typed)
{
	u64 writer = bpf_get_current_pid_tgid(), key = (u64)sk;
	u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);
	struct unsent *u;
	struct write *w;
	u32 start;

	if (!left || (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT))
		return;
	u = unsent_of(sk, &key);
	if (!u)
		return;
	start = BPF_CORE_READ((struct tcp_sock *)sk, write_seq);
	w = newest_write(u);
	if (!fresh && w && u->writer == writer && w->end == start + left)
		return;
	cut_short(u, sk, start, typed);
	u->writer = writer;
	if (u->count < WRITES)
		u->count++;
	else
		account(overflow);
	w = write_at(u, u->count - 1);
	w->since = bpf_ktime_get_ns();
	w->start = start;
	w->end = start + left;
	find_caller(&w->by);
}

/* The call has come to its end. What it has not written by now it never will. The verifier knows the type. */
static __always_inline void written(struct sock *sk)
{
	u64 key = (u64)sk;
	struct unsent *u = bpf_map_lookup_elem(&unsent, &key);

	if (!u || u->writer != bpf_get_current_pid_tgid())
		return;
	u->writer = 0;
	cut_short(u, sk, BPF_CORE_READ((struct tcp_sock *)sk, write_seq), 1);
}

/* What comes before this position leaves; it may have left before. The verifier knows the socket's type. */
static __always_inline void leaves(struct unsent *u, struct sock *sk, u32 end)
{
	if ((s32)(end - u->sent) <= 0)
		return;
	u->sent = end;
	u->sent_at = bpf_ktime_get_ns();
	settle(u, sk, 1);
}

#endif
