/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The fields of the head of an HTTP/2 request (HPACK, RFC 7541), of which nothing but the traceparent is
 * looked at. Of the table that both ends build up it is only followed which of its entries are traceparents:
 * enough to tell what a name is that is referred to.
 */
#ifndef JITTERSCOPE_HPACK_H
#define JITTERSCOPE_HPACK_H

#include "kernel.h"
#include "abi.h"
#include "cgroup_skb.h"
#include "text.h"
#include "traceparent.h"

/* Most fields of a head; more make the table unknown. */
#define FIELDS 64
/* Octets of a traceparent, and most of them in Huffman's code. */
#define TEXT  55
#define CODED 48
/* First entry of the table that both ends build up. */
#define DYNAMIC 62

struct table {
	u64 entries[2]; /* bits of the last 128 entries, the last one lowest: is it a traceparent? */
	u32 is_lost;	/* an entry was missed */
	u32 reserved;
};

/* A head as it is read. */
struct fields {
	struct table table;
	u32 found; /* how many traceparents there are */
	u32 value; /* where the last one begins in the packet; 0: it is in the table alone */
	u32 length;
	u32 is_coded;
	struct span_link link;
	struct span_context context;
	/* The text, in two pieces: from five bytes before it on, and from its 36th byte on. */
	u64 trace[6], span[3];
	u8 coded[64];
};

/* One head is read at a time on a CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct fields);
} fields SEC(".maps");

static __always_inline struct fields *fields_of_cpu(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&fields, &zero);
}

/* A code of six bits; the others have five. */
#define SIX(byte) (0x80 | (byte))
#define NOT_USED  SIX(0)

/*
 * What the next six bits of Huffman's code stand for (RFC 7541, appendix B), of what can be in a traceparent.
 * Codes of five bits stand there twice.
 */
const u8 symbols[64] = {
	'0',	  '0',	    '1',      '1',	'2',	  '2',	    'a',      'a',	'c',	  'c',
	'e',	  'e',	    0,	      0,	0,	  0,	    0,	      0,	0,	  0,
	NOT_USED, NOT_USED, SIX('-'), NOT_USED, NOT_USED, SIX('3'), SIX('4'), SIX('5'), SIX('6'), SIX('7'),
	SIX('8'), SIX('9'), NOT_USED, NOT_USED, NOT_USED, SIX('b'), SIX('d'), SIX('f'),
};

struct integer {
	u32 value;
	u32 length; /* octets that it takes; 0: it is too large, or cut off */
};

/* An integer that begins in the lowest bits of the first octet (section 5.1). */
static __always_inline struct integer read_integer(struct __sk_buff *skb, u32 at, u32 bits)
{
	u32 most = (1 << bits) - 1;
	struct integer i = {};
	u8 text[3] = {};

	if (bpf_skb_load_bytes(skb, at, text, 3) && bpf_skb_load_bytes(skb, at, text, 1))
		return i;
	i.value = text[0] & most;
	i.length = 1;
	if (i.value < most)
		return i;
	i.value += (text[1] & 0x7f) + ((u32)(text[2] & 0x7f) << 7) * (text[1] >> 7);
	if (!(text[1] & 0x80))
		i.length = 2;
	else
		i.length = text[2] & 0x80 ? 0 : 3;
	return i;
}

struct string {
	u32 at;
	u32 length;
	u32 is_coded;
	u32 end; /* 0: it is cut off */
};

static __always_inline struct string read_string(struct __sk_buff *skb, u32 at, u32 end)
{
	struct integer i = read_integer(skb, at, 7);
	struct string s = {.at = at + i.length, .length = i.value};
	u8 first = 0;

	if (!i.length || s.at > end || i.value > end - s.at || bpf_skb_load_bytes(skb, at, &first, 1))
		return s;
	s.is_coded = first >> 7;
	s.end = s.at + s.length;
	return s;
}

/* "traceparent", as it is or in Huffman's code. */
static __always_inline int is_traceparent(struct __sk_buff *skb, const struct string *s)
{
	u64 text[2] = {};

	if (s->is_coded)
		return s->length == 8 && !bpf_skb_load_bytes(skb, s->at, text, 8) &&
		       text[0] == 0x3fa9851d6b21834dULL;
	return s->length == 11 && !bpf_skb_load_bytes(skb, s->at, text, 11) &&
	       text[0] == TEXT8('t', 'r', 'a', 'c', 'e', 'p', 'a', 'r') && text[1] == TEXT4('e', 'n', 't', 0);
}

