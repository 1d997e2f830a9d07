//! Datagrams have a wait each, however many a call reads, and whatever became of others of their socket.

#![expect(clippy::unwrap_used, reason = "a test")]
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

mod common;
mod waits;

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

use common::{Namespace, Network, eventually};
use jitterscope_ebpf::socketlatency::Half;
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
use waits::{FAMILIES, PORT, Probe, UDP, datagrams, hold, more, readable, server, slow, undisturbed};

/// Reads so many datagrams in one call; how many there were.
fn read_many(from: &UdpSocket, most: usize) -> usize {
    let mut buffers = vec![[0_u8; 64]; most];
    let mut parts: Vec<libc::iovec> = buffers
        .iter_mut()
        .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
        .collect();
    let message = |part: &mut libc::iovec| {
        // SAFETY: all of it may be zero.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
        message
    };
    let mut messages: Vec<libc::mmsghdr> = parts.iter_mut().map(message).collect();
    let (first, length) = (messages.as_mut_ptr(), messages.len() as u32);
    // SAFETY: the messages and all that they point to outlive the call.
    let read =
        unsafe { libc::recvmmsg(from.as_raw_fd(), first, length, libc::MSG_DONTWAIT, std::ptr::null_mut()) };
    usize::try_from(read).unwrap()
}

#[test]
fn each_datagram_of_a_call_that_reads_many_has_its_own_wait() {
    let Some(probe) = Probe::open(Half::Reads) else { return };
    let network = Network::new();
    for family in FAMILIES {
        undisturbed("all datagrams", || {
            let (sender, receiver) = datagrams(&network, family);
            let before = probe.reads(&network.b, family, UDP);
            (0..3).for_each(|_| _ = sender.send(b"early").unwrap());
            readable(&receiver, 5);
            hold();
            (0..4).for_each(|_| _ = sender.send(b"late").unwrap());
            let mut read = 0;
            eventually("all of them", || {
                read += read_many(&receiver, 10 - read);
                read == 7
            });
            let waits = more(probe.reads(&network.b, family, UDP), &before);
            assert!(waits.count() <= 7 && slow(&waits) <= 3, "{waits:?}");
            (waits.count(), slow(&waits)) == (7, 3)
        });
    }
}

#[test]
fn datagrams_beyond_the_limit_have_no_wait_and_are_counted_as_missing() {
    let Some(probe) = Probe::open(Half::Reads) else { return };
    let network = Network::new();
    for family in FAMILIES {
        undisturbed("two hundred datagrams", || {
            let (sender, receiver) = datagrams(&network, family);
            let (before, overflow) = (probe.reads(&network.b, family, UDP), probe.overflow());
            (0..200).for_each(|_| _ = sender.send(b"x").unwrap());
            (0..200).for_each(|_| _ = receiver.recv(&mut [0; 10]).unwrap());
            let waits = more(probe.reads(&network.b, family, UDP), &before);
            let missing = probe.overflow() - overflow;
            assert!(waits.count() <= 128, "{waits:?}");
            // It goes on as if nothing had been.
            sender.send(b"x").unwrap();
            receiver.recv(&mut [0; 10]).unwrap();
            let next = more(probe.reads(&network.b, family, UDP), &before).count() - waits.count();
            waits.count() == 128 && missing == 72 && next == 1
        });
    }
}

/// A datagram to the test's port whose checksum is wrong, which shows when it is read: it is too long to be checked before.
fn bad_datagram(from: &Namespace, family: u8) {
    from.inside(|| {
        let domain = if family == 4 { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket(domain, SocketType::RAW, Some(ipproto::UDP)).unwrap();
        let [high, low] = PORT.to_be_bytes();
        let mut datagram = vec![high, low, high, low, 0, 208, 0xde, 0xad];
        datagram.resize(208, 1);
        let to = SocketAddr::new(server(family).ip(), 0);
        sendto(&socket, &datagram, SendFlags::empty(), &to).unwrap();
    });
}

#[test]
fn a_datagram_that_is_thrown_away_unread_does_not_lengthen_the_waits_of_the_next_ones() {
    let Some(probe) = Probe::open(Half::Reads) else { return };
    let network = Network::new();
    let errors = || network.b.counter("Udp", "InCsumErrors") + network.b.counter("", "Udp6InCsumErrors");
    for family in FAMILIES {
        undisturbed("three datagrams", || {
            let (sender, receiver) = datagrams(&network, family);
            let (before, thrown_away) = (probe.reads(&network.b, family, UDP), errors());
            bad_datagram(&network.a, family);
            hold();
            assert_eq!(errors(), thrown_away);
            for _ in 0..3 {
                sender.send(b"good").unwrap();
                assert_eq!(receiver.recv(&mut [0; 1000]).unwrap(), 4);
            }
            assert_eq!(errors(), thrown_away + 1);
            let waits = more(probe.reads(&network.b, family, UDP), &before);
            assert!(waits.count() <= 3 && slow(&waits) == 0, "{waits:?}");
            waits.count() == 3
        });
    }
}
