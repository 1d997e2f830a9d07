/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Positions in the stream of a TCP connection, which wrap. */
#ifndef JITTERSCOPE_SEQUENCE_H
#define JITTERSCOPE_SEQUENCE_H

#include "kernel.h"

/* Whether position `a` comes before `b`. */
static __always_inline int is_before(u32 a, u32 b)
{
	return (s32)(a - b) < 0;
}

/* Whether a position is one of those from `first` on that come before `end`. */
static __always_inline int is_within(u32 position, u32 first, u32 end)
{
	return !is_before(position, first) && is_before(position, end);
}

#endif
