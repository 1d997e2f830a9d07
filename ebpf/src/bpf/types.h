/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Fixed-width integer names, for the eBPF programs and for bindgen alike. */
#ifndef JITTERSCOPE_TYPES_H
#define JITTERSCOPE_TYPES_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;

#endif
