//! Every read has one wait, as long as the test let the data wait, in both families and both protocols.

#![expect(clippy::unwrap_used, reason = "a test")]
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

mod common;
mod waits;

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::{Duration, Instant};

use common::{Network, eventually};
use jitterscope_ebpf::abi::SOCKET_READ;
use jitterscope_ebpf::socketlatency::Half;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};
use waits::{
    FAMILIES, HOLD, Probe, TCP, UDP, caller, check_one, connection, datagrams, ends, hold, more, named,
    readable, server, slow, undisturbed,
};

/// Whether `poll` says that something can be read.
fn is_ready(socket: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap() == 1
}

/// Moves what can be read into a pipe and away, without copying; how many bytes.
fn splice(from: &TcpStream) -> usize {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let none = std::ptr::null_mut();
    // SAFETY: both descriptors are open, and there are no offsets.
    let moved = unsafe { libc::splice(from.as_raw_fd(), none, writer.as_raw_fd(), none, 65_536, 0) };
    reader.read_exact(&mut vec![0; moved as usize]).unwrap();
    moved as usize
}

#[test]
fn a_read_that_comes_late_waits_as_long_and_is_told_with_its_reader() {
    let Some(mut probe) = Probe::open(Half::Reads) else { return };
    let network = Network::new();
    for family in FAMILIES {
        undisturbed("a TCP read", || {
            let (mut client, mut accepted) = connection(&network, family);
            let before = probe.reads(&network.b, family, TCP);
            let wrote = Instant::now();
            client.write_all(&[0; 100]).unwrap();
            readable(&accepted, 100);
            let held = hold();
            let read = Instant::now();
            assert_eq!(named("late", || accepted.read(&mut [0; 1000]).unwrap()), 100);
            let told = probe.told(&network.b);
            let waits = more(probe.reads(&network.b, family, TCP), &before);
            if waits.count() == 0 {
                return false;
            }
            check_one(&waits, read - held, wrote.elapsed());
            let [event] = told.as_slice() else { panic!("{told:?}") };
            assert_eq!((event.wait, event.operation), (waits.sum, SOCKET_READ));
            assert_eq!(caller(event), (std::process::id(), "late".to_owned()));
            assert_eq!(ends(event), (accepted.local_addr().unwrap(), client.local_addr().unwrap()));
            assert_eq!((event.head.connection.protocol, event.head.connection.family), (TCP, family));
            true
        });
        undisturbed("a UDP read", || {
            let (sender, receiver) = datagrams(&network, family);
            let before = probe.reads(&network.b, family, UDP);
            let wrote = Instant::now();
            sender.send(&[0; 100]).unwrap();
            readable(&receiver, 100);
            let held = hold();
            let read = Instant::now();
            assert_eq!(named("late", || receiver.recv(&mut [0; 1000]).unwrap()), 100);
            let told = probe.told(&network.b);
            let waits = more(probe.reads(&network.b, family, UDP), &before);
            if waits.count() == 0 {
                return false;
            }
            check_one(&waits, read - held, wrote.elapsed());
            let [event] = told.as_slice() else { panic!("{told:?}") };
            assert_eq!((event.wait, event.operation), (waits.sum, SOCKET_READ));
            assert_eq!(caller(event), (std::process::id(), "late".to_owned()));
            assert_eq!(ends(event).0, server(family));
            assert_eq!((event.head.connection.protocol, event.head.connection.state), (UDP, 0));
            true
        });
    }
}

#[test]
fn every_read_is_counted_once_and_ordinary_ones_are_not_told() {
    let Some(mut probe) = Probe::open(Half::Reads) else { return };
    let network = Network::new();
    for family in FAMILIES {
        undisturbed("all TCP reads", || {
            let (mut client, mut accepted) = connection(&network, family);
            let before = [&network.a, &network.b].map(|side| probe.reads(side, family, TCP));
            for _ in 0..500 {
                client.write_all(b"request").unwrap();
                accepted.read_exact(&mut [0; 7]).unwrap();
                accepted.write_all(b"reply").unwrap();
                client.read_exact(&mut [0; 5]).unwrap();
            }
            let now = [&network.a, &network.b].map(|side| probe.reads(side, family, TCP));
            let counts = [more(now[0], &before[0]).count(), more(now[1], &before[1]).count()];
            assert!(counts.iter().all(|count| *count <= 500), "{counts:?}");
            counts == [500, 500]
        });
        undisturbed("all UDP reads", || {
            let (sender, receiver) = datagrams(&network, family);
            let before = probe.reads(&network.b, family, UDP);
            for length in (0..500).map(|i| i % 3) {
                sender.send(&vec![0; length]).unwrap();
                assert_eq!(receiver.recv(&mut [0; 10]).unwrap(), length);
            }
            let count = more(probe.reads(&network.b, family, UDP), &before).count();
            assert!(count <= 500, "{count}");
            count == 500
        });
    }
    let (a, b) = (probe.told(&network.a), probe.told(&network.b));
    assert!(a.is_empty() && b.is_empty(), "{a:?} {b:?}");
}

