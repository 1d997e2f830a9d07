//! OTLP over gRPC: encoded requests out, the server's answer back.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use prost::bytes::{Buf, BufMut, Bytes};
use tonic::{
    Code, Status,
    body::Body,
    client::Grpc,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{Service, http::uri::PathAndQuery},
    metadata::MetadataMap,
    transport::{Channel, Endpoint, Error},
};

use super::{
    Signal,
    answer::Accepted,
    client::{USER_AGENT, chain},
    connect::Connector,
    retry::Refusal,
};
use crate::config::{self, Compression, Destination};

/// Pings on an idle connection: a Collector that vanished without a word is noticed within this time and the
/// next request's timeout. The OpenTelemetry Collector's server accepts pings this far apart.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How much longer than it is waited for an answer may take by what the server is told.
const GRACE: Duration = Duration::from_secs(1);

/// Sends over one connection, which tonic makes, and makes again, when it is needed.
#[derive(Clone)]
pub(super) struct Transport {
    channel: Channel,
    compression: Option<CompressionEncoding>,
    metadata: MetadataMap,
}

impl Transport {
    pub(super) fn new(settings: &Destination, connector: Connector) -> Self {
        let uri = match &settings.endpoint {
            config::Endpoint::Http(uri) | config::Endpoint::Https(uri) => uri.clone(),
            // What a server on a socket is called does not matter.
            config::Endpoint::Unix(_) => Uri::from_static("http://localhost"),
        };
        let endpoint = Endpoint::from(uri).http2_keep_alive_interval(KEEPALIVE).keep_alive_while_idle(true);
        // It can only fail for texts that are no header value.
        let endpoint = endpoint.clone().user_agent(USER_AGENT).unwrap_or(endpoint);
        let compression = match settings.compression {
            Compression::None => None,
            Compression::Gzip => Some(CompressionEncoding::Gzip),
            Compression::Zstd => Some(CompressionEncoding::Zstd),
        };
        let metadata = MetadataMap::from_headers(settings.headers.clone());
        Self { channel: endpoint.connect_with_connector_lazy(connector), compression, metadata }
    }

    /// Sends one request; `limit` is what the server is told of our patience.
    pub(super) async fn export(
        self,
        signal: Signal,
        bytes: Bytes,
        limit: Duration,
    ) -> Result<Accepted, Refusal> {
        let listening = Listening { channel: self.channel, heard: Arc::default() };
        let heard = Arc::clone(&listening.heard);
        // Servers answer in the encoding of the request.
        let mut grpc = Grpc::new(listening)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd);
        if let Some(encoding) = self.compression {
            grpc = grpc.send_compressed(encoding);
        }
        grpc.ready().await.map_err(|error| Refusal::Unheard(chain(&error)))?;
        let mut request = tonic::Request::new(bytes);
        *request.metadata_mut() = self.metadata;
        // A little more than is waited for here: who gives up, and what that is called, is one place's business.
        request.set_timeout(limit + GRACE);
        match grpc.unary(request, PathAndQuery::from_static(path(signal)), Raw).await {
            Ok(answer) => Ok(Accepted::read(signal, answer.into_inner())),
            Err(status) => heard.judge(status),
        }
    }
}

fn path(signal: Signal) -> &'static str {
    match signal {
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    }
}

/// What the server itself has said of a call. tonic gives a broken connection, an answer that is cut off and the
/// server's own word the same type, and their codes overlap.
#[derive(Default)]
struct Heard {
    refused: AtomicBool,
    taken: AtomicBool,
}

impl Heard {
    /// Notes a status in headers or trailers.
    fn note(&self, headers: &HeaderMap) {
        match headers.get("grpc-status").map(http::HeaderValue::as_bytes) {
            Some(b"0") => self.taken.store(true, Relaxed),
            Some(_) => self.refused.store(true, Relaxed),
            None => {}
        }
    }

    /// What a status means, by who said it.
    fn judge(&self, status: Status) -> Result<Accepted, Refusal> {
        if self.refused.load(Relaxed) {
            return Err(Refusal::Grpc(status));
        }
        // It answered, with more than is taken in. tonic looks at the length before the status comes.
        let too_long = status.code() == Code::OutOfRange;
        if self.taken.load(Relaxed) || too_long {
            Ok(Accepted::unreadable(&status))
        } else {
            Err(lost(&status))
        }
    }
}

/// The connection could not be made or it broke, before the server has said anything.
fn lost(status: &Status) -> Refusal {
    Refusal::Unheard(std::error::Error::source(status).map_or_else(|| status.message().to_owned(), chain))
}

/// Listens to what comes back through the channel.
#[derive(Clone)]
struct Listening {
    channel: Channel,
    heard: Arc<Heard>,
}

impl Service<Request<Body>> for Listening {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (heard, answer) = (Arc::clone(&self.heard), self.channel.call(request));
        Box::pin(async move {
            let answer = answer.await?;
            heard.note(answer.headers());
            // A proxy's word: it has a status of HTTP and none of gRPC.
            if answer.status() != StatusCode::OK {
                heard.refused.store(true, Relaxed);
            }
            Ok(answer.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    if let Some(trailers) = frame.trailers_ref() {
                        heard.note(trailers);
                    }
                    frame
                }))
            }))
        })
    }
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
