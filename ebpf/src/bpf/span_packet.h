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

/* The beginning of a TCP header (RFC 9293, section 3.1). */
struct segment_head {
	u16 source, destination;
	u32 sequence, acknowledged;
	u8 length, flags; /* of the header, in words of four bytes, in the upper half */
	u16 window;
};

/* False where it is none, or cannot be read. */
static __always_inline int read_segment(struct segment_head *head, const struct packet *p)
{
	if (p->protocol != IPPROTO_TCP || !p->transport || p->transport + sizeof(*head) > p->end)
		return 0;
	return !bpf_probe_read_kernel(head, sizeof(*head), p->transport);
}

/* Fills `link`, which must be zero. `sk` is the packet's socket, `kept` what is kept of it. */
static __always_inline void find_segment_span(struct span_link *link, struct kept kept, struct sock *sk,
					      const struct segment_head *head, int anomaly)
{
	u32 ports = kept.request ? kept.request->ports : ports_of(sk);
	u8 direction = direction_at(ports, head->source, head->destination);

	if (direction)
		look_for_span(link, kept, sk, MATTER_PACKET, direction, bpf_ntohl(head->sequence), anomaly);
}

static __always_inline int is_any(struct kept kept)
{
	if (kept.request)
		return 1;
	/* Else the compiler combines both pointers, which the verifier refuses. */
	barrier();
	return kept.thread != NULL;
}

/* The same of a packet; the verifier knows the socket's type. */
static __always_inline void find_packet_span(struct span_link *link, struct sock *sk, const struct packet *p)
{
	struct segment_head head;
	struct kept kept;

	if (!span_storage || p->protocol != IPPROTO_TCP)
		return;
	kept = kept_of(sk);
	if (is_any(kept) && read_segment(&head, p))
		find_segment_span(link, kept, sk, &head, 1);
}

/*
 * The same of a packet that is `length` bytes long from its network header on, unless it has no data:
 * acknowledgements and ends of connections are of no message.
 */
static __always_inline void find_data_span(struct span_link *link, struct kept kept, struct sock *sk,
					   const struct packet *p, u32 length, int anomaly)
{
	struct segment_head head;
	u32 headers;

	if (!is_any(kept) || !read_segment(&head, p))
		return;
	headers = (u32)(p->transport - p->network) + (head.length >> 4) * 4;
	if (length > headers)
		find_segment_span(link, kept, sk, &head, anomaly);
}

#endif
