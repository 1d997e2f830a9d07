/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The ring of events, and events of sockets: limited, counted, filled in the ring, in place. */
#ifndef JITTERSCOPE_EVENTS_H
#define JITTERSCOPE_EVENTS_H

#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "connection.h"
#include "entity.h"
#include "limit.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

/* Whether the entity may have one more event; what becomes of it is counted here or by `reserve_event`. */
static __always_inline int is_admitted(const struct entity *entity, u64 now)
{
	struct settings *set = settings_of_probe();
	struct entity limited = limited_as(entity);

	account(seen);
	if (set && admit(&limited, set, now))
		return 1;
	account(suppressed);
	return 0;
}

/* `size` bytes of zeros in the ring; NULL when it is full. */
static __always_inline void *reserve_event(const u64 size)
{
	void *e = bpf_ringbuf_reserve(&events, size, 0);

	if (e)
		__builtin_memset(e, 0, size);
	else
		account(lost);
	return e;
}

/* An event of an entity, `size` bytes with time and entity filled; NULL when there is to be none. */
static __always_inline void *begin_event_of(const struct entity *entity, const u64 size)
{
	u64 now = bpf_ktime_get_boot_ns();
	struct event_head *e;

	if (!is_admitted(entity, now))
		return NULL;
	e = reserve_event(size);
	if (!e)
		return NULL;
	e->time = now;
	e->entity = *entity;
	return e;
}

/* An event of a socket, `size` bytes with the head filled; NULL when there is to be none. */
static __always_inline void *begin_event(const struct entity *entity, struct sock *sk, const u64 size)
{
	struct event_head *e = begin_event_of(entity, size);

	if (!e)
		return NULL;
	e->socket_cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	fill_connection(&e->connection, sk);
	return e;
}

static __always_inline void end_event(void *e)
{
	bpf_ringbuf_submit(e, 0);
	account(submitted);
}

#endif
