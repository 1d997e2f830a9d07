/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The frames of an HTTP/2 connection (RFC 9113) as they pass, from its beginning on: which requests are open.
 * An anomaly belongs to a request only while no other one is open. The packets of one side come one after the
 * other; those of both at once: so each side writes words of its own.
 */
#ifndef JITTERSCOPE_HTTP2_H
#define JITTERSCOPE_HTTP2_H

#include "kernel.h"
#include "abi.h"
#include "cgroup_skb.h"
#include "hpack.h"
#include "segment.h"
#include "sequence.h"
#include "span_compare.h"
#include "span_keep.h"
#include "span_store.h"
#include "text.h"

#define PREFACE	      24
#define FRAME_HEADER  9
#define MOST_FRAMES   32 /* in a packet */
#define MOST_STREAMS  16 /* open at once; a power of two */
#define LARGEST_FRAME (1 << 20)

enum frame_type {
	FRAME_DATA = 0,
	FRAME_HEADERS = 1,
	FRAME_RST_STREAM = 3,
	FRAME_PUSH_PROMISE = 5,
	FRAME_CONTINUATION = 9,
};

enum frame_flag {
	FRAME_END_STREAM = 1,
	FRAME_END_HEADERS = 4,
	FRAME_PADDED = 8,
	FRAME_PRIORITY = 32,
};

enum side {
	ASKS,
	ANSWERS,
	SIDES,
};

struct frame {
	u32 length;
	u8 type;
	u8 flags;
	u32 stream;
	u32 position; /* of its header, in the stream of TCP */
	u32 payload;  /* where that begins in the packet */
};

/* A request, which is over when each side has ended it. */
struct stream {
	u32 id;
	u8 ended[SIDES]; /* 1 or 0; of no request 1 */
	u8 reserved[2];
};

/* What one side sends. */
struct sent {
	u32 next; /* position of the next frame's header, or of what of it has not been seen */
	u8 seen;  /* octets of that header that have been seen */
	u8 begun; /* it is known where frames begin */
	u8 alone; /* what the packet that passes has begun with is of no request */
	u8 reserved;
	u8 header[16];
};

struct http2 {
	struct sent sent[SIDES];
	struct table table; /* of who asks */
	u32 last;	    /* the last stream's number: they only grow */
	u32 opened;	    /* how many there were */
	u32 is_lost;	    /* frames were missed */
	u32 reserved;
	struct stream streams[MOST_STREAMS]; /* the last ones, a ring */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct http2);
} http2 SEC(".maps");

static __always_inline struct http2 *http2_of(struct __sk_buff *skb, u64 flags)
{
	void *sk = (void *)skb->sk;

	if (!sk)
		return NULL;
	sk = bpf_sk_fullsock(sk);
	return sk ? bpf_sk_storage_get(&http2, sk, NULL, flags) : NULL;
}

/* "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" (section 3.4) */
static __always_inline int is_preface(struct __sk_buff *skb, const struct segment *s)
{
	u64 text[3];

	if (s->length < PREFACE || bpf_skb_load_bytes(skb, s->payload, text, PREFACE))
		return 0;
	return text[0] == TEXT8('P', 'R', 'I', ' ', '*', ' ', 'H', 'T') &&
	       text[1] == TEXT8('T', 'P', '/', '2', '.', '0', '\r', '\n') &&
	       text[2] == TEXT8('\r', '\n', 'S', 'M', '\r', '\n', '\r', '\n');
}

/* Frames were missed: what is open nobody knows any more. */
static __always_inline void lose(struct http2 *h, struct span_context *c)
{
	h->is_lost = 1;
	c->state = SPAN_AMBIGUOUS;
	c->check = check_of(c);
	count_span(ambiguous, SPAN_SOURCE_WIRE);
}

/*
 * 1 or 0. Without branches, as what follows is: each would double the ways that the verifier walks. The loops
 * stay loops, for there is little room on the stack.
 */
static __always_inline u32 is_open(const struct stream *stream)
{
	return (3 - stream->ended[ASKS] - stream->ended[ANSWERS]) >> 1;
}

static __always_inline u32 count_open(const struct http2 *h)
{
	u32 i, count = 0;

#pragma nounroll
	for (i = 0; i < MOST_STREAMS; i++)
		count += is_open(&h->streams[i]);
	return count;
}

/* 1 or 0: all ones follow from zero alone. */
static __always_inline u8 is_same(u32 a, u32 b)
{
	u64 same = ((u64)(a ^ b) - 1) >> 63;

	FORGET_RANGE(same);
	return same;
}

/* A side has said all of a request. */
static __always_inline void end_side(struct http2 *h, u32 id, const enum side side)
{
	u32 i;

#pragma nounroll
	for (i = 0; i < MOST_STREAMS; i++)
		h->streams[i].ended[side] |= is_same(h->streams[i].id, id);
}

