/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is kept of a packet's socket, for programs that packets of a cgroup's sockets run through. */
#ifndef JITTERSCOPE_SPAN_CGROUP_H
#define JITTERSCOPE_SPAN_CGROUP_H

#include "kernel.h"
#include "abi.h"
#include "cgroup_skb.h"
#include "span_store.h"

/* `flags` are those of bpf_sk_storage_get: whether there is to be something kept from now on. */
static __always_inline struct span_context *context_with_socket(struct __sk_buff *skb, u64 flags)
{
	void *sk = (void *)skb->sk;

	if (sk)
		sk = bpf_sk_fullsock(sk);
	return sk ? bpf_sk_storage_get(&contexts, sk, NULL, flags) : NULL;
}

/* The same in whichever storage there is; NULL where nothing is kept. */
static __always_inline struct span_context *context_at(struct __sk_buff *skb)
{
	void *sk = (void *)skb->sk;
	u64 key;

	if (span_storage == SPAN_STORAGE_SOCKET)
		return context_with_socket(skb, 0);
	if (span_storage != SPAN_STORAGE_ADDRESS || !sk)
		return NULL;
	key = (u64)address_of(sk);
	return bpf_map_lookup_elem(&contexts_by_address, &key);
}

#endif
