// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * netiftxlatency: how long packets wait in the queue of the interface that they leave by, and how long its
 * driver takes to accept them. A packet that is cut into segments in the queue has no wait: the segments are
 * others.
 */
#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "events.h"
#include "hist.h"
#include "limit.h"
#include "outgoing.h"
#include "series.h"

/* Below, the driver took the packet; from there on it stays in the queue (dev_xmit_complete()). */
#define XMIT_COMPLETE 0x0f

#define HISTOGRAMS(name)                          \
	struct {                                  \
		__uint(type, BPF_MAP_TYPE_HASH);  \
		__uint(max_entries, 2048);        \
		__type(key, struct transmit_key); \
		__type(value, struct histogram);  \
	} name SEC(".maps")

HISTOGRAMS(waits);
HISTOGRAMS(durations);

static __always_inline void tell(const struct transmission *t, u64 duration, u32 stage)
{
	struct transmit_event *e = begin_event_of(&t->key.entity, sizeof(*e));

	if (!e)
		return;
	e->duration = duration;
	e->key = t->key;
	e->ends = t->ends;
	e->length = t->length;
	e->stage = stage;
	end_event(e);
}

static __always_inline void over(void *histograms, const struct transmission *t, u64 from, u64 to, u32 stage)
{
	struct histogram *h;

	if (!from || from > to)
		return;
	h = series_of(histograms, &t->key);
	if (h)
		observe(h, to - from);
	if (is_slow(to - from))
		tell(t, to - from, stage);
}

SEC("tp_btf/net_dev_queue")
int queued_btf(u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	struct queued q = {
		.since = bpf_ktime_get_ns(),
		.dev = skb->dev,
		.length = skb->len,
	};

	if (bpf_map_update_elem(&queue, &skb, &q, BPF_ANY))
		account(overflow);
	return 0;
}

SEC("tp_btf/net_dev_start_xmit")
int begun_btf(u64 *ctx)
{
	struct transmissions *all = transmissions_here();
	struct sk_buff *skb = (void *)ctx[0];
	struct net_device *dev = (void *)ctx[1];
	struct transmission *t;

	if (!all)
		return 0;
	t = begin_transmission(all);
	t->skb = skb;
	t->dev = dev;
	take_queued(&t->queued, skb, dev);
	look_at_outgoing(t, skb, dev);
	t->since = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/net_dev_xmit")
int ended_btf(u64 *ctx)
{
	struct transmissions *all = transmissions_here();
	struct sk_buff *skb = (void *)ctx[0];
	u64 now = bpf_ktime_get_ns();
	struct transmission *t;

	t = all ? end_transmission(all, skb, (void *)ctx[2]) : NULL;
	if (!t)
		return 0;
	if ((s32)ctx[1] < XMIT_COMPLETE) {
		over(&waits, t, t->queued.since, t->since, TRANSMIT_QUEUED);
		over(&durations, t, t->since, now, TRANSMIT_DRIVER);
	} else if (t->queued.since) {
		if (bpf_map_update_elem(&queue, &skb, &t->queued, BPF_ANY))
			account(overflow);
	}
	return 0;
}

static __always_inline int freed(struct sk_buff *skb)
{
	if (bpf_map_lookup_elem(&queue, &skb))
		bpf_map_delete_elem(&queue, &skb);
	return 0;
}

SEC("tp_btf/kfree_skb")
int dropped_btf(u64 *ctx)
{
	return freed((void *)ctx[0]);
}

SEC("tp_btf/consume_skb")
int consumed_btf(u64 *ctx)
{
	return freed((void *)ctx[0]);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
