/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Whose a socket is: its network namespace and its cgroup. */
#ifndef JITTERSCOPE_ENTITY_H
#define JITTERSCOPE_ENTITY_H

#include "kernel.h"
#include "abi.h"

/* Inode of the host's network namespace. */
const volatile u32 host_netns;

static __always_inline u32 net_inode(struct net *net)
{
	return net ? BPF_CORE_READ(net, ns.inum) : 0;
}

static __always_inline u64 net_cookie(struct net *net)
{
	struct net___v5_10 *old = (void *)net;

	if (!net)
		return 0;
	if (bpf_core_field_exists(old->net_cookie.counter))
		return BPF_CORE_READ(old, net_cookie.counter);
	if (bpf_core_field_exists(net->net_cookie))
		return BPF_CORE_READ(net, net_cookie);
	return 0;
}

static __always_inline u64 cgroup_of(struct sock *sk)
{
	struct sock_cgroup_data___v5_10 *old = (void *)sk + bpf_core_field_offset(struct sock, sk_cgrp_data);
	struct cgroup *cgroup;

	if (bpf_core_field_exists(old->val)) {
		cgroup = (void *)BPF_CORE_READ(old, val);
		if ((u64)cgroup & 1)
			return 0;
	} else {
		cgroup = BPF_CORE_READ(sk, sk_cgrp_data.cgroup);
	}
	return cgroup ? BPF_CORE_READ(cgroup, kn, id) : 0;
}

/* A request or time-wait socket is only its common part; the request knows its listener. */
static __always_inline struct sock *full_socket(struct sock *sk)
{
	u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);

	if (state == TCP_NEW_SYN_RECV)
		return BPF_CORE_READ(sk, __sk_common.skc_listener);
	return state == TCP_TIME_WAIT ? NULL : sk;
}

static __always_inline void entity_of(struct entity *e, struct sock *sk)
{
	struct net *net = BPF_CORE_READ(sk, __sk_common.skc_net.net);
	struct sock *full = full_socket(sk);

	e->netns = net_inode(net);
	e->netns_cookie = net_cookie(net);
	e->cgroup = full ? cgroup_of(full) : 0;
}

/* The same for a full socket whose type the verifier knows: members are plain loads, many times cheaper. */
static __always_inline void entity_of_typed(struct entity *e, struct sock *sk)
{
	struct sock_cgroup_data___v5_10 *old = (void *)sk + bpf_core_field_offset(struct sock, sk_cgrp_data);
	struct net *net = sk->__sk_common.skc_net.net;
	struct net___v5_10 *old_net = (void *)net;

	e->netns = net->ns.inum;
	if (bpf_core_field_exists(old_net->net_cookie.counter))
		e->netns_cookie = old_net->net_cookie.counter;
	else if (bpf_core_field_exists(net->net_cookie))
		e->netns_cookie = net->net_cookie;
	e->cgroup = bpf_core_field_exists(old->val) ? cgroup_of(sk) : sk->sk_cgrp_data.cgroup->kn->id;
}

/* Whose events are limited together: those of a namespace; in the host's, or in none, those of a cgroup. */
static __always_inline struct entity limited_as(const struct entity *e)
{
	struct entity limited = {};

	if (e->netns && e->netns != host_netns) {
		limited.netns = e->netns;
		limited.netns_cookie = e->netns_cookie;
	} else {
		limited.cgroup = e->cgroup;
	}
	return limited;
}

#endif
