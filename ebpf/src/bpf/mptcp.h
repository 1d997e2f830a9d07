/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The TCP connections below an MPTCP socket, which have no file of their own. */
#ifndef JITTERSCOPE_MPTCP_H
#define JITTERSCOPE_MPTCP_H

#include "kernel.h"
#include "abi.h"
#include "pass.h"
#include "socket.h"
#include "socket_sums.h"

/* Subflows of one MPTCP socket: the kernel's own limit, MPTCP_SUBFLOWS_MAX in net/mptcp/protocol.h. */
#define SUBFLOWS 8

/* One TCP connection below an MPTCP socket: like any other, but without a descriptor of its own. */
static __always_inline void visit_subflow(struct pass *pass, const struct entity *entity, struct sock *sk)
{
	struct socket_key key = {.entity = *entity, .protocol = IPPROTO_TCP};
	struct standing c = {};
	struct socket_sums *sums;
	struct address peer = {};

	key.domain = BPF_CORE_READ(sk, __sk_common.skc_family);
	key.family = family_of(sk, key.domain, &peer);
	key.state = BPF_CORE_READ(sk, __sk_common.skc_state);
	sums = sums_of(pass, &key);
	if (!sums)
		return;
	sums->subflows++;
	if (key.state == TCP_LISTEN) {
		add_listener(sums, sk);
	} else if (key.state != TCP_CLOSE) {
		read_standing(&c, (struct tcp_sock *)sk, key.state, 0);
		add_connection(sums, &c);
		measure(pass, entity, c.rtt);
	}
}

static __always_inline void visit_subflows(struct pass *pass, const struct entity *entity, struct sock *sk)
{
	struct mptcp_sock *msk = (void *)sk;
	struct list_head *head, *node;
	int i;

	if (!bpf_core_field_exists(msk->conn_list))
		return;
	head = (void *)msk + bpf_core_field_offset(struct mptcp_sock, conn_list);
	node = BPF_CORE_READ(head, next);
	for (i = 0; i < SUBFLOWS && node && node != head; i++) {
		struct mptcp_subflow_context *subflow =
			(void *)node - bpf_core_field_offset(struct mptcp_subflow_context, node);
		struct sock *tcp = BPF_CORE_READ(subflow, tcp_sock);

		if (tcp && BPF_CORE_READ(tcp, sk_protocol) == IPPROTO_TCP)
			visit_subflow(pass, entity, tcp);
		node = BPF_CORE_READ(node, next);
	}
}

#endif
