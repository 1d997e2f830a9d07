/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * One pass over every open file of every process, in all network namespaces at once. Sockets without a file,
 * in time-wait, closed by their process or not yet accepted, are not visited. The includer says, by
 * VISIT_FLOW, what else is done with a connection whose type the verifier knows.
 */
#ifndef JITTERSCOPE_SOCKET_PASS_H
#define JITTERSCOPE_SOCKET_PASS_H

#include "kernel.h"
#include "abi.h"
#include "descriptor.h"
#include "mptcp.h"
#include "pass.h"
#include "socket.h"
#include "socket_sums.h"

/* References to a file that one descriptor and the iterator hold. */
#define UNSHARED 2

/* Whether the kernel has bpf_sock_from_file (5.11). */
const volatile u32 sock_from_file;

/* Shared sockets, with the pass that last saw them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, u64);
	__type(value, u64);
} shared SEC(".maps");

static __always_inline s64 references(struct file *file)
{
	struct file___v6_13 *counted = (void *)file;

	if (bpf_core_field_exists(counted->f_ref))
		return BPF_CORE_READ(counted, f_ref.refcnt.counter) + 1;
	return file->f_count.counter;
}

static __always_inline void visit_tcp(struct pass *pass, struct socket_sums *sums, struct sock *sk,
				      const struct socket_key *key, const struct address *peer,
				      const int typed)
{
	struct tcp_sock *tp = typed ? bpf_skc_to_tcp_sock(sk) : (struct tcp_sock *)sk;
	struct standing c = {};

	if (key->state == TCP_LISTEN) {
		add_listener(sums, sk);
		return;
	}
	if (!tp || key->state == TCP_CLOSE)
		return;
	read_standing(&c, tp, key->state, typed);
	add_connection(sums, &c);
	measure(pass, &key->entity, c.rtt);
	if (typed)
		VISIT_FLOW(pass, sk, tp, key, peer);
}

static __always_inline void visit_socket(struct pass *pass, struct file *file, const int typed)
{
	struct socket *socket = typed ? bpf_sock_from_file(file) : file->private_data;
	struct sock *sk = NULL;
	struct socket_key key = {};
	struct socket_sums *sums;
	struct address peer = {};

	if (socket)
		sk = typed ? socket->sk : BPF_CORE_READ(socket, sk);
	if (!sk || (references(file) > UNSHARED && is_marked(&shared, (u64)file, pass)))
		return;
	entity_of(&key.entity, sk);
	key.domain = BPF_CORE_READ(sk, __sk_common.skc_family);
	key.family = family_of(sk, key.domain, &peer);
	if (key.family)
		key.protocol =
			BPF_CORE_READ(sk, sk_type) == SOCK_RAW ? IPPROTO_RAW : BPF_CORE_READ(sk, sk_protocol);
	if (key.protocol == IPPROTO_TCP)
		key.state = BPF_CORE_READ(sk, __sk_common.skc_state);
	sums = sums_of(pass, &key);
	pass->sockets++;
	if (!sums)
		return;
	sums->sockets++;
	if (key.protocol == IPPROTO_TCP)
		visit_tcp(pass, sums, sk, &key, &peer, typed);
	else if (key.protocol == IPPROTO_MPTCP)
		visit_subflows(pass, &key.entity, sk);
}

static __always_inline void begin(struct pass *pass, struct walk *walk)
{
	if (pass->begun == pass->number)
		return;
	pass->begun = pass->number;
	pass->descriptors = 0;
	pass->sockets = 0;
	walk->task = 0;
}

static __always_inline void end(struct pass *pass, struct walk *walk)
{
	leave_task(pass, walk);
	pass->ended = pass->number;
	pass->number++;
}

SEC("iter/task_file")
int socket_pass(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[1];
	struct file *file = (void *)ctx[3];
	u32 zero = 0, descriptor = ctx[2];
	struct pass *pass = bpf_map_lookup_elem(&passes, &zero);
	struct walk *walk = bpf_map_lookup_elem(&walks, &zero);
	enum descriptor_kind kind;

	if (!pass || !walk)
		return 0;
	begin(pass, walk);
	if (!task || !file) {
		end(pass, walk);
		return 0;
	}
	/* A task may be where the one before it was. */
	if (walk->task != (u64)task || descriptor < walk->next) {
		leave_task(pass, walk);
		enter_task(pass, walk, task);
	}
	walk->next = descriptor + 1;
	if (walk->skip)
		return 0;
	kind = kind_of(file);
	walk->open[kind]++;
	pass->descriptors++;
	if (kind == DESCRIPTOR_SOCKET && sock_from_file)
		visit_socket(pass, file, 1);
	else if (kind == DESCRIPTOR_SOCKET)
		visit_socket(pass, file, 0);
	return 0;
}

#endif
