//! What servers answer.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use prost::bytes::Bytes;
use tonic::{Code, Status};

pub(crate) use super::disk::fuzz::TARGETS as QUEUE;
use super::{Accepted, Refusal, Signal, retry::Backoff};
use crate::fuzz::Target;

/// A partial success of two rejected points, and why.
const PARTIAL: &[u8] = b"\x0a\x0b\x08\x02\x12\x07too old";
/// `google.rpc.Status` with `RetryInfo` of a second, after a code and a message.
const RETRY: &[u8] =
    b"\x08\x0e\x12\x04busy\x1a\x2e\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x04\x0a\x02\x08\x01";

pub(crate) const TARGETS: &[Target] = &[
    Target { name: "answer", read: answer, samples: &[PARTIAL, b""] },
    Target { name: "refusal_grpc", read: refusal_grpc, samples: &[RETRY] },
    Target {
        name: "refusal_http",
        read: refusal_http,
        samples: &[RETRY, b"120", b"Sun, 06 Nov 1994 08:49:37 GMT"],
    },
];

/// The body of an answer that takes the request, over both protocols.
fn answer(bytes: &[u8]) {
    for signal in Signal::ALL {
        let answer = Accepted::read(signal, Bytes::copy_from_slice(bytes));
        assert!(i64::try_from(answer.rejected).is_ok());
    }
}

/// Whatever it says, it is asked again at a time that can be waited for, and what is logged of it is a short line.
fn check(refusal: &Refusal) {
    if let super::retry::Verdict::Again(delay) = refusal.verdict() {
        let wait = Backoff::default().next(delay);
        assert!(wait <= std::time::Duration::from_secs(660), "{wait:?}");
    }
    let text = refusal.to_string();
    assert!(text.chars().count() < 400 && !text.chars().any(char::is_control), "{text}");
}

/// The details of a status by gRPC, for each code.
fn refusal_grpc(bytes: &[u8]) {
    for code in 0..=17 {
        let message = String::from_utf8_lossy(bytes);
        check(&Refusal::Grpc(Status::with_details(Code::from(code), message, Bytes::copy_from_slice(bytes))));
    }
}

/// Head and body of a refusal by HTTP.
fn refusal_http(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for name in [header::RETRY_AFTER, header::LOCATION] {
        headers.extend(HeaderValue::from_bytes(bytes).ok().map(|value| (name, value)));
    }
    for status in [302, 400, 429, 503] {
        let status = StatusCode::from_u16(status).unwrap_or_default();
        check(&Refusal::of_http(status, &headers, bytes));
    }
}
