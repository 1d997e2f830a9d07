/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What a packet says about itself: IP version, protocol, addresses, ports. Reads only its linear part. */
#ifndef JITTERSCOPE_PACKET_H
#define JITTERSCOPE_PACKET_H

#include "kernel.h"

#define EXTENSION_HEADERS 8
#define TCP_FIN		  1
#define TCP_RST		  4

struct ipv4_header {
	u8 version_length, tos;
	u16 total_length, id, fragment;
	u8 ttl, protocol;
	u16 checksum;
	u8 source[4], destination[4];
};

struct ipv6_header {
	u8 version_class, flow[3];
	u16 payload_length;
	u8 next_header, hop_limit;
	u8 source[16], destination[16];
};

/* What of an sk_buff is looked at, and what its headers say. */
struct packet {
	struct net_device *dev;
	struct sock *sk;
	struct dst_entry *route;
	u8 *mac;       /* the Ethernet header, or NULL */
	u8 *network;   /* the IP header, or where it should be */
	u8 *end;       /* of the linear part */
	u8 *transport; /* NULL in later fragments and where it cannot be known */
	s32 iif;       /* index of the interface that it came in by, 0 if it was made here */
	u32 length;
	u16 ethertype;
	u8 family, protocol;
	union {
		struct ipv4_header v4;
		struct ipv6_header v6;
	};
};

/*
 * Takes from the sk_buff what will be needed of it. `typed` says that the verifier knows skb's type: then its
 * members are plain loads, which are many times cheaper than a helper's. A network header that nobody has set
 * is where the payload starts: drops before the IP layer come like that.
 */
static __always_inline void look(struct packet *p, struct sk_buff *skb, const int typed)
{
#define MEMBER(name) (typed ? skb->name : BPF_CORE_READ(skb, name))
	u16 network = MEMBER(network_header), mac = MEMBER(mac_header);
	u8 *head = MEMBER(head);

	p->dev = MEMBER(dev);
	p->sk = MEMBER(sk);
	p->route = (void *)(MEMBER(_skb_refdst) & ~1UL);
	p->mac = mac == HEADER_UNSET ? NULL : head + mac;
	p->network = network && network != HEADER_UNSET ? head + network : MEMBER(data);
	p->end = head + MEMBER(tail);
	p->iif = MEMBER(skb_iif);
	p->length = MEMBER(len);
	p->ethertype = MEMBER(protocol);
#undef MEMBER
}

static __always_inline void parse_ipv4(struct packet *p)
{
	if (p->network + sizeof(p->v4) > p->end)
		return;
	if (bpf_probe_read_kernel(&p->v4, sizeof(p->v4), p->network) || p->v4.version_length >> 4 != 4)
		return;
	p->family = 4;
	p->protocol = p->v4.protocol;
	if (!(p->v4.fragment & bpf_htons(0x1fff)))
		p->transport = p->network + (p->v4.version_length & 15) * 4;
}

struct extension {
	u8 next, length;
	u16 fragment;
};

/* Bytes of the extension header, 0 if `kind` is none (RFC 8200 section 4, RFC 4302 for AH). */
static __always_inline u32 extension_length(u8 kind, const struct extension *e)
{
	switch (kind) {
	case 0:	  /* hop by hop */
	case 43:  /* routing */
	case 60:  /* destination options */
	case 135: /* mobility */
		return (e->length + 1) * 8;
	case 44: /* fragment */
		return 8;
	case 51: /* authentication */
		return (e->length + 2) * 4;
	}
	return 0;
}

static __always_inline void parse_ipv6(struct packet *p)
{
	u8 *at = p->network + sizeof(p->v6);
	struct extension e;
	u32 length;
	int i;

	if (at > p->end)
		return;
	if (bpf_probe_read_kernel(&p->v6, sizeof(p->v6), p->network) || p->v6.version_class >> 4 != 6)
		return;
	p->family = 6;
	p->protocol = p->v6.next_header;
	for (i = 0; i < EXTENSION_HEADERS; i++) {
		e = (struct extension){};
		if (!extension_length(p->protocol, &e))
			break;
		if (at + 8 > p->end || bpf_probe_read_kernel(&e, sizeof(e), at))
			return;
		length = extension_length(p->protocol, &e);
		if (p->protocol == 44 && e.fragment & bpf_htons(0xfff8)) {
			p->protocol = e.next;
			return;
		}
		p->protocol = e.next;
		at += length;
	}
	p->transport = at;
}

static __always_inline void parse(struct packet *p)
{
	u8 version = 0;

	/* On the way out the type is set late; the header tells then. */
	if (!p->ethertype && p->network < p->end)
		bpf_probe_read_kernel(&version, 1, p->network);
	if (p->ethertype == bpf_htons(ETH_P_IP) || version >> 4 == 4)
		parse_ipv4(p);
	else if (p->ethertype == bpf_htons(ETH_P_IPV6) || version >> 4 == 6)
		parse_ipv6(p);
}

static __always_inline int is_multicast(const struct packet *p)
{
	if (p->family == 4)
		return p->v4.destination[0] >= 224;
	return p->family == 6 && p->v6.destination[0] == 0xff;
}

static __always_inline void parse_addresses(const struct packet *p, u8 *source, u8 *destination)
{
	if (p->family == 4) {
		__builtin_memcpy(source, p->v4.source, 4);
		__builtin_memcpy(destination, p->v4.destination, 4);
	} else if (p->family == 6) {
		__builtin_memcpy(source, p->v6.source, 16);
		__builtin_memcpy(destination, p->v6.destination, 16);
	}
}

/* Protocols whose header begins with two ports: TCP, UDP, DCCP, SCTP, UDP-Lite. */
static __always_inline int has_ports(u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == 33 || protocol == 132 ||
	       protocol == 136;
}

/* The flag byte of a TCP header, 0 where there is none. */
static __always_inline u8 tcp_flags(const struct packet *p)
{
	u8 flags = 0;

	if (p->transport && p->protocol == IPPROTO_TCP && p->transport + 14 <= p->end)
		bpf_probe_read_kernel(&flags, 1, p->transport + 13);
	return flags;
}

/* Source and destination port in host order; 0 where the packet has none or they are not in its linear part.
 */
static __always_inline void parse_ports(const struct packet *p, u16 *source, u16 *destination)
{
	u16 ports[2] = {};

	if (!p->transport || !has_ports(p->protocol) || p->transport + sizeof(ports) > p->end)
		return;
	bpf_probe_read_kernel(ports, sizeof(ports), p->transport);
	*source = bpf_ntohs(ports[0]);
	*destination = bpf_ntohs(ports[1]);
}

static __always_inline void parse_ends(const struct packet *p, struct packet_ends *e)
{
	e->family = p->family;
	e->protocol = p->protocol;
	parse_addresses(p, e->source_address, e->destination_address);
	parse_ports(p, &e->source_port, &e->destination_port);
}

static __always_inline void parse_transport(const struct packet *p, struct drop_event *e)
{
	parse_ports(p, &e->source_port, &e->destination_port);
	e->tcp_flags = tcp_flags(p);
}

#endif
