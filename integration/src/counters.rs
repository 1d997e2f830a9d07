//! What the receiver told of a namespace's counters, against what other processes read inside.
#![expect(clippy::unwrap_used, reason = "a part of tests, which end at the first surprise")]
#![expect(clippy::missing_panics_doc, reason = "its checks are assertions")]

use jitterscope::probe::homes::{Home, homes};
use jitterscope_semconv::{Attribute, Instrument, attribute as key};

use crate::kernel::all_counters;
use crate::netns::Netns;
use crate::receiver::Receiver;
use crate::telemetry::{Point, Telemetry, has};

/// Attributes that tell one series of a metric from the others.
pub type Wanted<'a> = &'a [(&'static Attribute, &'a str)];

/// The last value of a series of a namespace; none where it has no such series.
#[must_use]
pub fn told(telemetry: &Telemetry, netns: &Netns, name: &str, attributes: Wanted<'_>) -> Option<f64> {
    point(telemetry, name, attributes, |point| has(&point.resource, key::NETNS_NAME.key, netns.name()))
}

/// The last value of a series of the host.
#[must_use]
pub fn told_of_host(telemetry: &Telemetry, name: &str, attributes: Wanted<'_>) -> Option<f64> {
    point(telemetry, name, attributes, |point| point.resource.contains_key(key::HOST_NAME.key))
}

fn point(
    telemetry: &Telemetry,
    name: &str,
    attributes: Wanted<'_>,
    of: impl Fn(&Point) -> bool,
) -> Option<f64> {
    let mut points = telemetry.last(name);
    points.retain(|point| {
        of(point) && attributes.iter().all(|(key, value)| has(&point.attributes, key.key, value))
    });
    assert!(points.len() <= 1, "{points:#?}");
    points.first().map(|point| point.value)
}

/// Holds every counter of a probe against nstat(8) inside the namespace: all that the kernel has are told, but of zero only
/// those that `zeros` asks for.
///
/// Returns how many were not zero.
pub fn check_all(telemetry: &Telemetry, netns: &Netns, probe: &str, zeros: bool) -> usize {
    let kernel = all_counters(netns).unwrap();
    let mut counted = 0;
    for home in homes().iter().filter(|home| home.probe == probe) {
        let Some(whole) = kernel.get(home.counter) else { continue };
        let parts: u64 = home.without.iter().filter_map(|name| kernel.get(*name)).sum();
        check(telemetry, netns, home, whole - parts, zeros);
        counted += usize::from(*whole > parts);
    }
    counted
}

fn check(telemetry: &Telemetry, netns: &Netns, home: &Home, value: u64, zeros: bool) {
    let attributes: Vec<_> = home.attributes.iter().map(|(key, value)| (*key, *value)).collect();
    let told = told(telemetry, netns, home.metric.name, &attributes);
    let scale = if home.metric.unit == "s" { 1e3 } else { 1.0 };
    let expected = Some(value as f64 / scale);
    let left_out = !zeros && value == 0 && told.is_none();
    assert!(told == expected || left_out, "{} {}: {told:?}, {expected:?}", netns.name(), home.counter);
    assert!(home.metric.instrument != Instrument::Gauge);
}

/// What a receiver tells at its end. It is asked again when a counter moved meanwhile: the kernel reports multicast groups
/// (MLD) for some seconds after a device came up, and looks for neighbours.
#[must_use]
pub fn last_collection(mut receiver: Receiver, namespaces: &[&Netns], arguments: &[&str]) -> Telemetry {
    let all = || namespaces.iter().map(|netns| all_counters(netns).unwrap()).collect::<Vec<_>>();
    for _ in 0..20 {
        let before = all();
        receiver.stop().unwrap();
        if all() == before {
            return receiver.printed().unwrap();
        }
        receiver = Receiver::start(arguments).unwrap();
    }
    panic!("the counters never stood still");
}
