//! What a destination wants metrics to look like: differences in place of totals, and explicit buckets in place of
//! exponential ones. Made when its queue takes a request, so that what never came this far is in the next difference.

mod delta;
mod explicit;

use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};

use self::delta::{Baselines, Whose};
use super::{Metrics, Payload};
use crate::config::{Destination, Histograms, Temporality};

/// The shape of one destination's metrics, and what its differences are told against.
pub(super) struct Shape {
    temporality: Temporality,
    histograms: Histograms,
    baselines: Baselines,
}

impl Shape {
    /// By a destination's settings, from `now` on (nanoseconds since the epoch).
    pub(super) fn of(settings: &Destination, now: u64) -> Self {
        let (temporality, histograms) = (settings.temporality, settings.histograms);
        Self { temporality, histograms, baselines: Baselines::from(now) }
    }

    /// A request in this shape, and how many of its points were only taken as what later ones are told against. `None`:
    /// it is as it should be.
    pub(super) fn apply(&mut self, payload: &Payload) -> Option<(Payload, u64)> {
        let as_it_is =
            self.temporality == Temporality::Cumulative && self.histograms == Histograms::Exponential;
        match payload {
            Payload::Metrics(metrics) if !as_it_is => Some(self.metrics(metrics.clone())),
            _ => None,
        }
    }

    fn metrics(&mut self, metrics: Metrics) -> (Payload, u64) {
        let (mut request, mut absorbed) = (metrics.request, 0);
        let keys = metrics.keys.into_iter().map(Some).chain(std::iter::repeat(None));
        for (of, key) in request.resource_metrics.iter_mut().zip(keys) {
            let whose = self.baselines.whose(key, of.resource.as_ref());
            for scope in &mut of.scope_metrics {
                for metric in &mut scope.metrics {
                    absorbed += self.metric(whose, metric);
                }
                scope.metrics.retain(|metric| !metric.data.as_ref().is_some_and(is_empty));
            }
            of.scope_metrics.retain(|scope| !scope.metrics.is_empty());
        }
        request.resource_metrics.retain(|of| !of.scope_metrics.is_empty());
        (Payload::Metrics(request.into()), absorbed)
    }

    fn metric(&mut self, whose: Whose, metric: &mut Metric) -> u64 {
        let absorbed = match (&mut metric.data, self.temporality) {
            (_, Temporality::Cumulative) | (None, _) => 0,
            // Counters of the kernel are read, as asynchronous instruments are.
            (Some(Data::Sum(_)), Temporality::LowMemory) => 0,
            (Some(data), _) => self.baselines.difference(whose, &metric.name, data),
        };
        if self.histograms == Histograms::Explicit
            && let Some(Data::ExponentialHistogram(exponential)) = &metric.data
        {
            metric.data = Some(Data::Histogram(explicit::histogram(exponential)));
        }
        absorbed
    }
}

fn is_empty(data: &Data) -> bool {
    match data {
        Data::Gauge(all) => all.data_points.is_empty(),
        Data::Sum(all) => all.data_points.is_empty(),
        Data::Histogram(all) => all.data_points.is_empty(),
        Data::ExponentialHistogram(all) => all.data_points.is_empty(),
        Data::Summary(all) => all.data_points.is_empty(),
    }
}

#[cfg(test)]
mod tests;
