/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Text as the words that a little-endian machine reads it as. */
#ifndef JITTERSCOPE_TEXT_H
#define JITTERSCOPE_TEXT_H

#include "kernel.h"

#define TEXT4(a, b, c, d)	      ((u32)(a) | (u32)(b) << 8 | (u32)(c) << 16 | (u32)(d) << 24)
#define TEXT8(a, b, c, d, e, f, g, h) (TEXT4(a, b, c, d) | (u64)TEXT4(e, f, g, h) << 32)
#define EACH_BYTE(b)		      ((b) * 0x0101010101010101ULL)

#endif
