//! Differences in place of totals. What a series' next difference is told against moves on only when its point is taken into
//! the queue.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, DataPointFlags, Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint,
        NumberDataPoint, exponential_histogram_data_point::Buckets, metric::Data, number_data_point::Value,
    },
    resource::v1::Resource,
};
use prost::Message;

use crate::batch::points::is_within;

/// Series that are remembered at most, all probes together: four times what the probe with the most may have. A series
/// beyond it is told of no more, and counted.
const SERIES: usize = 262_144;
/// Nanoseconds after which a series that no longer shows up makes room for others, once there is none, and for which one
/// that has ended may come back: what it was told of is not told again.
const STALE: u64 = 600_000_000_000;

/// What differences are told against.
pub(super) struct Baselines {
    /// Since when this destination is told of anything.
    since: u64,
    known: HashMap<u64, Baseline>,
    hasher: RandomState,
    /// When those that had ended were last looked through.
    tidied: u64,
}

struct Baseline {
    start: u64,
    /// The time that was told of last: since when, and until when.
    begun: u64,
    time: u64,
    total: Total,
    /// Under which names.
    names: u64,
    ended: bool,
}

/// Whom metrics are of. Under new names an entity's series are new ones, and what was told under the former names is not told
/// again: they begin where those ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whose {
    /// The same whatever it is called.
    entity: u64,
    /// What it is called.
    names: u64,
}

/// The last total of a series.
#[derive(Clone)]
enum Total {
    Int(i64),
    Double(f64),
    Exponential(Exponential),
    Explicit(Explicit),
}

#[derive(Clone)]
struct Exponential {
    count: u64,
    sum: f64,
    zero: u64,
    scale: i32,
    positive: Buckets,
    negative: Buckets,
}

#[derive(Clone)]
struct Explicit {
    count: u64,
    sum: f64,
    buckets: Vec<u64>,
}

/// What the points of counters and histograms have in common.
trait Point {
    fn attributes(&self) -> &[KeyValue];
    fn flags(&self) -> u32;
    fn times(&mut self) -> (&mut u64, u64);
    fn exemplars(&mut self) -> &mut Vec<Exemplar>;
    /// Its total; `None` without a value.
    fn total(&self) -> Option<Total>;
    /// Takes off an earlier total. False when that is larger: it started anew.
    fn take_off(&mut self, earlier: &Total) -> bool;
}

impl Baselines {
    /// Nothing is known yet.
    pub(super) fn from(since: u64) -> Self {
        Self { since, known: HashMap::new(), hasher: RandomState::new(), tidied: since }
    }

    /// Whom metrics with this resource are of: the entity of this key, or else whatever has this very resource.
    pub(super) fn whose(&self, key: Option<u64>, resource: Option<&Resource>) -> Whose {
        let names = self.hasher.hash_one(resource.map(Message::encode_to_vec));
        Whose { entity: key.map_or(names, |key| self.hasher.hash_one(key)), names }
    }

    /// Makes differences of the totals of a metric; those of sums that may fall stay. Points that are only something to
    /// tell the next one against are taken out; how many.
    pub(super) fn difference(&mut self, whose: Whose, metric: &str, data: &mut Data) -> u64 {
        let delta = AggregationTemporality::Delta.into();
        match data {
            Data::Sum(sum) if sum.is_monotonic => {
                sum.aggregation_temporality = delta;
                self.points(whose, metric, &mut sum.data_points)
            }
            Data::Histogram(histogram) => {
                histogram.aggregation_temporality = delta;
                self.points(whose, metric, &mut histogram.data_points)
            }
            Data::ExponentialHistogram(histogram) => {
                histogram.aggregation_temporality = delta;
                self.points(whose, metric, &mut histogram.data_points)
            }
            Data::Sum(_) | Data::Gauge(_) | Data::Summary(_) => 0,
        }
    }

    fn points<P: Point>(&mut self, whose: Whose, metric: &str, points: &mut Vec<P>) -> u64 {
        let before = points.len();
        points.retain_mut(|point| self.point(whose, metric, point));
        (before - points.len()) as u64
    }

    /// Whether the point tells something.
    fn point(&mut self, whose: Whose, metric: &str, point: &mut impl Point) -> bool {
        let attributes: Vec<Vec<u8>> = point.attributes().iter().map(Message::encode_to_vec).collect();
        let series = self.hasher.hash_one((whose.entity, metric, attributes));
        let (start, time) = point.times();
        let (since, now) = (*start, time);
        let (true, Some(total)) =
            (point.flags() & DataPointFlags::NoRecordedValueMask as u32 == 0, point.total())
        else {
            *point.times().0 = self.end(series, whose.names, now).unwrap_or(since);
            return true;
        };
        let known = self.known.get(&series).filter(|known| known.start == since);
        let told = match known {
            Some(known) if point.take_off(&known.total) => {
                *point.times().0 = known.time;
                // What came earlier was in the difference before.
                point.exemplars().retain(|one| is_within(one, (known.time, now)));
                true
            }
            // It started anew: all that it counts is new.
            Some(_) => true,
            // Nobody knows since when it counts.
            None if since >= now => false,
            // What it counts may have been told of by another run.
            None => self.known.contains_key(&series) || since >= self.since,
        };
        let begun = *point.times().0;
        let baseline = Baseline { start: since, begun, time: now, total, names: whose.names, ended: false };
        self.remember(series, baseline) && told
    }

