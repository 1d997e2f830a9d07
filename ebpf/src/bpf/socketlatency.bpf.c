// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * socketlatency: how long data waits in sockets, from when it is readable until it is read, and from when it
 * is written until it leaves for the first time.
 *
 * Reads: one wait for each call that takes something, that of the byte or datagram that waited the longest. A
 * call that waits for more in between counts again for what it takes then. Calls that take without copying
 * (splice, TCP_ZEROCOPY_RECEIVE) count once between two arrivals. Looking without taking does not count.
 *
 * Writes, of TCP: one wait for each call, that of its last byte, until it reaches the queue of an interface.
 * What a call could not write is not waited for.
 */
#include "kernel.h"
#include "abi.h"
#include "inbox.h"
#include "packet.h"
#include "readable.h"
#include "unsent.h"

#define TCP_SYN 2

enum kind {
	KIND_OTHER,
	KIND_TCP,
	KIND_UDP,
};

static __always_inline enum kind kind_of(struct sock *sk)
{
	u16 family = sk->__sk_common.skc_family;

	if (family != AF_INET && family != AF_INET6)
		return KIND_OTHER;
	switch (sk->sk_protocol) {
	case IPPROTO_TCP:
		return KIND_TCP;
	case IPPROTO_UDP:
		return KIND_UDP;
	default:
		return KIND_OTHER;
	}
}

/* Listeners have connections to accept, no data. */
static __always_inline int ready(struct sock *sk)
{
	enum kind kind = kind_of(sk);

	if (kind == KIND_UDP)
		datagram_ready(sk);
	else if (kind == KIND_TCP && sk->__sk_common.skc_state != TCP_LISTEN)
		stream_ready(sk);
	return 0;
}

/* What was written before belongs to a connection that is gone, at its beginning too: at the same address. */
static __always_inline void forget_writes(struct sock *sk, int state)
{
	u64 key = (u64)sk;

	if (state != TCP_ESTABLISHED && state != TCP_CLOSE)
		return;
	if (bpf_map_lookup_elem(&unsent, &key))
		forget_unsent(&key);
}

/* First of the hooks: nothing stays behind of a socket that closes while the others are attached. */
SEC("tp_btf/inet_sock_set_state")
int state_btf(u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];
	int new = ctx[2];

	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	forget_writes(sk, new);
	if (new == TCP_ESTABLISHED)
		begin_stream(sk);
	return 0;
}

/* Where programs have no storage with sockets (before 5.11) there are writes alone. */
SEC("raw_tp/inet_sock_set_state")
int state_raw(u64 *ctx)
{
	forget_writes((void *)ctx[0], ctx[2]);
	return 0;
}

SEC("tp_btf/sk_data_ready")
int ready_btf(u64 *ctx)
{
	return ready((void *)ctx[0]);
}

SEC("fentry/sock_def_readable")
int ready_fentry(u64 *ctx)
{
	return ready((void *)ctx[0]);
}

/* Once for each piece that is copied. */
SEC("tp_btf/tcp_rcv_space_adjust")
int taken_btf(u64 *ctx)
{
	stream_taken((void *)ctx[0]);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int received_btf(u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];
	int length = ctx[1], flags = ctx[2];
	enum kind kind = kind_of(sk);

	if (kind == KIND_TCP)
		stream_left(sk);
	else if (kind == KIND_UDP && length >= 0 && !(flags & (MSG_PEEK | MSG_ERRQUEUE)))
		datagram_taken(sk);
	return 0;
}

SEC("fentry/tcp_cleanup_rbuf")
int received_fentry(u64 *ctx)
{
	stream_left((void *)ctx[0]);
	return 0;
}

/* Those that were only looked at have a negative length, and where it is zero another user: the queue. */
SEC("fentry/skb_consume_udp")
int consumed_fentry(u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];
	struct sk_buff *skb = (void *)ctx[1];
	int length = ctx[2];

	if (length < 0 || (!length && skb->users.refs.counter > 1))
		return 0;
	if (kind_of(sk) == KIND_UDP)
		datagram_taken(sk);
	return 0;
}

/* Once for each piece that a call copies. */
SEC("tp_btf/tcp_sendmsg_locked")
int writing_btf(u64 *ctx)
{
	struct msghdr *message = (void *)ctx[1];

	writing((void *)ctx[0], BPF_CORE_READ(message, msg_iter.count), 0, 1);
	return 0;
}

SEC("fentry/tcp_sendmsg_locked")
int writing_fentry(u64 *ctx)
{
	writing((void *)ctx[0], ctx[2], 1, 1);
	return 0;
}

SEC("kprobe/tcp_sendmsg_locked")
int writing_kprobe(struct pt_regs *ctx)
{
	writing((void *)PT_REGS_PARM1_CORE(ctx), PT_REGS_PARM3_CORE(ctx), 1, 0);
	return 0;
}

SEC("tp_btf/sock_send_length")
int written_btf(u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];

	if (kind_of(sk) == KIND_TCP)
		written(sk);
	return 0;
}

/* Position after the last byte of the segment; false for what is none, or is one inside of another packet. */
static __always_inline int segment_end(struct sk_buff *skb, u32 *end)
{
	struct packet p = {};
	struct {
		u16 ports[2];
		u32 sequence, acknowledged;
		u8 length, flags;
	} head;

	look(&p, skb, 1);
	parse(&p);
	if (p.protocol != IPPROTO_TCP || !p.transport)
		return 0;
	if (bpf_probe_read_kernel(&head, sizeof(head), p.transport))
		return 0;
	*end = bpf_ntohl(head.sequence) + p.length - (u32)(p.transport - skb->data) - (head.length >> 4) * 4;
	if (head.flags & TCP_SYN)
		*end += 1;
	return 1;
}

SEC("tp_btf/net_dev_queue")
int queued_btf(u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	struct sock *sk = skb->sk;
	struct unsent *u;
	u64 key;
	u32 end;

	if (!sk)
		return 0;
	key = (u64)sk;
	u = bpf_map_lookup_elem(&unsent, &key);
	if (!u || !u->count || !segment_end(skb, &end))
		return 0;
	leaves(u, sk, end);
	if (!u->count && is_crowded())
		forget_unsent(&key);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
