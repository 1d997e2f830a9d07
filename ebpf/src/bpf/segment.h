/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A segment of TCP as a program of a cgroup sees it: where its payload is, and where that is in the stream.
 */
#ifndef JITTERSCOPE_SEGMENT_H
#define JITTERSCOPE_SEGMENT_H

#include "kernel.h"
#include "cgroup_skb.h"

#define IPV4_HEADER    20
#define IPV6_HEADER    40
#define TCP_HEADER     20
#define TCP_SYN_OR_RST 6

struct segment {
	u32 payload; /* where it begins, from the start of the packet */
	u32 length;  /* of it; never 0 */
	u32 sequence;
	u32 acknowledged;
	u32 ports; /* own and peer's, in network order */
};

/* False for everything that is no data of TCP. Headers are where they can be read without a call. */
static __always_inline int find_segment(struct segment *s, struct __sk_buff *skb, const int incoming)
{
	u8 *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end, *tcp;
	u32 offset = IPV6_HEADER, ports;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (data + IPV4_HEADER > end || data[9] != IPPROTO_TCP)
			return 0;
		offset = (data[0] & 15) * 4;
	} else if (data + IPV6_HEADER > end || data[6] != IPPROTO_TCP) {
		return 0;
	}
	tcp = data + offset;
	if (tcp + TCP_HEADER > end || tcp[13] & TCP_SYN_OR_RST)
		return 0;
	s->payload = offset + (tcp[12] >> 4) * 4;
	if (skb->len <= s->payload)
		return 0;
	s->length = skb->len - s->payload;
	s->sequence = bpf_ntohl(*(u32 *)(tcp + 4));
	s->acknowledged = bpf_ntohl(*(u32 *)(tcp + 8));
	ports = *(u32 *)tcp;
	s->ports = incoming ? ports >> 16 | ports << 16 : ports;
	return 1;
}

#endif
