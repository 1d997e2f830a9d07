/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The value of a W3C traceparent: https://www.w3.org/TR/trace-context/#traceparent-header, version 00. */
#ifndef JITTERSCOPE_TRACEPARENT_H
#define JITTERSCOPE_TRACEPARENT_H

#include "kernel.h"
#include "abi.h"
#include "text.h"

/*
 * Eight hexadecimal digits as the four bytes that they stand for, in the order of the text. Without branches,
 * which the verifier would walk through one by one. Bits in `bad` say that one was no digit, or a large
 * letter.
 */
static __always_inline u32 digits(u64 text, u64 *bad)
{
	u64 letters = text >> 6 & EACH_BYTE(1), low = text & EACH_BYTE(0x0f), wrong, v;

	/* The upper half is 3 for digits and 6 for letters, the lower one 0 to 9 and 1 to 6. */
	wrong = (text & EACH_BYTE(0xf0)) ^ (EACH_BYTE(0x30) + letters * 0x30);
	wrong |= (low + EACH_BYTE(6)) & EACH_BYTE(0x10) & ~(letters << 4);
	wrong |= ~(low + EACH_BYTE(15)) & letters << 4;
	wrong |= (low + EACH_BYTE(9)) & letters << 4;
	*bad |= wrong;
	v = low + letters * 9;
	v = (v << 4 | v >> 8) & 0x00ff00ff00ff00ffULL;
	v = (v | v >> 8) & 0x0000ffff0000ffffULL;
	return v | v >> 16;
}

/* "00-" before the trace id, in the last bytes of a word. */
#define VERSION_00 0x2d3030ULL
#define FLAGS(end) (0x303030303030ULL | (u64)(end)[1] << 48 | (u64)(end)[2] << 56)

/* The trace id after its version, in the last three bytes of the first word, and the byte behind it. */
static __always_inline int read_trace_id(struct span_link *link, const u64 text[6])
{
	u32 *id = (u32 *)link->trace_id;
	u64 bad = 0;

	id[0] = digits(text[1], &bad);
	id[1] = digits(text[2], &bad);
	id[2] = digits(text[3], &bad);
	id[3] = digits(text[4], &bad);
	return !bad && text[0] >> 40 == VERSION_00 && (u8)text[5] == '-' && (id[0] | id[1] | id[2] | id[3]);
}

/* The span id, the flags, and what ends the value. */
static __always_inline int read_span_id(struct span_link *link, const u64 text[3])
{
	const u8 *end = (const u8 *)&text[2];
	u32 *id = (u32 *)link->span_id;
	u64 bad = 0;

	id[0] = digits(text[0], &bad);
	id[1] = digits(text[1], &bad);
	link->flags = digits(FLAGS(end), &bad) >> 24;
	return !bad && end[0] == '-' && (end[3] == '\r' || end[3] == ' ' || end[3] == '\t') &&
	       (id[0] | id[1]);
}

#endif
