//! The source `tap`: spans of the node's applications, of which a Collector sends a copy when they have ended. An event that
//! no other source links waits until the spans of its time should have come, and belongs to the one span of its connection
//! that lasted through it.
//!
//! What can be told for sure is little, and no more is told:
//! - Who samples does not send the spans of other requests, so that a span must name its connection: the other end with its
//!   port, of a client's span also its own port. That two spans are of one server is not enough.
//! - Requests of HTTP/1 follow each other on a connection. Those of other protocols may overlap with some whose spans come
//!   later, or never.

mod ends;
mod known;
mod request;
pub mod server;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use jitterscope_ebpf::abi::span_counts;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;

use self::{
    ends::Ends,
    known::{Fit, Happened, Known},
    request::{Owner, Request},
};
use super::Link;
use crate::{batch::Occurrence, pods::Entity};

/// What is known of the spans that came, and what became of it.
#[derive(Default)]
pub struct Tap {
    open: ArcSwapOption<Open>,
    /// Whether it ever ran.
    has_run: AtomicBool,
    captured: AtomicU64,
    used: AtomicU64,
    ambiguous: AtomicU64,
}

struct Open {
    wait: Duration,
    known: Mutex<Known>,
}

impl Tap {
    /// From now on spans are taken, and events wait for them so long.
    pub fn open(&self, wait: Duration) {
        self.has_run.store(true, Relaxed);
        self.open.store(Some(Arc::new(Open { wait, known: Mutex::new(Known::new(wait)) })));
    }

    /// Nothing is taken any more, what was is forgotten.
    pub fn close(&self) {
        self.open.store(None);
    }

    /// How long an event waits for its span; None while no spans are taken.
    pub fn wait(&self) -> Option<Duration> {
        self.open.load().as_ref().map(|open| open.wait)
    }

    /// Keeps the spans that tell of one request on one connection.
    pub fn take(&self, sent: &ExportTraceServiceRequest, now: u64) {
        let open = self.open.load();
        let Some(open) = open.as_ref() else { return };
        let mut known = open.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.forget(now);
        for of in &sent.resource_spans {
            let attributes = of.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
            let owner = Owner::of(attributes);
            let spans = of.scope_spans.iter().flat_map(|scope| &scope.spans);
            let requests = spans.filter_map(|span| Request::of(span, &owner));
            let kept = requests.filter(|request| known.add(request.clone())).count();
            self.captured.fetch_add(kept as u64, Relaxed);
        }
    }

    /// Whether an event may find its span here: one of a TCP connection that is not linked.
    pub fn may_know(&self, occurrence: &Occurrence) -> bool {
        occurrence.link.is_none() && Ends::of_event(&occurrence.attributes).is_some()
    }

    /// The span of a request that lasted through an event of its connection, if there is exactly one.
    pub fn find(&self, entity: &Entity, occurrence: &Occurrence) -> Option<Link> {
        let open = self.open.load();
        let ends = Ends::of_event(&occurrence.attributes)?;
        let lasted = u64::try_from(occurrence.lasted.as_nanos()).unwrap_or(u64::MAX);
        let end = occurrence.time_unix_nano;
        let happened = Happened {
            ends,
            during: end.saturating_sub(lasted)..=end,
            owner: Owner::of(&entity.resource.attributes),
        };
        let known = open.as_ref()?.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.find(&happened) {
            Fit::One(link) => {
                self.used.fetch_add(1, Relaxed);
                Some(link)
            }
            Fit::Unclear => {
                self.give_up();
                None
            }
            Fit::None => None,
        }
    }

    /// Counts an event whose span cannot be told.
    pub fn give_up(&self) {
        self.ambiguous.fetch_add(1, Relaxed);
    }

    /// What became of what came; None when it never ran.
    pub fn counts(&self) -> Option<span_counts> {
        self.has_run.load(Relaxed).then(|| span_counts {
            captured: self.captured.load(Relaxed),
            used: self.used.load(Relaxed),
            ambiguous: self.ambiguous.load(Relaxed),
            ..span_counts::default()
        })
    }
}

#[cfg(test)]
mod tests;
