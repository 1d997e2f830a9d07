/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Block requests, trimmed as in kernel.h: on which disk they are, what they do, and for whom. */
#ifndef JITTERSCOPE_BLOCK_H
#define JITTERSCOPE_BLOCK_H

#include "kernel.h"
#include "abi.h"
#include "task.h"

/* include/linux/blk_types.h: the lower bits of the flags are the operation. */
#define REQ_OP_MASK 0xff

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct cgroup_root {
	s32 hierarchy_id;
};

struct cgroup___root {
	struct cgroup_root *root;
};

struct blkcg {
	struct cgroup_subsys_state css;
};

struct blkcg_gq {
	struct blkcg *blkcg;
};

struct bio {
	struct blkcg_gq *bi_blkg;
};

struct gendisk {
	char disk_name[DISK_NAME];
};

struct request_queue {
	struct gendisk *disk;
};

struct request {
	struct request_queue *q;
	u32 cmd_flags;
	u32 __data_len;
	u64 __sector;
	struct bio *bio;
	u64 start_time_ns;
};

/* Until 5.16. */
struct request___v5_16 {
	struct gendisk *rq_disk;
};

#pragma clang attribute pop

static __always_inline struct gendisk *disk_of(struct request *rq)
{
	struct request___v5_16 *old = (void *)rq;

	if (bpf_core_field_exists(old->rq_disk))
		return BPF_CORE_READ(old, rq_disk);
	return BPF_CORE_READ(rq, q, disk);
}

/* The cgroup that the first of the request's data was written or read for; NULL for what has none. */
static __always_inline struct cgroup *cgroup_of_data(struct request *rq)
{
	struct bio *bio = BPF_CORE_READ(rq, bio);

	if (!bio || !bpf_core_field_exists(bio->bi_blkg))
		return NULL;
	return BPF_CORE_READ(bio, bi_blkg, blkcg, css.cgroup);
}

/*
 * Its id. Where block I/O is controlled by a v1 hierarchy, data only knows the cgroup in that one, and the id
 * is that of the task that queues the request; the kernel's own threads do it for others.
 */
static __always_inline u64 cgroup_of_request(struct request *rq)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct cgroup *cgroup = cgroup_of_data(rq);
	struct cgroup___root *c = (void *)cgroup;

	if (cgroup && !BPF_CORE_READ(c, root, hierarchy_id))
		return cgroup_id(cgroup);
	if (!cgroup || BPF_CORE_READ(task, flags) & PF_KTHREAD)
		return 0;
	return cgroup_id(cgroup_of_task(task));
}

#endif
