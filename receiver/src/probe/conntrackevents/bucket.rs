//! The limit of events of one namespace.

use std::time::Instant;

use crate::config::EventLimit;

/// A token bucket: full after a quiet time.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(super) fn full(limit: EventLimit, now: Instant) -> Self {
        Self { tokens: f64::from(limit.burst), filled: now }
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, limit: EventLimit, now: Instant) -> bool {
        let earned = now.duration_since(self.filled).as_secs_f64() * f64::from(limit.rate);
        self.tokens = (self.tokens + earned).min(f64::from(limit.burst));
        self.filled = now;
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate() {
        let limit = EventLimit { rate: 20, burst: 100 };
        let start = Instant::now();
        let mut bucket = Bucket::full(limit, start);
        let granted = |bucket: &mut Bucket, now| (0..1000).filter(|_| bucket.take(limit, now)).count();
        assert_eq!(granted(&mut bucket, start), 100);
        assert_eq!(granted(&mut bucket, start + Duration::from_secs(1)), 20);
        assert_eq!(granted(&mut bucket, start + Duration::from_secs(3600)), 100);
    }

    #[test]
    fn fractions_of_a_token_add_up() {
        let limit = EventLimit { rate: 1, burst: 1 };
        let start = Instant::now();
        let mut bucket = Bucket::full(limit, start);
        let steps = (0..100).map(|step| start + Duration::from_millis(100) * step);
        assert_eq!(steps.filter(|now| bucket.take(limit, *now)).count(), 10);
    }
}
