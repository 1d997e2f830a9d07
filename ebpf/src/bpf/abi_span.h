/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A part of abi.h: the application's spans that anomalies of the kernel belong to. */
#ifndef JITTERSCOPE_ABI_SPAN_H
#define JITTERSCOPE_ABI_SPAN_H

/* How a link was made. */
enum span_source {
	SPAN_SOURCE_NONE = 0,
	SPAN_SOURCE_WIRE = 1, /* from the bytes of the request on the connection */
	SPAN_SOURCES = 2,
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
	SPAN_AMBIGUOUS = 2, /* requests overlap: with HTTP/1 never again a link on this connection */
};

/* What is known of the end of a request. */
enum span_extent {
	EXTENT_UNTOLD = 0, /* HTTP/1: nothing */
	EXTENT_OPEN = 1,   /* HTTP/2: it has not come, and no other request is open */
	EXTENT_CLOSED = 2, /* HTTP/2: both sides have said all */
};

/* The last request of a connection. Positions are those of TCP's streams. */
struct span_context {
	u64 captured_at; /* CLOCK_MONOTONIC, ns */
	u64 cookie;	 /* of the socket, where this is kept under its address; else 0 */
	u32 start;	 /* of the request, in the stream of the side that asks */
	u32 end;	 /* of the packet that it began with; HTTP/2: of the last one of it */
	u32 answer;	 /* where the answer starts, in the stream of the other side */
	u32 answer_end;	 /* and where it ends, once that is known to be over */
	u32 ports;	 /* own and peer's, in network order */
	u32 state;	 /* enum span_state */
	u32 extent;	 /* enum span_extent */
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
