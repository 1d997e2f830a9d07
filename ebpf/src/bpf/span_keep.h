/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Keeping what the packets of a socket say of its last request. */
#ifndef JITTERSCOPE_SPAN_KEEP_H
#define JITTERSCOPE_SPAN_KEEP_H

#include "kernel.h"
#include "abi.h"
#include "cgroup_skb.h"
#include "segment.h"
#include "span_cgroup.h"
#include "span_store.h"

/* What is kept of the packet's socket. `fresh`: what is kept from now on; NULL: only what there is. */
static __always_inline struct span_context *keep(struct __sk_buff *skb, struct span_context *fresh)
{
	void *sk = (void *)skb->sk;
	struct span_context *c;
	u64 key;

	if (!fresh)
		return context_at(skb);
	if (span_storage == SPAN_STORAGE_SOCKET) {
		c = context_with_socket(skb, BPF_SK_STORAGE_GET_F_CREATE);
		if (c)
			*c = *fresh;
		return c;
	}
	if (!sk)
		return NULL;
	key = (u64)address_of(sk);
	bpf_map_update_elem(&contexts_by_address, &key, fresh, BPF_ANY);
	return bpf_map_lookup_elem(&contexts_by_address, &key);
}

/* What is kept of a packet with which a request may begin. */
static __always_inline void begin_context(struct span_context *c, struct __sk_buff *skb,
					  const struct segment *s, int incoming)
{
	__builtin_memset(c, 0, sizeof(*c));
	c->start = s->sequence;
	c->end = s->sequence + s->length;
	c->answer = s->acknowledged;
	c->ports = s->ports;
	c->link.source = SPAN_SOURCE_WIRE;
	c->link.role = incoming ? SPAN_ROLE_SERVER : SPAN_ROLE_CLIENT;
	if (span_storage == SPAN_STORAGE_ADDRESS)
		c->cookie = bpf_get_socket_cookie(skb);
}

#endif
