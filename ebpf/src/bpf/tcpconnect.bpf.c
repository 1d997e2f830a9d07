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
#include "handshake.h"
#include "hist.h"
#include "series.h"

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
	h = series_of(&handshakes, &k);
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
		h = series_of(&lifetimes, &k);
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
