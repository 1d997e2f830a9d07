/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Comparing what a request says of itself with what the thread says that sent it. */
#ifndef JITTERSCOPE_SPAN_COMPARE_H
#define JITTERSCOPE_SPAN_COMPARE_H

#include "kernel.h"
#include "abi.h"
#include "cgroup_skb.h"
#include "sequence.h"
#include "span_store.h"

/* What the thread was at that sent the packet; NULL: nobody knows. */
static __always_inline struct span_context *thread_of(struct __sk_buff *skb)
{
	void *sk = (void *)skb->sk;
	u64 key;

	if (!sk)
		return NULL;
	if (span_storage == SPAN_STORAGE_SOCKET) {
		sk = bpf_sk_fullsock(sk);
		return sk ? bpf_sk_storage_get(&thread_contexts, sk, NULL, 0) : NULL;
	}
	key = (u64)address_of(sk);
	return bpf_map_lookup_elem(&thread_by_address, &key);
}

/* Whether the thread that sent this request named another trace than the request itself. */
static __always_inline void compare(struct __sk_buff *skb, const struct span_context *request)
{
	struct span_context *kept = thread_of(skb), t;

	if (!kept)
		return;
	t = *kept;
	if (t.check != check_of(&t) || t.state != SPAN_KNOWN || t.ports != request->ports)
		return;
	if (is_before(request->start, t.start) || !is_before(request->start, t.end))
		return;
	if (!is_same_trace(&t.link, &request->link))
		distrust(&t, kept);
}

#endif
