// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * packetloss: every packet that the kernel frees without delivering it, counted exactly by whom it hit and
 * why, and a few of them, rate limited, as events.
 */
#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "limit.h"
#include "packet.h"
#include "origin.h"

/* Arguments of the kfree_skb tracepoint: 2 (skb, location), 3 with a reason (5.17), 4 with rx_sk (6.11). */
const volatile u32 arguments;
/* SKB_DROP_REASON_NOT_SPECIFIED of this kernel; 0, which never occurs, where there are no reasons. */
const volatile u32 reason_not_specified;
/* An enum verdict for each core reason. */
const volatile u8 verdicts[256];
/* Functions that free what is no loss without saying why; sorted. */
const volatile struct range harmless_ranges[HARMLESS_RANGES];
const volatile u32 harmless_count;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct drop_key);
	__type(value, u64);
} drops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

static __always_inline u32 verdict_of_function(u64 location)
{
	u32 low = 0, high = harmless_count, i;

	for (i = 0; i < 8 && low < high; i++) {
		u32 middle = (low + high) / 2;

		if (middle >= HARMLESS_RANGES)
			break;
		if (location < harmless_ranges[middle].start)
			high = middle;
		else if (location >= harmless_ranges[middle].end)
			low = middle + 1;
		else
			return harmless_ranges[middle].verdict;
	}
	return VERDICT_LOSS;
}

static __always_inline u32 verdict_of(u32 reason, u64 location)
{
	u64 index = reason;

	if (reason == reason_not_specified)
		return verdict_of_function(location);
	/* Hides from the compiler that index is the 32-bit reason, which it would check in place of index. */
	asm volatile("" : "+r"(index));
	return index < sizeof(verdicts) ? verdicts[index] : VERDICT_LOSS;
}

/* Unix and netlink sockets queue sk_buffs that are no packets; a capture's copy is no loss to the network. */
static __always_inline int is_network(struct sk_buff *skb, struct sock *rx_sk)
{
	struct sock *sk = rx_sk ?: BPF_CORE_READ(skb, sk);
	u16 family;

	if (!sk)
		return 1;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	return family == AF_INET || family == AF_INET6 || (family == AF_PACKET && !rx_sk);
}

static __always_inline void fill_device(struct drop_event *e, struct sk_buff *skb, const struct origin *o)
{
	s32 iif = BPF_CORE_READ(skb, skb_iif);
	struct net_device *dev = o->dev;

	if (!dev && o->net)
		dev = device_by_index(o->net, iif) ?: route_device(skb);
	e->ifindex = dev ? BPF_CORE_READ(dev, ifindex) : iif;
	if (dev)
		bpf_probe_read_kernel_str(e->interface, sizeof(e->interface), dev->name);
}

static __always_inline void fill_stack(void *ctx, struct drop_event *e, const struct settings *set)
{
	long bytes;

	if (!set->stack)
		return;
	bytes = bpf_get_stack(ctx, e->stack, sizeof(e->stack), 0);
	if (bytes > 0)
		e->frames = bytes / sizeof(e->stack[0]);
}

static __always_inline void submit(void *ctx, struct sk_buff *skb, const struct drop_key *k,
				   const struct origin *o, const struct packet *p, u64 location, u64 now,
				   const struct settings *set)
{
	struct drop_event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		account(lost);
		return;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = now;
	e->location = location;
	e->netns_cookie = k->netns_cookie;
	e->cgroup = k->cgroup;
	if (o->sk)
		bpf_probe_read_kernel(&e->socket_cookie, sizeof(u64), &o->sk->__sk_common.skc_cookie);
	e->netns = k->netns;
	e->reason = k->reason;
	e->source = k->source;
	e->length = BPF_CORE_READ(skb, len);
	e->family = k->family;
	e->protocol = k->protocol;
	e->direction = k->direction;
	e->host = k->host;
	e->happened_in = net_inode(o->net);
	parse_addresses(p, e->source_address, e->destination_address);
	parse_transport(p, e);
	fill_device(e, skb, o);
	fill_stack(ctx, e, set);
	bpf_ringbuf_submit(e, 0);
	account(submitted);
}

static __always_inline void dropped(void *ctx, struct sk_buff *skb, struct sock *rx_sk, struct packet *p,
				    u64 location, u32 reason, u32 source)
{
	struct limiter_key entity = {};
	struct drop_key k = {};
	struct origin o = {};
	struct settings *set = settings_of_probe();
	u64 now = bpf_ktime_get_boot_ns();

	find_origin(&o, skb, rx_sk, p);
	k.netns = o.netns;
	k.netns_cookie = o.netns_cookie;
	k.cgroup = o.cgroup;
	k.reason = reason;
	k.source = source;
	k.location = source == DROP_SOURCE_KFREE_SKB && reason == reason_not_specified ? location : 0;
	k.family = p->family;
	k.protocol = p->protocol;
	k.direction = o.direction;
	k.host = o.host;
	account(seen);
	count(&drops, &k);

	if (k.netns != host_netns) {
		entity.netns = k.netns;
		entity.netns_cookie = k.netns_cookie;
	} else {
		entity.cgroup = k.cgroup;
	}
	if (set && admit(&entity, set, now))
		submit(ctx, skb, &k, &o, p, location, now, set);
	else
		account(suppressed);
}

/* The body of both forms; `ctx` holds the tracepoint's arguments, of which only those there may be read. */
static __always_inline int freed(u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	struct sock *rx_sk = NULL;
	struct packet p = {};
	u32 reason = 0, verdict;

	if (arguments >= 3)
		reason = ctx[2];
	if (arguments >= 4)
		rx_sk = (void *)ctx[3];
	verdict = verdict_of(reason, ctx[1]);
	if (verdict == VERDICT_HARMLESS || !is_network(skb, rx_sk))
		goto ignore;
	parse(skb, &p);
	if (verdict == VERDICT_HARMLESS_IF_MULTICAST && is_multicast(&p))
		goto ignore;
	if (verdict == VERDICT_HARMLESS_IF_FIN && tcp_flags(&p) & TCP_FIN)
		goto ignore;
	dropped(ctx, skb, rx_sk, &p, ctx[1], reason, DROP_SOURCE_KFREE_SKB);
	return 0;
ignore:
	account(ignored);
	return 0;
}

SEC("tp_btf/kfree_skb")
int packetloss_btf(u64 *ctx)
{
	return freed(ctx);
}

SEC("raw_tp/kfree_skb")
int packetloss_raw(u64 *ctx)
{
	return freed(ctx);
}

/* tcp_conn_request() refuses a SYN when the accept queue is full, and its callers then consume the packet. */
static __always_inline int connection_requested(void *ctx, struct sock *sk, struct sk_buff *skb)
{
	struct packet p = {};

	if (BPF_CORE_READ(sk, sk_ack_backlog) <= BPF_CORE_READ(sk, sk_max_ack_backlog))
		return 0;
	parse(skb, &p);
	dropped(ctx, skb, sk, &p, 0, 0, DROP_SOURCE_LISTEN_OVERFLOW);
	return 0;
}

SEC("fentry/tcp_conn_request")
int listen_overflow_fentry(u64 *ctx)
{
	return connection_requested(ctx, (void *)ctx[2], (void *)ctx[3]);
}

SEC("kprobe/tcp_conn_request")
int listen_overflow_kprobe(struct pt_regs *ctx)
{
	return connection_requested(ctx, (void *)PT_REGS_PARM3_CORE(ctx), (void *)PT_REGS_PARM4_CORE(ctx));
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
