// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * virtcmdlatency: how long commands on the control queue of virtio-net take, for whose answer a task of the
 * kernel waits with a lock of the network configuration held.
 */
#include "kernel.h"
#include "abi.h"
#include "account.h"
#include "events.h"
#include "hist.h"
#include "series.h"

struct command {
	u64 since; /* CLOCK_MONOTONIC, ns */
	u64 class;
};

/* Under way, by task. Each takes its own one away when the call returns, which it always does. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, u64);
	__type(value, struct command);
} commands SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, u64); /* class */
	__type(value, struct histogram);
} durations SEC(".maps");

static __always_inline void tell(u64 class, u64 duration)
{
	struct entity node = {};
	struct command_event *e = begin_event_of(&node, sizeof(*e));

	if (!e)
		return;
	e->duration = duration;
	e->class = class;
	e->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(e->command, sizeof(e->command));
	end_event(e);
}

static __always_inline int begun(u8 class)
{
	struct command c = {.since = bpf_ktime_get_ns(), .class = class};
	u64 task = bpf_get_current_pid_tgid();

	if (bpf_map_update_elem(&commands, &task, &c, BPF_ANY))
		account(overflow);
	return 0;
}

static __always_inline int ended(void)
{
	u64 task = bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns();
	struct command *entry = bpf_map_lookup_elem(&commands, &task), c;
	struct histogram *h;

	if (!entry)
		return 0;
	c = *entry;
	bpf_map_delete_elem(&commands, &task);
	if (c.since > now)
		return 0;
	h = series_of(&durations, &c.class);
	if (h)
		observe(h, now - c.since);
	if (is_slow(now - c.since))
		tell(c.class, now - c.since);
	return 0;
}

/* Since 6.9; the older function calls it. */
SEC("fentry/virtnet_send_command_reply")
int reply_begun_fentry(u64 *ctx)
{
	return begun(ctx[1]);
}

SEC("kprobe/virtnet_send_command_reply")
int reply_begun_kprobe(struct pt_regs *ctx)
{
	return begun(PT_REGS_PARM2_CORE(ctx));
}

SEC("fexit/virtnet_send_command_reply")
int reply_ended_fexit(void)
{
	return ended();
}

SEC("kretprobe/virtnet_send_command_reply")
int reply_ended_kretprobe(void)
{
	return ended();
}

SEC("fentry/virtnet_send_command")
int begun_fentry(u64 *ctx)
{
	return begun(ctx[1]);
}

SEC("kprobe/virtnet_send_command")
int begun_kprobe(struct pt_regs *ctx)
{
	return begun(PT_REGS_PARM2_CORE(ctx));
}

SEC("fexit/virtnet_send_command")
int ended_fexit(void)
{
	return ended();
}

SEC("kretprobe/virtnet_send_command")
int ended_kretprobe(void)
{
	return ended();
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
