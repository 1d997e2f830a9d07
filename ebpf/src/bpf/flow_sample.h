/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Which flows are looked at, where not all are: one of so many, both directions of it alike. */
#ifndef JITTERSCOPE_FLOW_SAMPLE_H
#define JITTERSCOPE_FLOW_SAMPLE_H

#include "kernel.h"
#include "abi.h"
#include "limit.h"
#include "packet.h"

/* What a packet says of the flow that it belongs to. */
struct sampled_flow {
	u64 ends;    /* a hash of both ends, whichever is the source */
	u8 family;   /* 4, 6, or 0 for what is not looked at */
	u8 protocol; /* that follows the IP header */
};

struct ipv4_start {
	struct ipv4_header ip;
	u16 source_port, destination_port;
};

struct ipv6_start {
	struct ipv6_header ip;
	u16 source_port, destination_port;
};

static __always_inline u64 mix(u64 x)
{
	x *= 0x9e3779b97f4a7c15ULL;
	return x ^ x >> 29;
}

static __always_inline u64 end_v4(const void *address, u16 port)
{
	return mix((u64) * (const u32 *)address << 16 | port);
}

static __always_inline u64 end_v6(const void *address, u16 port)
{
	const u32 *words = address;

	return mix(mix((u64)words[0] << 32 | words[1]) + ((u64)words[2] << 32 | words[3]) + port);
}

/* Fragments are not looked at: most of them are freed without a trace when the packet is put together. */
static __always_inline void flow_of_v4(struct sampled_flow *f, struct ipv4_start *s)
{
	if (s->ip.fragment & bpf_htons(0x3fff))
		return;
	if (s->ip.version_length != 0x45)
		s->source_port = s->destination_port = 0;
	f->family = 4;
	f->protocol = s->ip.protocol;
	f->ends = end_v4(s->ip.source, s->source_port) + end_v4(s->ip.destination, s->destination_port);
}

static __always_inline void flow_of_v6(struct sampled_flow *f, struct ipv6_start *s)
{
	if (s->ip.next_header == IPPROTO_FRAGMENT)
		return;
	if (!has_ports(s->ip.next_header))
		s->source_port = s->destination_port = 0;
	f->family = 6;
	f->protocol = s->ip.next_header;
	f->ends = end_v6(s->ip.source, s->source_port) + end_v6(s->ip.destination, s->destination_port);
}

static __always_inline void read_flow(struct sampled_flow *f, u8 family, const u8 *at)
{
	struct ipv4_start v4;
	struct ipv6_start v6;

	if (family == 4 && !bpf_probe_read_kernel(&v4, sizeof(v4), at))
		flow_of_v4(f, &v4);
	else if (family == 6 && !bpf_probe_read_kernel(&v6, sizeof(v6), at))
		flow_of_v6(f, &v6);
}

/* Of how many flows that of these ends is the one that is looked at; 0: it is not. */
static __always_inline u32 sampling_of(u64 ends)
{
	struct settings *set = settings_of_probe();
	u32 sampling = set ? set->sampling : 0;

	if (sampling <= 1)
		return 1;
	return (u32)(mix(ends) >> 32) % sampling ? 0 : sampling;
}

#endif
