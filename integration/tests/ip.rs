//! The counters of `ip` are those that nstat(8) reads inside each namespace, after packets with known fates.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use jitterscope_integration::counters::{Wanted, check_all, last_collection, told};
use jitterscope_integration::kernel::{all_counters, counter};
use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::requirements;
use jitterscope_integration::telemetry::Telemetry;
use jitterscope_integration::traffic::{CLOSED_PORT, flood};
use jitterscope_semconv::{Metric, attribute as key, metric};

const ARGUMENTS: &[&str] = &["--format", "json", "--set", "probes.ip.enabled=true"];

/// ICMP by type, as nstat names it, against the series of each type and direction.
fn check_messages(telemetry: &Telemetry, netns: &Netns) -> usize {
    let mut seen = 0;
    for (name, value) in all_counters(netns).unwrap() {
        let (family, rest) = match (name.strip_prefix("IcmpMsg"), name.strip_prefix("Icmp6")) {
            (Some(rest), _) => ("ipv4", rest),
            (_, Some(rest)) => ("ipv6", rest),
            _ => continue,
        };
        let (way, number) = match (rest.strip_prefix("InType"), rest.strip_prefix("OutType")) {
            (Some(number), _) => ("receive", number),
            (_, Some(number)) => ("transmit", number),
            _ => continue,
        };
        let wanted: Wanted<'_> =
            &[(&key::NETWORK_IO_DIRECTION, way), (&key::NETWORK_TYPE, family), (&key::ICMP_TYPE, number)];
        let told = told(telemetry, netns, metric::ICMP_MESSAGES.name, wanted);
        assert_eq!(told, Some(value as f64), "{} {name}", netns.name());
        seen += 1;
    }
    seen
}

/// What happens to packets of one family, and what must be told of it afterwards.
fn make_trouble(network: &Network, family: Family) {
    let (far, nowhere) = (family.address(2, 2), family.address(3, 9));
    // Five echoes; three in fragments; four whose hops are used up at the router.
    network.a.sh(&format!("ping -q -c 5 -i 0.2 {far}")).unwrap();
    network.a.sh(&format!("ping -q -c 3 -i 0.2 -s 4000 {far}")).unwrap();
    let _ = network.a.sh(&format!("ping -q -c 4 -i 0.2 -t 1 -W 1 {far}"));
    // Nobody listens; the router knows no way.
    flood(&network.a, (far, CLOSED_PORT).into(), 6).unwrap();
    flood(&network.a, (nowhere, CLOSED_PORT).into(), 7).unwrap();
}

#[test]
fn packets_of_known_fate_are_counted_as_nstat_counts_them() {
    if !requirements::met(&["ip", "nstat", "ping"]) {
        return;
    }
    let network = Network::new().unwrap();
    let namespaces = [&network.a, &network.b, &network.router];
    let before = namespaces.map(|netns| all_counters(netns).unwrap());
    Family::BOTH.into_iter().for_each(|family| make_trouble(&network, family));
    let receiver = Receiver::start(ARGUMENTS).unwrap();
    let telemetry = last_collection(receiver, &namespaces, ARGUMENTS);
    for netns in namespaces {
        assert!(check_all(&telemetry, netns, "ip", true) > 20);
        assert!(check_messages(&telemetry, netns) > 2);
    }
    let had = |at: usize, name: &str| before[at].get(name).copied().unwrap_or(0);
    let rose = |at: usize, metric: &Metric, wanted: Wanted<'_>, name: &str| {
        let told = told(&telemetry, namespaces[at], metric.name, wanted).unwrap();
        told as u64 - had(at, name)
    };
    const IN: (&jitterscope_semconv::Attribute, &str) = (&key::NETWORK_IO_DIRECTION, "receive");
    for (family, echo, prefix, message) in [("ipv4", "8", "Ip", "IcmpMsg"), ("ipv6", "128", "Ip6", "Icmp6")] {
        let family = (&key::NETWORK_TYPE, family);
        let echoes = [IN, family, (&key::ICMP_TYPE, echo)];
        assert_eq!(rose(1, &metric::ICMP_MESSAGES, &echoes, &format!("{message}InType{echo}")), 8);
        let hops = [IN, family, (&key::IP_DISCARD_REASON, "header")];
        assert_eq!(rose(2, &metric::IP_DISCARDS, &hops, &format!("{prefix}InHdrErrors")), 4);
        let put_together = [family, (&key::IP_REASSEMBLY_RESULT, "ok")];
        assert_eq!(rose(1, &metric::IP_REASSEMBLIES, &put_together, &format!("{prefix}ReasmOKs")), 3);
        let created = [family, (&key::IP_FRAGMENT_OPERATION, "created")];
        assert_eq!(rose(0, &metric::IP_FRAGMENTS, &created, &format!("{prefix}FragCreates")), 9);
        let no_route = [IN, family, (&key::IP_DISCARD_REASON, "no_route")];
        let name = if prefix == "Ip" { "IpExtInNoRoutes" } else { "Ip6InNoRoutes" };
        assert_eq!(rose(2, &metric::IP_DISCARDS, &no_route, name), 7);
    }
}

#[test]
fn a_namespace_without_ipv6_has_the_counters_of_ipv4() {
    if !requirements::met(&["ip", "nstat"]) {
        return;
    }
    let netns = Netns::new("v4only").unwrap();
    netns.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.lo.disable_ipv6=1").unwrap();
    flood(&netns, (Family::V4.loopback(), CLOSED_PORT).into(), 11).unwrap();
    let receiver = Receiver::start(ARGUMENTS).unwrap();
    let telemetry = last_collection(receiver, &[&netns], ARGUMENTS);
    check_all(&telemetry, &netns, "ip", true);
    let requests = told(&telemetry, &netns, metric::IP_REQUESTS.name, &[(&key::NETWORK_TYPE, "ipv4")]);
    assert_eq!(requests, Some(counter(&netns, "IpOutRequests").unwrap() as f64));
    assert!(requests >= Some(11.0));
}
