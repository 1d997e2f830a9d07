/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Network devices: the namespace they are in, who is at the other end of a virtual pair, which is a bridge.
 */
#ifndef JITTERSCOPE_DEVICE_H
#define JITTERSCOPE_DEVICE_H

#include "kernel.h"

#define DEVICE_HASH_ENTRIES 256 /* NETDEV_HASHENTRIES, include/linux/netdevice.h via net/core/dev.c */
#define DEVICE_HASH_CHAIN   16
#define DEVICE_ALIGN	    32 /* NETDEV_ALIGN */

/*
 * The namespace of what may be a device, or NULL. sk_buff.dev shares its place with an rb tree node and
 * with UDP's scratch word, so the pointer is believed only when the namespace that it leads to has a
 * loopback device that leads back to the same namespace.
 */
static __always_inline struct net *device_net(struct net_device *dev)
{
	struct net_device *loopback;
	struct net *net;

	if ((s64)dev >= 0)
		return NULL;
	net = BPF_CORE_READ(dev, nd_net.net);
	if ((s64)net >= 0)
		return NULL;
	loopback = BPF_CORE_READ(net, loopback_dev);
	if ((s64)loopback >= 0 || BPF_CORE_READ(loopback, nd_net.net) != net)
		return NULL;
	return net;
}

/* dev_get_by_index() of the kernel: a walk of the namespace's hash chain. */
static __always_inline struct net_device *device_by_index(struct net *net, s32 ifindex)
{
	struct hlist_head *heads;
	struct hlist_node *node;
	int i;

	if (ifindex <= 0 || !bpf_core_field_exists(net->dev_index_head))
		return NULL;
	heads = BPF_CORE_READ(net, dev_index_head);
	if (bpf_probe_read_kernel(&node, sizeof(node), heads + (ifindex & (DEVICE_HASH_ENTRIES - 1))))
		return NULL;
	for (i = 0; i < DEVICE_HASH_CHAIN && node; i++) {
		struct net_device *dev = (void *)node - bpf_core_field_offset(struct net_device, index_hlist);

		if (BPF_CORE_READ(dev, ifindex) == ifindex)
			return dev;
		node = BPF_CORE_READ(node, next);
	}
	return NULL;
}

enum device_kind {
	DEVICE_OTHER,
	DEVICE_PAIR, /* veth or netkit */
	DEVICE_BRIDGE,
};

static __always_inline enum device_kind device_kind(struct net_device *dev)
{
	const struct rtnl_link_ops *ops = BPF_CORE_READ(dev, rtnl_link_ops);
	const char *name = ops ? BPF_CORE_READ(ops, kind) : NULL;
	u64 kind = 0;

	if (!name || bpf_probe_read_kernel_str(&kind, sizeof(kind), name) < 0)
		return DEVICE_OTHER;
	switch (bpf_be64_to_cpu(kind)) {
	case 0x7665746800000000: /* veth */
	case 0x6e65746b69740000: /* netkit */
		return DEVICE_PAIR;
	case 0x6272696467650000: /* bridge */
		return DEVICE_BRIDGE;
	}
	return DEVICE_OTHER;
}

/*
 * The namespace of the other end of a pair when it is not `net`, else NULL. The peer is the first member of
 * the private area of both kinds (struct veth_priv, struct netkit), whose types a modular kernel's BTF lacks.
 */
static __always_inline struct net *pair_net(struct net_device *dev, struct net *net)
{
	struct net_device___v6_10 *sized = (void *)dev;
	struct net_device *peer;
	struct net *other;
	u64 private;

	if (bpf_core_field_exists(sized->priv))
	private = bpf_core_field_offset(struct net_device___v6_10, priv);
	else private = (bpf_core_type_size(struct net_device) + DEVICE_ALIGN - 1) & ~(u64)(DEVICE_ALIGN - 1);
	if (bpf_probe_read_kernel(&peer, sizeof(peer), (void *)dev + private))
		return NULL;
	other = device_net(peer);
	return other == net ? NULL : other;
}

#endif
