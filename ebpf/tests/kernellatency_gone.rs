//! Packets that do not come to the end of their way are not remembered; what there is no room for is counted; and of flows
//! that are sampled each is seen whole or not at all.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use common::held::{Held, PORT, Verdict, receiver, sender, server};
use common::passages::{Functions, Passages, soon, undisturbed};
use common::segments::send_in_segments_of;
use common::{Namespace, Network, can_load};
use jitterscope_ebpf::abi::{DIRECTION_RECEIVE, DIRECTION_TRANSMIT};

const FAMILIES: [u8; 2] = [4, 6];

/// How often packets go away on their way, and how often all of them must be forgotten afterwards: some hosts run no tracing
/// program for some of them.
const ROUNDS: usize = 5;
const CLEAN: usize = 4;

/// Makes packets go away on their way; afterwards none is remembered. One that was would be until its place in memory is
/// used again, which on a busy machine is soon.
fn none_is_left(probe: &Passages, what: &str, mut make: impl FnMut()) {
    let mut is_clean = || {
        probe.forget();
        make();
        soon(|| probe.under_way() == 0)
    };
    let clean = (0..ROUNDS).filter(|_| is_clean()).count();
    assert!(clean >= CLEAN, "{what}: {clean} of {ROUNDS}");
}

#[test]
fn packets_that_netfilter_drops_are_not_remembered() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    for functions in Functions::extremes() {
        let probe = Passages::open(&network, functions);
        let places = [
            (&network.a, "OUTPUT"),
            (&network.a, "POSTROUTING"),
            (&network.b, "PREROUTING"),
            (&network.b, "INPUT"),
        ];
        for (place, chain) in places {
            for family in FAMILIES {
                let what = format!("{functions:?}, {chain}, IPv{family}");
                let _receiver = receiver(&network, family);
                let held = Held::new(place, chain, "udp", PORT, family);
                // On a host that hooks no functions packets are not seen before they are through netfilter.
                let seen = place.name == network.b.name || probe.probe.view.departures;
                none_is_left(&probe, &what, || drop_held(&network, &probe, &held, seen, family));
            }
        }
        for hook in ["prerouting", "input"] {
            network.b.refuse(hook, &format!("udp dport {PORT}"));
            none_is_left(&probe, hook, || send_both(&network));
            network.b.allow();
        }
        assert_eq!(probe.probe.observer.account().unwrap().overflow, 0);
    }
}

fn send_both(network: &Network) {
    for family in FAMILIES {
        let sender = sender(network, family);
        // Nobody listens, which the sender may be told.
        (0..20).for_each(|_| drop(sender.send(&[1; 100])));
    }
}

/// Datagrams are held, most of them remembered meanwhile, and then dropped.
fn drop_held(network: &Network, probe: &Passages, held: &Held<'_>, seen: bool, family: u8) {
    const MANY: usize = 60;
    let sender = sender(network, family);
    (0..MANY).for_each(|_| assert_eq!(sender.send(&[1; 100]).unwrap(), 100));
    if seen {
        assert!(soon(|| probe.under_way() >= MANY / 2), "{}", probe.under_way());
    }
    held.decide(MANY, Duration::ZERO, Verdict::Drop);
}

#[test]
fn packets_without_a_socket_here_are_not_remembered() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    for functions in Functions::extremes() {
        let probe = Passages::open(&network, functions);
        none_is_left(&probe, "closed ports", || send_both(&network));
        none_is_left(&probe, "refused connections", || {
            for family in FAMILIES {
                assert!(network.a.inside(|| TcpStream::connect(server(family))).is_err());
            }
        });
        none_is_left(&probe, "fragments", || {
            for family in FAMILIES {
                let (receiver, sender) = (receiver(&network, family), sender(&network, family));
                assert_eq!(sender.send(&[1; 20_000]).unwrap(), 20_000);
                assert_eq!(receiver.recv(&mut [0; 30_000]).unwrap(), 20_000);
            }
        });
        none_is_left(&probe, "datagrams that are cut before they reach their socket", || {
            for family in FAMILIES {
                let (receiver, sender) = (receiver(&network, family), sender(&network, family));
                send_in_segments_of(&sender, 1000);
                (0..5).for_each(|_| assert_eq!(sender.send(&[1; 4500]).unwrap(), 4500));
                (0..25).for_each(|_| assert!(receiver.recv(&mut [0; 2000]).unwrap() <= 1000));
            }
        });
        none_is_left(&probe, "ping", || {
            network.a.sh("ping -c 3 -i 0.1 -q 10.99.2.2; ping -c 3 -i 0.1 -q fd99:2::2");
        });
        none_is_left(&probe, "a namespace that ends", || {
            let (container, family) = (Network::new(), 4);
            let held = Held::new(&container.b, "INPUT", "udp", PORT, family);
            let sender = sender(&container, family);
            (0..10).for_each(|_| assert_eq!(sender.send(&[1; 100]).unwrap(), 100));
            drop(held.wait(10));
        });
    }
}

