/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The last anomaly that each counter, or each bucket, counted, of those that are to be shown with it. User
 * space takes them. */
#ifndef JITTERSCOPE_EXEMPLAR_H
#define JITTERSCOPE_EXEMPLAR_H

#include "kernel.h"
#include "abi.h"
#include "connection.h"
#include "limit.h"
#include "packet.h"
#include "span_store.h"

#define EXEMPLARS_OF(key_type, most)                 \
	struct {                                     \
		__uint(type, BPF_MAP_TYPE_LRU_HASH); \
		__uint(max_entries, most);           \
		__type(key, key_type);               \
		__type(value, struct exemplar);      \
	} exemplars SEC(".maps")

/* Of those counters that had one since user space looked; of so many at least. */
#define EXEMPLARS(key_type) EXEMPLARS_OF(key_type, 1024)
/* Of those buckets. */
#define BUCKET_EXEMPLARS(key_type) EXEMPLARS_OF(key_type, 4096)

/* Whether any are shown: else nothing needs to be found out for them. */
static __always_inline int are_exemplars_shown(void)
{
	struct settings *set = span_storage ? settings_of_probe() : NULL;

	return set && set->exemplars;
}

/* Whether an anomaly of this span is. */
static __always_inline int is_shown(const struct span_link *link)
{
	struct settings *set = span_storage ? settings_of_probe() : NULL;

	if (!set || !set->exemplars)
		return 0;
	return set->exemplars == EXEMPLARS_ALL || (link->source && link->flags & SPAN_SAMPLED);
}

static __always_inline void find_socket_facts(struct exemplar_facts *f, struct sock *sk)
{
	f->family = family_of(sk);
	f->peer_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (f->family == 4)
		BPF_CORE_READ_INTO((u32 *)f->peer_address, sk, __sk_common.skc_daddr);
	else if (f->family == 6)
		BPF_CORE_READ_INTO(&f->peer_address, sk, __sk_common.skc_v6_daddr);
}

/* Of a packet that was sent, or received. */
static __always_inline void find_packet_facts(struct exemplar_facts *f, const struct packet *p, u8 direction)
{
	u8 own[16];
	u16 port;

	f->family = p->family;
	if (direction == DIRECTION_TRANSMIT) {
		parse_addresses(p, own, f->peer_address);
		parse_ports(p, &port, &f->peer_port);
	} else {
		parse_addresses(p, f->peer_address, own);
		parse_ports(p, &f->peer_port, &port);
	}
}

/* To be called after the value was added under `key`, so that what is told of that contains it. */
static __always_inline void show(void *map, const void *key, struct exemplar *e)
{
	e->time = bpf_ktime_get_boot_ns();
	bpf_map_update_elem(map, key, e, BPF_ANY);
}

#endif
