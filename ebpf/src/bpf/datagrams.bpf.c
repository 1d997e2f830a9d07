// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * datagrams: UDP by peer, for `flow`. Sockets do not count it, so every datagram of every socket is counted
 * where it passes to or from the network layer: at the root of the cgroup hierarchy, which every socket is
 * below.
 */
#include "kernel.h"
#include "abi.h"
#include "cgroup_skb.h"
#include "entity.h"

#define UDP_HEADER  8
#define IPV4_HEADER 20
#define IPV6_HEADER 40

/* IPv6 extension headers that can stand before UDP, and how many of them are looked behind. */
#define HOP_BY_HOP  0
#define ROUTING	    43
#define DESTINATION 60
#define EXTENSIONS  4

/* User space removes those that have been silent for long. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct flow_key);
	__type(value, struct datagrams);
} peers SEC(".maps");

/* For those that `peers` has no room for. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct datagrams);
} rest SEC(".maps");

/* Length of the headers before the payload, 0 if it is not UDP; the peer's address goes into the key. */
static __always_inline u32 read_ipv4(struct __sk_buff *skb, struct flow_key *key, int incoming)
{
	u8 head[IPV4_HEADER];

	if (bpf_skb_load_bytes(skb, 0, head, sizeof(head)) || head[9] != IPPROTO_UDP)
		return 0;
	key->family = 4;
	__builtin_memcpy(key->address, head + (incoming ? 12 : 16), 4);
	return (head[0] & 0xf) * 4 + UDP_HEADER;
}

static __always_inline u32 read_ipv6(struct __sk_buff *skb, struct flow_key *key, int incoming)
{
	u8 head[IPV6_HEADER], extension[2] = {};
	u32 length = IPV6_HEADER, i;
	u8 next;

	if (bpf_skb_load_bytes(skb, 0, head, sizeof(head)))
		return 0;
	next = head[6];
#pragma unroll
	for (i = 0; i < EXTENSIONS; i++) {
		if (next != HOP_BY_HOP && next != ROUTING && next != DESTINATION)
			break;
		if (bpf_skb_load_bytes(skb, length, extension, sizeof(extension)))
			return 0;
		next = extension[0];
		length += (extension[1] + 1) * 8;
	}
	if (next != IPPROTO_UDP)
		return 0;
	key->family = 6;
	__builtin_memcpy(key->address, head + (incoming ? 8 : 24), 16);
	return length + UDP_HEADER;
}

static __always_inline struct datagrams *datagrams_with(const struct flow_key *key)
{
	struct datagrams zero = {}, *d = bpf_map_lookup_elem(&peers, key);
	u32 first = 0;

	if (d)
		return d;
	bpf_map_update_elem(&peers, key, &zero, BPF_NOEXIST);
	return bpf_map_lookup_elem(&peers, key) ?: bpf_map_lookup_elem(&rest, &first);
}

static __always_inline void visit(struct __sk_buff *skb, int incoming)
{
	struct flow_key key = {};
	struct sock *sk = address_of((void *)skb->sk);
	struct datagrams *d;
	u32 headers;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		headers = read_ipv4(skb, &key, incoming);
	else
		headers = read_ipv6(skb, &key, incoming);
	if (!headers || !sk || skb->len < headers)
		return;
	entity_of(&key.entity, sk);
	d = datagrams_with(&key);
	if (!d)
		return;
	d->last = bpf_ktime_get_ns();
	/* Several that travel as one have one header. */
	__sync_fetch_and_add(incoming ? &d->received : &d->sent, skb->len - headers);
	__sync_fetch_and_add(incoming ? &d->datagrams_in : &d->datagrams_out, skb->gso_segs ?: 1);
}

SEC("cgroup_skb/ingress")
int incoming(struct __sk_buff *skb)
{
	visit(skb, 1);
	return ALLOW;
}

SEC("cgroup_skb/egress")
int outgoing(struct __sk_buff *skb)
{
	visit(skb, 0);
	return ALLOW;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
