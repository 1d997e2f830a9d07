// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * biolatency: how long block requests are queued, and how long their devices take, by the cgroup that the
 * data belongs to.
 *
 * A request has an entry from when it is queued or issued until it ends or is merged into another. It is
 * counted once, at its end: a part that ends earlier leaves it under way (blk_update_request,
 * block/blk-mq.c), and one that the driver gave back waits until it is issued for the last time. Should an
 * end pass unseen, the next request at the address has another beginning.
 */
#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "block.h"
#include "events.h"
#include "hist.h"
#include "series.h"

/* 1: the tracepoints but that of the end have the queue before the request, as before 5.11. */
const volatile u32 queue_first;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u64); /* address of the request */
	__type(value, struct block_request);
} requests SEC(".maps");

#define HISTOGRAMS(name)                         \
	struct {                                 \
		__uint(type, BPF_MAP_TYPE_HASH); \
		__uint(max_entries, 1024);       \
		__type(key, struct block_key);   \
		__type(value, struct histogram); \
	} name SEC(".maps")

HISTOGRAMS(waits);
HISTOGRAMS(durations);

static __always_inline struct request *request_of(u64 *ctx)
{
	return (void *)(queue_first ? ctx[1] : ctx[0]);
}

/* A later request at the address started later; one that takes up another takes over an earlier start. */
static __always_inline int is_of(const struct block_request *r, struct request *rq)
{
	return BPF_CORE_READ(rq, start_time_ns) <= r->identity;
}

/* The entry of a request that begins now; NULL, and counted, when there is no room. */
static __always_inline struct block_request *begin(struct request *rq, u64 now)
{
	struct block_request r = {.began = now};
	u64 key = (u64)rq;

	r.identity = BPF_CORE_READ(rq, start_time_ns);
	r.pid = bpf_get_current_pid_tgid() >> 32;
	r.key.operation = BPF_CORE_READ(rq, cmd_flags) & REQ_OP_MASK;
	r.key.cgroup = cgroup_of_request(rq);
	bpf_core_read_str(r.key.disk, sizeof(r.key.disk), &disk_of(rq)->disk_name);
	bpf_get_current_comm(r.command, sizeof(r.command));
	if (bpf_map_update_elem(&requests, &key, &r, BPF_ANY))
		account(overflow);
	return bpf_map_lookup_elem(&requests, &key);
}

static __always_inline void over(const struct block_request *r, u64 now)
{
	struct histogram *h = series_of(&waits, &r->key);
	struct entity entity = {.cgroup = r->key.cgroup};
	struct block_event *e;

	if (h)
		observe(h, r->issued - r->began);
	h = series_of(&durations, &r->key);
	if (h)
		observe(h, now - r->issued);
	if (!is_slow(now - r->began))
		return;
	e = begin_event_of(&entity, sizeof(*e));
	if (!e)
		return;
	e->duration = now - r->issued;
	e->request = *r;
	end_event(e);
}

/* First of the hooks: nothing may begin before somebody sees it end. */
SEC("tp_btf/block_rq_complete")
int complete_btf(u64 *ctx)
{
	struct request *rq = (void *)ctx[0];
	u64 now = bpf_ktime_get_ns(), key = (u64)rq;
	struct block_request *entry, r;

	entry = bpf_map_lookup_elem(&requests, &key);
	if (!entry || (u32)ctx[2] < BPF_CORE_READ(rq, __data_len))
		return 0;
	r = *entry;
	bpf_map_delete_elem(&requests, &key);
	if (r.issued >= r.began && r.issued <= now && is_of(&r, rq))
		over(&r, now);
	return 0;
}

SEC("tp_btf/block_rq_merge")
int merge_btf(u64 *ctx)
{
	u64 key = (u64)request_of(ctx);

	bpf_map_delete_elem(&requests, &key);
	return 0;
}

SEC("tp_btf/block_rq_issue")
int issue_btf(u64 *ctx)
{
	struct request *rq = request_of(ctx);
	u64 now = bpf_ktime_get_ns(), key = (u64)rq;
	struct block_request *r = bpf_map_lookup_elem(&requests, &key);

	if (!r || !is_of(r, rq))
		r = begin(rq, now);
	if (!r)
		return 0;
	if (!r->issued) {
		r->sector = BPF_CORE_READ(rq, __sector);
		r->size = BPF_CORE_READ(rq, __data_len);
	}
	r->issued = now;
	return 0;
}

SEC("tp_btf/block_rq_insert")
int insert_btf(u64 *ctx)
{
	struct request *rq = request_of(ctx);
	u64 key = (u64)rq;
	struct block_request *r = bpf_map_lookup_elem(&requests, &key);

	/* One that the driver gave back is queued again. */
	if (!r || !is_of(r, rq))
		begin(rq, bpf_ktime_get_ns());
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
