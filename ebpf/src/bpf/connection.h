/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The ends of a socket. What is read of others than closed ones is in the part that requests and time-wait
 * sockets have too. */
#ifndef JITTERSCOPE_CONNECTION_H
#define JITTERSCOPE_CONNECTION_H

#include "kernel.h"
#include "abi.h"

/* An IPv4 address mapped into IPv6 (RFC 4291, section 2.5.5.2). */
static __always_inline int is_mapped(const u32 address[4])
{
	return !address[0] && !address[1] && address[2] == bpf_htonl(0xffff);
}

/* 4 or 6, as the packets of the socket are; 0 for neither. A dual-stack socket's peer decides. */
static __always_inline u8 family_of(struct sock *sk)
{
	u32 peer[4];

	switch (BPF_CORE_READ(sk, __sk_common.skc_family)) {
	case AF_INET:
		return 4;
	case AF_INET6:
		BPF_CORE_READ_INTO(&peer, sk, __sk_common.skc_v6_daddr);
		return is_mapped(peer) ? 4 : 6;
	default:
		return 0;
	}
}

/* A socket that closes has given its number back already; what it sent from is still there. */
static __always_inline u16 local_port(struct sock *sk, u8 state)
{
	u16 number = BPF_CORE_READ(sk, __sk_common.skc_num);

	if (number || state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV)
		return number;
	return bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
}

static __always_inline void fill_connection(struct connection *c, struct sock *sk)
{
	c->family = family_of(sk);
	c->state = BPF_CORE_READ(sk, __sk_common.skc_state);
	c->protocol = IPPROTO_TCP;
	c->local_port = local_port(sk, c->state);
	c->peer_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (c->family == 4) {
		BPF_CORE_READ_INTO((u32 *)c->local_address, sk, __sk_common.skc_rcv_saddr);
		BPF_CORE_READ_INTO((u32 *)c->peer_address, sk, __sk_common.skc_daddr);
	} else if (c->family == 6) {
		BPF_CORE_READ_INTO(&c->local_address, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&c->peer_address, sk, __sk_common.skc_v6_daddr);
	}
}

#endif
