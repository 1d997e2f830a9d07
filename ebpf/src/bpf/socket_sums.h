/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What a pass adds up over sockets: numbers and queues by state, round-trip times by entity. */
#ifndef JITTERSCOPE_SOCKET_SUMS_H
#define JITTERSCOPE_SOCKET_SUMS_H

#include "kernel.h"
#include "abi.h"
#include "hist.h"
#include "pass.h"
#include "socket.h"

/* Those of a key that no socket has any more stay until user space removes them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct socket_key);
	__type(value, struct socket_sums);
} sockets SEC(".maps");

/* Round-trip times of live connections: one for each connection and pass, over all passes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 2048);
	__type(key, struct entity);
	__type(value, struct histogram);
} rtt SEC(".maps");

/* A new entry; too large for the stack. */
const struct histogram empty;

static __always_inline void measure(struct pass *pass, const struct entity *entity, u32 us)
{
	struct histogram *h = bpf_map_lookup_elem(&rtt, entity);

	if (!us)
		return;
	if (!h) {
		bpf_map_update_elem(&rtt, entity, &empty, BPF_NOEXIST);
		h = bpf_map_lookup_elem(&rtt, entity);
	}
	if (h)
		observe(h, us * 1000ULL);
	else
		pass->unmeasured++;
}

static __always_inline struct socket_sums *sums_of(struct pass *pass, const struct socket_key *key)
{
	struct socket_sums zero = {}, *sums = bpf_map_lookup_elem(&sockets, key);

	if (!sums) {
		bpf_map_update_elem(&sockets, key, &zero, BPF_NOEXIST);
		sums = bpf_map_lookup_elem(&sockets, key);
	}
	if (!sums) {
		pass->uncounted++;
		return NULL;
	}
	if (sums->pass != pass->number)
		*sums = (struct socket_sums){.pass = pass->number};
	return sums;
}

static __always_inline void add_connection(struct socket_sums *sums, const struct standing *c)
{
	sums->receive_queue += c->receive_queue;
	sums->transmit_queue += c->transmit_queue;
	sums->unacked += c->unacked;
	sums->window += c->window;
}

static __always_inline void add_listener(struct socket_sums *sums, struct sock *sk)
{
	sums->backlog += BPF_CORE_READ(sk, sk_ack_backlog);
	sums->backlog_limit += BPF_CORE_READ(sk, sk_max_ack_backlog);
	sums->requests += BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_accept_queue.qlen.counter);
}

#endif