#[test]
fn packets_that_are_cut_into_segments_or_put_together_are_not_remembered() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    // The queue cuts packets of many segments; the receiver puts them together again.
    network.a.sh("tc qdisc replace dev eth0 root tbf rate 200mbit burst 5000 limit 10000000");
    network.b.sh("ethtool -K eth0 gro on 2>/dev/null || true");
    for functions in Functions::extremes() {
        let probe = Passages::open(&network, functions);
        for family in FAMILIES {
            // Where a tracing program is not run, a program of a cgroup is all the same.
            undisturbed("a megabyte", || {
                probe.forget();
                transfer(&network, family);
                soon(|| probe.under_way() == 0)
            });
            let sent = probe.times(&network.a, |key| u32::from(key.direction) == DIRECTION_TRANSMIT);
            assert!(sent.total.count() > 10, "{}", sent.total.count());
        }
    }
}

fn transfer(network: &Network, family: u8) {
    let listener = network.b.inside(|| TcpListener::bind(server(family)).unwrap());
    let mut client = network.a.inside(|| TcpStream::connect(server(family)).unwrap());
    let mut accepted = listener.accept().unwrap().0;
    let reader = std::thread::spawn(move || accepted.read_to_end(&mut Vec::new()).unwrap());
    client.write_all(&vec![0; 1_000_000]).unwrap();
    drop(client);
    assert_eq!(reader.join().unwrap(), 1_000_000);
}

#[test]
fn packets_for_which_there_is_no_room_are_counted() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Passages::attach(&network.router, Functions::Unhooked, &[("packets", 4)]);
    let (_receiver, sender) = (receiver(&network, 4), sender(&network, 4));
    let held = Held::new(&network.b, "PREROUTING", "udp", PORT, 4);
    let before = probe.probe.observer.account().unwrap().overflow;
    (0..50).for_each(|_| assert_eq!(sender.send(&[1; 100]).unwrap(), 100));
    let held_for = held.decide(50, Duration::ZERO, Verdict::Accept);
    assert_eq!(held_for.len(), 50);
    let overflow = probe.probe.observer.account().unwrap().overflow - before;
    // Some hosts run no tracing program for some of them; others' packets found no room either.
    assert!(overflow >= 20, "{overflow}");
    let seen = probe.times(&network.b, |key| u32::from(key.direction) == DIRECTION_RECEIVE).total.count();
    assert!(seen <= 4, "{seen} were held, and there was room for 4");
}

/// Flows of [`EACH`] datagrams, of which about one in [`SAMPLING`] is looked at.
const FLOWS: usize = 400;
const EACH: usize = 5;
const SAMPLING: u32 = 8;

#[test]
fn of_sampled_flows_each_is_seen_whole_or_not_at_all_and_is_marked() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    for functions in Functions::extremes() {
        let probe = Passages::open(&network, functions);
        probe.tell(SAMPLING);
        for family in FAMILIES {
            undisturbed("whole flows", || sample(&network, &probe, family));
        }
    }
}

fn sample(network: &Network, probe: &Passages, family: u8) -> bool {
    let receiver = receiver(network, family);
    let counts = || {
        let sides = [(&network.a, DIRECTION_TRANSMIT), (&network.b, DIRECTION_RECEIVE)];
        sides.map(|side| [SAMPLING, 1].map(|sampling| seen(probe, side, family, sampling)))
    };
    let before = counts();
    for _ in 0..FLOWS {
        let sender = sender(network, family);
        for _ in 0..EACH {
            assert_eq!(sender.send(&[1; 10]).unwrap(), 10);
            assert_eq!(receiver.recv(&mut [0; 10]).unwrap(), 10);
        }
    }
    let now = counts();
    let [sent, received] = [0, 1].map(|side| now[side][0] - before[side][0]);
    assert_eq!([now[0][1], now[1][1]], [before[0][1], before[1][1]], "none of all flows");
    // Ports are chance: with 400 flows far more than five standard deviations of 6.6 around 50.
    let flows = sent / EACH as u64;
    assert!(flows < 90 && received / (EACH as u64) < 90, "{sent} {received}");
    sent == received && sent % EACH as u64 == 0 && flows > 15
}

/// Datagrams that were seen, as far as they are on every kernel, under this mark.
fn seen(probe: &Passages, (of, direction): (&Namespace, u32), family: u8, sampling: u32) -> u64 {
    let wanted = (direction, family, sampling);
    let times = probe.times(of, |key| (u32::from(key.direction), key.family, key.sampling) == wanted);
    let [.., neighbour] = times.stages;
    if direction == DIRECTION_RECEIVE { times.total.count() } else { neighbour.count() }
}
