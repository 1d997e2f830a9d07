// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * tcpconnect: how long handshakes take, how long connections live, which attempts fail and why. What is known
 * of a connection is kept with its socket, so nothing is left behind when that goes.
 */
#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "entity.h"
#include "events.h"
#include "hist.h"

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

/* A histogram is larger than the stack: a new one is copied from here. */
static const struct histogram empty;

static __always_inline struct histogram *histogram_of(void *map, const struct handshake_key *k)
{
	struct histogram *h = bpf_map_lookup_elem(map, k);

	if (h)
		return h;
	bpf_map_update_elem(map, k, &empty, BPF_NOEXIST);
	h = bpf_map_lookup_elem(map, k);
	if (!h)
		account(overflow);
	return h;
}

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

static __always_inline void requested(struct sock *sk, u64 now)
{
	struct since fresh = {.began = now, .role = ROLE_CLIENT};
	struct since *s = bpf_sk_storage_get(&sockets, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);

	if (s)
		*s = fresh;
	else
		account(overflow);
}

static __always_inline void established(struct sock *sk, u64 now, u32 role)
{
	struct since fresh = {.began = now, .role = role, .established = 1};
	struct since *s = bpf_sk_storage_get(&sockets, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
	struct handshake_key k = key_of(sk, role);
	struct histogram *h;
	u64 began;

	count(&successes, &k);
	if (!s) {
		account(overflow);
		return;
	}
	/* A request from before the probe has no beginning. */
	if (role == ROLE_SERVER)
		began = answered_since(sk, now);
	else
		began = s->established ? 0 : s->began;
	*s = fresh;
	if (!began || began > now)
		return;
	h = histogram_of(&handshakes, &k);
	if (h)
		observe(h, now - began);
}

static __always_inline void failed(struct sock *sk, const struct since *s, u64 now)
{
	struct connect_failure_key k = {.family = family_of(sk)};
	struct connect_event *e;

	entity_of(&k.entity, sk);
	k.error = BPF_CORE_READ(sk, sk_err);
	count(&failures, &k);
	e = begin_event(&k.entity, sk, sizeof(*e));
	if (!e)
		return;
	e->duration = now - s->began;
	e->error = k.error;
	e->attempts = BPF_CORE_READ((struct tcp_sock *)sk, total_retrans) + 1;
	end_event(e);
}

static __always_inline void closed(struct sock *sk, int old, u64 now)
{
	struct since *s = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	struct handshake_key k;
	struct histogram *h;

	if (!s || s->began > now)
		return;
	if (old == TCP_SYN_SENT) {
		failed(sk, s, now);
	} else if (s->established) {
		k = key_of(sk, s->role);
		h = histogram_of(&lifetimes, &k);
		if (h)
			observe_within(h, now - s->began, lifetime_bounds);
	}
	bpf_sk_storage_delete(&sockets, sk);
}

SEC("tp_btf/inet_sock_set_state")
int state_btf(u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];
	int old = ctx[1], new = ctx[2];
	u64 now = bpf_ktime_get_ns();

	if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	if (new == TCP_SYN_SENT)
		requested(sk, now);
	else if (new == TCP_ESTABLISHED)
		established(sk, now, old == TCP_SYN_RECV ? ROLE_SERVER : ROLE_CLIENT);
	else if (new == TCP_CLOSE)
		closed(sk, old, now);
	return 0;
}

/* Fires before the SYN-ACK is counted as sent again; `snt_synack` is of the first one. */
SEC("tp_btf/tcp_retransmit_synack")
int answered_again_btf(u64 *ctx)
{
	struct tcp_request_sock *request = (void *)ctx[1];
	u64 sent = BPF_CORE_READ(request, snt_synack) * 1000;
	struct ends ends;

	ends_of(&ends, (void *)request);
	bpf_map_update_elem(&answered, &ends, &sent, BPF_ANY);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
