/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Counting and telling what operations on sockets waited. */
#ifndef JITTERSCOPE_WAIT_H
#define JITTERSCOPE_WAIT_H

#include "kernel.h"
#include "abi.h"
#include "entity.h"
#include "events.h"
#include "exemplar.h"
#include "hist.h"
#include "series.h"
#include "span.h"

#define HISTOGRAMS(name)                             \
	struct {                                     \
		__uint(type, BPF_MAP_TYPE_HASH);     \
		__uint(max_entries, 1024);           \
		__type(key, struct socket_wait_key); \
		__type(value, struct histogram);     \
	} name SEC(".maps")

HISTOGRAMS(reads);
HISTOGRAMS(writes);
BUCKET_EXEMPLARS(struct socket_wait_place);

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

/* Whose waits are counted together: looked up once, for a socket stays where it is. */
static __always_inline void find_key(struct socket_wait_key *key, struct sock *sk, u8 protocol)
{
	entity_of(&key->entity, sk);
	key->family = family_of(sk);
	key->protocol = protocol;
}

static __always_inline void tell(struct sock *sk, const struct socket_wait_key *key, u32 operation, u64 wait,
				 const struct caller *by, const struct span_link *span)
{
	struct socket_wait_event *e = begin_event(&key->entity, sk, sizeof(*e));

	if (!e)
		return;
	e->head.connection.protocol = key->protocol;
	if (key->protocol != IPPROTO_TCP)
		e->head.connection.state = 0;
	e->head.span = *span;
	e->wait = wait;
	e->operation = operation;
	e->pid = by->pid;
	__builtin_memcpy(e->command, by->command, sizeof(e->command));
	end_event(e);
}

/*
 * The span of the request that waited: the one that the first of the bytes belong to, which are at `position`
 * of their stream. Datagrams have none. `typed` says that the verifier knows the socket's type.
 */
static __always_inline void find_wait_span(struct span_link *span, struct sock *sk,
					   const struct socket_wait_key *key, u8 direction, u32 position,
					   int slow, const int typed)
{
	if (!typed || !span_storage || key->protocol != IPPROTO_TCP)
		return;
	if (slow || are_exemplars_shown())
		look_for_span(span, kept_of(sk), sk, MATTER_PACKET, direction, position, slow);
}

static __always_inline void show_wait(struct sock *sk, const struct socket_wait_key *key, u32 operation,
				      u32 bucket, u64 wait, u32 pid, const struct span_link *span)
{
	struct socket_wait_place place = {.key = *key, .operation = operation, .bucket = bucket};
	struct exemplar shown = {.value = wait, .link = *span, .facts.pid = pid};

	find_socket_facts(&shown.facts, sk);
	show(&exemplars, &place, &shown);
}

/* Counts a wait, and shows it with its bucket. `pid` is of the process whose call it was. */
static __always_inline void count_wait(void *histograms, struct sock *sk, const struct socket_wait_key *key,
				       u32 operation, u64 wait, u32 pid, const struct span_link *span)
{
	struct histogram *h = series_of(histograms, key);
	u32 bucket;

	if (!h)
		return;
	bucket = observe(h, wait);
	if (is_shown(span))
		show_wait(sk, key, operation, bucket, wait, pid, span);
}

/*
 * A read of what begins at `position`, that waited so long, in ns. `called` says that it is the current
 * task's. The verifier knows the socket's type.
 */
static __always_inline void read_waited(struct sock *sk, const struct socket_wait_key *key, u64 wait,
					u32 position, int called)
{
	struct span_link span = {};
	struct caller by = {};
	int slow = is_slow(wait);

	find_wait_span(&span, sk, key, DIRECTION_RECEIVE, position, slow, 1);
	if (called && is_shown(&span))
		by.pid = bpf_get_current_pid_tgid() >> 32;
	count_wait(&reads, sk, key, SOCKET_READ, wait, by.pid, &span);
	if (!slow)
		return;
	if (called)
		find_caller(&by);
	tell(sk, key, SOCKET_READ, wait, &by, &span);
}

static __always_inline void write_waited(struct sock *sk, const struct socket_wait_key *key, u64 wait,
					 u32 position, const struct caller *by, const int typed)
{
	struct span_link span = {};
	int slow = is_slow(wait);

	find_wait_span(&span, sk, key, DIRECTION_TRANSMIT, position, slow, typed);
	count_wait(&writes, sk, key, SOCKET_WRITE, wait, by->pid, &span);
	if (slow)
		tell(sk, key, SOCKET_WRITE, wait, by, &span);
}

#endif
