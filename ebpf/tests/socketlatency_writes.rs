//! Every write to a connection has one wait: until its last byte leaves for the first time.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;
mod waits;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Network, can_load, eventually, skip};
use jitterscope_ebpf::abi::SOCKET_WRITE;
use jitterscope_ebpf::socketlatency::Half;
use rustix::net::sockopt::{set_socket_linger, set_socket_send_buffer_size, set_tcp_cork};
use waits::{
    FAMILIES, HOLD, PORT, Probe, TCP, caller, check_one, connection, ends, hold, more, named, readable, slow,
    undisturbed,
};

/// The hook that comes in several forms.
const WRITES: &str = "tcp_sendmsg_locked";

/// The program in each form of its hook of writes that the kernel has.
fn in_each_form(mut body: impl FnMut(Probe)) {
    if !can_load() {
        return;
    }
    let mut without: Vec<String> = Vec::new();
    loop {
        let names: Vec<&str> = without.iter().map(String::as_str).collect();
        match Probe::open_without(Half::Writes, &names) {
            Ok(probe) => {
                let attached = probe.probe.observer.loaded().attachments();
                let form = attached.iter().find(|attached| attached.hook == WRITES).unwrap().form;
                without.push(format!("{form}/{WRITES}"));
                body(probe);
            }
            Err(missing) if without.is_empty() => return skip(&missing),
            Err(_) => return,
        }
    }
}

