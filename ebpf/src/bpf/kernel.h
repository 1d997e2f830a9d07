/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The kernel's types, trimmed to the fields that are read. Offsets are relocated to the running kernel's
 * (CO-RE), so neither order nor completeness matter. A name with three underscores is an older layout.
 */
#ifndef JITTERSCOPE_KERNEL_H
#define JITTERSCOPE_KERNEL_H

/* Makes libbpf's bpf_tracing.h take registers from the types below. */
#define __VMLINUX_H__

#include "types.h"

typedef u8 __u8;
typedef u16 __u16;
typedef u32 __u32;
typedef s32 __s32;
typedef u64 __u64;
typedef s64 __s64;
typedef u16 __be16;
typedef u32 __be32;
typedef u32 __wsum;

/* include/uapi/linux/bpf.h */
enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
};

struct bpf_raw_tracepoint_args {
	u64 args[2];
};

/* include/uapi/asm-generic/errno-base.h: the map is full. */
#define E2BIG 7

#define BPF_ANY			    0
#define BPF_NOEXIST		    1
#define BPF_F_NO_PREALLOC	    1
#define BPF_SK_STORAGE_GET_F_CREATE 1

/* include/linux/socket.h, include/net/tcp_states.h, include/uapi/linux/{if_ether,in}.h */
#define AF_INET		 2
#define AF_INET6	 10
#define SOCK_RAW	 3
#define AF_PACKET	 17
#define TCP_ESTABLISHED	 1
#define TCP_SYN_SENT	 2
#define TCP_SYN_RECV	 3
#define TCP_FIN_WAIT1	 4
#define TCP_TIME_WAIT	 6
#define TCP_CLOSE	 7
#define TCP_CLOSE_WAIT	 8
#define TCP_LAST_ACK	 9
#define TCP_LISTEN	 10
#define TCP_CLOSING	 11
#define TCP_NEW_SYN_RECV 12
#define ETH_P_IP	 0x0800
#define ETH_P_IPV6	 0x86DD
#define IPPROTO_TCP	 6
#define IPPROTO_UDP	 17
#define IPPROTO_FRAGMENT 44
#define IPPROTO_RAW	 255
#define IPPROTO_MPTCP	 262
#define HEADER_UNSET	 0xffff
#define MSG_PEEK	 0x0002
#define MSG_ERRQUEUE	 0x2000

/* include/uapi/linux/{rtnetlink,ipv6_route}.h */
#define RTN_LOCAL 2
#define RTF_LOCAL 0x80000000

/* include/net/{tcp,inet_connection_sock}.h */
#define TCP_CA_RECOVERY	     3
#define TCP_CA_LOSS	     4
#define ICSK_TIME_LOSS_PROBE 5

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long di, si, dx, cx, r8, r9, sp, ip, ax, bp;
};
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
	u64 regs[31];
	u64 sp, pc, pstate;
};
struct pt_regs {
	union {
		struct user_pt_regs user_regs;
	};
};
#endif

/* include/net/{route,ip6_fib}.h */
struct rtable {
	u16 rt_type;
};

struct rt6_info {
	u32 rt6i_flags;
};

