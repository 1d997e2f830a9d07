/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The SNMP counters of all network namespaces, without procfs: a walk of the kernel's list of namespaces that
 * sums each one's counters over the CPUs, as the functions behind /proc/net/{snmp,netstat,snmp6} do
 * (net/ipv4/proc.c, net/ipv6/proc.c). Nothing is attached: user space runs the programs with
 * BPF_PROG_TEST_RUN, under RCU, within which no namespace of the list and none of its counters is freed
 * (net/core/net_namespace.c, cleanup_net).
 */
#include "kernel.h"
#include "abi.h"
#include "percpu.h"
#include "sums.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Hops of one run: the namespaces that it may pass over and store, 16 times the pods of a large node. */
#define STRIDES 65
#define STRIDE	64

/* One hop; 1 when the run is over. */
__noinline int hop(void)
{
	struct run *run = this_run();
	struct net *net;

	if (!run)
		return 1;
	net = (void *)run->net;
	/* The head of the list is in no namespace: what lies around it there is not what a namespace has. */
	if ((u64)BPF_CORE_READ(net, ns.ops) == run->ops) {
		if (run->skip) {
			/* Where a namespace is gone meanwhile, those behind it have moved up. */
			run->skip = run->net == run->last ? 0 : run->skip - 1;
		} else if (run->filled < run->room) {
			fill(run->filled);
			run->filled++;
			run->last = run->net;
		} else {
			return 1;
		}
	}
	run->net = (u64)BPF_CORE_READ(net, list.next) - bpf_core_field_offset(struct net, list);
	if (run->net != run->own)
		return 0;
	run->ended = 1;
	return 1;
}

/* A number of hops in a function of its own: the verifier looks at each loop once. */
__noinline int stride(void)
{
	u32 i;

	for (i = 0; i < STRIDE; i++) {
		if (hop())
			return 1;
	}
	return 0;
}

/*
 * Stores the counters of up to args[1] namespaces. The first args[0] are passed over, for former runs have
 * stored them; the list begins at the task's own.
 */
SEC("raw_tp")
int walk(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct net *own = BPF_CORE_READ(task, nsproxy, net_ns);
	struct run *run = this_run();
	u32 i;

	if (!run)
		return 0;
	run->own = run->net = (u64)own;
	run->ops = (u64)BPF_CORE_READ(own, ns.ops);
	run->skip = ctx->args[0];
	run->room = ctx->args[1];
	run->filled = run->ended = 0;
	for (i = 0; i < STRIDES; i++) {
		if (stride())
			break;
	}
	return run->filled | (run->ended ? WALK_ENDED : 0);
}

/* Locates the CPU on which it runs. */
SEC("raw_tp")
int locate_this(void *ctx __attribute__((unused)))
{
	u32 zero = 0;

	locate(bpf_get_smp_processor_id(), bpf_map_lookup_elem(&marks, &zero));
	return 0;
}

/* Locates all CPUs, those that are offline too (5.19+). */
SEC("raw_tp")
int locate_all(void *ctx __attribute__((unused)))
{
	u32 zero = 0, cpu;

	for (cpu = 0; cpu < possible_cpus; cpu++)
		locate(cpu, bpf_map_lookup_percpu_elem(&marks, &zero, cpu));
	return 0;
}
