/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which processes say where their threads keep their contexts. A process that does not costs a look into a
 * table. The first time, and from time to time, user space is asked to look whether it does.
 */
#ifndef JITTERSCOPE_THREAD_PROCESS_H
#define JITTERSCOPE_THREAD_PROCESS_H

#include "kernel.h"
#include "abi.h"
#include "sequence.h"
#include "span_store.h"

/* From the first question to the second, in ns; each next time is twice as long, up to 51 s. */
#define FIRST_PAUSE 100000000ULL
#define MOST_PAUSES 9

/* For how many ticks of the kernel (1 to 10 ms each) a process is not even looked up. */
#define SILENCE 16

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} questions SEC(".maps");

/*
 * Processes whose threads say nothing, which are nearly all, by the low bits of their number: that (upper
 * half), and until which tick they are left alone. Of those that share a place the last one has it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, THREAD_SILENCES);
	__type(key, u32);
	__type(value, u64);
} silences SEC(".maps");

static __always_inline u64 *silence_of(u32 process)
{
	u32 place = process % THREAD_SILENCES;

	return bpf_map_lookup_elem(&silences, &place);
}

static __always_inline int is_silent(u32 process)
{
	volatile u64 *kept = silence_of(process);
	u64 silence;

	if (!kept)
		return 0;
	silence = *kept;
	return silence >> 32 == process && is_before(bpf_jiffies64(), silence);
}

static __always_inline void silence(u32 process)
{
	volatile u64 *kept = silence_of(process);

	if (kept)
		*kept = (u64)process << 32 | (u32)(bpf_jiffies64() + SILENCE);
}

static __always_inline u64 start_of(struct task_struct *task)
{
	return BPF_CORE_READ(task, group_leader, start_boottime);
}

/* Whether an entry is of this process and of the program that it runs now. */
static __always_inline int is_of(const struct thread_process *p, struct task_struct *task)
{
	return p->started == start_of(task) && p->program == BPF_CORE_READ(task, self_exec_id);
}

static __always_inline void ask(u32 process, u64 started, u64 program)
{
	struct thread_question *q = bpf_ringbuf_reserve(&questions, sizeof(*q), 0);

	if (!q)
		return;
	q->started = started;
	q->program = program;
	q->process = process;
	q->reserved = 0;
	bpf_ringbuf_submit(q, 0);
}

/* A process that is not known. `is_taken`: its number is another one's, that is gone. */
static __always_inline void meet(struct task_struct *task, u32 process, int is_taken)
{
	struct thread_process fresh = {.asked = 1};

	if (is_taken)
		bpf_map_delete_elem(&thread_processes, &process);
	fresh.started = start_of(task);
	fresh.program = BPF_CORE_READ(task, self_exec_id);
	fresh.again = bpf_ktime_get_ns() + FIRST_PAUSE;
	/* Before the question, for user space changes only what is there; and never over what another thread
	 * put there. */
	if (!bpf_map_update_elem(&thread_processes, &process, &fresh, BPF_NOEXIST))
		ask(process, fresh.started, fresh.program);
}

/* User space was asked, and found nothing so far. */
static __always_inline void ask_again(u32 process, struct thread_process *p)
{
	u64 now = bpf_ktime_get_ns();

	if (now < p->again)
		return;
	p->again = now + (FIRST_PAUSE << (p->asked < MOST_PAUSES ? p->asked : MOST_PAUSES));
	p->asked++;
	ask(process, p->started, p->program);
}

/* Where the threads of this process keep their contexts; false: that is not known. */
static __always_inline int find_place(struct thread_place *place, u32 process)
{
	struct task_struct *task;
	struct thread_process *p;
	u32 state;

	if (is_silent(process))
		return 0;
	p = bpf_map_lookup_elem(&thread_processes, &process);
	task = (void *)bpf_get_current_task();
	if (p) {
		state = p->state;
		*place = p->place;
		/* Looked at after the copy: memory of the map may be used again at once. */
		barrier();
	}
	if (!p || !is_of(p, task))
		meet(task, process, !!p);
	else if (state == THREAD_KNOWN)
		return 1;
	else if (state == THREAD_ASKED)
		ask_again(process, p);
	silence(process);
	return 0;
}

static __always_inline int end_process(struct task_struct *task)
{
	u32 process = task->tgid;
	volatile u64 *kept = silence_of(process);

	bpf_map_delete_elem(&thread_processes, &process);
	if (kept)
		*kept = 0;
	return 0;
}

/* Another program: nothing of what was known of its memory holds. */
SEC("tp_btf/sched_process_exec")
int exec_btf(u64 *ctx)
{
	return end_process((void *)ctx[0]);
}

SEC("tp_btf/sched_process_exit")
int exit_btf(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];

	return BPF_CORE_READ(task, signal, live.counter) ? 0 : end_process(task);
}

#endif