struct kernfs_node {
	u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

/* Until 5.14: a pointer only while the lowest bit is clear. */
struct sock_cgroup_data___v5_10 {
	u64 val;
};

struct list_head {
	struct list_head *next;
};

struct ns_common {
	const void *ops;
	u32 inum;
};

/* include/net/snmp.h: each is an array of unsigned long, one for each CPU but the last two. */
struct ipstats_mib {
	u64 mibs[1];
};

struct tcp_mib {
	u64 mibs[1];
};

struct linux_mib {
	u64 mibs[1];
};

struct udp_mib {
	u64 mibs[1];
};

struct icmp_mib {
	u64 mibs[1];
};

struct icmpv6_mib {
	u64 mibs[1];
};

struct mptcp_mib {
	u64 mibs[1];
};

struct icmpmsg_mib;
struct icmpv6msg_mib;

/* 7.3 has none for UDP-Lite; those of IPv6 and MPTCP are absent where the kernel is built without. */
struct netns_mib {
	struct ipstats_mib *ip_statistics;
	struct ipstats_mib *ipv6_statistics;
	struct tcp_mib *tcp_statistics;
	struct linux_mib *net_statistics;
	struct udp_mib *udp_statistics;
	struct udp_mib *udp_stats_in6;
	struct udp_mib *udplite_statistics;
	struct udp_mib *udplite_stats_in6;
	struct icmp_mib *icmp_statistics;
	struct icmpv6_mib *icmpv6_statistics;
	struct mptcp_mib *mptcp_statistics;
	struct icmpmsg_mib *icmpmsg_statistics;
	struct icmpv6msg_mib *icmpv6msg_statistics;
};

struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

struct net_device;

struct net {
	struct list_head list;
	struct ns_common ns;
	struct netns_mib mib;
	u64 net_cookie;
	struct net_device *loopback_dev;
	struct hlist_head *dev_index_head;
};

typedef struct {
	s32 counter;
} atomic_t;

typedef struct {
	s64 counter;
} atomic64_t;

typedef struct refcount_struct {
	atomic_t refs;
} refcount_t;

/* Until 5.11: zero before the first use. */
struct net___v5_10 {
	atomic64_t net_cookie;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct nsproxy {
	struct net *net_ns;
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

/* include/linux/task_io_accounting.h */
struct task_io_accounting {
	u64 rchar;
	u64 wchar;
	u64 syscr;
	u64 syscw;
	u64 read_bytes;
	u64 write_bytes;
	u64 cancelled_write_bytes;
};

struct bpf_array {
	void *pptrs[1];
};

struct rtnl_link_ops {
	const char *kind;
};

struct net_device {
	s32 ifindex;
	possible_net_t nd_net;
	char name[16];
	const struct rtnl_link_ops *rtnl_link_ops;
	struct hlist_node index_hlist;
};

/* Since 6.10 the private area is a member. */
struct net_device___v6_10 {
	u8 priv[0];
};

struct sock;

/* Only ever read as a whole. */
struct in6_addr {
	u8 bytes[16];
};

struct sock_common {
	u16 skc_family;
	volatile u8 skc_state;
	possible_net_t skc_net;
	atomic64_t skc_cookie;
	struct sock *skc_listener;
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	u16 skc_num;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	unsigned long skc_flags;
};

typedef struct {
	s32 owned;
} socket_lock_t;

struct sk_buff_head {
	u32 qlen;
};

struct sock {
	struct sock_common __sk_common;
	socket_lock_t sk_lock;
	struct sk_buff_head sk_receive_queue;
	struct sock_cgroup_data sk_cgrp_data;
	u16 sk_protocol;
	s32 sk_err;
	u16 sk_type;
	u32 sk_ack_backlog;
	u32 sk_max_ack_backlog;
};

struct inet_sock {
	__be16 inet_sport;
};

struct request_sock_queue {
	atomic_t qlen;
};

struct inet_connection_sock {
	struct request_sock_queue icsk_accept_queue;
	u8 icsk_retransmits;
	u8 icsk_pending;
	u8 icsk_ca_state : 5;
};

struct tcp_sock {
	u32 total_retrans;
	u32 snd_cwnd;
	u32 srtt_us; /* eight times the smoothed round-trip time */
	u32 rcv_nxt;
	u32 copied_seq;
	u32 write_seq;
	u32 snd_nxt;
	u32 snd_una;
	u32 packets_out;
	u32 segs_in;
	u32 segs_out;
	u64 bytes_received;
	u64 bytes_sent;
	u64 bytes_retrans;
};

struct udp_sock {
	struct sk_buff_head reader_queue;
};

struct iov_iter {
	u64 count;
};

struct msghdr {
	struct iov_iter msg_iter;
};

struct request_sock {
	u8 num_retrans;
};

struct tcp_request_sock {
	u64 snt_synack; /* CLOCK_MONOTONIC, us */
};

struct tcp_skb_cb {
	u32 seq;
	u16 tcp_gso_segs;
};

struct mptcp_sock {
	struct list_head conn_list;
};

struct mptcp_subflow_context {
	struct list_head node;
	struct sock *tcp_sock;
};

struct super_block {
	unsigned long s_flags;
};

struct inode {
	u16 i_mode;
	struct super_block *i_sb;
};

struct qstr {
	const u8 *name;
};

struct dentry {
	struct qstr d_name;
};

struct path {
	struct dentry *dentry;
};

typedef struct {
	s64 counter;
} atomic_long_t;

struct file {
	struct inode *f_inode;
	struct path f_path;
	void *private_data;
	atomic_long_t f_count;
};

typedef struct {
	atomic_long_t refcnt;
} file_ref_t;

/* Since 6.13; it counts from zero. */
struct file___v6_13 {
	file_ref_t f_ref;
};

struct socket {
	struct file *file;
	struct sock *sk;
};

struct files_struct {
	atomic_t count;
};

struct rlimit {
	unsigned long rlim_cur;
};

struct signal_struct {
	atomic_t live;
	s32 nr_threads;
	struct rlimit rlim[16];
};

/* arch/{x86,arm64}/include/asm/processor.h */
#if defined(__TARGET_ARCH_x86)
#define THREAD_POINTER thread.fsbase
struct thread_struct {
	unsigned long fsbase;
};
#elif defined(__TARGET_ARCH_arm64)
#define THREAD_POINTER thread.uw.tp_value
struct thread_struct {
	struct {
		unsigned long tp_value;
	} uw;
};
#endif

struct io_uring_task;

struct task_struct {
	struct thread_struct thread;
	struct io_uring_task *io_uring;
	u64 self_exec_id;
	s32 tgid;
	struct task_struct *group_leader;
	struct files_struct *files;
	struct signal_struct *signal;
	struct nsproxy *nsproxy;
	struct css_set *cgroups;
	struct task_io_accounting ioac;
	u32 flags;
	u64 start_boottime;
	char comm[16];
	u32 __state;
};

/* Until 5.13. */
struct task_struct___v5_13 {
	volatile long state;
};

struct dst_entry {
	struct net_device *dev;
};

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	unsigned long _skb_refdst;
	u32 len;
	s32 skb_iif;
	__be16 protocol;
	u16 transport_header;
	u16 network_header;
	u16 mac_header;
	u32 tail;
	u8 *head;
	u8 *data;
	refcount_t users;
	char cb[48];
	u64 tstamp;
	u8 tstamp_type : 2;
};

/* Until 6.10. */
struct sk_buff___v6_10 {
	u8 mono_delivery_time : 1;
};

#pragma clang attribute pop

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

/* Keeps the compiler from knowing what a number can be: it leaves out masks that verifiers need. */
#define FORGET_RANGE(number) asm volatile("" : "+r"(number))

#endif
