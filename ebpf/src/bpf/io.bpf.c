// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * io: what tasks read and wrote, added up by cgroup.
 *
 * Each task has its own account of it (task->ioac). A pass over all tasks, made on demand, and the exit of
 * each task add what has come since the last time to the cgroup that the task is in. signal->ioac is left
 * alone: it repeats threads that have ended (__exit_signal) and children that were waited for
 * (wait_task_zombie), which may have been in other cgroups, and all of these are added here at their own
 * exit.
 *
 * sched_process_exit runs in the task's own context. sched_process_free would come last, but in a softirq,
 * where programs have been seen to be left out; what do_exit() does in between, closing files, is missing
 * here as it is in taskstats.
 */
#include "kernel.h"
#include "abi.h"
#include "io_sums.h"
#include "task.h"

/*
 * Whether entries are locked. Tracing programs may not do that before 5.11; there a pass that meets a task in
 * the instant of its exit can add the same twice.
 */
const volatile u32 locks = 1;

/* What has been added for each task, by its address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct io_task);
} tasks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct io_state);
} state SEC(".maps");

static __always_inline void lock(struct io_task *entry)
{
	if (locks)
		bpf_spin_lock(&entry->lock);
}

static __always_inline void unlock(struct io_task *entry)
{
	if (locks)
		bpf_spin_unlock(&entry->lock);
}

/*
 * Is the task older than the counting? Then what it did before counts nowhere. A thread that executes a
 * program takes over its leader's start (de_thread), so one that no pass has seen can be taken for older than
 * it is.
 */
static __always_inline int is_older(struct task_struct *task, struct io_state *s)
{
	return task->start_boottime < s->since;
}

/*
 * The entry of a task that has none. The task may exit meanwhile, with or without seeing the entry: then its
 * exit adds everything, and the entry is of no use.
 */
static __always_inline struct io_task *remember(struct task_struct *task, u64 key, struct io_state *s)
{
	struct io_task fresh = {.ended = 1};

	if (bpf_map_update_elem(&tasks, &key, &fresh, BPF_NOEXIST))
		return NULL;
	__sync_fetch_and_add(&s->tasks, 1);
	if (!(task->flags & PF_EXITING))
		return bpf_map_lookup_elem(&tasks, &key);
	__sync_fetch_and_add(&s->ended, 1);
	return NULL;
}

SEC("iter/task")
int io_pass(struct bpf_iter__task *ctx)
{
	struct io_totals now, before = {};
	struct task_struct *task = ctx->task;
	struct io_task *entry;
	struct io_state *s;
	u64 key = (u64)task, start;
	u32 zero = 0, gone;

	s = bpf_map_lookup_elem(&state, &zero);
	if (!task || !s)
		return 0;
	if (!s->since)
		s->since = bpf_ktime_get_boot_ns();
	if (task->flags & PF_EXITING)
		return 0;
	entry = bpf_map_lookup_elem(&tasks, &key) ?: remember(task, key, s);
	if (!entry)
		return 0;
	look(task, &now);
	start = task->start_boottime;
	if (is_older(task, s))
		before = now;
	lock(entry);
	gone = entry->ended && entry->start == start;
	if (!gone) {
		if (!entry->ended)
			before = entry->totals;
		entry->totals = now;
		entry->start = start;
		entry->ended = 0;
	}
	unlock(entry);
	if (!gone)
		add(task, &now, &before);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int io_exit(u64 *ctx)
{
	struct io_totals now, before = {};
	struct task_struct *task = (void *)ctx[0];
	struct io_task *entry;
	struct io_state *s;
	u64 key = (u64)task, start = task->start_boottime;
	u32 zero = 0;

	s = bpf_map_lookup_elem(&state, &zero);
	if (!s || !s->since)
		return 0;
	look(task, &now);
	if (is_older(task, s))
		before = now;
	entry = bpf_map_lookup_elem(&tasks, &key);
	if (entry) {
		lock(entry);
		if (!entry->ended)
			before = entry->totals;
		entry->ended = 1;
		entry->start = start;
		unlock(entry);
		__sync_fetch_and_add(&s->ended, 1);
	}
	add(task, &now, &before);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
