/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Every structure that crosses a map or a ring. Fixed-width fields, no implicit padding: the Rust side is
 * generated from this file with zerocopy derives, which refuse a hole.
 */
#ifndef JITTERSCOPE_ABI_H
#define JITTERSCOPE_ABI_H

#include "types.h"
#include "abi_span.h"

#define STACK_DEPTH	24
#define INTERFACE_NAME	16
#define HARMLESS_RANGES 128
/* A power of two, for the search in hist.h. */
#define HISTOGRAM_BUCKETS 128

/* From the charged entity's point of view. */
enum direction {
	DIRECTION_TRANSMIT = 1,
	DIRECTION_RECEIVE = 2,
};

/* Which hook saw the drop: it says how to read `reason`. */
enum drop_source {
	DROP_SOURCE_KFREE_SKB = 0,	 /* reason is the running kernel's skb_drop_reason */
	DROP_SOURCE_LISTEN_OVERFLOW = 1, /* a SYN refused by a full accept queue; reason is 0 */
};

enum neighbour_kind {
	NEIGHBOUR_MAC = 1,
	NEIGHBOUR_IPV4 = 4,
	NEIGHBOUR_IPV6 = 6,
};

/* What a probe did with everything that it saw: seen = submitted + suppressed + lost. */
struct account {
	u64 seen;	/* anomalies counted */
	u64 submitted;	/* event records handed to the ring */
	u64 suppressed; /* events withheld by the rate limiter */
	u64 lost;	/* events for which the ring had no room */
	u64 overflow;	/* anomalies that found no room in the counter map */
	u64 ignored;	/* calls of the hook that were classified as no anomaly */
};

/* A distribution of durations. Which durations a bucket holds is decided at load time (histogram.rs). */
struct histogram {
	u64 sum; /* ns */
	u64 buckets[HISTOGRAM_BUCKETS];
};

/* One entry; user space may rewrite it while the probe runs. */
struct settings {
	u32 rate;      /* events a second and entity; 0: none after the burst */
	u32 burst;     /* events an entity may have at once */
	u32 stack;     /* 1: record kernel stacks */
	u32 sampling;  /* one of so many flows is looked at; 0 and 1: all */
	u64 threshold; /* ns; what took less is no event */
	u64 span_age;  /* ns; what is known of a request for longer is not believed any more */
	u32 exemplars; /* enum exemplar_filter */
	u32 reserved;
};

/* Whose something is: a network namespace and a cgroup (v2) in it. Zero means unknown. */
struct entity {
	u64 netns_cookie; /* never reused while the machine is up */
	u64 cgroup;
	u32 netns; /* inode */
	u32 reserved;
};

/* The ends of a socket, as its owner sees them. */
struct connection {
	u8 local_address[16]; /* network order; IPv4 in the first four bytes */
	u8 peer_address[16];
	u16 local_port; /* host order */
	u16 peer_port;
	u8 family;   /* 4 or 6; an IPv4 address mapped into IPv6 is 4 */
	u8 protocol; /* IP protocol number */
	u8 state;    /* of TCP, include/net/tcp_states.h */
	u8 reserved;
};

/* What every event of a socket begins with. */
struct event_head {
	u64 time; /* CLOCK_BOOTTIME, ns */
	u64 socket_cookie;
	struct entity entity;
	struct connection connection;
	struct span_link span;
};

struct limiter {
	u64 since;     /* CLOCK_BOOTTIME ns of the first event */
	u64 admitted;  /* events let through since then */
	u64 forfeited; /* tokens that no event took in time */
};

/* An address of a container's interface, in network order, left-aligned and zero-filled. */
struct neighbour_key {
	u8 address[16];
	u32 kind; /* enum neighbour_kind */
};

struct neighbour {
	u64 netns_cookie;
	u32 netns;
	u32 reserved;
};

/* What dropped packets are counted by. Zero means unknown throughout. */
struct drop_key {
	u64 netns_cookie; /* of the namespace charged; never reused while the machine is up */
	u64 cgroup;	  /* v2 id of the packet's socket */
	u64 location;	  /* return address in the freeing function, only where the reason says nothing */
	u32 netns;	  /* inode of the namespace charged */
	u32 reason;	  /* skb_drop_reason */
	u32 source;	  /* enum drop_source */
	u8 family;	  /* 4, 6, or 0 for anything but IP */
	u8 protocol;	  /* IP protocol number */
	u8 direction;	  /* enum direction */
	u8 host;	  /* 1: dropped in the host's namespace on behalf of the one charged */
};

