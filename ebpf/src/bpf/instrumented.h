/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The trace that the running thread is in as OpenTelemetry eBPF Instrumentation knows it, from the table that
 * it pins for others (OpenTelemetry specification, pull request 4855). The loader puts that one in place of
 * this.
 */
#ifndef JITTERSCOPE_INSTRUMENTED_H
#define JITTERSCOPE_INSTRUMENTED_H

#include "kernel.h"
#include "abi.h"

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, u64);
	__type(value, struct instrumented_context);
} traces_ctx_v1 SEC(".maps");

/*
 * Fills the trace's id alone. What the entry names as the span is the instrumentation's own, which nobody
 * exports where the application has an SDK; and it does not tell whether the trace is recorded.
 */
static __always_inline int read_instrumented_context(struct span_link *link)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct instrumented_context *c = bpf_map_lookup_elem(&traces_ctx_v1, &thread);
	const u64 *trace = (const u64 *)link->trace_id;

	if (!c)
		return 0;
	__builtin_memcpy(link->trace_id, c->trace_id, sizeof(c->trace_id));
	link->source = SPAN_SOURCE_INSTRUMENTATION;
	return !!(trace[0] | trace[1]);
}

#endif
