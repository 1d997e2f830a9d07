//! The receiver's own telemetry, through the OpenTelemetry SDK: what each probe and destination did, and what it
//! cost. It leaves by the same queues as everything else.

mod instruments;
mod process;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use jitterscope_semconv::{SCHEMA_URL, SCOPE_NAME, attribute as key, metric};
use opentelemetry::{
    InstrumentationScope, KeyValue, metrics::Histogram, metrics::Meter, metrics::MeterProvider,
};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    metrics::{
        InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Temporality, data::ResourceMetrics,
        reader::MetricReader,
    },
};

use crate::{
    account::Accounts,
    config,
    export::{Delivery, DestinationAccount, OutboxHandle, Payload},
    pods::Pods,
    round,
    spans::SpanStore,
};

/// Name of the service when the user gives none.
const SERVICE: &str = "jitterscope";

/// The SDK's meter provider and what reads it.
pub struct Telemetry {
    provider: SdkMeterProvider,
    reader: SharedReader,
    meter: Meter,
    /// The destinations as they are when the instruments are read.
    figures: Option<instruments::Destinations>,
    /// Whether it was switched off.
    silent: bool,
}

/// Whose figures the instruments show.
#[derive(Clone)]
pub struct Observed {
    /// The probes' accounts.
    pub accounts: Accounts,
    /// The destinations' accounts; a reload replaces them.
    pub destinations: Arc<ArcSwap<Vec<Arc<DestinationAccount>>>>,
    /// The entities.
    pub pods: Pods,
    /// Where the counters of namespaces came from.
    pub counters: Arc<round::Account>,
    /// What is known of the applications' spans.
    pub spans: Arc<SpanStore>,
}

impl Telemetry {
    /// A provider for this process; `own` are the service's attributes as the user configured them.
    pub fn new(own: &config::Resource) -> Self {
        let reader = SharedReader(Arc::new(ManualReader::builder().build()));
        let provider =
            SdkMeterProvider::builder().with_reader(reader.clone()).with_resource(resource(own)).build();
        let scope = InstrumentationScope::builder(SCOPE_NAME)
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(SCHEMA_URL)
            .build();
        let meter = provider.meter_with_scope(scope);
        Self { provider, reader, meter, figures: None, silent: own.silent }
    }

    /// Where probes note how long their collections take.
    pub fn collect_duration(&self) -> Histogram<f64> {
        let metric = &metric::PROBE_COLLECT_DURATION;
        // From the clock's own cost to the whole of a short interval.
        let bounds = vec![0.000_1, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0];
        let histogram = self.meter.f64_histogram(metric.name).with_unit(metric.unit);
        histogram.with_description(metric.brief).with_boundaries(bounds).build()
    }

    /// Registers the instruments that are read at each collection.
    pub fn observe(&mut self, observed: &Observed) {
        self.figures = Some(instruments::register(&self.meter, observed));
    }

    /// What the instruments show now.
    pub fn collect(&self) -> Option<ExportMetricsServiceRequest> {
        if let Some(figures) = &self.figures {
            figures.read();
        }
        let mut metrics = ResourceMetrics::default();
        match self.reader.collect(&mut metrics) {
            Ok(()) => Some((&metrics).into()),
            Err(error) => {
                tracing::warn!(%error, "the receiver's own telemetry cannot be collected");
                None
            }
        }
    }

    /// Collects and sends at each interval until it is dropped.
    pub async fn run(&self, interval: Duration, outbox: &OutboxHandle) {
        let mut ticks = tokio::time::interval(interval);
        loop {
            ticks.tick().await;
            self.send(outbox);
        }
    }

    /// Collects and sends once, unless it was switched off.
    pub fn send(&self, outbox: &OutboxHandle) {
        if self.silent {
            return;
        }
        if let Some(request) = self.collect() {
            outbox.load().send(Delivery { payload: Payload::Metrics(request.into()), account: None });
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::debug!(%error, "the meter provider's end");
        }
    }
}

fn resource(own: &config::Resource) -> Resource {
    let attribute = |key: &jitterscope_semconv::Attribute, value: String| KeyValue::new(key.key, value);
    let configured = own.attributes.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let name = own.service_name.clone().unwrap_or_else(|| SERVICE.to_owned());
    Resource::builder_empty()
        .with_schema_url([], SCHEMA_URL)
        .with_attribute(attribute(&key::SERVICE_INSTANCE_ID, process::instance_id()))
        .with_attribute(attribute(&key::SERVICE_VERSION, env!("CARGO_PKG_VERSION").to_owned()))
        .with_attribute(KeyValue::new(key::PROCESS_PID.key, i64::from(std::process::id())))
        .with_attributes(process::creation_time().map(|time| attribute(&key::PROCESS_CREATION_TIME, time)))
        .with_detector(Box::new(opentelemetry_sdk::resource::TelemetryResourceDetector))
        .with_attributes(configured)
        .with_attribute(attribute(&key::SERVICE_NAME, name))
        .build()
}

/// The SDK owns its reader; this lets us keep it too.
#[derive(Clone, Debug)]
pub struct SharedReader(pub Arc<ManualReader>);

impl MetricReader for SharedReader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }
    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }
    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }
    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }
    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}