static __always_inline u32 is_over(const struct http2 *h, u32 id)
{
	u32 i, over = 0;

#pragma nounroll
	for (i = 0; i < MOST_STREAMS; i++)
		over |= is_same(h->streams[i].id, id) & ~is_open(&h->streams[i]);
	return over & 1;
}

/* After something of a request has ended. */
static __always_inline void close_context(struct http2 *h, struct span_context *c, u32 id)
{
	if (id != h->last || c->extent != EXTENT_OPEN || !is_over(h, id))
		return;
	c->extent = EXTENT_CLOSED;
	c->answer_end = h->sent[ANSWERS].next;
	c->check = check_of(c);
}

/* What is known of a connection, and the packet of it that passes. */
struct passing {
	struct segment s;
	struct span_context *c;
	struct http2 *h;
	u32 side;
	u32 incoming;
};

/* Looks for the trace context in the head that a frame is, if it is whole; `f` is this CPU's. */
static __always_inline int read_headers(struct fields *f, const struct passing *p, struct __sk_buff *skb,
					const struct frame *frame)
{
	u32 at = frame->payload, end = at + frame->length, known;
	u8 padding = 0;

	if (frame->flags & FRAME_PADDED) {
		bpf_skb_load_bytes(skb, at, &padding, 1);
		at++;
		end -= padding;
	}
	if (frame->flags & FRAME_PRIORITY)
		at += 5;
	if (!(frame->flags & FRAME_END_HEADERS) || end + padding > p->s.payload + p->s.length || at > end) {
		p->h->table.is_lost = 1;
		return 0;
	}
	f->table = p->h->table;
	known = read_fields(skb, at, end);
	p->h->table = f->table;
	return known;
}

/* A new request; false when there is no room for it. */
static __always_inline int open_stream(struct http2 *h, u32 id)
{
	struct stream *stream = &h->streams[h->opened & (MOST_STREAMS - 1)];

	if (is_open(stream))
		return 0;
	stream->id = id;
	stream->ended[ASKS] = 0;
	stream->ended[ANSWERS] = 0;
	h->opened++;
	h->last = id;
	return 1;
}

/* A head of who asks: of a new request, or behind the body of one. */
static __always_inline void headers(const struct passing *p, struct __sk_buff *skb, const struct frame *frame)
{
	struct fields *f = fields_of_cpu();
	u32 known, others = count_open(p->h);
	struct span_context *c;

	if (!f)
		return;
	known = read_headers(f, p, skb, frame);
	if (frame->stream <= p->h->last)
		return;
	if (!open_stream(p->h, frame->stream)) {
		lose(p->h, p->c);
		return;
	}
	c = &f->context;
	begin_context(c, skb, &p->s, p->incoming);
	/* Acknowledgements, pings and windows of the connection go along with it. */
	if (!p->h->sent[ASKS].alone)
		c->start = frame->position;
	c->extent = EXTENT_OPEN;
	if (others) {
		c->state = SPAN_AMBIGUOUS;
		count_span(ambiguous, SPAN_SOURCE_WIRE);
	} else if (known) {
		c->state = SPAN_KNOWN;
		c->captured_at = bpf_ktime_get_ns();
		__builtin_memcpy(c->link.trace_id, f->link.trace_id, sizeof(c->link.trace_id));
		__builtin_memcpy(c->link.span_id, f->link.span_id, sizeof(c->link.span_id));
		c->link.flags = f->link.flags;
		count_span(captured, SPAN_SOURCE_WIRE);
		if (!p->incoming)
			compare(skb, c);
	}
	c->check = check_of(c);
	*p->c = *c;
}

static __always_inline void take_frame(const struct passing *p, struct __sk_buff *skb,
				       const struct frame *frame)
{
	u32 taken_back = frame->type == FRAME_RST_STREAM, ends = frame->flags & FRAME_END_STREAM;

	if (frame->type == FRAME_PUSH_PROMISE) {
		lose(p->h, p->c);
		return;
	}
	if (frame->type == FRAME_CONTINUATION && p->side == ASKS)
		p->h->table.is_lost = 1;
	if (frame->type == FRAME_HEADERS && p->side == ASKS)
		headers(p, skb, frame);
	if (frame->type != FRAME_HEADERS && frame->type != FRAME_DATA)
		ends = 0;
	if (taken_back || (ends && p->side == ASKS))
		end_side(p->h, frame->stream, ASKS);
	if (taken_back || (ends && p->side == ANSWERS))
		end_side(p->h, frame->stream, ANSWERS);
	if (taken_back || ends)
		close_context(p->h, p->c, frame->stream);
}

