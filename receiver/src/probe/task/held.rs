//! Events that wait for the span that they belong to: a span is known only when it has ended.

use std::{collections::VecDeque, sync::Arc};

use tokio::time::Instant;

use crate::{batch::Occurrence, pods::Entity, spans::tap::Tap};

/// Events of one probe that wait at a time: some 4 MiB. Further ones do not wait.
const LIMIT: usize = 4096;

/// An event, whose it is, and when it was seen (nanoseconds since the epoch).
pub(super) struct Attributed {
    pub(super) entity: Arc<Entity>,
    pub(super) observed: u64,
    pub(super) occurrence: Occurrence,
}

/// The events that wait, the oldest first.
#[derive(Default)]
pub(super) struct Held(VecDeque<(Instant, Attributed)>);

impl Held {
    /// Takes the events that are to wait out of these.
    pub(super) fn hold(&mut self, events: &mut Vec<Attributed>, tap: &Tap) {
        let Some(wait) = tap.wait() else { return };
        let until = Instant::now() + wait;
        for event in events.extract_if(.., |event| tap.may_know(&event.occurrence)).collect::<Vec<_>>() {
            if self.0.len() < LIMIT {
                self.0.push_back((until, event));
            } else {
                tap.give_up();
                events.push(event);
            }
        }
    }

    /// When the next one has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.front().map(|(until, _)| *until)
    }

    /// Those that have waited long enough, or all, each with its span if that is known now.
    pub(super) fn release(&mut self, tap: &Tap, all: bool) -> Vec<Attributed> {
        let all = all || tap.wait().is_none();
        let now = Instant::now();
        let due = self.0.iter().take_while(|(until, _)| all || *until <= now).count();
        let link = |(_, mut event): (Instant, Attributed)| {
            event.occurrence.link = tap.find(&event.entity, &event.occurrence);
            event
        };
        self.0.drain(..due).map(link).collect()
    }
}
