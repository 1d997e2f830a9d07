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

#endif
