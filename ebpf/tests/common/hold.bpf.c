/* Makes sending slow: holds the CPU for HOLD ns with softirqs off, or in one. Compiled by the tests. */
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

static long is_over(__u32 round, void *end)
{
	(void)round;
	return bpf_ktime_get_ns() >= *(__u64 *)end;
}

static void hold(void)
{
	__u64 end = bpf_ktime_get_ns() + HOLD;

	bpf_loop(1 << 23, is_over, &end, 0);
}

/* In the sender's own context, once a copy of the packet has made it raise NET_RX. */
SEC("egress")
int sender(struct __sk_buff *skb)
{
	bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
	hold();
	return 2; /* TC_ACT_SHOT */
}

/* In the handler of NET_RX. */
SEC("ingress")
int receiver(struct __sk_buff *skb)
{
	(void)skb;
	hold();
	return 2;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