#[test]
fn to_look_at_data_or_to_be_told_of_it_is_no_read() {
    let Some(probe) = Probe::open(Half::Reads) else { return };
    let network = Network::new();
    for family in FAMILIES {
        undisturbed("TCP", || {
            let (mut client, mut accepted) = connection(&network, family);
            let before = probe.reads(&network.b, family, TCP);
            let wrote = Instant::now();
            client.write_all(&[0; 100]).unwrap();
            assert!(is_ready(&accepted));
            let held = Instant::now();
            while held.elapsed() < HOLD {
                readable(&accepted, 100);
                assert!(is_ready(&accepted));
            }
            assert_eq!(more(probe.reads(&network.b, family, TCP), &before).count(), 0);
            let read = Instant::now();
            assert_eq!(accepted.read(&mut [0; 1000]).unwrap(), 100);
            let waits = more(probe.reads(&network.b, family, TCP), &before);
            if waits.count() == 0 {
                return false;
            }
            check_one(&waits, read - held, wrote.elapsed());
            true
        });
        undisturbed("UDP", || {
            let (sender, receiver) = datagrams(&network, family);
            let before = probe.reads(&network.b, family, UDP);
            let wrote = Instant::now();
            // One without payload is told from one that was looked at in another way before 6.3.
            for length in [0, 100] {
                sender.send(&vec![0; length]).unwrap();
            }
            assert!(is_ready(&receiver));
            let held = Instant::now();
            while held.elapsed() < HOLD {
                readable(&receiver, 0);
                assert!(is_ready(&receiver));
            }
            assert_eq!(more(probe.reads(&network.b, family, UDP), &before).count(), 0);
            let read = Instant::now();
            assert_eq!(receiver.recv(&mut [0; 1000]).unwrap(), 0);
            let waits = more(probe.reads(&network.b, family, UDP), &before);
            assert_eq!(receiver.recv(&mut [0; 1000]).unwrap(), 100);
            let both = more(probe.reads(&network.b, family, UDP), &before);
            if both.count() < 2 {
                return false;
            }
            check_one(&waits, read - held, wrote.elapsed());
            assert_eq!(both.count(), 2);
            true
        });
    }
}

#[test]
fn two_readers_of_a_socket_have_a_wait_for_each_of_their_reads() {
    let Some(probe) = Probe::open(Half::Reads) else { return };
    let network = Network::new();
    for family in FAMILIES {
        undisturbed("TCP", || {
            let (mut client, accepted) = connection(&network, family);
            accepted.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let before = probe.reads(&network.b, family, TCP);
            let reads: u64 = std::thread::scope(|scope| {
                let read = || {
                    let take = || (&accepted).read(&mut [0; 3]).unwrap() > 0;
                    std::iter::repeat_with(take).take_while(|more| *more).count() as u64
                };
                let readers = [scope.spawn(read), scope.spawn(read)];
                (0..1000).for_each(|_| client.write_all(&[0; 5]).unwrap());
                client.shutdown(std::net::Shutdown::Write).unwrap();
                readers.map(|reader| reader.join().unwrap()).iter().sum()
            });
            let count = more(probe.reads(&network.b, family, TCP), &before).count();
            assert!(count <= reads && reads >= 1667, "{count} of {reads}");
            count == reads
        });
        undisturbed("UDP", || {
            let (sender, receiver) = datagrams(&network, family);
            receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let before = probe.reads(&network.b, family, UDP);
            let reads: u64 = std::thread::scope(|scope| {
                let read = || {
                    let take = || receiver.recv(&mut [0; 10]).is_ok();
                    std::iter::repeat_with(take).take_while(|more| *more).count() as u64
                };
                let readers = [scope.spawn(read), scope.spawn(read)];
                for _ in 0..20 {
                    (0..50).for_each(|_| _ = sender.send(&[0; 5]).unwrap());
                    eventually("they have read", || recv_queue(&receiver) == 0);
                }
                readers.map(|reader| reader.join().unwrap()).iter().sum()
            });
            let count = more(probe.reads(&network.b, family, UDP), &before).count();
            assert!(count <= reads && reads == 1000, "{count} of {reads}");
            count == reads
        });
    }
}

/// Bytes of the first datagram that waits, 0 for none.
fn recv_queue(socket: &UdpSocket) -> u64 {
    rustix::io::ioctl_fionread(socket).unwrap()
}

#[test]
fn data_that_is_taken_without_copying_has_waited_too_and_does_not_count_for_the_next_read() {
    let Some(probe) = Probe::open(Half::Reads) else { return };
    let network = Network::new();
    for family in FAMILIES {
        undisturbed("a splice and a read", || {
            let (mut client, mut accepted) = connection(&network, family);
            let before = probe.reads(&network.b, family, TCP);
            let wrote = Instant::now();
            client.write_all(&[0; 100]).unwrap();
            readable(&accepted, 100);
            let held = hold();
            let read = Instant::now();
            assert_eq!(splice(&accepted), 100);
            let first = probe.reads(&network.b, family, TCP);
            client.write_all(&[0; 10]).unwrap();
            accepted.read_exact(&mut [0; 10]).unwrap();
            let second = more(probe.reads(&network.b, family, TCP), &first);
            let first = more(first, &before);
            if first.count() == 0 || second.count() == 0 {
                return false;
            }
            check_one(&first, read - held, wrote.elapsed());
            assert_eq!((second.count(), slow(&second)), (1, 0), "{second:?}");
            true
        });
    }
}

