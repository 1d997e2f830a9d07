// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * schedlatency: how long tasks wait for a CPU, from the wake-up or from losing the CPU until they run, by the
 * cgroup of the task, and who ran meanwhile.
 *
 * A task has an entry only while it waits: whoever exits runs, and has none. All hooks are called with the
 * lock of a run queue held, so that nothing may be allocated in them: the maps are, in advance.
 */
#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "events.h"
#include "hist.h"
#include "series.h"
#include "stretch.h"
#include "task.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u64); /* address of the task */
	__type(value, struct runnable);
} runnable SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct stretches);
} cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u64); /* cgroup */
	__type(value, struct histogram);
} waits SEC(".maps");

static __always_inline int can_run(struct task_struct *task)
{
	struct task_struct___v5_13 *old = (void *)task;

	if (bpf_core_field_exists(task->__state))
		return !BPF_CORE_READ(task, __state);
	return !BPF_CORE_READ(old, state);
}

static __always_inline void waits_from(struct task_struct *task, u64 now, u64 preempted)
{
	struct runnable r = {.since = now, .preempted = preempted};
	u64 key = (u64)task;

	if (bpf_map_update_elem(&runnable, &key, &r, preempted ? BPF_ANY : BPF_NOEXIST) == -E2BIG)
		account(overflow);
}

static __always_inline void tell(struct task_struct *task, u64 cgroup, const struct runnable *r, u64 now)
{
	struct entity entity = {.cgroup = cgroup};
	struct scheduler_event *e;
	struct stretches *cpu;
	u32 zero = 0;

	e = begin_event_of(&entity, sizeof(*e));
	if (!e)
		return;
	cpu = bpf_map_lookup_elem(&cpus, &zero);
	if (cpu)
		longest_since(&e->instead, cpu, r->since);
	e->wait = now - r->since;
	e->pid = BPF_CORE_READ(task, tgid);
	e->cpu = bpf_get_smp_processor_id();
	e->preempted = r->preempted;
	bpf_core_read(e->command, sizeof(e->command), &task->comm);
	end_event(e);
}

static __always_inline void runs(struct task_struct *task, u64 now)
{
	u64 key = (u64)task, cgroup;
	struct runnable *entry, r;
	struct histogram *h;

	entry = bpf_map_lookup_elem(&runnable, &key);
	if (!entry)
		return;
	r = *entry;
	bpf_map_delete_elem(&runnable, &key);
	if (r.since > now)
		return;
	cgroup = cgroup_id(cgroup_of_task(task));
	h = series_of(&waits, &cgroup);
	if (h)
		observe(h, now - r.since);
	if (is_slow(now - r.since))
		tell(task, cgroup, &r, now);
}

/* First of the hooks: a task must not begin to wait before anybody sees it run. */
SEC("tp_btf/sched_switch")
int switch_btf(u64 *ctx)
{
	struct task_struct *prev = (void *)ctx[1], *next = (void *)ctx[2];
	u64 now = bpf_ktime_get_ns(), key = (u64)prev;
	struct stretches *cpu;
	u32 zero = 0;

	cpu = bpf_map_lookup_elem(&cpus, &zero);
	if (cpu)
		end_stretch_of_task(cpu, prev, now);
	runs(next, now);
	/* The idle task gives way to everybody and waits for nothing. */
	if (!BPF_CORE_READ(prev, tgid))
		return 0;
	if (ctx[0] || can_run(prev))
		waits_from(prev, now, 1);
	else if (bpf_map_lookup_elem(&runnable, &key))
		bpf_map_delete_elem(&runnable, &key);
	return 0;
}

/* One that has its CPU still goes on with it: its entry goes, or becomes another, when it gives that up. */
SEC("tp_btf/sched_wakeup")
int wakeup_btf(u64 *ctx)
{
	waits_from((void *)ctx[0], bpf_ktime_get_ns(), 0);
	return 0;
}

SEC("tp_btf/sched_wakeup_new")
int wakeup_new_btf(u64 *ctx)
{
	waits_from((void *)ctx[0], bpf_ktime_get_ns(), 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
