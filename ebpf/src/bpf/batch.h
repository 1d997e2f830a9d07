/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Since when each softirq of a CPU waits.
 *
 * The kernel takes all pending vectors at once and runs their handlers one after the other (handle_softirqs,
 * kernel/softirq.c). A vector that is raised again before its own turn runs a second time, in the next batch;
 * one that is raised again before the batch begins runs once, and has waited since the first raise. That a
 * batch has begun is seen with its first handler only, and interrupts come in between: which of the two it is
 * shows when the vector runs with or without another raise.
 */
#ifndef JITTERSCOPE_BATCH_H
#define JITTERSCOPE_BATCH_H

#include "kernel.h"
#include "abi.h"
#include "stretch.h"

/* Times of CLOCK_MONOTONIC, ns; 0: never. */
struct waiting {
	u64 raised;
	u64 again;  /* for the batch after */
	u64 unsure; /* the last time it was raised again, perhaps for the batch after */
};

struct cpu_state {
	u64 batch;   /* the batch under way, or the last one, began */
	u64 entered; /* the handler under way began; 0: there is none */
	struct waiting vectors[SOFTIRQ_VECTORS];
	struct stretches stretches;
};

static __always_inline void is_raised(struct cpu_state *s, u32 vector, u64 now)
{
	struct waiting *w = &s->vectors[vector];

	if (!w->raised) {
		w->raised = now;
		w->unsure = 0;
	} else if (w->raised < s->batch) {
		w->again = w->again ?: now;
	} else if (!s->entered) {
		w->unsure = now;
	}
}

/* A handler begins. Returns since when it waited; 0: it was raised before the probe came. */
static __always_inline u64 runs(struct cpu_state *s, u32 vector, u64 now)
{
	struct waiting *w = &s->vectors[vector];
	u64 raised = w->raised;

	/* A batch has only what was raised before it, and nothing twice. */
	if (!raised) {
		raised = w->unsure;
		w->unsure = 0;
		if (raised)
			s->batch = now;
	} else if (raised >= s->batch) {
		s->batch = now;
	}
	w->raised = w->again;
	w->again = 0;
	return raised;
}

#endif
