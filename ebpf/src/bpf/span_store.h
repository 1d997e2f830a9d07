/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Where it is kept which span a socket's last request belongs to. The maps are those of the object that fills
 * them: the loader puts them in place of each other object's own (load/links.rs).
 */
#ifndef JITTERSCOPE_SPAN_STORE_H
#define JITTERSCOPE_SPAN_STORE_H

#include "kernel.h"
#include "abi.h"

/* enum span_storage: which of the two maps for each source is in use. */
const volatile u32 span_storage;

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct span_context);
} contexts SEC(".maps");

/* The sockets that asked last: the others have no context any more. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct span_context);
} contexts_by_address SEC(".maps");

/* What `thread` knows of sockets. A source of its own map: neither has to take apart what the other wrote. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct span_context);
} thread_contexts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct span_context);
} thread_by_address SEC(".maps");

/* Processes that send. Those that find no room are not looked at. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, u32);
	__type(value, struct thread_process);
} thread_processes SEC(".maps");

/* By enum span_source. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SPAN_SOURCES);
	__type(key, u32);
	__type(value, struct span_counts);
} span_counts SEC(".maps");

/* Atomic for the reason that `account_add` is. */
#define count_span(field, source)                                 \
	do {                                                      \
		u32 _source = source;                             \
		struct span_counts *_c;                           \
		_c = bpf_map_lookup_elem(&span_counts, &_source); \
		if (_c)                                           \
			__sync_fetch_and_add(&_c->field, 1);      \
	} while (0)

#define CONTEXT_WORDS (sizeof(struct span_context) / sizeof(u64))

static __always_inline u64 check_of(const struct span_context *c)
{
	const u64 *words = (const u64 *)c;
	u64 check = 0;
	u32 i;

#pragma unroll
	for (i = 0; i < CONTEXT_WORDS - 1; i++)
		check ^= words[i];
	return check;
}

/* What one source names and the other does not. */
static __always_inline int is_same_trace(const struct span_link *a, const struct span_link *b)
{
	const u64 *one = (const u64 *)a->trace_id, *other = (const u64 *)b->trace_id;

	return one[0] == other[0] && one[1] == other[1];
}

/*
 * What was said of a thread that sent is not so, and what is `kept` of the socket goes. A process that says
 * something else of itself than it does is not trusted any more, nor what it said before.
 */
static __always_inline void distrust(const struct span_context *c, struct span_context *kept)
{
	u32 process = c->process;
	struct thread_process *p;

	count_span(conflicting, c->link.source);
	if (kept)
		kept->check++;
	if (c->link.source != SPAN_SOURCE_THREAD)
		return;
	p = bpf_map_lookup_elem(&thread_processes, &process);
	if (p)
		p->state = THREAD_DISTRUSTED;
}

#endif