#[test]
fn what_came_before_the_probe_has_no_wait_and_what_comes_later_its_own() {
    let network = Network::new();
    for family in FAMILIES {
        undisturbed("what comes later", || {
            let (mut client, mut accepted) = connection(&network, family);
            let (sender, receiver) = datagrams(&network, family);
            client.write_all(b"early").unwrap();
            sender.send(b"early").unwrap();
            readable(&accepted, 5);
            readable(&receiver, 5);
            let Some(mut probe) = Probe::open(Half::Reads) else { return true };
            hold();
            client.write_all(b"late").unwrap();
            sender.send(b"late").unwrap();
            readable(&accepted, 9);
            accepted.read_exact(&mut [0; 5]).unwrap();
            receiver.recv(&mut [0; 5]).unwrap();
            let counts =
                |probe: &Probe| [TCP, UDP].map(|protocol| probe.reads(&network.b, family, protocol).count());
            assert_eq!(counts(&probe), [0, 0]);
            accepted.read_exact(&mut [0; 4]).unwrap();
            receiver.recv(&mut [0; 5]).unwrap();
            // The bytes that arrived first may have come with earlier ones.
            let late = counts(&probe);
            client.write_all(b"later").unwrap();
            sender.send(b"later").unwrap();
            accepted.read_exact(&mut [0; 5]).unwrap();
            receiver.recv(&mut [0; 5]).unwrap();
            let later = counts(&probe);
            let told = probe.told(&network.b);
            assert!(late.iter().all(|count| *count <= 1) && told.is_empty(), "{late:?} {told:?}");
            late[0] == 0 && late[1] == 1 && later == [1, 2]
        });
    }
}

#[test]
fn a_call_that_takes_many_arrivals_has_the_wait_of_the_first() {
    let Some(probe) = Probe::open(Half::Reads) else { return };
    let network = Network::new();
    for family in FAMILIES {
        undisturbed("a call", || {
            let (mut client, mut accepted) = connection(&network, family);
            let before = probe.reads(&network.b, family, TCP);
            let wrote = Instant::now();
            client.write_all(&[0; 3000]).unwrap();
            readable(&accepted, 3000);
            let held = hold();
            (0..10).for_each(|_| client.write_all(&[0; 3000]).unwrap());
            readable(&accepted, 33_000);
            let read = Instant::now();
            assert_eq!(accepted.read(&mut vec![0; 40_000]).unwrap(), 33_000);
            let waits = more(probe.reads(&network.b, family, TCP), &before);
            if waits.count() == 0 {
                return false;
            }
            check_one(&waits, read - held, wrote.elapsed());
            true
        });
    }
}

#[test]
fn a_call_that_waits_for_more_does_not_make_what_it_has_wait() {
    let Some(probe) = Probe::open(Half::Reads) else { return };
    let network = Network::new();
    for family in FAMILIES {
        undisturbed("a call that waits", || {
            let (mut client, accepted) = connection(&network, family);
            let before = probe.reads(&network.b, family, TCP);
            std::thread::scope(|scope| {
                let all = || recv(&accepted, &mut [0; 10], RecvFlags::WAITALL).unwrap().1;
                let reader = scope.spawn(all);
                client.write_all(&[0; 5]).unwrap();
                hold();
                client.write_all(&[0; 5]).unwrap();
                assert_eq!(reader.join().unwrap(), 10);
            });
            let waits = more(probe.reads(&network.b, family, TCP), &before);
            assert!(waits.count() <= 2 && slow(&waits) == 0, "{waits:?}");
            waits.count() == 2
        });
    }
}

/// Single bytes, each of which arrives by itself.
fn send_apart(client: &mut TcpStream, accepted: &TcpStream, count: usize) {
    for n in 1..=count {
        client.write_all(b"x").unwrap();
        readable(accepted, n);
    }
}

#[test]
fn arrivals_beyond_the_limit_count_from_a_later_one_and_are_counted_as_such() {
    let Some(probe) = Probe::open(Half::Reads) else { return };
    let network = Network::new();
    for family in FAMILIES {
        undisturbed("forty arrivals", || {
            let (mut client, mut accepted) = connection(&network, family);
            let (before, overflow) = (probe.reads(&network.b, family, TCP), probe.overflow());
            let began = Instant::now();
            send_apart(&mut client, &accepted, 40);
            hold();
            (0..40).for_each(|_| accepted.read_exact(&mut [0]).unwrap());
            let waits = more(probe.reads(&network.b, family, TCP), &before);
            assert!(waits.count() <= 40, "{waits:?}");
            assert!(waits.sum <= 40 * began.elapsed().as_nanos() as u64, "{waits:?}");
            waits.count() == 40 && slow(&waits) == 40 && probe.overflow() - overflow == 8
        });
    }
}
