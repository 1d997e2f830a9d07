//! Joins what an application told of its requests with what the receiver told of anomalies: whether each link is to the
//! request that was hit, and how many of the hit ones were found.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use jitterscope_semconv::attribute as key;
use opentelemetry_proto::tonic::metrics::v1::Exemplar;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};

use crate::network::Network;
use crate::shop::Fault;
use crate::telemetry::{Attributes, Record, Telemetry, attributes, hex, numbers};

mod shared;

use shared::served;

/// How much later than its request's end an event may come, in nanoseconds: its last packet may be lost.
const AFTER: u64 = 1_000_000_000;
/// How far two readings of the clock may be apart.
const CLOCK: u64 = 2_000_000;

/// A request as the application's client tells it.
#[derive(Clone, Debug)]
pub struct Request {
    /// What was to go wrong with it.
    pub fault: Option<Fault>,
    /// From its beginning to its end, in nanoseconds since the epoch.
    pub time: (u64, u64),
    /// Ports that it was asked from, where the client tells them.
    pub ports: Vec<String>,
}

/// Trace and span, in hexadecimal digits.
pub type Ids = (String, String);

/// A record with a link, and the role of whose it is by its resource.
#[derive(Debug)]
pub struct Linked {
    /// What it is linked to.
    pub ids: Ids,
    /// The record.
    pub record: Record,
    /// `client` or `server`.
    pub role: &'static str,
}

/// What came of joining.
#[derive(Debug, Default)]
pub struct Join {
    /// All requests.
    pub requests: HashMap<Ids, Request>,
    /// While a server was at each of them, in nanoseconds since the epoch, as the server tells it.
    served: HashMap<Ids, (u64, u64)>,
    /// Records with a link.
    pub linked: Vec<Linked>,
    /// Links that are wrong, each with what is wrong with it.
    pub wrong: Vec<String>,
    /// Spans of anomalies.
    pub anomaly_spans: usize,
    /// Exemplars with a link.
    pub exemplars: usize,
    /// For each fault, and event with its role that it shows by: how many requests it hit, and how many were found.
    pub found: BTreeMap<(Fault, &'static str, &'static str), (usize, usize)>,
}

impl Join {
    /// Joins what a Collector has received from both, of this network: others may be about on the machine.
    #[must_use]
    pub fn of(told: &Telemetry, network: &Network) -> Self {
        Self::with(requests(told), told, network)
    }

    /// The same with an application whose requests are known otherwise.
    #[must_use]
    pub fn with(requests: HashMap<Ids, Request>, told: &Telemetry, network: &Network) -> Self {
        let mut join = Self { requests, served: served(told), ..Self::default() };
        let asked = asked(told);
        for record in told.records().filter(|record| !record.trace.is_empty()) {
            let Some(role) = role_of(&record.resource, network) else { continue };
            join.linked.push(Linked { ids: asked_by(&record, &asked), record, role });
        }
        join.check_records();
        join.check_spans(told, network);
        join.check_exemplars(told, network);
        join.count();
        join
    }

    /// Whether something of this time can be the request's.
    fn request_at(&self, ids: &Ids, time: u64) -> Result<&Request, &'static str> {
        let request = self.requests.get(ids).ok_or("no such request")?;
        let (start, end) = request.time;
        if time + CLOCK < start || time > end + AFTER {
            return Err("not while the request went on");
        }
        Ok(request)
    }

    fn check_records(&mut self) {
        let wrong = self.linked.iter().filter_map(|linked| {
            let why = self.check(linked).err()?;
            Some(format!("{why}: {linked:?}"))
        });
        self.wrong = wrong.collect();
    }

    fn check(&self, linked: &Linked) -> Result<(), &'static str> {
        let request = self.request_at(&linked.ids, linked.record.time)?;
        let facts = &linked.record.attributes;
        if facts.get(key::SPAN_LINK_ROLE.key).is_none_or(|told| told != linked.role) {
            return Err("the other side");
        }
        let is_told = |port: &String| ports(facts).any(|told| told == port);
        if !request.ports.is_empty() && !request.ports.iter().any(is_told) {
            return Err("another connection");
        }
        Ok(())
    }

    /// Each recorded anomaly is a child of the span that it hit, once.
    fn check_spans(&mut self, told: &Telemetry, network: &Network) {
        let mut unequal: HashMap<(String, String, String, u64), i64> = HashMap::new();
        for Linked { record, .. } in &self.linked {
            *unequal
                .entry((record.trace.clone(), record.span.clone(), record.event.clone(), record.time))
                .or_default() += 1;
        }
        let is_ours = |(of, span): &(_, &Span)| is_anomaly(span) && role_of(of, network).is_some();
        for (_, span) in told.spans().filter(is_ours) {
            self.anomaly_spans += 1;
            let (trace, parent) = (hex(&span.trace_id), hex(&span.parent_span_id));
            *unequal.entry((trace, parent, span.name.clone(), span.end_time_unix_nano)).or_default() -= 1;
        }
        unequal.retain(|_, difference| *difference != 0);
        self.wrong
            .extend(unequal.into_iter().map(|one| format!("a record or a span without the other: {one:?}")));
    }

    fn check_exemplars(&mut self, told: &Telemetry, network: &Network) {
        for exemplar in exemplars(told, network) {
            self.exemplars += 1;
            let ids = (hex(&exemplar.trace_id), hex(&exemplar.span_id));
            if let Err(why) = self.request_at(&ids, exemplar.time_unix_nano) {
                self.wrong.push(format!("{why}: {exemplar:?}"));
            }
        }
    }

    fn count(&mut self) {
        let mut shown: HashMap<&Ids, Vec<(&str, &str)>> = HashMap::new();
        for linked in &self.linked {
            shown.entry(&linked.ids).or_default().push((&linked.record.event, linked.role));
        }
        for (ids, request) in &self.requests {
            let Some(fault) = request.fault else { continue };
            for (event, role) in fault.shows() {
                let (all, found) = self.found.entry((fault, event, role)).or_default();
                *all += 1;
                *found += usize::from(shown.get(ids).is_some_and(|shown| shown.contains(&(*event, *role))));
            }
        }
    }

    /// Of the requests that a fault hit, which part was found, by the event that found the fewest; 0 where none was hit.
    #[must_use]
    pub fn recall(&self, fault: Fault) -> f64 {
        let of = self.found.iter().filter(|((of, ..), _)| *of == fault);
        of.map(|(_, (all, found))| *found as f64 / *all as f64).reduce(f64::min).unwrap_or_default()
    }
}

