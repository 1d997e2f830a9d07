/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A part of abi.h: the application's spans that anomalies of the kernel belong to. */
#ifndef JITTERSCOPE_ABI_SPAN_H
#define JITTERSCOPE_ABI_SPAN_H

/* How a link was made. */
enum span_source {
	SPAN_SOURCE_NONE = 0,
	SPAN_SOURCE_WIRE = 1,		 /* from the bytes of the request on the connection */
	SPAN_SOURCE_THREAD = 2,		 /* from the memory of the thread that sent it */
	SPAN_SOURCE_INSTRUMENTATION = 3, /* from the table of OpenTelemetry eBPF Instrumentation: no span */
	SPAN_SOURCES = 4,
};

/* Which side of the request the socket is on. */
enum span_role {
	SPAN_ROLE_CLIENT = 1,
	SPAN_ROLE_SERVER = 2,
};

/* Bit of W3C trace flags: the span is recorded. */
#define SPAN_SAMPLED 1

/* The span that something belongs to; source 0: none is known. */
struct span_link {
	u8 trace_id[16];
	u8 span_id[8];
	u8 flags;  /* of the W3C trace context */
	u8 source; /* enum span_source */
	u8 role;   /* enum span_role */
	u8 reserved[5];
};

/* Where programs keep what they know of sockets. */
enum span_storage {
	SPAN_STORAGE_NONE = 0,	 /* nowhere: there are no span links */
	SPAN_STORAGE_SOCKET = 1, /* with the socket */
	SPAN_STORAGE_ADDRESS =
		2, /* under its address, where tracing programs have no storage with sockets (before 5.11) */
};

enum span_state {
	SPAN_UNKNOWN = 0, /* the last request has no usable context, or the last message was none */
	SPAN_KNOWN = 1,
	SPAN_AMBIGUOUS = 2,  /* requests overlap: with HTTP/1 never again a link on this connection */
	SPAN_CONNECTING = 3, /* nothing but the wish to connect: good until the peer answers it */
};

/* What is known of the end of a request. */
enum span_extent {
	EXTENT_UNTOLD = 0, /* HTTP/1: nothing */
	EXTENT_OPEN = 1,   /* HTTP/2: it has not come, and no other request is open */
	EXTENT_CLOSED = 2, /* HTTP/2: both sides have said all */
};

/*
 * The last request of a connection, or what its last sender was at. Positions are those of TCP's streams.
 */
struct span_context {
	u64 captured_at; /* CLOCK_MONOTONIC, ns */
	u64 cookie;	 /* of the socket, where this is kept under its address; else 0 */
	u32 start;	 /* of the request, in the stream of the side that asks */
	u32 end;    /* of the packet that it began with; HTTP/2: of its last one; of a thread: of all that it
		       wrote */
	u32 answer; /* where the answer starts, in the stream of the other side */
	u32 answer_end; /* and where it ends, once that is known to be over */
	u32 ports;	/* own and peer's, in network order; own 0: not known yet */
	u32 state;	/* enum span_state */
	u32 extent;	/* enum span_extent */
	u32 process;	/* thread: its process */
	u32 others;	/* thread: 1: something else was sent on this connection too */
	u32 reserved;
	struct span_link link;
	u64 check; /* all other words by exclusive or: shows a copy that was taken while another CPU wrote */
};

/* What became of contexts, by source. */
struct span_counts {
	u64 captured;  /* requests with a context */
	u64 used;      /* anomalies that were linked */
	u64 expired;   /* anomalies whose context was too old */
	u64 ambiguous; /* anomalies that may be of another request than the last one, and overlapping requests
			*/
	u64 conflicting; /* sends for which a source of more authority named another trace */
};

/* What is known of a process's threads. */
enum thread_state {
	THREAD_ASKED = 0,      /* user space is looking, or found nothing */
	THREAD_KNOWN = 1,      /* where each thread keeps its context */
	THREAD_DISTRUSTED = 2, /* it says something else than its requests do */
};

/* Where the threads of a process have the pointer to their context. Distances are added modulo 2^64. */
struct thread_place {
	u64 module; /* of the dynamic linker; 0: at the same distance from each thread pointer */
	u64 offset; /* from the thread pointer, or from the start of the module's block */
	u64 vector; /* from the thread pointer: where the pointer to the vector of blocks is */
	u64 entry;  /* bytes of an entry of that vector */
	u64 count;  /* from the vector's start: where the number of its entries is */
};

/* A process that sends by TCP. */
struct thread_process {
	u64 started; /* CLOCK_BOOTTIME, ns */
	u64 program; /* how often it had become another program (execve) */
	u64 again;   /* CLOCK_MONOTONIC, ns: when user space is asked again */
	u32 state;   /* enum thread_state */
	u32 asked;   /* how often it was */
	struct thread_place place;
};

/* An entry of the table of OpenTelemetry eBPF Instrumentation. */
struct instrumented_context {
	u8 trace_id[16];
	u8 span_id[8];
};

/* So many processes that say nothing are kept in mind. */
#define THREAD_SILENCES 4096

/* User space is to look at a process. */
struct thread_question {
	u64 started; /* this and the next as in struct thread_process */
	u64 program;
	u32 process;
	u32 reserved;
};

/* Which anomalies are shown with the counters that count them. */
enum exemplar_filter {
	EXEMPLARS_NONE = 0,
	EXEMPLARS_SAMPLED = 1, /* those of spans that are recorded */
	EXEMPLARS_ALL = 2,
};

/* What is known of an anomaly that its counter does not tell apart. */
struct exemplar_facts {
	u8 peer_address[16]; /* network order; IPv4 in the first four bytes */
	u32 pid;	     /* of the process whose call it was; 0: nobody's, or unknown */
	u16 peer_port;	     /* host order; 0: unknown */
	u8 family;	     /* 4 or 6; 0: the address is unknown */
	u8 reserved;
};

/* The last anomaly that a counter, or a bucket, counted, of those that are shown with it. */
struct exemplar {
	u64 time;  /* CLOCK_BOOTTIME, ns */
	u64 value; /* by how much it was counted, or ns */
	struct span_link link;
	struct exemplar_facts facts;
};

#endif
