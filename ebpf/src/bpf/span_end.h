/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The end of sockets: programs of the object that owns the maps, and only where what is known of a socket is
 * kept under its address.
 */
#ifndef JITTERSCOPE_SPAN_END_H
#define JITTERSCOPE_SPAN_END_H

#include "span_store.h"

static __always_inline int forget(u64 sk)
{
	bpf_map_delete_elem(&contexts_by_address, &sk);
	bpf_map_delete_elem(&thread_by_address, &sk);
	return 0;
}

SEC("tp_btf/tcp_destroy_sock")
int destroyed_btf(u64 *ctx)
{
	return forget(ctx[0]);
}

SEC("raw_tp/tcp_destroy_sock")
int destroyed_raw(u64 *ctx)
{
	return forget(ctx[0]);
}

#endif
