//! The compiled C files.

use aya::include_bytes_aligned;

use crate::Object;

/// The object of `src/bpf/<name>.bpf.c`, with the hooks that it can do without.
macro_rules! object {
    ($name:literal, optional: $optional:expr) => {
        Object {
            name: $name,
            elf: include_bytes_aligned!(concat!(env!("OUT_DIR"), "/", $name, ".o")),
            optional: $optional,
        }
    };
}

impl Object {
    /// Block requests: how long they are queued and take.
    pub const BIOLATENCY: Self = object!("biolatency", optional: &["block_rq_merge"]);
    /// The SNMP counters of all network namespaces.
    pub const COUNTERS: Self = object!("counters", optional: &[]);
    /// UDP by peer.
    pub const DATAGRAMS: Self = object!("datagrams", optional: &[]);
    /// What tasks read and wrote.
    pub const IO: Self = object!("io", optional: &[]);
    /// Packets on their way between device and socket.
    pub const KERNELLATENCY: Self = object!("kernellatency", optional: crate::kernellatency::FUNCTIONS);
    /// Packets on their way out through the queues and drivers of interfaces.
    pub const NETIFTXLATENCY: Self = object!("netiftxlatency", optional: &[]);
    /// Dropped packets.
    pub const PACKETLOSS: Self = object!("packetloss", optional: &["tcp_conn_request"]);
    /// Handshakes, lifetimes and failures of TCP connections.
    pub const TCPCONNECT: Self = object!("tcpconnect", optional: &["tcp_retransmit_synack"]);
    /// Resets of TCP connections.
    pub const TCPRESET: Self = object!("tcpreset", optional: &["tcp_v4_send_reset", "tcp_v6_send_reset"]);
    /// Sockets and descriptors, by passes.
    pub const SOCKETS: Self = object!("sockets", optional: &[]);
    /// The same with traffic by peer.
    pub const FLOWS: Self = object!("flows", optional: &[]);
    /// Tasks that wait for a CPU.
    pub const SCHEDLATENCY: Self = object!("schedlatency", optional: &[]);
    /// What waits in sockets, to be read and to be sent. Which hooks it needs depends on the kernel: `socketlatency.rs`.
    pub(crate) const SOCKETLATENCY: Self = object!(
        "socketlatency",
        optional: &[
            "sk_data_ready",
            "sock_def_readable",
            "tcp_rcv_space_adjust",
            "sock_recv_length",
            "tcp_cleanup_rbuf",
            "skb_consume_udp",
            "tcp_sendmsg_locked",
            "sock_send_length",
            "net_dev_queue",
        ]
    );
    /// Softirqs: how long they wait and run.
    pub const SOFTIRQ: Self = object!("softirq", optional: &[]);
    /// Segments that TCP sends again.
    pub const TCPRETRANS: Self = object!("tcpretrans", optional: &[]);
    /// Requests of HTTP/1 as they pass, for their spans: `spans.rs`.
    pub(crate) const WIRE: Self = object!("wire", optional: &[]);
    /// What threads are at that send, for their spans: `spans/threads.rs`.
    pub(crate) const THREAD: Self = object!("thread", optional: &[]);
    /// Commands of virtio-net. Which function it watches depends on the kernel: `virtcmdlatency.rs`.
    pub(crate) const VIRTCMDLATENCY: Self =
        object!("virtcmdlatency", optional: &["virtnet_send_command_reply", "virtnet_send_command"]);
}
