//! OTLP over gRPC: encoded requests out, partial success back.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse},
    metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse},
};
use prost::{
    Message,
    bytes::{Buf, BufMut, Bytes},
};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    metadata::MetadataMap,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::Signal;
use crate::config::{self, Compression, Destination};

/// Pings on an idle connection: a Collector that vanished without a word is noticed within this time and the
/// next request's timeout. The OpenTelemetry Collector's server accepts pings this far apart.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A destination cannot be built from its settings.
#[derive(Debug, thiserror::Error)]
#[error("{endpoint}: {reason}")]
pub struct BuildError {
    endpoint: String,
    reason: String,
}

/// What a server made of a request that it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Points or records that it refused for good.
    pub rejected: u64,
    /// Why, or a warning.
    pub message: String,
}

/// A client of one destination. The connection is made, and made again, when it is needed.
#[derive(Clone)]
pub struct Client {
    grpc: Grpc<Channel>,
    metadata: MetadataMap,
    timeout: Duration,
}

impl Client {
    /// A client by its settings.
    ///
    /// # Errors
    /// The transport refuses the endpoint or its TLS material.
    pub fn new(settings: &Destination) -> Result<Self, BuildError> {
        let mut grpc = Grpc::new(channel(settings).map_err(|error| BuildError {
            endpoint: settings.endpoint.to_string(),
            reason: chain(&error),
        })?);
        if settings.compression == Compression::Gzip {
            grpc = grpc.send_compressed(CompressionEncoding::Gzip);
        }
        let grpc = grpc.accept_compressed(CompressionEncoding::Gzip);
        let metadata = MetadataMap::from_headers(settings.headers.clone());
        Ok(Self { grpc, metadata, timeout: settings.timeout })
    }

    /// Sends one encoded request.
    ///
    /// # Errors
    /// The server's or the transport's status.
    pub async fn export(&mut self, signal: Signal, bytes: Bytes) -> Result<Accepted, Status> {
        self.grpc.ready().await.map_err(|error| Status::unavailable(chain(&error)))?;
        let mut request = Request::new(bytes);
        *request.metadata_mut() = self.metadata.clone();
        request.set_timeout(self.timeout);
        let sent = self.grpc.unary(request, PathAndQuery::from_static(path(signal)), Raw);
        let answer = tokio::time::timeout(self.timeout, sent)
            .await
            .map_err(|_| Status::deadline_exceeded(format!("no answer within {:?}", self.timeout)))??;
        accepted(signal, answer.into_inner())
    }
}

fn path(signal: Signal) -> &'static str {
    match signal {
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    }
}

fn accepted(signal: Signal, answer: Bytes) -> Result<Accepted, Status> {
    // An answer that cannot be read is no reason to send the data twice, but it is told.
    let unreadable =
        |error: prost::DecodeError| Status::internal(format!("the answer cannot be decoded: {error}"));
    let partial = match signal {
        Signal::Metrics => {
            let answer = ExportMetricsServiceResponse::decode(answer).map_err(unreadable)?;
            answer.partial_success.map(
                |ExportMetricsPartialSuccess { rejected_data_points, error_message }| {
                    (rejected_data_points, error_message)
                },
            )
        }
        Signal::Logs => {
            let answer = ExportLogsServiceResponse::decode(answer).map_err(unreadable)?;
            answer.partial_success.map(|ExportLogsPartialSuccess { rejected_log_records, error_message }| {
                (rejected_log_records, error_message)
            })
        }
    };
    let (rejected, message) = partial.unwrap_or_default();
    Ok(Accepted { rejected: rejected.try_into().unwrap_or(0), message })
}

fn channel(settings: &Destination) -> Result<Channel, tonic::transport::Error> {
    let mut endpoint = Endpoint::from_shared(settings.endpoint.to_string())?
        .connect_timeout(settings.timeout)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_while_idle(true)
        .user_agent(concat!("jitterscope/", env!("CARGO_PKG_VERSION")))?;
    if matches!(settings.endpoint, config::Endpoint::Https(_)) {
        endpoint = endpoint.tls_config(tls(settings))?;
    }
    Ok(endpoint.connect_lazy())
}

fn tls(settings: &Destination) -> ClientTlsConfig {
    let config = ClientTlsConfig::new();
    let config = match &settings.tls.ca {
        Some(ca) => config.ca_certificate(Certificate::from_pem(&ca.content)),
        None => config.with_native_roots(),
    };
    match &settings.tls.client {
        Some((certificate, key)) => config.identity(Identity::from_pem(&certificate.content, &key.content)),
        None => config,
    }
}

/// An error with its causes, for the transport's own text says little.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}

/// Moves bytes that are protobuf already.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}
