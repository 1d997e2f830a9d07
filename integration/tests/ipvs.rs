//! The numbers of `ipvs` are those of connections that a test makes through a virtual service, as the kernel's file says inside
//! the namespace; where the kernel has no IPVS, the probe says so.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::SocketAddr;
use std::process::Command;

use jitterscope_integration::counters::told;
use jitterscope_integration::netns::run;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::{Receiver, binary};
use jitterscope_integration::requirements;
use jitterscope_integration::traffic::{requests, serve};
use jitterscope_semconv::{Metric, attribute as key, metric};

/// Connections of each family.
const CONNECTIONS: usize = 20;

#[test]
fn what_passes_a_virtual_service_is_counted_where_the_service_is() {
    if run(Command::new("modprobe").args(["-a", "ip_vs", "ip_vs_rr"])).is_err() {
        return without_the_module();
    }
    if !requirements::met(&["ip", "ipvsadm", "ping"]) {
        return;
    }
    let network = Network::new().unwrap();
    for family in Family::BOTH {
        // Masquerading: the server's answers come back through the router.
        let server = serve(&network.b, family.address(2, 2)).unwrap();
        let virtual_tcp = SocketAddr::new(family.address(1, 1), 8080);
        let virtual_udp = SocketAddr::new(family.address(1, 1), 8081);
        for (flag, virtual_one, real) in [("-t", virtual_tcp, server.tcp), ("-u", virtual_udp, server.udp)] {
            network.router.sh(&format!("ipvsadm -A {flag} {virtual_one} -s rr")).unwrap();
            network.router.sh(&format!("ipvsadm -a {flag} {virtual_one} -r {real} -m")).unwrap();
        }
        let service = jitterscope_integration::traffic::Server { tcp: virtual_tcp, udp: virtual_udp };
        requests(&network.a, service, CONNECTIONS).unwrap();
    }
    let mut receiver = Receiver::start(&["--format", "json"]).unwrap();
    receiver.stop().unwrap();
    let telemetry = receiver.printed().unwrap();
    let kernel = totals(&network.router.sh("cat /proc/net/ip_vs_stats").unwrap());
    let told = |metric: &Metric, way: Option<&'static str>| {
        let way: Vec<_> = way.map(|way| (&key::NETWORK_IO_DIRECTION, way)).into_iter().collect();
        told(&telemetry, &network.router, metric.name, &way).unwrap() as u64
    };
    let found = [
        told(&metric::IPVS_CONNECTIONS, None),
        told(&metric::IPVS_PACKETS, Some("receive")),
        told(&metric::IPVS_PACKETS, Some("transmit")),
        told(&metric::IPVS_IO, Some("receive")),
        told(&metric::IPVS_IO, Some("transmit")),
    ];
    assert_eq!(found, kernel);
    // Each connection of TCP, and the one socket that sent the datagrams of a family.
    assert_eq!(found[0] as usize, 2 * (CONNECTIONS + 1));
    assert!(found[1] > found[0] && found[2] > found[0] && found[3] > found[1], "{found:?}");
    let idle = told_nothing(&telemetry, &network);
    assert!(idle, "a namespace without a service has no series");
}

fn told_nothing(telemetry: &jitterscope_integration::telemetry::Telemetry, network: &Network) -> bool {
    told(telemetry, &network.a, metric::IPVS_CONNECTIONS.name, &[]).is_none()
}

/// The third line of the file, in hexadecimal.
fn totals(text: &str) -> [u64; 5] {
    let line = text.lines().nth(2).unwrap();
    let numbers: Vec<_> =
        line.split_whitespace().map(|number| u64::from_str_radix(number, 16).unwrap()).collect();
    numbers.try_into().unwrap()
}

/// The probe is skipped with its reason, and is tried again, for the module may come later.
fn without_the_module() {
    let listed = run(Command::new(binary().unwrap()).args(["probes", "--format", "json"])).unwrap();
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    let ipvs = listed.iter().find(|probe| probe["name"] == "ipvs").unwrap();
    assert_eq!(ipvs["can_run"], false);
    assert_eq!(ipvs["reason"], "the kernel module ip_vs is not loaded; it is tried again");
}
