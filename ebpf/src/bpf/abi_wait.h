/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A part of abi.h: what waits in sockets, to be read and to be sent. */
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

struct socket_wait_event {
	struct event_head head;
	u64 wait;      /* ns */
	u32 operation; /* enum socket_operation */
	u32 pid;       /* of the process that read or wrote; 0: the kernel did, for whom is unknown */
	u8 command[COMMAND_NAME];
};

#endif
