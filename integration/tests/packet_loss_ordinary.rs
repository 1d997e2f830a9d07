//! Ordinary traffic loses nothing: in the same build that counts every fault, it counts zero.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::requirements;
use jitterscope_integration::telemetry::has;
use jitterscope_integration::traffic::{REQUESTS, requests, serve};
use jitterscope_semconv::{attribute as key, metric};

const ALL: usize = 100_000;

#[test]
fn ordinary_traffic_counts_zero_drops() {
    if !requirements::met(&["ip", "ping"]) {
        return;
    }
    let network = Network::new().unwrap();
    let mut receiver = Receiver::start_on(&network.router, &["--format", "json"]).unwrap();
    let mut paths = Vec::new();
    for family in Family::BOTH {
        paths.push((&network.b, serve(&network.b, family.loopback()).unwrap()));
        paths.push((&network.a, serve(&network.b, family.address(2, 2)).unwrap()));
    }
    let connections = ALL / REQUESTS / paths.len();
    std::thread::scope(|scope| {
        let clients: Vec<_> = paths
            .iter()
            .map(|(from, server)| scope.spawn(move || requests(from, *server, connections)))
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap().unwrap());
    });
    receiver.stop().unwrap();

    let told = receiver.printed().unwrap();
    let mut lost = told.last(metric::PACKET_DROPS.name);
    lost.retain(|point| {
        let names =
            [&network.a, &network.b].map(|netns| has(&point.resource, key::NETNS_NAME.key, netns.name()));
        names.contains(&true) || point.resource.contains_key(key::HOST_NAME.key)
    });
    assert!(lost.is_empty(), "{lost:#?} {:#?}", told.records().collect::<Vec<_>>());
    // The traffic was there: it is in the namespaces' own counters.
    let opened = |point: &jitterscope_integration::telemetry::Point| {
        has(&point.resource, key::NETNS_NAME.key, network.b.name())
            && has(&point.attributes, key::TCP_CONNECTION_OPEN_KIND.key, "passive")
    };
    assert_eq!(told.total(metric::TCP_CONNECTION_OPENS.name, opened), (4 * connections) as u64);
}
