/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The account of a task, and the sums of such accounts by cgroup. */
#ifndef JITTERSCOPE_IO_SUMS_H
#define JITTERSCOPE_IO_SUMS_H

#include "kernel.h"
#include "abi.h"
#include "task.h"

/* By cgroup id. Entry 0 takes what there is no room for, and what has no cgroup. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct io_cgroup);
} cgroups SEC(".maps");

static __always_inline struct io_cgroup *entry_of(struct task_struct *task)
{
	struct cgroup *cgroup = cgroup_of_task(task);
	struct io_cgroup fresh = {}, *entry;
	u64 id = cgroup ? cgroup_id(cgroup) : 0;

	entry = bpf_map_lookup_elem(&cgroups, &id);
	if (!entry && cgroup) {
		fresh.parent = cgroup_parent_id(cgroup);
		bpf_map_update_elem(&cgroups, &id, &fresh, BPF_NOEXIST);
		entry = bpf_map_lookup_elem(&cgroups, &id);
	}
	if (!entry) {
		id = 0;
		entry = bpf_map_lookup_elem(&cgroups, &id);
	}
	return entry;
}

#define ADD(field) __sync_fetch_and_add(&sum->field, now->field - before->field)

static __always_inline void add(struct task_struct *task, const struct io_totals *now,
				const struct io_totals *before)
{
	struct io_cgroup *entry = entry_of(task);
	struct io_totals *sum;

	if (!entry)
		return;
	sum = &entry->totals;
	ADD(read_chars);
	ADD(write_chars);
	ADD(read_calls);
	ADD(write_calls);
	ADD(read_bytes);
	ADD(write_bytes);
	ADD(cancelled_write_bytes);
}

static __always_inline void look(struct task_struct *task, struct io_totals *now)
{
	now->read_chars = task->ioac.rchar;
	now->write_chars = task->ioac.wchar;
	now->read_calls = task->ioac.syscr;
	now->write_calls = task->ioac.syscw;
	now->read_bytes = task->ioac.read_bytes;
	now->write_bytes = task->ioac.write_bytes;
	now->cancelled_write_bytes = task->ioac.cancelled_write_bytes;
}

#endif