/// Writes until nothing more fits; how many writes took all of it, and bytes.
fn fill(client: &mut TcpStream, piece: &[u8]) -> (u64, usize) {
    client.set_nonblocking(true).unwrap();
    let (mut whole, mut bytes) = (0, 0);
    loop {
        match client.write(piece) {
            Ok(length) => {
                whole += u64::from(length == piece.len());
                bytes += length;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    client.set_nonblocking(false).unwrap();
    (whole, bytes)
}

#[test]
fn every_write_is_counted_once_and_ordinary_ones_are_not_told() {
    in_each_form(|mut probe| {
        let network = Network::new();
        for family in FAMILIES {
            undisturbed("all writes", || {
                let (mut client, mut accepted) = connection(&network, family);
                let before = [&network.a, &network.b].map(|side| probe.writes(side, family));
                for size in (0..500).map(|i| 1 + i * 40) {
                    client.write_all(&vec![0; size]).unwrap();
                    accepted.read_exact(&mut vec![0; size]).unwrap();
                    accepted.write_all(b"reply").unwrap();
                    client.read_exact(&mut [0; 5]).unwrap();
                }
                let now = [&network.a, &network.b].map(|side| probe.writes(side, family));
                let counts = [more(now[0], &before[0]).count(), more(now[1], &before[1]).count()];
                assert!(counts.iter().all(|count| *count <= 500), "{counts:?}");
                counts == [500, 500]
            });
        }
        let (a, b) = (probe.told(&network.a), probe.told(&network.b));
        assert!(a.is_empty() && b.is_empty(), "{a:?} {b:?}");
    });
}

#[test]
fn what_does_not_fit_into_the_peers_window_waits_until_it_is_read() {
    in_each_form(|mut probe| {
        let network = Network::new();
        for family in FAMILIES {
            undisturbed("a full window", || full_window(&network, &mut probe, family));
        }
    });
}

/// Fills the window and the send buffer with writes, and lets the peer read after a while.
fn full_window(network: &Network, probe: &mut Probe, family: u8) -> bool {
    let (mut client, mut accepted) = connection(network, family);
    set_socket_send_buffer_size(&client, 100_000).unwrap();
    let before = probe.writes(&network.a, family);
    let began = Instant::now();
    let (whole, mut left) = named("writer", || fill(&mut client, &[0; 50_000]));
    let held = hold();
    let read = Instant::now();
    // The last call wrote a part of what it wanted, or nothing.
    let partial = u64::from(left as u64 > whole * 50_000);
    while left > 0 {
        left -= accepted.read(&mut vec![0; left]).unwrap();
    }
    let took = began.elapsed();
    let counted = || more(probe.writes(&network.a, family), &before);
    // Before 6.3 a call that wrote a part is counted when the next one begins.
    client.write_all(b"next").unwrap();
    accepted.read_exact(&mut [0; 4]).unwrap();
    let waits = counted();
    let told = probe.told(&network.a);
    assert!(waits.count() <= whole + partial + 1, "{waits:?} {whole} {partial}");
    assert_eq!(told.len() as u64, slow(&waits));
    for event in &told {
        assert!(u128::from(event.wait) <= took.as_nanos(), "{event:?}");
        assert_eq!(
            (event.operation, caller(event)),
            (SOCKET_WRITE, (std::process::id(), "writer".to_owned()))
        );
        assert_eq!(ends(event), (client.local_addr().unwrap(), accepted.local_addr().unwrap()));
        assert_eq!(event.head.connection.peer_port, PORT);
    }
    let longest = told.iter().map(|event| event.wait).max().unwrap_or_default();
    assert!(told.is_empty() || u128::from(longest) >= (read - held).as_nanos(), "{longest}");
    waits.count() == whole + partial + 1 && !told.is_empty()
}

#[test]
fn a_call_that_blocks_waits_until_its_last_byte_has_left() {
    in_each_form(|probe| {
        let network = Network::new();
        for family in FAMILIES {
            undisturbed("a call that blocks", || {
                let (mut client, mut accepted) = connection(&network, family);
                let data = vec![0; 10_000_000];
                let before = probe.writes(&network.a, family);
                let began = Instant::now();
                std::thread::scope(|scope| {
                    scope.spawn(|| client.write_all(&data).unwrap());
                    readable(&accepted, 1);
                    hold();
                    accepted.read_exact(&mut vec![0; 10_000_000]).unwrap();
                });
                let waits = more(probe.writes(&network.a, family), &before);
                if waits.count() == 0 {
                    return false;
                }
                check_one(&waits, HOLD, began.elapsed());
                true
            });
        }
    });
}

#[test]
fn what_is_sent_again_has_left_before() {
    in_each_form(|probe| {
        let network = Network::new();
        for family in FAMILIES {
            undisturbed("a lost segment", || {
                let (mut client, mut accepted) = connection(&network, family);
                let before = probe.writes(&network.a, family);
                network.router.refuse("forward", &format!("tcp dport {PORT}"));
                client.write_all(b"lost").unwrap();
                hold();
                network.router.allow();
                accepted.read_exact(&mut [0; 4]).unwrap();
                let waits = more(probe.writes(&network.a, family), &before);
                if waits.count() == 0 {
                    return false;
                }
                check_one(&waits, Duration::ZERO, HOLD / 2);
                true
            });
        }
    });
}

#[test]
fn nothing_stays_behind_of_a_connection_that_ends_with_something_unsent() {
    in_each_form(|probe| {
        let network = Network::new();
        let connections = || {
            let mut keys = BTreeSet::new();
            probe.probe.unsent.for_each(|key, _| _ = keys.insert(*key)).unwrap();
            keys
        };
        for family in FAMILIES {
            let before = connections();
            let (mut client, accepted) = connection(&network, family);
            fill(&mut client, &[0; 50_000]);
            let mut fresh = &connections() - &before;
            assert!(!fresh.is_empty());
            set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
            drop(client);
            drop(accepted);
            // Another connection may have come meanwhile, and one to the same address later.
            eventually("it is gone", || {
                fresh = &fresh & &connections();
                fresh.is_empty()
            });
        }
    });
}

#[test]
fn writes_beyond_the_limit_are_counted_as_missing() {
    in_each_form(|probe| {
        let network = Network::new();
        for family in FAMILIES {
            undisturbed("thirty writes", || {
                let (mut client, mut accepted) = connection(&network, family);
                let (before, overflow) = (probe.writes(&network.a, family), probe.overflow());
                // Nothing leaves meanwhile, or a segment that is full.
                set_tcp_cork(&client, true).unwrap();
                (0..30).for_each(|_| client.write_all(b"x").unwrap());
                set_tcp_cork(&client, false).unwrap();
                accepted.read_exact(&mut [0; 30]).unwrap();
                let counted = more(probe.writes(&network.a, family), &before).count();
                let missing = probe.overflow() - overflow;
                assert!(counted <= 16 || missing < 14, "{counted} {missing}");
                (counted, missing) == (16, 14)
            });
        }
    });
}

#[test]
fn a_kernel_that_lacks_the_hooks_of_a_half_has_the_other() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let alone = |half, without: &str| {
        let probe = Probe::open_without(half, &[without]).ok()?;
        let (lacking, missing) = probe.probe.missing.as_ref().unwrap();
        assert!(*lacking != half, "{missing}");
        Some(probe)
    };
    if let Some(probe) = alone(Half::Reads, WRITES) {
        undisturbed("reads alone", || exchange(&network, &probe).0 == 10);
        assert_eq!(probe.writes(&network.a, 4).count(), 0);
    }
    if let Some(probe) = alone(Half::Writes, "tcp_rcv_space_adjust") {
        undisturbed("writes alone", || exchange(&network, &probe).1 == 10);
        assert_eq!(probe.reads(&network.b, 4, TCP).count(), 0);
    }
}

/// Ten writes of `a` that `b` reads: how many waits of either kind there were.
fn exchange(network: &Network, probe: &Probe) -> (u64, u64) {
    let (mut client, mut accepted) = connection(network, 4);
    let counts = || (probe.reads(&network.b, 4, TCP).count(), probe.writes(&network.a, 4).count());
    let before = counts();
    for _ in 0..10 {
        client.write_all(b"x").unwrap();
        accepted.read_exact(&mut [0]).unwrap();
    }
    let now = counts();
    (now.0 - before.0, now.1 - before.1)
}

#[test]
fn what_a_call_could_not_write_waits_from_the_next_call_on() {
    in_each_form(|probe| {
        let network = Network::new();
        for family in FAMILIES {
            undisturbed("a call and its rest", || {
                let (mut client, mut accepted) = connection(&network, family);
                let data = vec![0; 5_000_000];
                let before = probe.writes(&network.a, family);
                client.set_nonblocking(true).unwrap();
                let part = client.write(&data).unwrap();
                client.set_nonblocking(false).unwrap();
                assert!(part < data.len());
                accepted.read_exact(&mut vec![0; part]).unwrap();
                hold();
                std::thread::scope(|scope| {
                    let rest = &data[part..];
                    scope.spawn(|| accepted.read_exact(&mut vec![0; rest.len()]).unwrap());
                    client.write_all(rest).unwrap();
                });
                let waits = more(probe.writes(&network.a, family), &before);
                assert!(waits.count() <= 2 && slow(&waits) == 0, "{waits:?}");
                waits.count() == 2
            });
        }
    });
}

#[test]
fn a_last_byte_that_is_kept_back_waits_although_the_rest_has_left() {
    in_each_form(|probe| {
        let network = Network::new();
        for family in FAMILIES {
            undisturbed("a corked write", || {
                let (mut client, mut accepted) = connection(&network, family);
                let before = probe.writes(&network.a, family);
                // One segment and a bit: what remains of 1500 bytes after the headers and a time stamp.
                let segment = if family == 4 { 1448 } else { 1428 };
                set_tcp_cork(&client, true).unwrap();
                let began = Instant::now();
                client.write_all(&vec![0; segment + 10]).unwrap();
                accepted.read_exact(&mut vec![0; segment]).unwrap();
                let held = Instant::now();
                // It is not kept back for longer than 200 ms.
                std::thread::sleep(HOLD / 3);
                let kept = held.elapsed();
                set_tcp_cork(&client, false).unwrap();
                accepted.read_exact(&mut [0; 10]).unwrap();
                let waits = more(probe.writes(&network.a, family), &before);
                if waits.count() == 0 {
                    return false;
                }
                check_one(&waits, kept, began.elapsed());
                true
            });
        }
    });
}