struct drop_event {
	u64 time; /* CLOCK_BOOTTIME, ns */
	u64 location;
	u64 netns_cookie;
	u64 cgroup;
	u64 socket_cookie;
	u32 netns;
	u32 reason;
	u32 source; /* enum drop_source */
	u32 ifindex;
	u32 length; /* bytes from the network header on, as the kernel holds them */
	u32 frames; /* entries of stack in use */
	u8 family;
	u8 protocol;
	u8 direction;
	u8 host;
	u8 tcp_flags;
	u8 reserved[3];
	u16 source_port; /* host order */
	u16 destination_port;
	u32 happened_in;       /* inode of the network namespace in which the packet was freed */
	u8 source_address[16]; /* network order; IPv4 in the first four bytes */
	u8 destination_address[16];
	u8 interface[INTERFACE_NAME]; /* NUL-terminated */
	struct span_link span;
	u64 stack[STACK_DEPTH];
};

/* Where a packet comes from and goes to. */
struct packet_ends {
	u8 source_address[16]; /* network order; IPv4 in the first four bytes */
	u8 destination_address[16];
	u16 source_port; /* host order; both 0: it has none, or they could not be read */
	u16 destination_port;
	u8 family;   /* 4, 6, or 0 for anything but IP */
	u8 protocol; /* IP protocol number */
	u8 reserved[2];
};

/* What packets that leave by an interface are told apart by. */
struct transmit_key {
	struct entity entity;
	u8 interface[INTERFACE_NAME]; /* NUL-terminated, zero-filled */
	u8 family;		      /* 4, 6, or 0 for anything but IP */
	u8 host;		      /* 1: an interface of the host, on behalf of the entity */
	u8 reserved[6];
};

enum transmit_stage {
	TRANSMIT_QUEUED = 1, /* in the interface's queue */
	TRANSMIT_DRIVER = 2, /* in its driver's hands */
};

struct transmit_event {
	u64 time;     /* CLOCK_BOOTTIME, ns */
	u64 duration; /* ns */
	struct transmit_key key;
	struct packet_ends ends;
	u32 length; /* bytes from the network header on, as the kernel holds them */
	u32 stage;  /* enum transmit_stage */
};

/* The parts of a packet's way between its device and its socket, as they follow each other. */
#define PASSAGE_STAGES 3

enum receive_stage {
	RECEIVE_PREROUTING = 0, /* from the device: traffic control, taps, netfilter */
	RECEIVE_ROUTING = 1,	/* from the search for its socket and route; none where both are known */
	RECEIVE_LOCAL_IN = 2,	/* from the decision that it is for this machine to its socket: netfilter */
};

enum send_stage {
	SEND_LOCAL_OUT = 0,   /* from the transport layer: netfilter */
	SEND_POSTROUTING = 1, /* netfilter */
	SEND_NEIGHBOUR = 2,   /* until it has a link address and is handed to the device's queue */
};

/* A stage that was not told apart. */
static const u64 PASSAGE_UNKNOWN = ~0ULL;

/* A packet on its way. */
struct passage {
	u64 entered[PASSAGE_STAGES]; /* CLOCK_MONOTONIC, ns; 0: not, or not seen */
	u64 socket;		     /* address of the sender's */
	u32 sampling;		     /* one of so many flows is looked at */
	u8 direction;		     /* enum direction */
	u8 family;		     /* 4 or 6 */
	u8 reserved[2];
};

struct passage_key {
	struct entity entity;
	u32 sampling; /* one of so many flows was looked at */
	u8 direction; /* enum direction */
	u8 family;    /* 4 or 6 */
	u8 reserved[2];
};

/* Where the duration of a stage was counted. */
struct passage_place {
	struct passage_key key;
	u32 stage; /* PASSAGE_STAGES: the total */
	u32 bucket;
};

struct passage_times {
	struct histogram total;
	struct histogram stages[PASSAGE_STAGES];
};