impl fmt::Display for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (requests, linked, wrong) = (self.requests.len(), self.linked.len(), self.wrong.len());
        let (exemplars, spans) = (self.exemplars, self.anomaly_spans);
        writeln!(
            f,
            "{requests} requests, {linked} linked records, {exemplars} exemplars, {spans} anomaly spans, {wrong} wrong"
        )?;
        for ((fault, event, role), (all, found)) in &self.found {
            writeln!(f, "  {fault:?}: {found} of {all} by {event} ({role})")?;
        }
        Ok(())
    }
}

/// The requests of the shop's clients.
fn requests(told: &Telemetry) -> HashMap<Ids, Request> {
    let of_clients = told.spans().filter(|(_, span)| span.kind == SpanKind::Client as i32);
    let request = |span: &Span| {
        let facts = attributes(&span.attributes);
        let url = facts.get("url.full").or_else(|| facts.get("http.url")).cloned().unwrap_or_default();
        let ports = facts.get("shop.ports").map(|ports| ports.split(',').map(str::to_owned).collect());
        Request {
            fault: Fault::ALL.into_iter().find(|fault| url.contains(fault.path())),
            time: (span.start_time_unix_nano, span.end_time_unix_nano),
            ports: ports.unwrap_or_default(),
        }
    };
    of_clients.map(|(_, span)| ((hex(&span.trace_id), hex(&span.span_id)), request(span))).collect()
}

/// The requests that the shop's servers answered, by the servers' own spans.
fn asked(told: &Telemetry) -> HashMap<Ids, Ids> {
    let of_servers = told.spans().filter(|(_, span)| span.kind == SpanKind::Server as i32);
    let ids = |span: &[u8], of: &Span| (hex(&of.trace_id), hex(span));
    of_servers.map(|(_, span)| (ids(&span.span_id, span), ids(&span.parent_span_id, span))).collect()
}

/// The request that a record is linked to: `tap` knows the span of who answered it, the others that of who asked.
fn asked_by(record: &Record, asked: &HashMap<Ids, Ids>) -> Ids {
    let ids = (record.trace.clone(), record.span.clone());
    let is_tap = record.attributes.get(key::SPAN_LINK_SOURCE.key).is_some_and(|source| source == "tap");
    asked.get(&ids).filter(|_| is_tap).cloned().unwrap_or(ids)
}

fn is_anomaly(span: &Span) -> bool {
    span.attributes.iter().any(|one| one.key == key::SPAN_LINK_SOURCE.key)
}

/// The ports that a record names.
fn ports(attributes: &Attributes) -> impl Iterator<Item = &String> {
    let keys = [&key::NETWORK_LOCAL_PORT, &key::NETWORK_PEER_PORT, &key::SOURCE_PORT, &key::DESTINATION_PORT];
    keys.into_iter().filter_map(|key| attributes.get(key.key))
}

/// Whose something is, of the two ends of a network; `None`: another's.
#[must_use]
pub fn role_of(resource: &Attributes, network: &Network) -> Option<&'static str> {
    let name = resource.get(key::NETNS_NAME.key)?;
    let roles = [(network.a.name(), "client"), (network.b.name(), "server")];
    roles.into_iter().find(|(of, _)| of == name).map(|(_, role)| role)
}

/// Every exemplar that has a link, each once.
fn exemplars<'a>(told: &'a Telemetry, network: &Network) -> Vec<&'a Exemplar> {
    let ours = told.metrics().filter(|(of, _)| role_of(&attributes(&of.attributes), network).is_some());
    let points = ours.flat_map(|(_, metric)| numbers(metric));
    let linked = points.flat_map(|point| &point.exemplars).filter(|exemplar| !exemplar.trace_id.is_empty());
    let by_place = linked.map(|one| ((&one.trace_id, &one.span_id, one.time_unix_nano), one));
    by_place.collect::<HashMap<_, _>>().into_values().collect()
}
