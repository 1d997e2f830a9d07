//! Requests that share a connection at a time: which of them something belongs to nobody can know.

use std::collections::{BTreeMap, HashMap};

use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};

use super::{CLOCK, Ids, Join, Request};
use crate::telemetry::{Telemetry, hex};

impl Join {
    /// Links that could as well have been to another request of the connection, which a server was at when it happened.
    #[must_use]
    pub fn guessed(&self) -> Vec<String> {
        let is_at = |ids: &Ids, time: u64| {
            self.served.get(ids).is_some_and(|(start, end)| start + CLOCK < time && time + CLOCK < *end)
        };
        let guesses = self.linked.iter().filter_map(|linked| {
            let of = self.requests.get(&linked.ids)?;
            let shares = |request: &Request| request.ports.iter().any(|port| of.ports.contains(port));
            let mut others = self.requests.iter().filter(|(ids, _)| **ids != linked.ids);
            let other = others.find(|(ids, request)| shares(request) && is_at(ids, linked.record.time))?;
            Some(format!("{other:?} as well: {linked:?}"))
        });
        guesses.collect()
    }

    /// The most requests of one connection that a server was at, at one time.
    #[must_use]
    pub fn most_at_once(&self) -> usize {
        let mut steps: BTreeMap<&String, Vec<(u64, i32)>> = BTreeMap::new();
        for (ids, request) in &self.requests {
            if let (Some((start, end)), Some(port)) = (self.served.get(ids), request.ports.first()) {
                steps.entry(port).or_default().extend([(*start, 1), (*end, -1)]);
            }
        }
        let most = |mut steps: Vec<(u64, i32)>| {
            steps.sort_unstable();
            let open = steps.iter().scan(0, |open, (_, step)| {
                *open += step;
                Some(*open)
            });
            open.max().unwrap_or_default().unsigned_abs() as usize
        };
        steps.into_values().map(most).max().unwrap_or_default()
    }
}

/// While servers were at requests, by the client's span of each.
pub(super) fn served(told: &Telemetry) -> HashMap<Ids, (u64, u64)> {
    let of_servers = told.spans().filter(|(_, span)| span.kind == SpanKind::Server as i32);
    let time = |span: &Span| (span.start_time_unix_nano, span.end_time_unix_nano);
    of_servers.map(|(_, span)| ((hex(&span.trace_id), hex(&span.parent_span_id)), time(span))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Linked;
    use super::*;
    use crate::telemetry::Record;

    /// Two requests, of these ports and with these times of the server, and a link to the first, at the time 50 ms.
    fn join(ports: [&str; 2], times: [(u64, u64); 2]) -> Join {
        let mut join = Join::default();
        for (number, (port, (start, end))) in ports.iter().zip(times).enumerate() {
            let (ids, time) = ((number.to_string(), String::new()), (start * 1_000_000, end * 1_000_000));
            let request = Request { fault: None, time, ports: vec![(*port).to_owned()] };
            join.requests.insert(ids.clone(), request);
            join.served.insert(ids, time);
        }
        let record = Record { time: 50_000_000, ..Record::default() };
        join.linked.push(Linked { ids: ("0".to_owned(), String::new()), record, role: "client" });
        join
    }

    #[test]
    fn a_link_is_guessed_while_the_server_is_at_another_request_of_the_connection() {
        let both = [(0, 100), (20, 80)];
        assert_eq!(join(["1", "1"], both).guessed().len(), 1);
        assert_eq!(join(["1", "2"], both).guessed(), [""; 0]);
        assert_eq!(join(["1", "1"], [(0, 100), (60, 80)]).guessed(), [""; 0]);
    }

    #[test]
    fn requests_of_one_connection_are_counted_together() {
        let both = [(0, 100), (20, 80)];
        assert_eq!(join(["1", "1"], both).most_at_once(), 2);
        assert_eq!(join(["1", "2"], both).most_at_once(), 1);
        assert_eq!(join(["1", "1"], [(0, 20), (20, 80)]).most_at_once(), 1);
    }
}