struct passage_event {
	u64 time; /* CLOCK_BOOTTIME, ns */
	u64 socket_cookie;
	struct passage_key key;
	u64 duration;		    /* ns, from the first stage that was seen */
	u64 stages[PASSAGE_STAGES]; /* ns, or PASSAGE_UNKNOWN */
	struct packet_ends ends;
	u32 length; /* bytes from the network header on, as the kernel holds them */
	u32 reserved;
	u8 interface[INTERFACE_NAME]; /* NUL-terminated */
	struct span_link span;
};

/* Why a segment was sent again. */
enum retransmit_type {
	RETRANSMIT_TIMEOUT = 1, /* after a retransmission timeout */
	RETRANSMIT_FAST = 2,	/* the peer's acknowledgements show a loss */
	RETRANSMIT_TAIL_LOSS_PROBE =
		3, /* nothing was acknowledged for two round trips (RFC 8985, section 7) */
	RETRANSMIT_SYN = 4,
	RETRANSMIT_SYN_ACK = 5,
};

struct retransmit_key {
	struct entity entity;
	u32 type;   /* enum retransmit_type */
	u32 family; /* 4 or 6 */
};

struct retransmit_event {
	struct event_head head;
	u32 type; /* enum retransmit_type */
	u32 segments;
	u32 congestion_window; /* segments */
	u32 smoothed_rtt;      /* us; 0: not measured yet */
	u32 attempts;	       /* timeouts in a row, or SYN-ACKs sent again, this time included */
	u32 reserved;
};

struct reset_key {
	struct entity entity;
	u32 reason;   /* enum sk_rst_reason of the running kernel, plus one; 0: it gives none */
	u8 direction; /* enum direction */
	u8 state;     /* of the socket, include/net/tcp_states.h */
	u8 family;    /* 4 or 6 */
	u8 reserved;
};

struct reset_event {
	struct event_head head;
	struct reset_key key;
};

enum handshake_role {
	ROLE_CLIENT = 1,
	ROLE_SERVER = 2,
};

struct handshake_key {
	struct entity entity;
	u32 role;   /* enum handshake_role */
	u32 family; /* 4 or 6 */
};

struct connect_failure_key {
	struct entity entity;
	u32 error; /* errno; 0: the application gave up */
	u32 family;
};

struct connect_event {
	struct event_head head;
	u64 duration; /* ns since the request */
	u32 error;    /* errno; 0: the application gave up */
	u32 attempts; /* requests sent */
};
#define COMMAND_NAME 16
/* A power of two; the kernel has 10 (include/linux/interrupt.h). */
#define SOFTIRQ_VECTORS 16

enum softirq_stage {
	SOFTIRQ_WAIT = 1, /* from the raise to the beginning of the handler */
	SOFTIRQ_RUN = 2,  /* from there to its end */
};

/* Who had a CPU for a while: a softirq's handler, else a task. */
struct stretch {
	u64 from; /* CLOCK_MONOTONIC, ns */
	u64 to;
	u32 handler; /* its vector, plus one; 0: a task */
	u32 pid;     /* of the task's process; 0: the CPU was idle */
	u8 command[COMMAND_NAME];
};

struct softirq_event {
	struct event_head head;
	u64 duration;	       /* ns that the stage took */
	struct stretch holder; /* of a wait: who had the CPU the longest meanwhile; all zero: unknown */
	u32 vector;
	u32 stage; /* enum softirq_stage */
	u32 cpu;
	u32 reserved;
};

/* A task that waits for a CPU. */
struct runnable {
	u64 since;     /* CLOCK_MONOTONIC, ns */
	u64 preempted; /* 1: it was running before; 0: it was woken */
};

struct scheduler_event {
	struct event_head head;
	u64 wait;		/* ns */
	struct stretch instead; /* who had the CPU the longest meanwhile; all zero: unknown */
	u32 pid;		/* of the task's process */
	u32 cpu;		/* that it got */
	u32 preempted;
	u32 reserved;
	u8 command[COMMAND_NAME];
};

#include "abi_wait.h"

#define DISK_NAME 32

/* What block requests are counted by. */
struct block_key {
	u64 cgroup;    /* that the data belongs to; 0: unknown */
	u32 operation; /* enum req_op of the running kernel */
	u32 reserved;
	u8 disk[DISK_NAME]; /* filled with zeros */
};

