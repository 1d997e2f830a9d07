//! Packets of two containers are measured as theirs, in number; a packet that waits for its neighbour is told with its ends;
//! and what of the way is not seen on this kernel is said.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::{Receiver, limitation};
use jitterscope_integration::telemetry::{Distribution, Record, Telemetry, has};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, event, metric};

const DATAGRAMS: u64 = 50;
/// Above the probe's threshold of 10 ms by far.
const WAIT: Duration = Duration::from_millis(300);

/// One that looks at all flows.
fn receiver() -> Receiver {
    let settings = ["interval=200ms", "probes.kernellatency.enabled=true", "probes.kernellatency.sampling=1"];
    let settings = settings.into_iter().flat_map(|setting| ["--set", setting]);
    let arguments: Vec<&str> = ["--format", "json"].into_iter().chain(settings).collect();
    Receiver::start(&arguments).unwrap()
}

/// How many packets of a family a metric has in a stage.
fn count(telemetry: &Telemetry, name: &str, of: &Netns, stage: &str, family: Family) -> u64 {
    let is_wanted = |one: &Distribution| {
        has(&one.resource, key::NETNS_NAME.key, of.name())
            && has(&one.attributes, key::KERNEL_STAGE.key, stage)
            && has(&one.attributes, key::NETWORK_TYPE.key, family.name())
    };
    telemetry.distributions(name).filter(is_wanted).last().map_or(0, |one| one.point.count)
}

/// Each datagram is read before the next is sent.
fn send(network: &Network, family: Family) {
    let there = family.address(2, 2);
    let server = network.b.inside(|| Ok(UdpSocket::bind((there, 0))?)).unwrap();
    let client = network.a.inside(|| Ok(UdpSocket::bind((family.any(), 0))?)).unwrap();
    for _ in 0..DATAGRAMS {
        client.send_to(&[7; 100], server.local_addr().unwrap()).unwrap();
        assert_eq!(server.recv(&mut [0; 200]).unwrap(), 100);
    }
}

/// A datagram to a neighbour whose address is known after a while; the port that it was sent from.
fn wait_for_neighbour(from: &Netns, to: IpAddr) -> u16 {
    let any = if to.is_ipv4() { Family::V4.any() } else { Family::V6.any() };
    let socket = from.inside(|| Ok(UdpSocket::bind((any, 0))?)).unwrap();
    socket.send_to(&[7; 100], (to, 9)).unwrap();
    std::thread::sleep(WAIT);
    from.ip(&format!("neigh replace {to} lladdr 02:00:00:00:00:77 dev eth0")).unwrap();
    socket.local_addr().unwrap().port()
}

#[test]
fn packets_are_measured_as_their_containers_and_a_slow_one_is_told() {
    if !requirements::met(&["ip", "ping"]) {
        return;
    }
    let network = Network::new().unwrap();
    let receiver = receiver();
    for family in Family::BOTH {
        // What only some kernels see, and what all see of datagrams.
        let received =
            |told: &Telemetry| count(told, metric::KERNEL_RECEIVE_DURATION.name, &network.b, "total", family);
        let sent = |told: &Telemetry| {
            count(told, metric::KERNEL_TRANSMIT_DURATION.name, &network.a, "neighbour", family)
        };
        let both = |told: &Telemetry| (received(told), sent(told));
        // Some hosts run no tracing program for some packets: then they are fewer, and never more.
        let exact = (0..10).any(|_| {
            let before = both(&settled(&receiver, &both));
            send(&network, family);
            let now = both(&settled(&receiver, &both));
            let more = (now.0 - before.0, now.1 - before.1);
            assert!(more.0 <= DATAGRAMS && more.1 <= DATAGRAMS, "{more:?}");
            more == (DATAGRAMS, DATAGRAMS)
        });
        assert!(exact, "{family:?}");

        let to = family.address(1, 77);
        let port = wait_for_neighbour(&network.a, to).to_string();
        let is_told = |record: &Record| {
            record.event == event::KERNEL_TRANSMIT_SLOW.name
                && has(&record.attributes, key::DESTINATION_ADDRESS.key, &to.to_string())
        };
        let told = poll::until("the event", || receiver.printed().unwrap().records().find(is_told)).unwrap();
        assert!(has(&told.resource, key::NETNS_NAME.key, network.a.name()), "{told:?}");
        assert!(has(&told.attributes, key::SOURCE_PORT.key, &port), "{told:?}");
        assert!(has(&told.attributes, key::DESTINATION_PORT.key, "9"), "{told:?}");
        assert!(has(&told.attributes, key::NETWORK_INTERFACE_NAME.key, "eth0"), "{told:?}");
        let waited: f64 = told.attributes[key::KERNEL_NEIGHBOUR_DELAY.key].parse().unwrap();
        assert!((WAIT.as_secs_f64()..5.0).contains(&waited), "{told:?}");
    }
    let slow: Vec<Record> = receiver.printed().unwrap().records().collect();
    let received = slow.iter().filter(|record| record.event == event::KERNEL_RECEIVE_SLOW.name);
    assert_eq!(received.count(), 0, "{slow:?}");
}

/// The counts once they have been the same in two collections.
fn settled(receiver: &Receiver, counts: &dyn Fn(&Telemetry) -> (u64, u64)) -> Telemetry {
    let mut last = None;
    poll::until("standing counts", || {
        receiver.prints("resourceMetrics", 3).unwrap();
        let told = receiver.printed().unwrap();
        let now = Some(counts(&told));
        (now == std::mem::replace(&mut last, now)).then_some(told)
    })
    .unwrap()
}

#[test]
fn what_is_not_seen_on_this_kernel_is_said() {
    if !requirements::met(&["ip"]) {
        return;
    }
    let network = Network::new().unwrap();
    let receiver = receiver();
    let told = poll::until("datagrams", || {
        send(&network, Family::V4);
        let told = receiver.printed().unwrap();
        let name = metric::KERNEL_RECEIVE_DURATION.name;
        (count(&told, name, &network.b, "total", Family::V4) > 0).then_some(told)
    })
    .unwrap();
    let said = limitation("kernellatency").unwrap();
    let apart = |name: &str, of: &Netns, stage: &str| count(&told, name, of, stage, Family::V4) > 0;
    let local_in = apart(metric::KERNEL_RECEIVE_DURATION.name, &network.b, "local_in");
    assert_eq!(local_in, !said.contains("received packets: only the total"), "{said}");
    let local_out = apart(metric::KERNEL_TRANSMIT_DURATION.name, &network.a, "local_out");
    assert_eq!(local_out, !said.contains("sent packets"), "{said}");
}
