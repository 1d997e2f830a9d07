/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Where per-CPU data is on each CPU. */
#ifndef JITTERSCOPE_PERCPU_H
#define JITTERSCOPE_PERCPU_H

#include "kernel.h"
#include "abi.h"

/* One more than the highest number of a CPU that the machine can ever have. */
const volatile u32 possible_cpus = 1;

/* An impossible CPU's number is unknown. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* possible_cpus, set at load time */
	__type(key, u32);
	__type(value, struct cpu_place);
} cpus SEC(".maps");

/* Something with a per-CPU pointer that leads to addresses that a program can see. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} marks SEC(".maps");

/*
 * The distance between a per-CPU pointer and what it points to on a CPU is the same for all of them: it is
 * learnt from a map, whose pointer the kernel has in the map (kernel/bpf/arraymap.c) and whose elements a
 * program sees. Both addresses go through memory, for the verifier lets nobody reckon with them otherwise.
 */
static __always_inline void locate(u32 cpu, void *mark)
{
	volatile struct cpu_place *place = bpf_map_lookup_elem(&cpus, &cpu);
	u64 map, pointer;

	if (!place || !mark)
		return;
	place->offset = (u64)&marks;
	map = place->offset;
	if (bpf_probe_read_kernel(&pointer, sizeof(pointer),
				  (void *)map + bpf_core_field_offset(struct bpf_array, pptrs)))
		return;
	place->offset = (u64)mark;
	place->offset -= pointer;
	place->known = 1;
}

#endif
