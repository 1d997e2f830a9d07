// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * wire: the span that a connection's last request belongs to, from the traceparent in the head of HTTP/1
 * requests as they pass between socket and network, at the root of the cgroup hierarchy, which every socket
 * is below.
 *
 * A link must never be a wrong one. A message that is not understood takes the context away, and requests
 * that overlap, for good, that of their connection. Who asks is settled by the first request.
 */
#include "kernel.h"
#include "abi.h"
#include "cgroup_skb.h"
#include "http_head.h"
#include "segment.h"
#include "sequence.h"
#include "span_store.h"

/* What is kept of the packet's socket. `fresh`: what is kept from now on; NULL: only what there is. */
static __always_inline struct span_context *keep(struct __sk_buff *skb, struct span_context *fresh)
{
	void *sk = (void *)skb->sk;
	struct span_context *c;
	u64 key;

	if (!sk)
		return NULL;
	if (span_storage == SPAN_STORAGE_SOCKET) {
		sk = bpf_sk_fullsock(sk);
		if (!sk)
			return NULL;
		c = bpf_sk_storage_get(&contexts, sk, NULL, fresh ? BPF_SK_STORAGE_GET_F_CREATE : 0);
		if (c && fresh)
			*c = *fresh;
		return c;
	}
	key = (u64)address_of(sk);
	if (fresh)
		bpf_map_update_elem(&contexts_by_address, &key, fresh, BPF_ANY);
	return bpf_map_lookup_elem(&contexts_by_address, &key);
}

static __always_inline struct span_context begin(struct __sk_buff *skb, const struct segment *s, int incoming)
{
	struct span_context c = {
		.start = s->sequence,
		.end = s->sequence + s->length,
		.answer = s->acknowledged,
		.ports = s->ports,
		.link = {.source = SPAN_SOURCE_WIRE, .role = incoming ? SPAN_ROLE_SERVER : SPAN_ROLE_CLIENT},
	};

	if (span_storage == SPAN_STORAGE_ADDRESS)
		c.cookie = bpf_get_socket_cookie(skb);
	return c;
}

/* Reads the request's head into what is to be kept; false when it is none of HTTP/1. */
static __always_inline int read_request(struct span_context *c, struct __sk_buff *skb,
					const struct segment *s)
{
	struct head h;

	read_head(&h, skb, s->payload, s->length);
	if (!is_http1(&h, skb, s->payload))
		return 0;
	if (is_followed(&h, skb, s->payload, s->length)) {
		c->state = SPAN_AMBIGUOUS;
	} else if (read_traceparent(&c->link, &h, skb, s->payload)) {
		c->state = SPAN_KNOWN;
		c->captured_at = bpf_ktime_get_ns();
	}
	return 1;
}

/* A packet that begins like a request. */
static __always_inline void request(struct __sk_buff *skb, const struct segment *s, int incoming)
{
	struct span_context *last = keep(skb, NULL), c = begin(skb, s, incoming);
	int known = last && last->ports == s->ports;

	if (known) {
		/* A piece of an answer, or the same packet again. */
		if (last->link.role != c.link.role || last->start == s->sequence)
			return;
		if (last->state == SPAN_AMBIGUOUS)
			return;
		/* Nothing was answered to the last one: requests overlap, or this is in its body. */
		if (last->answer == s->acknowledged)
			c.state = SPAN_AMBIGUOUS;
		/* A packet of long ago. */
		else if (is_before(s->sequence, last->start))
			c.start = last->start;
	}
	if (c.state != SPAN_AMBIGUOUS && c.start == s->sequence && !read_request(&c, skb, s) && !known)
		return;
	if (c.state == SPAN_KNOWN)
		count_span(captured, SPAN_SOURCE_WIRE);
	else if (c.state == SPAN_AMBIGUOUS)
		count_span(ambiguous, SPAN_SOURCE_WIRE);
	c.check = check_of(&c);
	keep(skb, &c);
}

/*
 * Another packet with data. Of who asks it belongs to the last request until something is answered; after
 * that it is a message that nobody understands.
 */
static __always_inline void other(struct __sk_buff *skb, const struct segment *s, int incoming)
{
	struct span_context *last = keep(skb, NULL), c;

	if (!last || last->state == SPAN_AMBIGUOUS || last->answer == s->acknowledged)
		return;
	if ((last->link.role == SPAN_ROLE_CLIENT) == incoming || last->ports != s->ports)
		return;
	c = begin(skb, s, incoming);
	c.check = check_of(&c);
	keep(skb, &c);
}

static __always_inline void visit(struct __sk_buff *skb, const int incoming)
{
	struct segment s;
	u32 text = 0;

	if (!find_segment(&s, skb, incoming))
		return;
	if (s.length >= SHORTEST_REQUEST)
		bpf_skb_load_bytes(skb, s.payload, &text, sizeof(text));
	if (is_method(text))
		request(skb, &s, incoming);
	else
		other(skb, &s, incoming);
}

SEC("cgroup_skb/ingress")
int asked(struct __sk_buff *skb)
{
	visit(skb, 1);
	return ALLOW;
}

SEC("cgroup_skb/egress")
int asks(struct __sk_buff *skb)
{
	visit(skb, 0);
	return ALLOW;
}

static __always_inline int forget(u64 sk)
{
	bpf_map_delete_elem(&contexts_by_address, &sk);
	return 0;
}

/* Only where contexts are kept under the address of the socket. */
SEC("tp_btf/tcp_destroy_sock")
int destroyed_btf(u64 *ctx)
{
	return forget(ctx[0]);
}

SEC("raw_tp/tcp_destroy_sock")
int destroyed_raw(u64 *ctx)
{
	return forget(ctx[0]);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
