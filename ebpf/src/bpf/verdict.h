/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Whether a freed packet is a loss: by the kernel's reason, else by the function that freed it. */
#ifndef JITTERSCOPE_VERDICT_H
#define JITTERSCOPE_VERDICT_H

#include "kernel.h"
#include "abi.h"
#include "packet.h"

/* SKB_DROP_REASON_NOT_SPECIFIED of this kernel; 0, which never occurs, where there are no reasons. */
const volatile u32 reason_not_specified;
/* An enum verdict for each core reason. */
const volatile u8 verdicts[256];
/* Functions that free what is no loss without saying why; sorted. */
const volatile struct range harmless_ranges[HARMLESS_RANGES];
const volatile u32 harmless_count;

static __always_inline u32 verdict_of_function(u64 location)
{
	u32 low = 0, high = harmless_count, i;

	for (i = 0; i < 8 && low < high; i++) {
		u32 middle = (low + high) / 2;

		if (middle >= HARMLESS_RANGES)
			break;
		if (location < harmless_ranges[middle].start)
			high = middle;
		else if (location >= harmless_ranges[middle].end)
			low = middle + 1;
		else
			return harmless_ranges[middle].verdict;
	}
	return VERDICT_LOSS;
}

static __always_inline u32 verdict_of(u32 reason, u64 location)
{
	u64 index = reason;

	if (reason == reason_not_specified)
		return verdict_of_function(location);
	/* Hides from the compiler that index is the 32-bit reason, which it would check in place of index. */
	FORGET_RANGE(index);
	return index < sizeof(verdicts) ? verdicts[index] : VERDICT_LOSS;
}

/* Unix and netlink sockets queue sk_buffs that are no packets; a capture's copy is no loss to the network. */
static __always_inline int is_network(const struct packet *p, struct sock *rx_sk)
{
	struct sock *sk = rx_sk ?: p->sk;
	u16 family;

	if (!sk)
		return 1;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	return family == AF_INET || family == AF_INET6 || (family == AF_PACKET && !rx_sk);
}

#endif
