/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The head of an HTTP/1 request in a packet (RFC 9112), of which nothing but its traceparent is looked at.
 * The text is on the stack for as long as the program runs, and nowhere else.
 */
#ifndef JITTERSCOPE_HTTP_HEAD_H
#define JITTERSCOPE_HTTP_HEAD_H

#include "kernel.h"
#include "abi.h"
#include "cgroup_skb.h"
#include "text.h"
#include "traceparent.h"

/* Words looked at in one step, and how many steps: 4 KiB and some lines that are of interest. */
#define STEP_WORDS 16
#define STEPS	   32
#define NO_PLACE   0xffffffff

/* "GET / HTTP/1.1\r\n\r\n" */
#define SHORTEST_REQUEST 18

#define TO_LOWER EACH_BYTE(0x20)

/* Places are counted from the start of the payload. */
struct head {
	u32 first_line; /* where it ends */
	u32 value;	/* of the traceparent */
	u32 lines;	/* how many of these there are */
	u32 body;	/* NO_PLACE: the head goes on behind the packet */
};

/* The first four bytes of a request's method. */
static __always_inline int is_method(u32 text)
{
	switch (text) {
	case TEXT4('G', 'E', 'T', ' '):
	case TEXT4('P', 'O', 'S', 'T'):
	case TEXT4('P', 'U', 'T', ' '):
	case TEXT4('H', 'E', 'A', 'D'):
	case TEXT4('P', 'A', 'T', 'C'):
	case TEXT4('D', 'E', 'L', 'E'):
	case TEXT4('O', 'P', 'T', 'I'):
	case TEXT4('C', 'O', 'N', 'N'):
	case TEXT4('T', 'R', 'A', 'C'):
		return 1;
	}
	return 0;
}

/* The highest bit of each byte that is zero. */
static __always_inline u64 zero_bytes(u64 x)
{
	return ~(((x & EACH_BYTE(0x7f)) + EACH_BYTE(0x7f)) | x | EACH_BYTE(0x7f));
}

/* Which byte has the lowest bit that is set; `marks` are highest bits of bytes. */
static __always_inline u32 first_of(u64 marks)
{
	u64 up_to = (marks & -marks) - 1;

	return ((up_to & EACH_BYTE(1)) * EACH_BYTE(1) >> 56) - 1;
}

/*
 * Looks through the next bytes at `offset` of the packet, of which there are `left`. Returns where a line
 * begins that may be the traceparent or the end of the head, or with `any` set any line, counted from the
 * offset; 0 for none. A function of its own, for the verifier then looks at it once.
 */
__noinline int find_line(struct __sk_buff *skb, u32 offset, u32 left, u64 any)
{
	/* One less than the size: that it is never zero is then plain to every verifier. */
	u64 text[STEP_WORDS + 1] = {}, last = (u64)left - 1;
	u32 i;

	FORGET_RANGE(last);
	if (last > sizeof(text) - 1)
		last = sizeof(text) - 1;
	if (bpf_skb_load_bytes(skb, offset, text, last + 1))
		return 0;
#pragma unroll
	for (i = 0; i < STEP_WORDS; i++) {
		u64 ends = zero_bytes(text[i] ^ EACH_BYTE('\n')), next;

		if (!ends)
			continue;
		next = text[i] >> 8 | text[i + 1] << 56;
		ends &= any | zero_bytes((next | TO_LOWER) ^ EACH_BYTE('t')) |
			zero_bytes(next ^ EACH_BYTE('\r')) | zero_bytes(next ^ EACH_BYTE('\n'));
		if (ends)
			return i * 8 + first_of(ends) + 1;
	}
	return 0;
}

/* Takes note of the line that begins at `place`; true at the end of the head. */
static __always_inline int take_line(struct head *h, struct __sk_buff *skb, u32 offset, u32 place)
{
	u64 text[2] = {};

	if (bpf_skb_load_bytes(skb, offset + place, text, 12)) {
		/* Shorter: only an end. */
		if (bpf_skb_load_bytes(skb, offset + place, text, 2))
			return 1;
	}
	if ((u8)text[0] == '\n' || (u16)text[0] == ('\r' | '\n' << 8)) {
		h->body = place + ((u8)text[0] == '\n' ? 1 : 2);
		return 1;
	}
	if ((text[0] | TO_LOWER) == TEXT8('t', 'r', 'a', 'c', 'e', 'p', 'a', 'r') &&
	    (u32)(text[1] | 0x00202020) == TEXT4('e', 'n', 't', ':')) {
		h->value = place + 12;
		h->lines++;
	}
	return 0;
}

/*
 * Zero, which the verifier does not know: what it is added to are no constants that tell every way through a
 * loop from every other.
 */
static __always_inline u32 some_zero(struct __sk_buff *skb)
{
	return *(volatile u32 *)&skb->len - *(volatile u32 *)&skb->len;
}

/* Looks through the payload, which begins at `offset` of the packet. */
static __always_inline void read_head(struct head *h, struct __sk_buff *skb, u32 offset, u32 length)
{
	u32 step, found, place = some_zero(skb);
	u64 any = ~(u64)some_zero(skb);

	h->first_line = some_zero(skb);
	h->value = some_zero(skb);
	h->lines = some_zero(skb);
	h->body = NO_PLACE - some_zero(skb);
	for (step = 0; step < STEPS && place < length; step++) {
		found = find_line(skb, offset + place, length - place, any);
		place += found ?: STEP_WORDS * 8;
		if (!found)
			continue;
		if (!h->first_line)
			h->first_line = place - 1;
		any = some_zero(skb);
		if (take_line(h, skb, offset, place))
			return;
	}
}

/* Whether the first line ends like a request's. */
static __always_inline int is_http1(const struct head *h, struct __sk_buff *skb, u32 offset)
{
	u64 version = 0;

	if (h->first_line < SHORTEST_REQUEST - 4)
		return 0;
	/* "HTTP/1.1\r" */
	if (bpf_skb_load_bytes(skb, offset + h->first_line - 9, &version, sizeof(version)))
		return 0;
	return (version & ~0ULL >> 8) == (TEXT8('H', 'T', 'T', 'P', '/', '1', '.', 0) & ~0ULL >> 8);
}

/* Whether another request begins where the body of this one would. */
static __always_inline int is_followed(const struct head *h, struct __sk_buff *skb, u32 offset, u32 length)
{
	u32 text = 0;

	if (h->body == NO_PLACE || h->body + SHORTEST_REQUEST > length)
		return 0;
	return !bpf_skb_load_bytes(skb, offset + h->body, &text, sizeof(text)) && is_method(text);
}

/* The trace context of the head; false if it has none, or one that is not valid. */
static __always_inline int read_traceparent(struct span_link *link, const struct head *h,
					    struct __sk_buff *skb, u32 offset)
{
	u64 trace[6] = {}, span[3] = {};
	u32 at = offset + h->value;
	u8 space = 0;

	if (h->lines != 1 || bpf_skb_load_bytes(skb, at, &space, 1))
		return 0;
	if (space == ' ')
		at++;
	/* From five bytes before the value on: the ids are then where words begin. */
	if (bpf_skb_load_bytes(skb, at - 5, trace, 41) || bpf_skb_load_bytes(skb, at + 36, span, 20))
		return 0;
	return read_trace_id(link, trace) && read_span_id(link, span);
}

#endif
