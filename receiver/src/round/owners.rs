//! Whose the entries of a kernel's map are once their owner is gone: what it had counted is not told again of another one.

use std::{collections::HashMap, sync::Arc};

use foldhash::quality::RandomState;

use crate::pods::{Entity, Origin, Snapshot};

/// Nanoseconds after which an origin that nobody asks for is forgotten: longer than any interval of a probe.
const FORGOTTEN: u64 = 4 * 3600 * 1_000_000_000;

/// What each origin resolved to. Its size follows the maps of the kernel, which are bounded.
#[derive(Default)]
pub(super) struct Owners {
    known: HashMap<Origin, Owner, RandomState>,
    looked_through: u64,
}

struct Owner {
    entity: Arc<Entity>,
    asked: u64,
}

impl Owners {
    /// Whose the counts of an origin are. Once it resolves no more, they stay with whom they were of, for as long as that one
    /// `is_alive`, and are nobody's after. One that never resolved gets the best that can be said.
    pub(super) fn of(
        &mut self,
        origin: &Origin,
        pods: &Snapshot,
        now: u64,
        is_alive: impl Fn(u64) -> bool,
    ) -> Option<Arc<Entity>> {
        if let Some(found) = pods.resolve(origin) {
            self.known.insert(*origin, Owner { entity: Arc::clone(&found), asked: now });
            return Some(found);
        }
        let other = pods.fallback(origin);
        let Some(known) = self.known.get_mut(origin) else { return other };
        known.asked = now;
        let stays = other?.key == known.entity.key || is_alive(known.entity.key);
        stays.then(|| Arc::clone(&known.entity))
    }

    /// Forgets what nobody asks for any more, now and then.
    pub(super) fn tidy(&mut self, now: u64) {
        if self.looked_through.saturating_add(FORGOTTEN) < now {
            self.known.retain(|_, owner| owner.asked.saturating_add(FORGOTTEN) >= now);
            self.looked_through = now;
        }
    }
}
