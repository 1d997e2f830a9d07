/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The span that a packet of TCP belongs to. */
#ifndef JITTERSCOPE_SPAN_PACKET_H
#define JITTERSCOPE_SPAN_PACKET_H

#include "kernel.h"
#include "abi.h"
#include "packet.h"
#include "span.h"

/* By its ports, whether the socket sent the packet or was to receive it; 0: neither, or nobody can tell. */
static __always_inline u8 direction_at(u32 socket_ports, u16 source, u16 destination)
{
	u32 sent = source | (u32)destination << 16, received = destination | (u32)source << 16;

	if (sent == received)
		return 0;
	if (sent == socket_ports)
		return DIRECTION_TRANSMIT;
	return received == socket_ports ? DIRECTION_RECEIVE : 0;
}

/* Fills `link`, which must be zero. `sk` is the packet's socket, of a type that the verifier knows. */
static __always_inline void find_packet_span(struct span_link *link, struct sock *sk, const struct packet *p)
{
	struct {
		u16 source, destination;
		u32 sequence;
	} head;
	struct span_context *kept;
	u8 direction;

	if (!span_storage || p->protocol != IPPROTO_TCP || !p->transport ||
	    p->transport + sizeof(head) > p->end)
		return;
	kept = context_of(sk);
	if (!kept || bpf_probe_read_kernel(&head, sizeof(head), p->transport))
		return;
	direction = direction_at(kept->ports, head.source, head.destination);
	if (direction)
		find_span(link, kept, sk, MATTER_PACKET, direction, bpf_ntohl(head.sequence));
}

#endif