/* Reads what the packet has of the next frame's header (section 4.1); true when that is whole. */
static __always_inline int read_header(struct sent *sent, struct __sk_buff *skb, const struct segment *s)
{
	u32 offset = sent->next - s->sequence, i;

	if (!sent->seen && offset < s->length && s->length - offset >= FRAME_HEADER) {
		sent->next += FRAME_HEADER;
		return !bpf_skb_load_bytes(skb, s->payload + offset, sent->header, FRAME_HEADER);
	}
	for (i = 0; i < FRAME_HEADER && sent->seen < FRAME_HEADER && offset < s->length; i++, offset++) {
		u32 place = sent->seen;

		/* The compiler knows the bound and leaves the mask out, the verifier has forgotten it. */
		FORGET_RANGE(place);
		if (bpf_skb_load_bytes(skb, s->payload + offset, &sent->header[place & 15], 1))
			return 0;
		sent->seen++;
		sent->next++;
	}
	return sent->seen == FRAME_HEADER;
}

static __always_inline void parse_header(struct frame *frame, struct sent *sent, const struct segment *s)
{
	const u8 *header = sent->header;

	frame->length = header[0] << 16 | header[1] << 8 | header[2];
	frame->type = header[3];
	frame->flags = header[4];
	frame->stream = (header[5] & 0x7f) << 24 | header[6] << 16 | header[7] << 8 | header[8];
	frame->position = sent->next - FRAME_HEADER;
	frame->payload = s->payload + (sent->next - s->sequence);
	sent->seen = 0;
	sent->next += frame->length;
}

/*
 * Where the answers' frames begin nobody has seen if they began before the requests': with the first packet
 * that comes.
 */
static __always_inline int is_next(struct sent *sent, const struct segment *s)
{
	if (!sent->begun && !is_before(s->sequence, sent->next)) {
		sent->next = s->sequence;
		sent->begun = 1;
	}
	return !is_before(sent->next, s->sequence);
}

/* False: it is not known any more, or was connected anew. */
static __always_inline int find_passing(struct passing *p, struct __sk_buff *skb, u32 incoming)
{
	if (!find_segment(&p->s, skb, incoming))
		return 0;
	p->c = keep(skb, NULL);
	p->h = http2_of(skb, 0);
	if (!p->c || !p->h || p->c->ports != p->s.ports || p->h->is_lost)
		return 0;
	p->incoming = incoming;
	p->side = (p->c->link.role == SPAN_ROLE_SERVER) == incoming ? ASKS : ANSWERS;
	return 1;
}

/*
 * Takes the next frame that begins in the packet; false when there is none, or no sense in going on. A
 * function of its own, for the verifier then looks at it once.
 */
__noinline int take_next(struct __sk_buff *skb, u32 incoming)
{
	struct passing p;
	struct frame frame;
	struct sent *sent;

	if (!find_passing(&p, skb, incoming))
		return 0;
	sent = &p.h->sent[p.side & 1];
	if (!is_before(sent->next, p.s.sequence + p.s.length) || !read_header(sent, skb, &p.s))
		return 0;
	parse_header(&frame, sent, &p.s);
	if (frame.length > LARGEST_FRAME)
		lose(p.h, p.c);
	else
		take_frame(&p, skb, &frame);
	sent->alone &= !frame.stream;
	return 1;
}

/* A packet of a connection that began with the preface. */
__noinline int follow(struct __sk_buff *skb, u32 incoming)
{
	struct passing p;
	struct sent *sent;
	u32 end, i;

	if (!find_passing(&p, skb, incoming))
		return 0;
	sent = &p.h->sent[p.side & 1];
	end = p.s.sequence + p.s.length;
	/* It has been seen before. */
	if (!is_before(sent->next, end))
		return 0;
	if (!is_next(sent, &p.s)) {
		lose(p.h, p.c);
		return 0;
	}
	sent->alone = sent->next == p.s.sequence && !sent->seen;
	for (i = 0; i < MOST_FRAMES; i++)
		if (!take_next(skb, incoming))
			break;
	if (is_before(sent->next, end)) {
		lose(p.h, p.c);
	} else if (p.side == ASKS && p.c->extent == EXTENT_OPEN) {
		p.c->end = end;
		p.c->check = check_of(p.c);
	}
	return 0;
}

/* A connection begins with the preface: nobody has asked for anything yet. */
static __always_inline int begin_http2(struct __sk_buff *skb, const struct segment *s, int incoming)
{
	struct http2 *h = http2_of(skb, BPF_SK_STORAGE_GET_F_CREATE);
	struct span_context c;

	if (!h)
		return 0;
	__builtin_memset(h, 0, sizeof(*h));
	end_side(h, 0, ASKS);
	end_side(h, 0, ANSWERS);
	h->sent[ASKS].next = s->sequence + PREFACE;
	h->sent[ASKS].begun = 1;
	h->sent[ANSWERS].next = s->acknowledged;
	begin_context(&c, skb, s, incoming);
	c.extent = EXTENT_CLOSED;
	c.check = check_of(&c);
	keep(skb, &c);
	return 1;
}

#endif