    /// Notes that a series ends under these names; until when it was told of.
    fn end(&mut self, series: u64, names: u64, now: u64) -> Option<u64> {
        if self.tidied + STALE < now {
            self.tidied = now;
            self.known.retain(|_, known| !known.ended || known.time + STALE > now);
        }
        let known = self.known.get_mut(&series)?;
        if known.names != names {
            // It goes on under others, from there.
            return Some(known.begun);
        }
        known.ended = true;
        Some(std::mem::replace(&mut known.time, now))
    }

    /// Whether there is room for it.
    fn remember(&mut self, series: u64, baseline: Baseline) -> bool {
        if self.known.len() >= SERIES && !self.known.contains_key(&series) {
            let now = baseline.time;
            self.known.retain(|_, known| known.time + STALE > now);
            if self.known.len() >= SERIES {
                return false;
            }
        }
        self.known.insert(series, baseline);
        true
    }
}

/// What all kinds of points have under the same names.
macro_rules! members {
    () => {
        fn attributes(&self) -> &[KeyValue] {
            &self.attributes
        }
        fn flags(&self) -> u32 {
            self.flags
        }
        fn times(&mut self) -> (&mut u64, u64) {
            (&mut self.start_time_unix_nano, self.time_unix_nano)
        }
        fn exemplars(&mut self) -> &mut Vec<Exemplar> {
            &mut self.exemplars
        }
    };
}

impl Point for NumberDataPoint {
    members!();
    fn total(&self) -> Option<Total> {
        Some(match self.value? {
            Value::AsInt(value) => Total::Int(value),
            Value::AsDouble(value) => Total::Double(value),
        })
    }
    fn take_off(&mut self, earlier: &Total) -> bool {
        let difference = match (&self.value, earlier) {
            (Some(Value::AsInt(now)), Total::Int(before)) if now >= before => Value::AsInt(now - before),
            (Some(Value::AsDouble(now)), Total::Double(before)) if now >= before => {
                Value::AsDouble(now - before)
            }
            _ => return false,
        };
        self.value = Some(difference);
        true
    }
}

impl Point for HistogramDataPoint {
    members!();
    fn total(&self) -> Option<Total> {
        let buckets = self.bucket_counts.clone();
        Some(Total::Explicit(Explicit { count: self.count, sum: self.sum.unwrap_or_default(), buckets }))
    }
    fn take_off(&mut self, earlier: &Total) -> bool {
        let Total::Explicit(before) = earlier else { return false };
        let Some(counts) = less(&self.bucket_counts, 0, &before.buckets, 0) else { return false };
        self.bucket_counts = counts;
        self.count -= before.count;
        self.sum = self.sum.map(|sum| sum - before.sum);
        // They are of all that was ever counted.
        (self.min, self.max) = (None, None);
        true
    }
}

impl Point for ExponentialHistogramDataPoint {
    members!();
    fn total(&self) -> Option<Total> {
        Some(Total::Exponential(Exponential {
            count: self.count,
            sum: self.sum.unwrap_or_default(),
            zero: self.zero_count,
            scale: self.scale,
            positive: self.positive.clone().unwrap_or_default(),
            negative: self.negative.clone().unwrap_or_default(),
        }))
    }
    fn take_off(&mut self, earlier: &Total) -> bool {
        let Total::Exponential(before) = earlier else { return false };
        let of = |now: &Option<Buckets>, before: &Buckets| {
            let now = now.clone().unwrap_or_default();
            let counts = less(&now.bucket_counts, now.offset, &before.bucket_counts, before.offset)?;
            Some(Buckets { offset: now.offset, bucket_counts: counts })
        };
        if self.scale != before.scale || self.zero_count < before.zero {
            return false;
        }
        let (Some(positive), Some(negative)) =
            (of(&self.positive, &before.positive), of(&self.negative, &before.negative))
        else {
            return false;
        };
        (self.positive, self.negative) = (Some(positive), Some(negative));
        self.count -= before.count;
        self.zero_count -= before.zero;
        self.sum = self.sum.map(|sum| sum - before.sum);
        (self.min, self.max) = (None, None);
        true
    }
}

/// Counts less earlier ones, bucket by bucket; `None` when one of them fell.
fn less(now: &[u64], offset: i32, before: &[u64], before_offset: i32) -> Option<Vec<u64>> {
    let mut counts = now.to_vec();
    for (index, earlier) in (before_offset..).zip(before).filter(|(_, earlier)| **earlier > 0) {
        let count = counts.get_mut(usize::try_from(index - offset).ok()?)?;
        *count = count.checked_sub(*earlier)?;
    }
    Some(counts)
}

#[cfg(test)]
mod tests;
