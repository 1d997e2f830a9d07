//! The receiver's counters of namespaces are the same from the walk in the kernel and from procfs, which are those that
//! nstat(8) shows inside; and namespaces that come and go harm neither.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use jitterscope_integration::kernel::counter;
use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Telemetry, has};
use jitterscope_integration::traffic::{self, CLOSED_PORT, flood};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{Attribute, attribute as key, metric};

/// A metric, attributes of its point, and the counter's name in nstat(8); of each table at least one.
type Row = (&'static str, &'static [(&'static Attribute, &'static str)], &'static str);

const V4: (&Attribute, &str) = (&key::NETWORK_TYPE, "ipv4");
const V6: (&Attribute, &str) = (&key::NETWORK_TYPE, "ipv6");
const UDP: (&Attribute, &str) = (&key::UDP_PROTOCOL, "udp");
const NO_PORT: (&Attribute, &str) = (&key::UDP_ERROR_REASON, "no_port");
const IN: (&Attribute, &str) = (&key::NETWORK_IO_DIRECTION, "receive");

const ROWS: &[Row] = &[
    (metric::TCP_CONNECTION_OPENS.name, &[(&key::TCP_CONNECTION_OPEN_KIND, "active")], "TcpActiveOpens"),
    (metric::TCP_CONNECTION_OPENS.name, &[(&key::TCP_CONNECTION_OPEN_KIND, "passive")], "TcpPassiveOpens"),
    (metric::TCP_SEGMENTS.name, &[IN], "TcpInSegs"),
    (metric::TCP_LISTEN_DROPS.name, &[(&key::TCP_LISTEN_DROP_REASON, "overflow")], "TcpExtListenOverflows"),
    (metric::UDP_ERRORS.name, &[NO_PORT, V4, UDP], "UdpNoPorts"),
    (metric::UDP_ERRORS.name, &[NO_PORT, V6, UDP], "Udp6NoPorts"),
    (metric::UDP_DATAGRAMS.name, &[IN, V4, UDP], "UdpInDatagrams"),
    (metric::UDP_DATAGRAMS.name, &[IN, V6, UDP], "Udp6InDatagrams"),
];

/// Tables that came from a source so far.
fn reads(telemetry: &Telemetry, source: &str) -> u64 {
    telemetry
        .total(metric::COUNTERS_READS.name, |point| has(&point.attributes, key::COUNTERS_SOURCE.key, source))
}

fn check(telemetry: &Telemetry, netns: &Netns) {
    for (name, attributes, nstat) in ROWS {
        let told = telemetry.total(name, |point| {
            has(&point.resource, key::NETNS_NAME.key, netns.name())
                && attributes.iter().all(|(key, value)| has(&point.attributes, key.key, value))
        });
        assert_eq!(told, counter(netns, nstat).unwrap(), "{} {nstat}", netns.name());
    }
}

fn make_traffic(network: &Network) {
    for family in Family::BOTH {
        let server = traffic::serve(&network.b, family.address(2, 2)).unwrap();
        traffic::requests(&network.a, server, 20).unwrap();
        flood(&network.a, (family.address(2, 2), CLOSED_PORT).into(), 50).unwrap();
        flood(&network.router, (family.loopback(), CLOSED_PORT).into(), 7).unwrap();
    }
}

/// Makes traffic once the receiver reads from its source, and gives what it told at its end.
fn counted(network: &Network, setting: &str, source: &str) -> Telemetry {
    let mut receiver =
        Receiver::start(&["--format", "json", "--set", &format!("kernel.counters={setting}")]).unwrap();
    poll::until("tables from the source", || (reads(&receiver.printed().unwrap(), source) > 0).then_some(()))
        .unwrap();
    make_traffic(network);
    receiver.stop().unwrap();
    receiver.printed().unwrap()
}

#[test]
fn the_walk_and_procfs_tell_what_nstat_tells_inside() {
    if !requirements::met(&["ip", "nstat", "ping"]) {
        return;
    }
    let network = Network::new().unwrap();
    for (setting, source) in [("auto", "walk"), ("procfs", "procfs")] {
        let telemetry = counted(&network, setting, source);
        [&network.a, &network.b, &network.router].into_iter().for_each(|netns| check(&telemetry, netns));
        assert_eq!(telemetry.total(metric::COUNTERS_MISMATCHES.name, |_| true), 0);
        assert_eq!(reads(&telemetry, "walk") > 0, source == "walk");
    }
}
