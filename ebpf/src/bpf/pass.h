/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * State of a pass from one file to the next. There is one pass at a time, and it runs the program for one
 * file after the other, so nothing here is atomic.
 */
#ifndef JITTERSCOPE_PASS_H
#define JITTERSCOPE_PASS_H

#include "kernel.h"
#include "abi.h"

/* The task whose descriptors are being visited. */
struct walk {
	u64 task; /* its address; 0 before the first */
	u64 skip; /* its table has been seen with another task */
	u64 next; /* above the last descriptor */
	struct entity entity;
	u64 limit;
	u64 open[DESCRIPTOR_KINDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pass);
} passes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct walk);
} walks SEC(".maps");

/*
 * Marks what may come by more than once in a pass; true when it has come by before. Without room for the mark
 * it is counted again each time, which is counted, too. User space empties the map when it fills up.
 */
static __always_inline int is_marked(void *map, u64 key, struct pass *pass)
{
	u64 *mark = bpf_map_lookup_elem(map, &key), number = pass->number;

	if (mark && *mark == number)
		return 1;
	if (mark)
		*mark = number;
	else if (bpf_map_update_elem(map, &key, &number, BPF_NOEXIST))
		pass->unmarked++;
	else
		pass->marks++;
	return 0;
}

#endif
