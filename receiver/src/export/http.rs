//! OTLP over HTTP with protobuf: one POST a request, over a connection that is kept.

use std::{io::Write, time::Duration};

use flate2::{Compression as Level, write::GzEncoder};
use http::{
    HeaderMap, HeaderValue, Method, Request, Uri, Version,
    header::{CONTENT_ENCODING, CONTENT_TYPE, PROXY_AUTHORIZATION, USER_AGENT},
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use prost::bytes::Bytes;

use super::{
    Signal,
    answer::Accepted,
    client::{self, chain},
    connect::Connector,
    retry::Refusal,
};
use crate::config::{Compression, Destination, Endpoint};

/// Largest answer that is read: a count and a message have a fraction of it.
const ANSWER_BYTES: usize = 1 << 20;
/// A connection that nothing was sent over is closed after this time. Longer than the usual interval of collection,
/// shorter than servers and the proxies before them keep theirs.
const IDLE: Duration = Duration::from_secs(55);
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// Sends over one connection, which is made, and made again, when it is needed.
#[derive(Clone)]
pub(super) struct Transport {
    client: Client<Connector, Full<Bytes>>,
    /// By signal, in the order of `Signal::ALL`.
    urls: [Uri; Signal::ALL.len()],
    headers: HeaderMap,
    compression: Compression,
}

impl Transport {
    pub(super) fn new(settings: &Destination, connector: Connector) -> Self {
        let mut headers = settings.headers.clone();
        headers.insert(CONTENT_TYPE, PROTOBUF);
        headers.insert(USER_AGENT, HeaderValue::from_static(client::USER_AGENT));
        if let Some(encoding) = encoding(settings.compression) {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        if let Some(authorization) = connector.proxy_authorization() {
            headers.insert(PROXY_AUTHORIZATION, authorization);
        }
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            // Requests of one destination go one after the other.
            .pool_max_idle_per_host(1)
            .build(connector);
        let urls = Signal::ALL.map(|signal| url(settings, &format!("/v1/{}", signal.name())));
        Self { client, urls, headers, compression: settings.compression }
    }

    /// Sends one request.
    pub(super) async fn export(self, signal: Signal, bytes: Bytes) -> Result<Accepted, Refusal> {
        let unheard = |error: &dyn std::error::Error| Refusal::Unheard(chain(error));
        let answer =
            self.client.request(self.request(signal, bytes)?).await.map_err(|error| unheard(&error))?;
        let (head, body) = answer.into_parts();
        let body = match Limited::new(body, ANSWER_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            // The server has said all that counts.
            Err(error) if error.is::<LengthLimitError>() && head.status.is_success() => {
                return Ok(Accepted::unreadable(error.as_ref()));
            }
            Err(error) if error.is::<LengthLimitError>() => Bytes::new(),
            Err(error) => return Err(unheard(error.as_ref())),
        };
        match head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) {
            _ if !head.status.is_success() => Err(Refusal::of_http(head.status, &head.headers, &body)),
            // Whoever answers with a page for people has not understood the request.
            Some(kind) if kind.starts_with(b"text/html") => Err(Refusal::Http {
                status: head.status,
                delay: None,
                message: "answers with a page of HTML; is it an OTLP endpoint?".to_owned(),
            }),
            // Some answer in JSON or with a word, whatever the request was in.
            Some(kind) if !kind.starts_with(PROTOBUF.as_bytes()) => Ok(Accepted::default()),
            _ => Ok(Accepted::read(signal, body)),
        }
    }

    fn request(&self, signal: Signal, bytes: Bytes) -> Result<Request<Full<Bytes>>, Refusal> {
        let compressed = compressed(self.compression, bytes);
        let body = compressed.map_err(|error| Refusal::Unheard(format!("cannot be compressed: {error}")))?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_11;
        *request.uri_mut() = self.urls[signal as usize].clone();
        request.headers_mut().clone_from(&self.headers);
        Ok(request)
    }
}

/// Where a signal goes: the endpoint's own path with the signal's after it, or the endpoint as it is.
fn url(settings: &Destination, path: &str) -> Uri {
    let (Endpoint::Http(base) | Endpoint::Https(base)) = &settings.endpoint else { return Uri::default() };
    if !settings.append_path {
        return base.clone();
    }
    let path = format!("{}{path}", base.path().trim_end_matches('/'));
    let mut parts = base.clone().into_parts();
    parts.path_and_query = path.parse().ok();
    Uri::from_parts(parts).unwrap_or_else(|_| base.clone())
}

fn encoding(compression: Compression) -> Option<&'static str> {
    match compression {
        Compression::None => None,
        Compression::Gzip => Some("gzip"),
        Compression::Zstd => Some("zstd"),
    }
}

/// At the levels that tonic takes for gRPC.
fn compressed(compression: Compression, bytes: Bytes) -> std::io::Result<Bytes> {
    match compression {
        Compression::None => Ok(bytes),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Level::new(6));
            encoder.write_all(&bytes)?;
            Ok(encoder.finish()?.into())
        }
        Compression::Zstd => {
            let mut encoded = Vec::with_capacity(bytes.len() / 8);
            zstd::stream::copy_encode(bytes.as_ref(), &mut encoded, zstd::DEFAULT_COMPRESSION_LEVEL)?;
            Ok(encoded.into())
        }
    }
}
