/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Who had a CPU of late: the last few stretches that were long enough to be in somebody's way. */
#ifndef JITTERSCOPE_STRETCH_H
#define JITTERSCOPE_STRETCH_H

#include "kernel.h"
#include "abi.h"

/* Shorter stretches are not remembered: a hundredth of the default threshold. */
#define STRETCH_MINIMUM 100000
/* How many are remembered; a power of two. */
#define STRETCHES 4

struct stretches {
	u64 since; /* the one under way began; 0: unknown */
	u64 next;  /* where the next one goes */
	struct stretch last[STRETCHES];
};

/* Where to write down the stretch under way, which ends now; NULL when it is not worth it. */
static __always_inline struct stretch *end_stretch(struct stretches *all, u64 now)
{
	struct stretch *s;
	u64 since = all->since;

	all->since = now;
	if (!since || now < since + STRETCH_MINIMUM)
		return NULL;
	s = &all->last[all->next++ & (STRETCHES - 1)];
	s->from = since;
	s->to = now;
	return s;
}

static __always_inline void end_stretch_of_current(struct stretches *all, u64 now)
{
	struct stretch *s = end_stretch(all, now);

	if (!s)
		return;
	s->handler = 0;
	s->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(s->command, sizeof(s->command));
}

static __always_inline void end_stretch_of_task(struct stretches *all, struct task_struct *task, u64 now)
{
	struct stretch *s = end_stretch(all, now);

	if (!s)
		return;
	s->handler = 0;
	s->pid = BPF_CORE_READ(task, tgid);
	bpf_core_read(s->command, sizeof(s->command), &task->comm);
}

static __always_inline void end_stretch_of_handler(struct stretches *all, u32 vector, u64 now)
{
	struct stretch *s = end_stretch(all, now);

	if (!s)
		return;
	s->handler = vector + 1;
	s->pid = 0;
	__builtin_memset(s->command, 0, sizeof(s->command));
}

/* The stretch that took most of the time since `from`. */
static __always_inline void longest_since(struct stretch *found, struct stretches *all, u64 from)
{
	u64 most = 0, begin;
	int i;

#pragma unroll
	for (i = 0; i < STRETCHES; i++) {
		begin = all->last[i].from > from ? all->last[i].from : from;
		if (all->last[i].to <= begin || all->last[i].to - begin <= most)
			continue;
		most = all->last[i].to - begin;
		*found = all->last[i];
	}
}

#endif