/* A block request on its way. */
struct block_request {
	u64 began;    /* CLOCK_MONOTONIC, ns: queued, or issued without that */
	u64 issued;   /* to the driver, for the last time; 0: not yet */
	u64 identity; /* when the kernel made it; tells it from an earlier one at the address */
	u64 sector;   /* of 512 bytes; from here on as of the first issue */
	u32 size;     /* bytes */
	u32 pid;      /* of the process that queued it */
	struct block_key key;
	u8 command[COMMAND_NAME];
};

struct block_event {
	struct event_head head;
	u64 duration; /* ns from the issue to the end */
	struct block_request request;
};

/*
 * Where each table of a namespace's SNMP counters begins among its sums. Each has room for more counters than
 * any kernel has so far (in brackets: 7.3); what is beyond is not read.
 */
enum counter_slot {
	SLOT_IP = 0,				      /* ipstats_mib (38) */
	SLOT_IP6 = SLOT_IP + 48,		      /* ipstats_mib */
	SLOT_TCP = SLOT_IP6 + 48,		      /* tcp_mib (16) */
	SLOT_NET = SLOT_TCP + 24,		      /* linux_mib (136) */
	SLOT_UDP = SLOT_NET + 168,		      /* udp_mib (10) */
	SLOT_UDP6 = SLOT_UDP + 16,		      /* udp_mib */
	SLOT_UDPLITE = SLOT_UDP6 + 16,		      /* udp_mib */
	SLOT_UDPLITE6 = SLOT_UDPLITE + 16,	      /* udp_mib */
	SLOT_ICMP = SLOT_UDPLITE6 + 16,		      /* icmp_mib (30) */
	SLOT_ICMP6 = SLOT_ICMP + 40,		      /* icmpv6_mib (7) */
	SLOT_MPTCP = SLOT_ICMP6 + 16,		      /* mptcp_mib (87) */
	SLOT_ICMP_TYPES = SLOT_MPTCP + 112,	      /* icmpmsg_mib: messages received by type, then sent */
	SLOT_ICMP6_TYPES = SLOT_ICMP_TYPES + 2 * 256, /* icmpv6msg_mib */
	COUNTER_SLOTS = SLOT_ICMP6_TYPES + 2 * 256,
};

/* The counters of one network namespace, summed over the CPUs. */
struct namespace_counters {
	u64 cookie; /* zero before 5.12 when it was never asked for */
	u32 netns;  /* inode */
	u32 failed; /* 1: something could not be read, and the values are not to be used */
	u64 values[COUNTER_SLOTS];
};

/* Where the counters of one CPU are. */
struct cpu_place {
	u64 offset; /* from a per-CPU pointer to what it points to on this CPU */
	u64 known;  /* 1: offset is set */
};

/* Namespaces of one run of the walk: 400 KiB of records. */
#define COUNTER_RECORDS 32

/* What a run of the walk returns: how many namespaces it stored, and this bit when it came to the end. */
#define WALK_ENDED 0x10000

/* How a free is classified before the packet is looked at. */
enum verdict {
	VERDICT_LOSS = 0,
	VERDICT_HARMLESS = 1,
	VERDICT_HARMLESS_IF_MULTICAST = 2,
	VERDICT_HARMLESS_IF_FIN = 3,
};

/* A kernel function's address range, end exclusive, and what its frees are. */
struct range {
	u64 start;
	u64 end;
	u64 verdict; /* enum verdict */
};

/* What tasks did with read(2), write(2) and their kind: struct task_io_accounting, as in /proc/<pid>/io. */
struct io_totals {
	u64 read_chars; /* bytes that system calls took or gave, whatever the file: rchar, wchar */
	u64 write_chars;
	u64 read_calls; /* those system calls: syscr, syscw */
	u64 write_calls;
	u64 read_bytes; /* bytes that storage was asked for, or that pages were made dirty by */
	u64 write_bytes;
	u64 cancelled_write_bytes; /* bytes of dirty pages that were thrown away: never written */
};

/* include/uapi/linux/bpf.h; the verifier knows it by this name. */
struct bpf_spin_lock {
	u32 val;
};

/*
 * What has been added for a task. An exit marks the entry, and user space removes it between two passes, so
 * that an entry is never in use again while a program holds it. Until then a new task may have the same
 * address.
 */
