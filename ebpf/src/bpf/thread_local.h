/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The context that the running thread keeps in its memory for others to read: OpenTelemetry's thread context
 * (OTEP 4947), a record that the thread-local variable otel_thread_ctx_v1 points to. Only the thread itself
 * may change it, and it is in a system call.
 */
#ifndef JITTERSCOPE_THREAD_LOCAL_H
#define JITTERSCOPE_THREAD_LOCAL_H

#include "kernel.h"
#include "abi.h"

/* The beginning of the record; attributes follow. */
struct thread_record {
	u8 trace_id[16];
	u8 span_id[8];
	u8 valid; /* 1; anything else while it is being changed */
	u8 flags;
	u16 attributes;
};

static __always_inline u64 user_word(u64 address)
{
	u64 word = 0;

	bpf_probe_read_user(&word, sizeof(word), (void *)address);
	return word;
}

/* Where the variable of this thread is; 0: it has none, since it has not touched it yet. */
static __always_inline u64 place_of_variable(const struct thread_place *place, u64 pointer)
{
	u64 vector, block;

	if (!place->module)
		return pointer + place->offset;
	vector = user_word(pointer + place->vector);
	if (!vector || user_word(vector + place->count) < place->module)
		return 0;
	block = user_word(vector + place->module * place->entry);
	if (!block || !(block + 1))
		return 0;
	return block + place->offset;
}

/* Fills the ids and flags; false: the thread says that it is in no span, or nothing that could be read. */
static __always_inline int read_thread_context(struct span_link *link, const struct thread_place *place)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	const u64 *trace, *span;
	struct thread_record r;
	u64 variable, record;

	/* What io_uring sends may have been handed to it in another span, and its workers have no memory of
	 * their own. */
	if (bpf_core_field_exists(task->io_uring) && BPF_CORE_READ(task, io_uring))
		return 0;
	variable = place_of_variable(place, BPF_CORE_READ(task, THREAD_POINTER));
	if (!variable)
		return 0;
	record = user_word(variable);
	if (!record || bpf_probe_read_user(&r, sizeof(r), (void *)record) || r.valid != 1)
		return 0;
	__builtin_memcpy(link->trace_id, r.trace_id, sizeof(r.trace_id));
	__builtin_memcpy(link->span_id, r.span_id, sizeof(r.span_id));
	link->flags = r.flags;
	trace = (const u64 *)link->trace_id;
	span = (const u64 *)link->span_id;
	return (trace[0] | trace[1]) && *span;
}

#endif
