//! The receiver's export path, given the same points and records as OTLP messages, which its batches make of what probes say.

use anyhow::Result;
use jitterscope::export::Payload;
use jitterscope_integration::otlp::{Signal, deliver::Bed};
use opentelemetry_proto::{
    tonic::collector::{logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest},
    transform::{common::tonic::ResourceAttributesWithSchema, logs::tonic::group_logs_by_resource_and_scope},
};
use opentelemetry_sdk::{
    logs::{LogBatch, SdkLogRecord},
    metrics::data::ResourceMetrics,
};
use tempfile::TempDir;

use super::{Way, child::Exporter, load};

/// A destination, and where its queue is.
pub(super) struct Ours {
    bed: Bed,
    _queue: TempDir,
}

impl Ours {
    pub(super) fn start(way: Way, endpoint: &str) -> Result<Self> {
        let queue = TempDir::new()?;
        let compression = if way.gzip { "gzip" } else { "none" };
        let disk = if way.disk {
            format!(", queue: {{disk: {{path: '{}'}}}}", queue.path().join("queue").display())
        } else {
            String::new()
        };
        let settings = format!("endpoint: '{endpoint}', compression: {compression}{disk}");
        Ok(Self { bed: Bed::start(&[&settings]), _queue: queue })
    }
}

impl Exporter for Ours {
    fn points(&self, metrics: ResourceMetrics) -> Result<()> {
        self.bed.deliver(Payload::Metrics(ExportMetricsServiceRequest::from(&metrics).into()));
        Ok(())
    }

    fn records(&self, records: Vec<SdkLogRecord>) -> Result<()> {
        let scope = load::scope();
        let batch: Vec<_> = records.iter().map(|record| (record, &scope)).collect();
        let resource = ResourceAttributesWithSchema::from(&load::resource());
        let resource_logs = group_logs_by_resource_and_scope(&LogBatch::new(&batch), &resource);
        self.bed.deliver(Payload::Logs(ExportLogsServiceRequest { resource_logs }));
        Ok(())
    }

    fn delivered(&self) -> [u64; 2] {
        [Signal::Metrics, Signal::Logs].map(|signal| self.bed.terms(signal).delivered)
    }
}
