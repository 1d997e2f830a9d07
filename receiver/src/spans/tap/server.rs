//! Where the Collector sends its copy of the node's spans: OTLP over HTTP, binary protobuf (OTLP specification, section
//! OTLP/HTTP), without compression, with gzip or with zstd.

use std::{io::Read, sync::Arc, time::Duration};

use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use tokio::{net::TcpListener, task::block_in_place};

use crate::{
    clock::Clock,
    spans::SpanStore,
    web::{self, Manner},
};

/// A Collector keeps its connections; between two batches may lie a while.
const MANNER: Manner =
    Manner { name: "spans of the node", patience: Duration::from_secs(60), keep_alive: true };
/// Bytes of a request, packed and unpacked.
const LIMIT: usize = 16 << 20;
/// The only content: JSON is for browsers.
const PROTOBUF: &str = "application/x-protobuf";
/// Where spans go.
const PATH: &str = "/v1/traces";

/// Why a request is refused.
type Refusal = (StatusCode, &'static str);

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, spans: Arc<SpanStore>) {
    web::serve(listener, MANNER, move |request| answer(request, Arc::clone(&spans))).await;
}

/// An answer without content means that everything was taken.
async fn answer(request: Request<Incoming>, spans: Arc<SpanStore>) -> Response<Full<Bytes>> {
    let (status, body) = match read(request).await {
        Ok(sent) => {
            spans.tap.take(&sent, Clock::read().now());
            (StatusCode::OK, "")
        }
        Err(refusal) => refusal,
    };
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    let kind = if status == StatusCode::OK { PROTOBUF } else { "text/plain" };
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

async fn read(request: Request<Incoming>) -> Result<ExportTraceServiceRequest, Refusal> {
    if request.uri().path() != PATH {
        return Err((StatusCode::NOT_FOUND, "spans are taken at /v1/traces"));
    }
    if request.method() != http::Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "spans are sent by POST"));
    }
    let (head, body) = request.into_parts();
    let kind = text(&head.headers, header::CONTENT_TYPE);
    if kind.split(';').next().map(str::trim) != Some(PROTOBUF) {
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content must be application/x-protobuf"));
    }
    let body = Limited::new(body, LIMIT).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            TOO_LARGE
        } else {
            (StatusCode::BAD_REQUEST, "the content ended early")
        }
    })?;
    let packed = body.to_bytes();
    block_in_place(|| {
        let plain = unpacked(&packed, text(&head.headers, header::CONTENT_ENCODING))?;
        ExportTraceServiceRequest::decode(&plain[..])
            .map_err(|_| (StatusCode::BAD_REQUEST, "the content is no ExportTraceServiceRequest"))
    })
}

const TOO_LARGE: Refusal = (StatusCode::PAYLOAD_TOO_LARGE, "more than 16 MiB");

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// A body without its compression, within the limit: a few bytes can be made to unpack to gigabytes.
pub(super) fn unpacked(packed: &[u8], encoding: &str) -> Result<Vec<u8>, Refusal> {
    let broken = |_| (StatusCode::BAD_REQUEST, "the content is not compressed as it says");
    let reader: Box<dyn Read + '_> = match encoding {
        "" | "identity" => Box::new(packed),
        "gzip" => Box::new(flate2::read::MultiGzDecoder::new(packed)),
        "zstd" => Box::new(zstd::stream::read::Decoder::new(packed).map_err(broken)?),
        _ => return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "known compressions: gzip, zstd")),
    };
    let mut plain = Vec::new();
    reader.take(LIMIT as u64 + 1).read_to_end(&mut plain).map_err(broken)?;
    if plain.len() > LIMIT { Err(TOO_LARGE) } else { Ok(plain) }
}
