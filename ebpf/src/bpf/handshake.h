/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What tcpconnect keeps: with each socket since when it is what it is, and its counters and histograms. */
#ifndef JITTERSCOPE_HANDSHAKE_H
#define JITTERSCOPE_HANDSHAKE_H

#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "connection.h"
#include "entity.h"

/* How long connections live: from a millisecond to weeks. */
const volatile u64 lifetime_bounds[HISTOGRAM_BUCKETS - 1];

struct since {
	u64 began; /* CLOCK_MONOTONIC, ns: the request; once established, that */
	u32 role;
	u32 established;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct since);
} sockets SEC(".maps");

struct ends {
	struct connection connection;
	u32 netns;
	u32 reserved;
};

/* When the first SYN-ACK was sent, of requests that had to be answered again. The oldest go when it is full.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct ends);
	__type(value, u64);
} answered SEC(".maps");

#define HISTOGRAMS(name)                           \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_HASH);   \
		__uint(max_entries, 1024);         \
		__type(key, struct handshake_key); \
		__type(value, struct histogram);   \
	} name SEC(".maps")

HISTOGRAMS(handshakes);
HISTOGRAMS(lifetimes);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct handshake_key);
	__type(value, u64);
} successes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 2048);
	__type(key, struct connect_failure_key);
	__type(value, u64);
} failures SEC(".maps");

static __always_inline struct handshake_key key_of(struct sock *sk, u32 role)
{
	struct handshake_key k = {.role = role, .family = family_of(sk)};

	entity_of(&k.entity, sk);
	return k;
}

static __always_inline void ends_of(struct ends *e, struct sock *sk)
{
	__builtin_memset(e, 0, sizeof(*e));
	fill_connection(&e->connection, sk);
	e->connection.state = 0;
	e->netns = net_inode(BPF_CORE_READ(sk, __sk_common.skc_net.net));
}

/* From the SYN-ACK to its acknowledgement. Without retransmission that is the round trip that TCP has just
 * measured. */
static __always_inline u64 answered_since(struct sock *sk, u64 now)
{
	struct tcp_sock *tp = (void *)sk;
	struct ends ends;
	u64 *sent;

	if (!BPF_CORE_READ(tp, total_retrans))
		return now - (BPF_CORE_READ(tp, srtt_us) >> 3) * 1000ULL;
	ends_of(&ends, sk);
	sent = bpf_map_lookup_elem(&answered, &ends);
	if (!sent || *sent > now)
		return 0;
	now = *sent;
	bpf_map_delete_elem(&answered, &ends);
	return now;
}

#endif
