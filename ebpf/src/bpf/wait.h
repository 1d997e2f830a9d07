/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Counting and telling what operations on sockets waited. */
#ifndef JITTERSCOPE_WAIT_H
#define JITTERSCOPE_WAIT_H

#include "kernel.h"
#include "abi.h"
#include "entity.h"
#include "events.h"
#include "hist.h"
#include "series.h"

#define HISTOGRAMS(name)                             \
	struct {                                     \
		__uint(type, BPF_MAP_TYPE_HASH);     \
		__uint(max_entries, 1024);           \
		__type(key, struct socket_wait_key); \
		__type(value, struct histogram);     \
	} name SEC(".maps")

HISTOGRAMS(reads);
HISTOGRAMS(writes);

/* Whose system call it is. */
struct caller {
	u32 pid; /* 0: nobody's */
	u8 command[COMMAND_NAME];
};

static __always_inline void find_caller(struct caller *c)
{
	c->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(c->command, sizeof(c->command));
}

/* One wait, in ns, of the operation. */
static __always_inline void waited(struct sock *sk, u8 protocol, u32 operation, u64 wait,
				   const struct caller *by)
{
	struct socket_wait_key key = {.family = family_of(sk), .protocol = protocol};
	struct socket_wait_event *e;
	struct histogram *h;

	entity_of(&key.entity, sk);
	h = series_of(operation == SOCKET_READ ? (void *)&reads : (void *)&writes, &key);
	if (h)
		observe(h, wait);
	if (!is_slow(wait))
		return;
	e = begin_event(&key.entity, sk, sizeof(*e));
	if (!e)
		return;
	e->head.connection.protocol = protocol;
	if (protocol != IPPROTO_TCP)
		e->head.connection.state = 0;
	e->wait = wait;
	e->operation = operation;
	e->pid = by->pid;
	__builtin_memcpy(e->command, by->command, sizeof(e->command));
	end_event(e);
}

#endif
