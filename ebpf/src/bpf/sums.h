/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The SNMP counters of one network namespace, summed over the CPUs. */
#ifndef JITTERSCOPE_SUMS_H
#define JITTERSCOPE_SUMS_H

#include "kernel.h"
#include "abi.h"
#include "entity.h"
#include "percpu.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTER_RECORDS);
	__type(key, u32);
	__type(value, struct namespace_counters);
} records SEC(".maps");

/* The tables that are kept per CPU, in the order of their slots. */
enum table {
	TABLE_IP,
	TABLE_IP6,
	TABLE_TCP,
	TABLE_NET,
	TABLE_UDP,
	TABLE_UDP6,
	TABLE_UDPLITE,
	TABLE_UDPLITE6,
	TABLE_ICMP,
	TABLE_ICMP6,
	TABLE_MPTCP,
	TABLES,
};

/* What a run keeps between its steps, and for the next one. Runs never overlap. */
struct run {
	u64 own;	    /* the namespace in which the walk began */
	u64 net;	    /* the one at which it is */
	u64 last;	    /* the one that was stored last, in this run or the one before */
	u64 ops;	    /* what tells a namespace from the head of the list */
	u64 tables[TABLES]; /* per-CPU pointers of the namespace, 0 for none */
	u32 skip;	    /* namespaces to pass over */
	u32 room;	    /* records to fill */
	u32 filled;
	u32 ended;
	u64 part[SLOT_ICMP_TYPES]; /* one CPU's counters; beyond a table's end zero for ever */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct run);
} runs SEC(".maps");

static __always_inline struct run *this_run(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&runs, &zero);
}

/* Adds `size` bytes of counters at `table`, in steps of eight, which every table's room is a multiple of. */
static __always_inline int add(u64 *sums, u64 *part, u64 table, u32 size)
{
	u32 i, j;

	if (bpf_probe_read_kernel(part, size, (void *)table))
		return 1;
	for (i = 0; i < size / 8; i += 8) {
#pragma clang loop unroll(full)
		for (j = 0; j < 8; j++)
			sums[i + j] += part[i + j];
	}
	return 0;
}

#define at_most(a, b) ((a) < (b) ? (a) : (b))

/* Adds a table of this type on one CPU to the slots from `slot` up to `end`. */
#define ADD(type, table, slot, end)                                                                  \
	do {                                                                                         \
		if (bpf_core_field_exists(((struct type *)0)->mibs) && run->tables[table])           \
			record->failed |= add(&record->values[slot], &run->part[slot],               \
					      run->tables[table] + place->offset,                    \
					      at_most(bpf_core_field_size(((struct type *)0)->mibs), \
						      ((end) - (slot)) * 8));                        \
	} while (0)

__noinline int add_cpu(u32 index, u32 cpu)
{
	struct namespace_counters *record = bpf_map_lookup_elem(&records, &index);
	struct cpu_place *place = bpf_map_lookup_elem(&cpus, &cpu);
	struct run *run = this_run();

	if (!record || !place || !run || !place->known)
		return 0;
	ADD(ipstats_mib, TABLE_IP, SLOT_IP, SLOT_IP6);
	ADD(ipstats_mib, TABLE_IP6, SLOT_IP6, SLOT_TCP);
	ADD(tcp_mib, TABLE_TCP, SLOT_TCP, SLOT_NET);
	ADD(linux_mib, TABLE_NET, SLOT_NET, SLOT_UDP);
	ADD(udp_mib, TABLE_UDP, SLOT_UDP, SLOT_UDP6);
	ADD(udp_mib, TABLE_UDP6, SLOT_UDP6, SLOT_UDPLITE);
	ADD(udp_mib, TABLE_UDPLITE, SLOT_UDPLITE, SLOT_UDPLITE6);
	ADD(udp_mib, TABLE_UDPLITE6, SLOT_UDPLITE6, SLOT_ICMP);
	ADD(icmp_mib, TABLE_ICMP, SLOT_ICMP, SLOT_ICMP6);
	ADD(icmpv6_mib, TABLE_ICMP6, SLOT_ICMP6, SLOT_MPTCP);
	ADD(mptcp_mib, TABLE_MPTCP, SLOT_MPTCP, SLOT_ICMP_TYPES);
	return 0;
}

#define find_table(net, table, member)                                            \
	do {                                                                      \
		if (bpf_core_field_exists(net->mib.member))                       \
			run->tables[table] = (u64)BPF_CORE_READ(net, mib.member); \
	} while (0)

static __always_inline void find_tables(struct run *run, struct net *net)
{
	find_table(net, TABLE_IP, ip_statistics);
	find_table(net, TABLE_IP6, ipv6_statistics);
	find_table(net, TABLE_TCP, tcp_statistics);
	find_table(net, TABLE_NET, net_statistics);
	find_table(net, TABLE_UDP, udp_statistics);
	find_table(net, TABLE_UDP6, udp_stats_in6);
	find_table(net, TABLE_UDPLITE, udplite_statistics);
	find_table(net, TABLE_UDPLITE6, udplite_stats_in6);
	find_table(net, TABLE_ICMP, icmp_statistics);
	find_table(net, TABLE_ICMP6, icmpv6_statistics);
	find_table(net, TABLE_MPTCP, mptcp_statistics);
}

/* Messages are counted by type for all CPUs together. */
static __always_inline void read_types(struct namespace_counters *record, struct net *net)
{
	void *icmp = (void *)BPF_CORE_READ(net, mib.icmpmsg_statistics), *icmp6 = NULL;

	if (bpf_core_field_exists(net->mib.icmpv6msg_statistics))
		icmp6 = (void *)BPF_CORE_READ(net, mib.icmpv6msg_statistics);
	if (bpf_probe_read_kernel(&record->values[SLOT_ICMP_TYPES], 2 * 256 * 8, icmp))
		record->failed = 1;
	if (icmp6 && bpf_probe_read_kernel(&record->values[SLOT_ICMP6_TYPES], 2 * 256 * 8, icmp6))
		record->failed = 1;
}

/* Fills the record at `index` with the counters of the namespace at which the walk is. */
__noinline int fill(u32 index)
{
	struct namespace_counters *record = bpf_map_lookup_elem(&records, &index);
	struct run *run = this_run();
	struct net *net;
	u32 i;

	if (!record || !run)
		return 0;
	net = (void *)run->net;
	record->netns = net_inode(net);
	record->cookie = net_cookie(net);
	record->failed = 0;
#pragma clang loop unroll_count(8)
	for (i = 0; i < SLOT_ICMP_TYPES; i++)
		*(volatile u64 *)&record->values[i] = 0;
	find_tables(run, net);
	read_types(record, net);
	for (i = 0; i < possible_cpus; i++)
		add_cpu(index, i);
	return 0;
}

#endif
