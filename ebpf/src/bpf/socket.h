/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What a socket is and how its TCP connection stands. */
#ifndef JITTERSCOPE_SOCKET_H
#define JITTERSCOPE_SOCKET_H

#include "kernel.h"
#include "abi.h"
#include "entity.h"

/* enum sock_flags, include/net/sock.h: the peer's FIN has come. */
#define SOCK_DONE_BIT (1UL << 1)

/* An address in network order; IPv4 in the first word. */
struct address {
	u32 words[4];
};

/* A TCP socket at one moment. */
struct standing {
	u64 received, sent; /* bytes of payload since it was made */
	u32 receive_queue, transmit_queue;
	u32 unacked, window, rtt; /* us; 0 before the first measurement */
	u32 segments_in, segments_out, retransmits;
};

static __always_inline int is_mapped(const struct address *a)
{
	return !a->words[0] && !a->words[1] && a->words[2] == bpf_htonl(0xffff);
}

static __always_inline int is_any(const struct address *a)
{
	return !a->words[0] && !a->words[1] && !a->words[2] && !a->words[3];
}

/*
 * 4 or 6, by the packets: an IPv6 socket whose peer, or while it has none whose own address, is IPv4-mapped
 * speaks IPv4. A listener for both is IPv6. 0 for anything but IP.
 */
static __always_inline u8 family_of(struct sock *sk, u16 domain, struct address *peer)
{
	struct address own = {};

	if (domain == AF_INET) {
		peer->words[0] = BPF_CORE_READ(sk, __sk_common.skc_daddr);
		return 4;
	}
	if (domain != AF_INET6)
		return 0;
	bpf_core_read(peer, sizeof(*peer), &sk->__sk_common.skc_v6_daddr);
	if (is_mapped(peer)) {
		*peer = (struct address){{peer->words[3]}};
		return 4;
	}
	if (!is_any(peer))
		return 6;
	bpf_core_read(&own, sizeof(own), &sk->__sk_common.skc_v6_rcv_saddr);
	return is_mapped(&own) ? 4 : 6;
}

static __always_inline int is_connected(u8 state)
{
	return state != TCP_CLOSE && state != TCP_LISTEN && state != TCP_SYN_SENT && state != TCP_SYN_RECV;
}

/*
 * How a TCP socket stands. Queues are as ss(8) shows them: a SYN or FIN counts as a byte. `typed` says that
 * the verifier knows tp's type: then its members are plain loads, which are many times cheaper than a
 * helper's.
 */
static __always_inline void read_standing(struct standing *c, struct tcp_sock *tp, u8 state, const int typed)
{
#define MEMBER(name) (typed ? tp->name : BPF_CORE_READ(tp, name))
	s32 unread = MEMBER(rcv_nxt) - MEMBER(copied_seq);

	c->receive_queue = unread > 0 ? unread : 0;
	c->transmit_queue = MEMBER(write_seq) - MEMBER(snd_una);
	c->unacked = MEMBER(packets_out);
	if (is_connected(state)) {
		c->window = MEMBER(snd_cwnd);
		c->rtt = MEMBER(srtt_us) >> 3;
	}
#undef MEMBER
}

/*
 * What a connection has carried: final in the state TCP_CLOSE. `flags` are those of its struct sock: the
 * peer's FIN has been counted as a byte received.
 */
static __always_inline void read_traffic(struct standing *c, struct tcp_sock *tp, unsigned long flags)
{
	c->received = tp->bytes_received;
	if (flags & SOCK_DONE_BIT && c->received)
		c->received--;
	c->sent = tp->bytes_sent - tp->bytes_retrans;
	c->segments_in = tp->segs_in;
	c->segments_out = tp->segs_out;
	c->retransmits = tp->total_retrans;
	c->rtt = tp->srtt_us >> 3;
}

#endif
