// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * softirq: how long a softirq waits from its raise to its handler, how long the handler runs, and who had the
 * CPU meanwhile. All state is the CPU's own.
 */
#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "batch.h"
#include "events.h"
#include "hist.h"
#include "stretch.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct cpu_state);
} state SEC(".maps");

#define HISTOGRAMS(name)                                 \
	struct {                                         \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); \
		__uint(max_entries, SOFTIRQ_VECTORS);    \
		__type(key, u32);                        \
		__type(value, struct histogram);         \
	} name SEC(".maps")

HISTOGRAMS(waits);
HISTOGRAMS(durations);

static __always_inline struct cpu_state *state_of_cpu(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&state, &zero);
}

/* One stage of a vector is over; it began at `from`. */
static __always_inline void over(void *histograms, u32 vector, u32 stage, u64 from, u64 now,
				 struct cpu_state *s)
{
	struct histogram *h = bpf_map_lookup_elem(histograms, &vector);
	const struct entity node = {};
	struct softirq_event *e;

	if (!h || from > now)
		return;
	observe(h, now - from);
	if (!is_slow(now - from))
		return;
	e = begin_event_of(&node, sizeof(*e));
	if (!e)
		return;
	e->duration = now - from;
	if (stage == SOFTIRQ_WAIT)
		longest_since(&e->holder, &s->stretches, from);
	e->vector = vector;
	e->stage = stage;
	e->cpu = bpf_get_smp_processor_id();
	end_event(e);
}

/* The hooks are attached in this order: what is raised before anybody sees it begin would seem to wait. */
SEC("tp_btf/softirq_exit")
int exit_btf(u64 *ctx)
{
	u32 vector = (u32)ctx[0] & (SOFTIRQ_VECTORS - 1);
	struct cpu_state *s = state_of_cpu();
	u64 now = bpf_ktime_get_ns();

	if (!s || !s->entered)
		return 0;
	end_stretch_of_handler(&s->stretches, vector, now);
	over(&durations, vector, SOFTIRQ_RUN, s->entered, now, s);
	s->entered = 0;
	return 0;
}

SEC("tp_btf/softirq_entry")
int entry_btf(u64 *ctx)
{
	u32 vector = (u32)ctx[0] & (SOFTIRQ_VECTORS - 1);
	struct cpu_state *s = state_of_cpu();
	u64 now = bpf_ktime_get_ns(), raised;

	if (!s)
		return 0;
	raised = runs(s, vector, now);
	end_stretch_of_current(&s->stretches, now);
	s->entered = now;
	if (raised)
		over(&waits, vector, SOFTIRQ_WAIT, raised, now, s);
	return 0;
}

SEC("tp_btf/softirq_raise")
int raise_btf(u64 *ctx)
{
	u32 vector = (u32)ctx[0] & (SOFTIRQ_VECTORS - 1);
	struct cpu_state *s = state_of_cpu();

	if (s)
		is_raised(s, vector, bpf_ktime_get_ns());
	return 0;
}

SEC("tp_btf/sched_switch")
int switch_btf(u64 *ctx)
{
	struct cpu_state *s = state_of_cpu();

	if (s)
		end_stretch_of_task(&s->stretches, (void *)ctx[1], bpf_ktime_get_ns());
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
