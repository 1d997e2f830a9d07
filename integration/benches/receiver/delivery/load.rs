//! What is sent: the points of an SDK's instruments and log records with attributes, the same for every way.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Result, bail};
use jitterscope::telemetry::SharedReader;
use opentelemetry::{
    InstrumentationScope, KeyValue,
    logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity},
    metrics::{Counter, Histogram, MeterProvider as _},
};
use opentelemetry_sdk::{
    Resource,
    logs::{SdkLogRecord, SdkLogger, SdkLoggerProvider},
    metrics::{
        Aggregation, InstrumentKind, ManualReader, SdkMeterProvider, Stream, data::ResourceMetrics,
        reader::MetricReader,
    },
};

/// Points of one collection, which comes once a second: of so many series, a tenth of them exponential histograms.
pub(super) const POINTS: u64 = 10_000;

/// Records of a second.
pub(super) const RECORDS: u64 = 5000;

/// Batches that the records of a second come in.
pub(super) const BATCHES: u64 = 10;

/// Series of one instrument.
const SETS: u64 = 200;

/// Instruments of which one is a histogram.
const KINDS: u64 = 10;

/// Values of a histogram between two collections.
const VALUES: u32 = 5;

/// What a turn sends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    Both,
    Points,
    Records,
}

impl Load {
    pub(super) const ALL: [Self; 3] = [Self::Both, Self::Points, Self::Records];

    pub(super) fn has_points(self) -> bool {
        !matches!(self, Self::Records)
    }

    pub(super) fn has_records(self) -> bool {
        !matches!(self, Self::Points)
    }
}

/// Makes points and records.
pub(super) struct Producer {
    _provider: SdkMeterProvider,
    reader: SharedReader,
    counters: Vec<Counter<u64>>,
    histograms: Vec<Histogram<f64>>,
    sets: Vec<[KeyValue; 3]>,
    logger: SdkLogger,
    made: u64,
}

impl Producer {
    pub(super) fn new() -> Self {
        let reader = SharedReader(Arc::new(ManualReader::builder().build()));
        let provider = SdkMeterProvider::builder()
            .with_reader(reader.clone())
            .with_resource(resource())
            .with_view(|instrument| {
                let aggregation = Aggregation::Base2ExponentialHistogram {
                    max_size: 160,
                    max_scale: 2,
                    record_min_max: false,
                };
                let is_histogram = instrument.kind() == InstrumentKind::Histogram;
                is_histogram.then(|| Stream::builder().with_aggregation(aggregation).build().ok())?
            })
            .build();
        let meter = provider.meter("bench");
        let (mut counters, mut histograms) = (Vec::new(), Vec::new());
        for at in 0..POINTS / SETS {
            match at % KINDS {
                0 => histograms
                    .push(meter.f64_histogram(format!("bench.duration.{at}")).with_unit("s").build()),
                _ => counters
                    .push(meter.u64_counter(format!("bench.packets.{at}")).with_unit("{packet}").build()),
            }
        }
        let sets = (0..SETS).map(|set| {
            [
                KeyValue::new("network.interface.name", format!("eth{}", set % 4)),
                KeyValue::new("network.peer.address", format!("10.0.{}.{}", set / 250, set % 250)),
                KeyValue::new("bench.cause", i64::try_from(set % 16).unwrap_or_default()),
            ]
        });
        let logger = SdkLoggerProvider::builder().build().logger("bench");
        Self { _provider: provider, reader, counters, histograms, sets: sets.collect(), logger, made: 0 }
    }

    /// The points of a collection.
    pub(super) fn points(&mut self) -> Result<ResourceMetrics> {
        for (set, attributes) in (1..).zip(&self.sets) {
            self.counters.iter().for_each(|counter| counter.add(set, attributes));
            let values = (1..=VALUES).map(|value| f64::from(value) * set as f64 * 1e-6);
            values.for_each(|value| self.histograms.iter().for_each(|of| of.record(value, attributes)));
        }
        let mut metrics = ResourceMetrics::default();
        if let Err(error) = self.reader.collect(&mut metrics) {
            bail!("the points cannot be collected: {error}");
        }
        Ok(metrics)
    }

    /// A batch of records.
    pub(super) fn records(&mut self) -> Vec<SdkLogRecord> {
        (0..RECORDS / BATCHES).map(|_| self.record()).collect()
    }

    fn record(&mut self) -> SdkLogRecord {
        self.made += 1;
        let (number, now) = (self.made, SystemTime::now());
        let port = AnyValue::Int(i64::try_from(1024 + number % 60_000).unwrap_or_default());
        let mut record = self.logger.create_log_record();
        record.set_event_name("bench.packet.dropped");
        record.set_timestamp(now - Duration::from_millis(number % 100));
        record.set_observed_timestamp(now);
        record.set_severity_number(Severity::Warn);
        record.add_attributes([
            ("network.transport", AnyValue::from("tcp")),
            ("network.type", AnyValue::from("ipv4")),
            ("network.local.address", AnyValue::from("10.0.0.1")),
            ("network.local.port", port),
            ("network.peer.address", AnyValue::from(format!("10.0.1.{}", number % 250))),
            ("network.peer.port", AnyValue::Int(443)),
            ("network.interface.name", AnyValue::from("eth0")),
            ("bench.cause", AnyValue::from("NO_SOCKET")),
        ]);
        record
    }
}

/// Whose points and records they are.
pub(super) fn resource() -> Resource {
    let attributes = [("k8s.node.name", "node"), ("k8s.pod.name", "pod"), ("service.name", "bench")];
    Resource::builder_empty()
        .with_attributes(attributes.map(|(key, value)| KeyValue::new(key, value)))
        .build()
}

/// Of what scope.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("bench").build()
}
