/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The kernel's tasks and the cgroups that they are in, trimmed as in kernel.h. */
#ifndef JITTERSCOPE_TASK_H
#define JITTERSCOPE_TASK_H

#include "kernel.h"

/* include/linux/sched.h */
#define PF_EXITING 0x00000004
#define PF_KTHREAD 0x00200000

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct cgroup___self {
	struct cgroup_subsys_state self;
};

struct bpf_iter__task {
	struct task_struct *task;
};

#pragma clang attribute pop

/* The task's cgroup in the v2 hierarchy; valid until the task itself is freed. */
static __always_inline struct cgroup *cgroup_of_task(struct task_struct *task)
{
	return BPF_CORE_READ(task, cgroups, dfl_cgrp);
}

/* `cgroup_id`, include/linux/cgroup.h: the inode of its directory. */
static __always_inline u64 cgroup_id(struct cgroup *cgroup)
{
	return BPF_CORE_READ(cgroup, kn, id);
}

/* Id of the cgroup around it; 0 for the root. */
static __always_inline u64 cgroup_parent_id(struct cgroup *cgroup)
{
	struct cgroup___self *c = (void *)cgroup;
	struct cgroup_subsys_state *parent = BPF_CORE_READ(c, self.parent);

	return parent ? cgroup_id(BPF_CORE_READ(parent, cgroup)) : 0;
}

#endif
