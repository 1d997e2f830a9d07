/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Since when the datagrams of a UDP socket have been readable. The kernel says that one came and that one was
 * read, not which: they are numbered as they come, and read in that order.
 */
#ifndef JITTERSCOPE_INBOX_H
#define JITTERSCOPE_INBOX_H

#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "wait.h"

/*
 * Datagrams whose time is known, a power of two: more of 1000 bytes than a receive buffer of the default size
 * holds. What arrives beyond has no time, and its read is counted as missing.
 */
#define DATAGRAMS 128

/* Nobody takes so long from a queue to the end of his call, in ns. */
#define QUIET 1000000000ULL

struct inbox {
	u64 reader; /* who read last */
	u64 shared; /* CLOCK_MONOTONIC, ns: when someone else than before read; 0: never */
	u64 latest; /* when the last one arrived; 0: none has */
	u32 last;   /* number of the last one that arrived */
	u32 taken;  /* and of the last one that was read */
	struct socket_wait_key key;
	u32 numbers[DATAGRAMS];
	u64 times[DATAGRAMS];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct inbox);
} inboxes SEC(".maps");

static __always_inline u32 not_looked_at(struct sock *sk)
{
	return sk->sk_receive_queue.qlen;
}

/* Readers move all that has come to a queue of their own. */
static __always_inline u32 looked_at(struct sock *sk)
{
	return BPF_CORE_READ((struct udp_sock *)sk, reader_queue.qlen);
}

/*
 * The number of a datagram that has just arrived. Some kernels (6.13 to 6.17) do not tell of those that come
 * while others have not been looked at: then the first of the next ones tells by the queues where it is.
 * Datagrams that were thrown away unread, for a wrong checksum, are found out when the socket was quiet and
 * holds no other one.
 */
static __always_inline u32 number_of_arrival(struct inbox *box, struct sock *sk, u64 now)
{
	u32 number = __sync_fetch_and_add(&box->last, 1) + 1, place;

	if (not_looked_at(sk) != 1)
		return number;
	place = looked_at(sk) + 1;
	if ((s32)(box->taken + place - number) > 0) {
		number = box->taken + place;
		box->last = number;
	} else if (place == 1 && now - box->latest > QUIET) {
		box->taken = number - 1;
	}
	return number;
}

/* Since when those wait that came before the probe nobody knows. */
static __always_inline void begin_inbox(struct inbox *box, struct sock *sk)
{
	find_key(&box->key, sk, IPPROTO_UDP);
	box->last = not_looked_at(sk) + looked_at(sk) - 1;
}

static __always_inline void datagram_ready(struct sock *sk)
{
	struct inbox *box = bpf_sk_storage_get(&inboxes, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	u64 now = bpf_ktime_get_ns();
	u32 number, slot;

	if (!box) {
		account(overflow);
		return;
	}
	if (!box->latest)
		begin_inbox(box, sk);
	number = number_of_arrival(box, sk, now);
	box->latest = now;
	slot = number & (DATAGRAMS - 1);
	if ((s32)(box->numbers[slot] - box->taken) > 0) {
		account(overflow);
		return;
	}
	box->numbers[slot] = number;
	box->times[slot] = now;
}

/*
 * The number of the datagram that was read. Whoever has been the only reader for a while knows what he left:
 * what is missing was thrown away before.
 */
static __always_inline u32 number_of_read(struct inbox *box, struct sock *sk, u64 now)
{
	u64 reader = bpf_get_current_pid_tgid();
	u32 number = __sync_fetch_and_add(&box->taken, 1) + 1, missing;

	if (reader != box->reader) {
		if (box->reader)
			box->shared = now;
		box->reader = reader;
	}
	if (box->shared && now - box->shared < QUIET)
		return number;
	missing = *(volatile u32 *)&box->last - number;
	missing -= not_looked_at(sk);
	missing -= looked_at(sk);
	if ((s32)missing <= 0)
		return number;
	number += missing;
	box->taken = number;
	return number;
}

static __always_inline void datagram_taken(struct sock *sk)
{
	struct inbox *box = bpf_sk_storage_get(&inboxes, sk, NULL, 0);
	u64 now = bpf_ktime_get_ns(), since;
	u32 number, slot;

	if (!box)
		return;
	number = number_of_read(box, sk, now);
	slot = number & (DATAGRAMS - 1);
	if (box->numbers[slot] != number)
		return;
	since = box->times[slot];
	if (since > now)
		return;
	/* It may have got another peer, of the other family. */
	box->key.family = family_of(sk);
	read_waited(sk, &box->key, now - since, 0, 1);
}

#endif