static __always_inline int refers_to_traceparent(const struct table *t, u32 index)
{
	u32 back = index - DYNAMIC;

	if (t->is_lost || back > 127)
		return 0;
	return t->entries[back >> 6 & 1] >> (back & 63) & 1;
}

static __always_inline void insert(struct table *t, u64 is_traceparent)
{
	t->entries[1] = t->entries[1] << 1 | t->entries[0] >> 63;
	t->entries[0] = t->entries[0] << 1 | is_traceparent;
}

/*
 * Takes the field at `at` into what is this CPU's; returns where it ends, 0 if it is none that ends before
 * `end`. A function of its own, for the verifier then looks at it once, and not for each field of a head.
 */
__noinline u32 take_field(struct __sk_buff *skb, u32 at, u32 end)
{
	struct fields *f = fields_of_cpu();
	u32 is_ours, bits;
	struct integer index;
	struct string s;
	u8 first = 0;

	if (!f || bpf_skb_load_bytes(skb, at, &first, 1))
		return 0;
	bits = first & 0x80 ? 7 : first & 0x40 ? 6 : first & 0x20 ? 5 : 4;
	index = read_integer(skb, at, bits);
	if (!index.length)
		return 0;
	at += index.length;
	/* The size of the table: what is pushed out of it is not referred to. */
	if (bits == 5)
		return at;
	is_ours = refers_to_traceparent(&f->table, index.value);
	f->found += is_ours;
	if (bits == 7) {
		if (is_ours)
			f->value = 0;
		return at;
	}
	if (!index.value) {
		s = read_string(skb, at, end);
		if (!s.end)
			return 0;
		is_ours = is_traceparent(skb, &s);
		f->found += is_ours;
		at = s.end;
	}
	s = read_string(skb, at, end);
	if (!s.end)
		return 0;
	if (is_ours) {
		f->value = s.at;
		f->length = s.length;
		f->is_coded = s.is_coded;
	}
	if (bits == 6)
		insert(&f->table, is_ours);
	return s.end;
}

/* Puts a byte of the text where it belongs. */
static __always_inline void put(struct fields *f, u32 place, u8 byte)
{
	if (place < 43)
		((u8 *)f->trace)[place + 5] = byte;
	if (place >= 36 && place < 60)
		((u8 *)f->span)[place - 36] = byte;
}

/* What does not become a traceparent's text is found out when that is read, an unused code by its zero. */
static __always_inline int decode(struct fields *f, struct __sk_buff *skb)
{
	u32 place, bit = 0, length = f->length - 1;

	FORGET_RANGE(length);
	if (length > CODED - 1 || bpf_skb_load_bytes(skb, f->value, f->coded, length + 1))
		return 0;
	for (place = 0; place < TEXT; place++) {
		u32 octet = bit >> 3 & 63, next = ((bit >> 3) + 1) & 63, code;

		code = (f->coded[octet] << 8 | f->coded[next]) >> (10 - (bit & 7)) & 63;
		put(f, place, symbols[code] & 0x7f);
		bit += 5 + (symbols[code] >> 7);
	}
	return (bit + 7) / 8 == f->length;
}

static __always_inline int copy_text(struct fields *f, struct __sk_buff *skb)
{
	u8 *trace = (u8 *)f->trace + 5, *span = (u8 *)f->span;

	return f->length == TEXT && !bpf_skb_load_bytes(skb, f->value, trace, 43) &&
	       !bpf_skb_load_bytes(skb, f->value + 36, span, TEXT - 36);
}

/* The trace context of the head; false if it has none, or one that is not valid. */
static __always_inline int read_context(struct fields *f, struct __sk_buff *skb)
{
	if (f->found != 1 || !f->value)
		return 0;
	if (!(f->is_coded ? decode(f, skb) : copy_text(f, skb)))
		return 0;
	/* What ends the value in a line of text. */
	put(f, TEXT, '\r');
	return read_trace_id(&f->link, f->trace) && read_span_id(&f->link, f->span);
}

/*
 * Reads the fields between two places of the packet, with and into what is this CPU's. Returns whether there
 * is a trace context.
 */
__noinline int read_fields(struct __sk_buff *skb, u32 at, u32 end)
{
	struct fields *f = fields_of_cpu();
	u32 step;

	if (!f)
		return 0;
	f->found = 0;
	f->value = 0;
	for (step = 0; step < FIELDS && at < end; step++) {
		at = take_field(skb, at, end);
		if (!at)
			break;
	}
	if (at != end) {
		f->table.is_lost = 1;
		return 0;
	}
	return read_context(f, skb);
}

#endif
