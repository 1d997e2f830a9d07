/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is told of a packet that came to the end of its way: its times, and an event when it was slow. */
#ifndef JITTERSCOPE_PASSAGE_TELL_H
#define JITTERSCOPE_PASSAGE_TELL_H

#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "entity.h"
#include "events.h"
#include "hist.h"
#include "limit.h"
#include "packet.h"
#include "passage.h"
#include "span_packet.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct passage_key);
	__type(value, struct passage_times);
} times SEC(".maps");

/* Larger than the stack: new ones are copied from here. */
static const struct passage_times no_times;

static __always_inline struct passage_times *times_of(const struct passage_key *key)
{
	struct passage_times *t = bpf_map_lookup_elem(&times, key);

	if (t)
		return t;
	bpf_map_update_elem(&times, key, &no_times, BPF_NOEXIST);
	t = bpf_map_lookup_elem(&times, key);
	if (!t)
		account(overflow);
	return t;
}

/* A packet that came to the end of its way. */
struct arrival {
	struct sk_buff *skb;
	struct sock *sk;
	const struct span_context *kept; /* of the socket; NULL: nothing, or its type is unknown */
};

static __always_inline void tell_slow(const struct arrival *a, const struct passage_key *key, u64 duration,
				      const u64 stages[PASSAGE_STAGES])
{
	struct passage_event *e = begin_event_of(&key->entity, sizeof(*e));
	struct sk_buff *skb = a->skb;
	struct sock *sk = a->sk;
	struct packet p = {};

	if (!e)
		return;
	look(&p, skb, 0);
	parse(&p);
	e->socket_cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	e->key = *key;
	e->duration = duration;
	__builtin_memcpy(e->stages, stages, sizeof(e->stages));
	parse_ends(&p, &e->ends);
	e->length = p.length - (u32)(p.network - BPF_CORE_READ(skb, data));
	bpf_probe_read_kernel_str(e->interface, sizeof(e->interface), BPF_CORE_READ(skb, dev, name));
	find_data_span(&e->span, a->kept, sk, &p, e->length, 1);
	end_event(e);
}

static __always_inline void observe_known(struct histogram *h, u64 ns)
{
	if (ns != PASSAGE_UNKNOWN)
		observe(h, ns);
}

static __always_inline void tell(const struct passage *p, const struct entity *entity,
				 const struct arrival *a, u64 end)
{
	struct passage_key key = {
		.entity = *entity,
		.sampling = p->sampling,
		.direction = p->direction,
		.family = p->family,
	};
	u64 stages[PASSAGE_STAGES], duration = measure(p, end, stages);
	struct passage_times *t;

	if (duration == PASSAGE_UNKNOWN)
		return;
	t = times_of(&key);
	if (t) {
		if (p->entered[0])
			observe(&t->total, duration);
		observe_known(&t->stages[0], stages[0]);
		observe_known(&t->stages[1], stages[1]);
		observe_known(&t->stages[2], stages[2]);
	}
	if (is_slow(duration))
		tell_slow(a, &key, duration, stages);
}

#endif
