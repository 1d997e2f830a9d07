// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * flows: the pass of sockets.bpf.c that also adds up traffic by peer for `flow`, and the last values of
 * connections that end between two passes. An object of its own, for kernels before 5.12 refuse its atomic
 * exchange.
 */
#include "flow.h"

#define VISIT_FLOW visit_flow

#include "socket_pass.h"

/* The last values of a connection, and a fresh start for a socket that is connected again. */
SEC("tp_btf/inet_sock_set_state")
int flow_state(u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];
	u32 zero = 0, before = ctx[1], after = ctx[2];
	struct pass *pass = bpf_map_lookup_elem(&passes, &zero);
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct flow_key key = {};
	struct standing c = {};
	struct address peer = {};

	if (!pass || !tp)
		return 0;
	if (after == TCP_SYN_SENT)
		bpf_sk_storage_delete(&added, sk);
	if (after != TCP_CLOSE || before == TCP_LISTEN)
		return 0;
	entity_of(&key.entity, sk);
	key.family = family_of(sk, sk->__sk_common.skc_family, &peer);
	__builtin_memcpy(key.address, &peer, sizeof(key.address));
	read_traffic(&c, tp, sk->__sk_common.skc_flags);
	add_flow(pass, sk, &key, &c);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
