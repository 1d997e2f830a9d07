//! The requests of the last seconds, by the other end of their connection.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::ends::Ends;
use super::request::{Owner, Request};
use crate::spans::Link;

/// Requests that are remembered: some 10 MiB.
const LIMIT: usize = 65_536;
/// How long after its event an event may come to wait: the way through the ring, and a pause of the process.
const LATE: Duration = Duration::from_secs(5);

/// An event that no other source linked.
pub(super) struct Happened {
    pub(super) ends: Ends,
    /// Nanoseconds since the epoch.
    pub(super) during: RangeInclusive<u64>,
    pub(super) owner: Arc<Owner>,
}

/// What fits an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// Nothing.
    None,
    /// One span.
    One(Link),
    /// Several, or nobody can say.
    Unclear,
}

/// The requests.
pub(super) struct Known {
    requests: HashMap<SocketAddr, Vec<Request>>,
    length: usize,
    limit: usize,
    /// For how long an ended request is of use, in nanoseconds.
    keep: u64,
    /// Up to this end requests had no room: there may be one more than is known.
    blind_until: u64,
    swept: u64,
}

impl Known {
    /// Nothing yet; events wait for so long.
    pub(super) fn new(wait: Duration) -> Self {
        let keep = u64::try_from((wait + LATE).as_nanos()).unwrap_or(u64::MAX);
        Self { requests: HashMap::new(), length: 0, limit: LIMIT, keep, blind_until: 0, swept: 0 }
    }

    #[cfg(test)]
    pub(super) fn limited(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// Adds a request; false if there is no room or it is known: what is sent at least once may come twice.
    pub(super) fn add(&mut self, request: Request) -> bool {
        let mut of_peer = self.requests.get(&request.peer).into_iter().flatten();
        if of_peer.any(|known| known.link.span_id == request.link.span_id) {
            return false;
        }
        if self.length >= self.limit {
            self.blind_until = self.blind_until.max(request.end);
            return false;
        }
        self.requests.entry(request.peer).or_default().push(request);
        self.length += 1;
        true
    }

    /// Forgets what no event can belong to any more, looking once a second.
    pub(super) fn forget(&mut self, now: u64) {
        if now.saturating_sub(self.swept) < 1_000_000_000 {
            return;
        }
        self.swept = now;
        let oldest = now.saturating_sub(self.keep);
        self.requests.retain(|_, of_peer| {
            of_peer.retain(|request| request.end >= oldest);
            !of_peer.is_empty()
        });
        self.length = self.requests.values().map(Vec::len).sum();
    }

    /// The request that lasted through an event on its connection.
    pub(super) fn find(&self, happened: &Happened) -> Fit {
        let ends = happened.ends;
        let turned = (!ends.is_directed).then(|| ends.turned());
        let fitting = [Some(ends), turned].into_iter().flatten();
        let fitting =
            fitting.flat_map(|ends| self.on(ends).filter(move |request| fits(request, ends, happened)));
        let mut fitting = fitting.map(|request| request.link);
        match (fitting.next(), fitting.next()) {
            (None, _) => Fit::None,
            (Some(link), None) if *happened.during.start() > self.blind_until => Fit::One(link),
            _ => Fit::Unclear,
        }
    }

    fn on(&self, ends: Ends) -> impl Iterator<Item = &Request> {
        self.requests.get(&ends.peer).into_iter().flatten()
    }
}

/// Whether a request lasted through an event of the connection with these ends, its own first.
fn fits(request: &Request, ends: Ends, happened: &Happened) -> bool {
    let during = &happened.during;
    let lasted = request.start <= *during.start() && *during.end() <= request.end;
    let is_port = request.port.is_none_or(|port| port == ends.local.port());
    // Every namespace has these addresses; and who dropped a packet may be on the other side.
    let is_owner = if ends.peer.ip().is_loopback() || !ends.is_directed {
        request.owner.is(&happened.owner)
    } else {
        request.owner.may_be(&happened.owner)
    };
    lasted && is_port && is_owner
}
