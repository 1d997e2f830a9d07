//! The SDK's OTLP exporter: a task for each signal exports what comes, one after the other, as its readers and processors do.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::{Context as _, Result};
use opentelemetry_otlp::{
    Compression, LogExporter, MetricExporter, WithExportConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::{
    logs::{LogBatch, LogExporter as _, SdkLogRecord},
    metrics::{data::ResourceMetrics, exporter::PushMetricExporter as _},
};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{Way, child::Exporter, load};

/// As many as wait at a destination of the receiver's.
const CHANNEL: usize = 64;

/// Both exporters at work.
pub(super) struct Sdk {
    metrics: Sender<ResourceMetrics>,
    logs: Sender<Vec<SdkLogRecord>>,
    delivered: Arc<[AtomicU64; 2]>,
}

impl Sdk {
    pub(super) fn start(way: Way, endpoint: &str) -> Result<Self> {
        let (mut metrics, mut logs) =
            (MetricExporter::builder().with_tonic(), LogExporter::builder().with_tonic());
        if way.gzip {
            metrics = metrics.with_compression(Compression::Gzip);
            logs = logs.with_compression(Compression::Gzip);
        }
        let metrics = metrics.with_endpoint(endpoint).build()?;
        let mut logs = logs.with_endpoint(endpoint).build()?;
        logs.set_resource(&load::resource());
        let delivered: Arc<[AtomicU64; 2]> = Arc::default();
        let (to_metrics, from_metrics) = channel(CHANNEL);
        let (to_logs, from_logs) = channel(CHANNEL);
        tokio::spawn(export_metrics(metrics, from_metrics, Arc::clone(&delivered)));
        tokio::spawn(export_logs(logs, from_logs, Arc::clone(&delivered)));
        Ok(Self { metrics: to_metrics, logs: to_logs, delivered })
    }
}

async fn export_metrics(
    exporter: MetricExporter,
    mut from: Receiver<ResourceMetrics>,
    delivered: Arc<[AtomicU64; 2]>,
) {
    while let Some(metrics) = from.recv().await {
        // What was not taken is missed by who waits for it.
        if exporter.export(&metrics).await.is_ok() {
            delivered[0].fetch_add(load::POINTS, Relaxed);
        }
    }
}

async fn export_logs(
    exporter: LogExporter,
    mut from: Receiver<Vec<SdkLogRecord>>,
    delivered: Arc<[AtomicU64; 2]>,
) {
    let scope = load::scope();
    while let Some(records) = from.recv().await {
        let batch: Vec<_> = records.iter().map(|record| (record, &scope)).collect();
        if exporter.export(LogBatch::new(&batch)).await.is_ok() {
            delivered[1].fetch_add(records.len() as u64, Relaxed);
        }
    }
}

impl Exporter for Sdk {
    fn points(&self, metrics: ResourceMetrics) -> Result<()> {
        self.metrics.try_send(metrics).ok().context("the exporter does not keep up")
    }

    fn records(&self, records: Vec<SdkLogRecord>) -> Result<()> {
        self.logs.try_send(records).ok().context("the exporter does not keep up")
    }

    fn delivered(&self) -> [u64; 2] {
        self.delivered.each_ref().map(|delivered| delivered.load(Relaxed))
    }
}
