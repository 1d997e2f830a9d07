/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A part of abi.h: what waits in sockets, to be read and to be sent, and for a device's answer. */
#ifndef JITTERSCOPE_ABI_WAIT_H
#define JITTERSCOPE_ABI_WAIT_H

enum socket_operation {
	SOCKET_READ = 1,
	SOCKET_WRITE = 2,
};

/* What waits are told apart by. */
struct socket_wait_key {
	struct entity entity;
	u8 family;   /* 4 or 6 */
	u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	u8 reserved[6];
};

/* Where a wait was counted. */
struct socket_wait_place {
	struct socket_wait_key key;
	u32 operation; /* enum socket_operation */
	u32 bucket;
};

struct socket_wait_event {
	struct event_head head;
	u64 wait;      /* ns */
	u32 operation; /* enum socket_operation */
	u32 pid;       /* of the process that read or wrote; 0: the kernel did, for whom is unknown */
	u8 command[COMMAND_NAME];
};

/* A command on the control queue of virtio-net. */
struct command_event {
	struct event_head head;
	u64 duration; /* ns */
	u32 class;    /* include/uapi/linux/virtio_net.h */
	u32 pid;      /* of the process on whose behalf, or of the kernel's thread */
	u8 command[COMMAND_NAME];
};

#endif
