/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What programs see that packets of a cgroup's sockets run through. */
#ifndef JITTERSCOPE_CGROUP_SKB_H
#define JITTERSCOPE_CGROUP_SKB_H

#include "kernel.h"

/* include/uapi/linux/bpf.h. The verifier translates its offsets: all fields up to the last one that is read.
 */
struct __sk_buff {
	u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority;
	u32 ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end, napi_id;
	u32 family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port, data_meta;
	u64 flow_keys, tstamp;
	u32 wire_len, gso_segs;
	u64 sk;
};

/* What they answer: the packet goes on. */
#define ALLOW 1

/*
 * The packet or its socket as an address that can be read from and searched for: the verifier lets nobody add
 * to the pointers that it knows.
 */
static __always_inline void *address_of(void *object)
{
	volatile u64 known = (u64)object;
	void *address = NULL;

	bpf_probe_read_kernel(&address, sizeof(address), (void *)&known);
	return address;
}

#endif
