//! Packets that netfilter holds until the test lets them go on: a queue to user space (`NFQUEUE`).
#![expect(unsafe_code, reason = "a netlink family that no crate has")]

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use super::{Namespace, Network};

/// `include/uapi/linux/netfilter/nfnetlink_queue.h`: the subsystem, its messages and attributes.
const QUEUE: u16 = 3 << 8;
const PACKET: u16 = QUEUE;
const VERDICT: u16 = QUEUE | 1;
const CONFIG: u16 = QUEUE | 2;
const CONFIG_COMMAND: u16 = 1;
const CONFIG_COPY: u16 = 2;
const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;

/// What becomes of a packet, `include/uapi/linux/netfilter.h`.
#[derive(Clone, Copy)]
pub(crate) enum Verdict {
    Drop = 0,
    Accept = 1,
}

/// Packets of UDP or TCP to one port, held at one of netfilter's hooks in one namespace.
pub(crate) struct Held<'a> {
    socket: OwnedFd,
    namespace: &'a Namespace,
    program: &'static str,
    rule: String,
}

impl<'a> Held<'a> {
    /// Holds what `protocol` (`udp`) sends to `port` over IPv4 or IPv6 in `chain` (`PREROUTING`, `INPUT`, `OUTPUT`,
    /// `POSTROUTING`).
    pub(crate) fn new(namespace: &'a Namespace, chain: &str, protocol: &str, port: u16, family: u8) -> Self {
        let held = Self {
            socket: namespace.inside(open),
            namespace,
            program: if family == 4 { "iptables" } else { "ip6tables" },
            rule: format!("{chain} -p {protocol} --dport {port} -j NFQUEUE --queue-num 0"),
        };
        held.request(CONFIG, &attribute(CONFIG_COMMAND, &[1, 0, 0, 0]));
        // Only that there is one, not its bytes.
        held.request(CONFIG, &attribute(CONFIG_COPY, &[0, 0, 0, 0, 1]));
        held.tables("-A");
        held
    }

    fn tables(&self, action: &str) {
        self.namespace.sh(&format!("{} -w -t mangle {action} {}", self.program, self.rule));
    }

    /// A message with an answer that says whether it was accepted.
    fn request(&self, kind: u16, attributes: &[u8]) {
        self.send(kind, libc::NLM_F_REQUEST as u16 | libc::NLM_F_ACK as u16, attributes);
        let answer = self.receive().unwrap();
        let code = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
        assert_eq!(code, 0, "{}", io::Error::from_raw_os_error(-code));
    }

    fn send(&self, kind: u16, flags: u16, attributes: &[u8]) {
        let length = 20 + attributes.len() as u32;
        let mut message = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes()].concat();
        // Sequence and sender; any family, version 0, queue 0.
        message.extend([0; 12]);
        message.extend(attributes);
        // SAFETY: the message lives as long as the call.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        assert_eq!(sent, message.len() as isize);
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; 4096];
        // SAFETY: the buffer is as long as said.
        let got = unsafe { libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        buffer.truncate(got as usize);
        Ok(buffer)
    }

    /// Waits until `count` packets are held; each with the time when it was known.
    pub(crate) fn wait(&self, count: usize) -> Vec<(u32, Instant)> {
        let ids = std::iter::from_fn(|| self.receive().ok()).filter_map(|message| packet_id(&message));
        ids.take(count).map(|id| (id, Instant::now())).collect()
    }

    /// Holds each of `count` packets for `time`, then decides; how long each was held at least.
    pub(crate) fn decide(&self, count: usize, time: Duration, verdict: Verdict) -> Vec<Duration> {
        let held = self.wait(count);
        std::thread::sleep(time);
        let decide = |(id, since): &(u32, Instant)| {
            let least = since.elapsed();
            let header = [(verdict as u32).to_be_bytes(), id.to_be_bytes()].concat();
            self.send(VERDICT, libc::NLM_F_REQUEST as u16, &attribute(VERDICT_HEADER, &header));
            least
        };
        held.iter().map(decide).collect()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.tables("-D");
    }
}

fn open() -> OwnedFd {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no pointer is passed; the descriptor is new, and owned from here on.
    let socket =
        unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER)) };
    let patience = libc::timeval { tv_sec: 10, tv_usec: 0 };
    let size = size_of::<libc::timeval>() as libc::socklen_t;
    // SAFETY: the option is a timeval, which lives as long as the call.
    let set = unsafe {
        let (level, name) = (libc::SOL_SOCKET, libc::SO_RCVTIMEO);
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const patience).cast(), size)
    };
    assert_eq!(set, 0);
    socket
}

/// An attribute, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len() as u16;
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The number of the packet that a message is about.
fn packet_id(message: &[u8]) -> Option<u32> {
    if message.get(4..6)? != PACKET.to_ne_bytes() {
        return None;
    }
    let mut rest = message.get(20..)?;
    loop {
        let number = |at: usize| Some(u16::from_ne_bytes(rest.get(at..at + 2)?.try_into().unwrap()));
        let (length, kind) = (usize::from(number(0)?), number(2)?);
        if kind == PACKET_HEADER {
            return Some(u32::from_be_bytes(rest.get(4..8)?.try_into().unwrap()));
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// Where servers listen.
pub(crate) const PORT: u16 = 7777;

/// A server's address, on the second host.
pub(crate) fn server(family: u8) -> SocketAddr {
    (Network::address(2, family), PORT).into()
}

/// A client of that server, on the first host.
pub(crate) fn sender(network: &Network, family: u8) -> UdpSocket {
    let sender = network.a.inside(|| UdpSocket::bind((Network::address(1, family), 0)).unwrap());
    sender.connect(server(family)).unwrap();
    sender
}

/// The server, for datagrams.
pub(crate) fn receiver(network: &Network, family: u8) -> UdpSocket {
    let receiver = network.b.inside(|| UdpSocket::bind(server(family)).unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    receiver
}
