//! Dumps of the sockets of a network namespace (`net/ipv4/inet_diag.c`, `net/unix/diag.c`).

use std::{fs::File, io, os::fd::AsFd, os::unix::fs::MetadataExt};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::path;
use crate::pods::Namespace;

/// `TCP_LISTEN` and those around it, `include/net/tcp_states.h`.
pub(super) const LISTEN: u8 = 10;
pub(super) const SYN_RECEIVED: u8 = 3;
const CONNECTED: [u8; 7] = [1, 4, 5, 6, 8, 9, 11];

/// `include/uapi/linux/{in,sock_diag,netlink,inet_diag}.h`.
const TCP: u8 = 6;
const UDP: u8 = 17;
const INET: u8 = 2;
const INET6: u8 = 10;
const UNIX: u8 = 1;
const BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const DONE: u16 = 3;
const ERROR: u16 = 2;
const INFO: u16 = 2;
const CGROUP_ID: u16 = 21;

/// What the kernel puts into one answer at most (`net/netlink/af_netlink.c`, `netlink_dump`).
const ANSWER: usize = 32 * 1024;

/// One socket that a process has open, or a request that one of its listeners has.
#[derive(Default)]
pub(super) struct Socket {
    pub(super) domain: u16,
    pub(super) protocol: u16,
    /// 4 or 6 by its packets, else 0.
    pub(super) family: u8,
    pub(super) state: u8,
    pub(super) cgroup: u64,
    pub(super) receive_queue: u32,
    pub(super) transmit_queue: u32,
    pub(super) unacked: u32,
    pub(super) window: u32,
    /// µs; 0 before the first measurement.
    pub(super) rtt: u32,
}

/// The sockets of each namespace, none of those that are gone or may not be entered (`CAP_SYS_ADMIN`). A thread of its own
/// enters one after the other, and ends.
pub(super) fn visit(namespaces: &[Namespace]) -> Vec<Vec<Socket>> {
    let all = || namespaces.iter().map(|one| sockets(one).unwrap_or_default()).collect();
    std::thread::scope(|scope| scope.spawn(all).join().unwrap_or_default())
}

fn sockets(namespace: &Namespace) -> io::Result<Vec<Socket>> {
    let target = File::open(path(&namespace.source))?;
    if target.metadata()?.ino() != u64::from(namespace.id.inode) {
        return Err(io::ErrorKind::NotFound.into());
    }
    move_into_link_name_space(target.as_fd(), Some(LinkNameSpaceType::Network))?;
    let mut found = Vec::new();
    for (family, protocol) in [(INET, TCP), (INET6, TCP), (INET, UDP), (INET6, UDP)] {
        dump(&inet_request(family, protocol), |message| found.extend(inet(message, protocol)))?;
    }
    // Kernels can be without.
    let unix = dump(&unix_request(), |message| found.extend(unix(message)));
    unix.or_else(|error| if error.raw_os_error() == Some(libc::ENOENT) { Ok(()) } else { Err(error) })?;
    Ok(found)
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn inet_request(family: u8, protocol: u8) -> [u8; 72] {
    let mut request = [0; 72];
    header(&mut request);
    request[16..20].copy_from_slice(&[family, protocol, 1 << (INFO - 1), 0]);
    request[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
    request
}

/// `struct nlmsghdr` and `struct unix_diag_req`.
fn unix_request() -> [u8; 40] {
    let mut request = [0; 40];
    header(&mut request);
    request[16] = UNIX;
    request[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
    request
}

fn header(request: &mut [u8]) {
    let length = request.len() as u32;
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&REQUEST_DUMP.to_ne_bytes());
}

/// Sends a request and gives the body of each message of the answer to `visit`.
fn dump(request: &[u8], mut visit: impl FnMut(&[u8])) -> io::Result<()> {
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    send(&socket, request, SendFlags::empty())?;
    let mut buffer = vec![0; ANSWER];
    loop {
        let length = match recv(&socket, &mut buffer[..], RecvFlags::empty()) {
            Err(Errno::INTR) => continue,
            other => other?.0,
        };
        let mut rest = &buffer[..length];
        while let Some((kind, body, next)) = message(rest) {
            match kind {
                DONE => return Ok(()),
                ERROR => {
                    return Err(io::Error::from_raw_os_error(word(body, 0).cast_signed().saturating_neg()));
                }
                _ => visit(body),
            }
            rest = next;
        }
    }
}

/// Type and body of the first message, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = word(bytes, 0) as usize;
    let body = bytes.get(16..length)?;
    Some((short(bytes, 4), body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// A socket from `struct inet_diag_msg` and its attributes; `None` for one that no process has open, but for requests.
fn inet(body: &[u8], protocol: u8) -> Option<Socket> {
    let (domain, state) = (*body.first()?, *body.get(1)?);
    let is_request = protocol == TCP && state == SYN_RECEIVED;
    if word(body, 68) == 0 && !is_request {
        return None;
    }
    let mut socket = Socket {
        domain: domain.into(),
        protocol: protocol.into(),
        family: family(domain, body.get(8..24)?, body.get(24..40)?),
        ..Socket::default()
    };
    if protocol == TCP {
        socket.state = state;
        (socket.receive_queue, socket.transmit_queue) = (word(body, 56), word(body, 60));
    }
    let mut rest = body.get(72..)?;
    while let Some((kind, value, next)) = attribute(rest) {
        match kind {
            CGROUP_ID => socket.cgroup = u64::from_ne_bytes(value.try_into().ok()?),
            INFO if protocol == TCP && state != LISTEN => read_info(&mut socket, value),
            _ => {}
        }
        rest = next;
    }
    Some(socket)
}

/// From `struct tcp_info`, include/uapi/linux/tcp.h.
fn read_info(socket: &mut Socket, info: &[u8]) {
    socket.unacked = word(info, 24);
    if CONNECTED.contains(&socket.state) {
        socket.rtt = word(info, 68);
        socket.window = word(info, 80);
    }
}

/// 4 or 6 by the packets: an IPv6 socket whose peer, or while it has none whose own address, is IPv4-mapped speaks IPv4.
fn family(domain: u8, own: &[u8], peer: &[u8]) -> u8 {
    let is_mapped = |address: &[u8]| address[..10] == [0; 10] && address[10..12] == [0xff; 2];
    let mapped = is_mapped(peer) || (peer == [0; 16] && is_mapped(own));
    if domain == INET || mapped { 4 } else { 6 }
}

/// A socket from `struct unix_diag_msg`, which tells nothing of its cgroup.
fn unix(body: &[u8]) -> Option<Socket> {
    (word(body, 4) != 0).then_some(Socket { domain: UNIX.into(), ..Socket::default() })
}

fn attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::from(short(bytes, 0));
    let value = bytes.get(4..length)?;
    Some((short(bytes, 2), value, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The 32-bit number at `at`, 0 beyond the end.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// The 16-bit number at `at`, 0 beyond the end.
fn short(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|short| short.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

/// Reads an answer, and its bytes as the body of a message.
#[cfg(any(test, fuzzing))]
pub(in crate::round) fn read_diag(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some((_, body, next)) = message(rest) {
        assert!(next.len() < rest.len());
        read_body(body);
        rest = next;
    }
    read_body(bytes);
}

#[cfg(any(test, fuzzing))]
fn read_body(body: &[u8]) {
    let families = [TCP, UDP].map(|protocol| inet(body, protocol).map(|socket| socket.family));
    assert!(families.iter().flatten().all(|family| matches!(family, 4 | 6)));
    std::hint::black_box(unix(body));
}