struct io_task {
	struct bpf_spin_lock lock;
	u32 ended;
	u64 start; /* of the task: tells it from a later one */
	struct io_totals totals;
};

struct io_cgroup {
	struct io_totals totals;
	u64 parent; /* id of the cgroup around it; 0: there is none */
};

struct io_state {
	u64 since; /* CLOCK_BOOTTIME ns of the first pass, when counting began; 0: not yet */
	u64 tasks; /* entries of the map `tasks` */
	u64 ended; /* of these, about so many are of tasks that have ended */
};

/* Passes over all open files. User space only sets the first number. */
struct pass {
	u64 number;	   /* of the pass under way, or of the next one: rises at the end of each */
	u64 begun;	   /* number of the last pass that began */
	u64 ended;	   /* number of the last pass that came to its end */
	u64 descriptors;   /* of the last pass */
	u64 sockets;	   /* of the last pass, each once */
	u64 marks;	   /* since the start, as all below: entries made in `shared` and `tables` */
	u64 unmarked;	   /* shared sockets and tables for which those had no room */
	u64 uncounted;	   /* sockets for which `sockets` had no room */
	u64 unattributed;  /* processes for which `descriptors` had no room */
	u64 unmeasured;	   /* round-trip times for which `rtt` had no room */
	u64 flow_overflow; /* connections for which `flows` had no room, once for each time one was added to
			      it */
};

/* What sockets are counted by. */
struct socket_key {
	struct entity entity;
	u16 domain;   /* AF_* */
	u16 protocol; /* of IP sockets: the protocol number, IPPROTO_RAW for raw ones; else 0 */
	u8 family;    /* 4 or 6 by the packets of an IP socket, else 0 */
	u8 state;     /* of TCP: include/net/tcp_states.h; else 0 */
	u8 reserved[2];
};

/* Sums over the sockets of one key in one pass; those of an earlier pass mean that there is none any more. */
struct socket_sums {
	u64 pass;
	u64 sockets;	    /* with a descriptor, each once */
	u64 subflows;	    /* TCP connections below an MPTCP socket; they have no descriptor */
	u64 receive_queue;  /* bytes that the application has not read */
	u64 transmit_queue; /* bytes that the peer has not acknowledged */
	u64 unacked;	    /* segments in flight */
	u64 window;	    /* congestion windows, in segments */
	u64 backlog;	    /* of listeners: connections that wait to be accepted */
	u64 backlog_limit;
	u64 requests; /* of listeners: handshakes that the peer has not completed */
};

enum descriptor_kind {
	DESCRIPTOR_SOCKET = 0,
	DESCRIPTOR_FILE = 1, /* a file, directory or device */
	DESCRIPTOR_PIPE = 2,
	DESCRIPTOR_EPOLL = 3,
	DESCRIPTOR_OTHER = 4, /* eventfd, timerfd, memfd, pidfd, ... */
	DESCRIPTOR_KINDS = 5,
};

/* The open descriptors of an entity's processes in one pass, and the process nearest to its limit. */
struct descriptor_sums {
	u64 pass;
	u64 open[DESCRIPTOR_KINDS];
	u64 fullest_open;
	u64 fullest_limit; /* RLIMIT_NOFILE, soft */
};

/* Whose traffic, and with whom. */
struct flow_key {
	struct entity entity;
	u8 address[16]; /* network order; IPv4 in the first four bytes */
	u8 family;	/* 4 or 6 */
	u8 reserved[7];
};

/* Traffic of TCP connections with one peer. */
struct flow {
	u64 received;	      /* bytes of payload */
	u64 sent;	      /* bytes of payload, what was sent again not counted twice */
	u64 segments_in;      /* with those without payload */
	u64 segments_out;     /* with those sent again */
	u64 retransmits;      /* segments */
	u64 pass;	      /* the last that saw a connection; of it: */
	u64 round_trip_times; /* us, sum over connections */
	u64 connections;      /* how many gave one */
};

/* Traffic of UDP sockets with one peer. */
struct datagrams {
	u64 received; /* bytes of payload */
	u64 sent;     /* bytes of payload */
	u64 datagrams_in;
	u64 datagrams_out;
	u64 last; /* ns since boot without suspend: the last of them */
};

#endif
