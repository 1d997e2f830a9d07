/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is told of a packet that came to the end of its way: its times, and an event when it was slow. */
#ifndef JITTERSCOPE_PASSAGE_TELL_H
#define JITTERSCOPE_PASSAGE_TELL_H

#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "entity.h"
#include "events.h"
#include "exemplar.h"
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

BUCKET_EXEMPLARS(struct passage_place);

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
				      const u64 stages[PASSAGE_STAGES], const struct packet *p, u32 length,
				      const struct span_link *span)
{
	struct passage_event *e = begin_event_of(&key->entity, sizeof(*e));
	struct sk_buff *skb = a->skb;
	struct sock *sk = a->sk;

	if (!e)
		return;
	e->socket_cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	e->key = *key;
	e->duration = duration;
	__builtin_memcpy(e->stages, stages, sizeof(e->stages));
	parse_ends(p, &e->ends);
	e->length = length;
	bpf_probe_read_kernel_str(e->interface, sizeof(e->interface), BPF_CORE_READ(skb, dev, name));
	e->span = *span;
	end_event(e);
}

/* Counts a stage, and shows it with its bucket. */
static __always_inline void count_stage(struct histogram *h, u64 ns, u32 stage, struct passage_place *place,
					struct exemplar *shown, int is_to_be_shown)
{
	if (ns == PASSAGE_UNKNOWN)
		return;
	place->stage = stage;
	place->bucket = observe(h, ns);
	shown->value = ns;
	if (is_to_be_shown)
		show(&exemplars, place, shown);
}

static __always_inline void count_stages(const struct passage *p, u64 duration,
					 const u64 stages[PASSAGE_STAGES], struct passage_place *place,
					 struct exemplar *shown)
{
	struct passage_times *t = times_of(&place->key);
	int is_to_be_shown = is_shown(&shown->link);

	if (!t)
		return;
	if (p->entered[0])
		count_stage(&t->total, duration, PASSAGE_STAGES, place, shown, is_to_be_shown);
	count_stage(&t->stages[0], stages[0], 0, place, shown, is_to_be_shown);
	count_stage(&t->stages[1], stages[1], 1, place, shown, is_to_be_shown);
	count_stage(&t->stages[2], stages[2], 2, place, shown, is_to_be_shown);
}

static __always_inline void tell(const struct passage *p, const struct entity *entity,
				 const struct arrival *a, u64 end)
{
	struct passage_place place = {
		.key = {.entity = *entity,
			.sampling = p->sampling,
			.direction = p->direction,
			.family = p->family},
	};
	u64 stages[PASSAGE_STAGES], duration = measure(p, end, stages);
	struct sk_buff *skb = a->skb;
	struct exemplar shown = {};
	struct packet packet = {};
	int slow = is_slow(duration), linked = a->kept && (slow || are_exemplars_shown());
	u32 length = 0;

	if (duration == PASSAGE_UNKNOWN)
		return;
	if (slow || linked) {
		look(&packet, skb, 0);
		parse(&packet);
		length = packet.length - (u32)(packet.network - BPF_CORE_READ(skb, data));
	}
	if (linked) {
		find_data_span(&shown.link, (struct kept){a->kept, NULL}, a->sk, &packet, length, slow);
		if (is_shown(&shown.link))
			find_packet_facts(&shown.facts, &packet, p->direction);
	}
	count_stages(p, duration, stages, &place, &shown);
	if (slow)
		tell_slow(a, &place.key, duration, stages, &packet, length, &shown.link);
}

#endif
