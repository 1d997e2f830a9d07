/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Traffic by peer. What a connection has carried is added to its peer's sums by each pass and at its end; its
 * own storage has how much of it has been added, so that nothing is added twice.
 */
#ifndef JITTERSCOPE_FLOW_H
#define JITTERSCOPE_FLOW_H

#include "kernel.h"
#include "abi.h"
#include "pass.h"
#include "socket.h"

/* Attempts to add what another CPU is adding at the same time: a connection ends once. */
#define ATTEMPTS 4

/* What has been added to the sums of the peer. */
struct added {
	u64 received, sent, segments_in, segments_out, retransmits;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct added);
} added SEC(".maps");

/* User space removes those that have been silent for long. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/* For those that `flows` has no room for. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct flow);
} flow_rest SEC(".maps");

/*
 * How much of `total` is new, which the caller must add: the total only rises, and of CPUs that read it at
 * the same time each takes a part, the one with the lower total possibly nothing.
 */
static __always_inline u64 take(u64 *added, u64 total)
{
	int i;

	for (i = 0; i < ATTEMPTS; i++) {
		u64 before = *(volatile u64 *)added;

		if ((s64)(total - before) <= 0)
			return 0;
		if (__sync_val_compare_and_swap(added, before, total) == before)
			return total - before;
	}
	return 0;
}

/* The same for a 32-bit counter of the kernel, whose wrap is carried on in 64 bits. */
static __always_inline u64 take_short(u64 *added, u32 total)
{
	u64 before = *(volatile u64 *)added;
	s32 more = total - (u32)before;

	return more > 0 ? take(added, before + more) : 0;
}

static __always_inline struct flow *flow_of(const struct flow_key *key, struct pass *pass)
{
	struct flow zero = {}, *flow = bpf_map_lookup_elem(&flows, key);
	u32 first = 0;

	if (flow)
		return flow;
	bpf_map_update_elem(&flows, key, &zero, BPF_NOEXIST);
	flow = bpf_map_lookup_elem(&flows, key);
	if (flow)
		return flow;
	__sync_fetch_and_add(&pass->flow_overflow, 1);
	return bpf_map_lookup_elem(&flow_rest, &first);
}

/* A gauge: a race between CPUs that begin it anew costs a sample. */
static __always_inline void add_round_trip(struct flow *flow, const struct standing *c, u64 pass)
{
	if (flow->pass != pass) {
		flow->round_trip_times = 0;
		flow->connections = 0;
		flow->pass = pass;
	}
	if (c->rtt) {
		__sync_fetch_and_add(&flow->round_trip_times, c->rtt);
		__sync_fetch_and_add(&flow->connections, 1);
	}
}

static __always_inline void add_flow(struct pass *pass, struct sock *sk, const struct flow_key *key,
				     const struct standing *c)
{
	struct added *own = bpf_sk_storage_get(&added, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	struct flow *flow;

	if (!own)
		return;
	flow = flow_of(key, pass);
	if (!flow)
		return;
	__sync_fetch_and_add(&flow->received, take(&own->received, c->received));
	__sync_fetch_and_add(&flow->sent, take(&own->sent, c->sent));
	__sync_fetch_and_add(&flow->segments_in, take_short(&own->segments_in, c->segments_in));
	__sync_fetch_and_add(&flow->segments_out, take_short(&own->segments_out, c->segments_out));
	__sync_fetch_and_add(&flow->retransmits, take_short(&own->retransmits, c->retransmits));
	add_round_trip(flow, c, pass->number);
}

static __always_inline void visit_flow(struct pass *pass, struct sock *sk, struct tcp_sock *tp,
				       const struct socket_key *socket, const struct address *peer)
{
	struct flow_key key = {.entity = socket->entity, .family = socket->family};
	struct standing c = {};

	__builtin_memcpy(key.address, peer, sizeof(key.address));
	read_traffic(&c, tp, sk->__sk_common.skc_flags);
	add_flow(pass, sk, &key, &c);
}

#endif
