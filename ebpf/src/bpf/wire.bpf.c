// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * wire: the span that a connection's last request belongs to, from the traceparent in the head of requests of
 * HTTP/1 and HTTP/2 as they pass between socket and network, at the root of the cgroup hierarchy, which every
 * socket is below.
 *
 * A link must never be a wrong one. A message that is not understood takes the context away, and requests of
 * HTTP/1 that overlap, for good, that of their connection. Who asks is settled by the first request.
 */
#include "kernel.h"
#include "abi.h"
#include "cgroup_skb.h"
#include "http2.h"
#include "http_head.h"
#include "segment.h"
#include "sequence.h"
#include "span_compare.h"
#include "span_end.h"
#include "span_keep.h"
#include "span_store.h"
#include "text.h"

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

/* A packet that begins like a request. `last`: what is known of the connection. */
static __always_inline void request(struct span_context *last, struct __sk_buff *skb, const struct segment *s,
				    int incoming)
{
	struct span_context c;

	begin_context(&c, skb, s, incoming);
	if (last) {
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
	if (c.state != SPAN_AMBIGUOUS && c.start == s->sequence && !read_request(&c, skb, s) && !last)
		return;
	if (c.state == SPAN_KNOWN) {
		count_span(captured, SPAN_SOURCE_WIRE);
		if (!incoming)
			compare(skb, &c);
	} else if (c.state == SPAN_AMBIGUOUS) {
		count_span(ambiguous, SPAN_SOURCE_WIRE);
	}
	c.check = check_of(&c);
	keep(skb, &c);
}

/*
 * Another packet with data. Of who asks it belongs to the last request until something is answered; after
 * that it is a message that nobody understands.
 */
static __always_inline void other(struct span_context *last, struct __sk_buff *skb, const struct segment *s,
				  int incoming)
{
	struct span_context c;

	if (last->state == SPAN_AMBIGUOUS || last->answer == s->acknowledged)
		return;
	if ((last->link.role == SPAN_ROLE_CLIENT) == incoming)
		return;
	begin_context(&c, skb, s, incoming);
	c.check = check_of(&c);
	keep(skb, &c);
}

/* What is known of the packet's connection. */
static __always_inline struct span_context *last_of(struct __sk_buff *skb, const struct segment *s)
{
	struct span_context *last = keep(skb, NULL);

	return last && last->ports == s->ports ? last : NULL;
}

static __always_inline u32 begins_with(struct __sk_buff *skb, const struct segment *s)
{
	u32 text = 0;

	if (s->length >= SHORTEST_REQUEST)
		bpf_skb_load_bytes(skb, s->payload, &text, sizeof(text));
	return text;
}

/*
 * A packet of a connection that is or may become one of HTTP. Returns whether one of HTTP/2 begins. A
 * function of its own for its stack.
 */
__noinline int exchange(struct __sk_buff *skb, u32 incoming)
{
	struct span_context *last;
	struct segment s;

	if (!find_segment(&s, skb, incoming))
		return 0;
	last = last_of(skb, &s);
	if (is_method(begins_with(skb, &s)))
		request(last, skb, &s, incoming);
	else if (last)
		other(last, skb, &s, incoming);
	else if (is_preface(skb, &s))
		return begin_http2(skb, &s, incoming);
	return 0;
}

static __always_inline void visit(struct __sk_buff *skb, const int incoming)
{
	struct span_context *last;
	struct segment s;
	u32 text;

	if (!find_segment(&s, skb, incoming))
		return;
	text = begins_with(skb, &s);
	last = last_of(skb, &s);
	if (last && last->extent != EXTENT_UNTOLD)
		follow(skb, incoming);
	else if (last || is_method(text))
		exchange(skb, incoming);
	else if (text == TEXT4('P', 'R', 'I', ' ') && exchange(skb, incoming))
		follow(skb, incoming);
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

char LICENSE[] SEC("license") = "Dual BSD/GPL";
