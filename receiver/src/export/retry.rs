//! When and after how long a request is sent again, over both protocols (OTLP specification, "Failures", "OTLP/gRPC
//! Throttling" and "OTLP/HTTP Throttling").

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, SystemTime},
};

use http::{HeaderMap, StatusCode, header};
use prost::Message;
use tonic::{Code, Status};

/// Wait before the first retry; it doubles with each failure.
const INITIAL: Duration = Duration::from_millis(500);
/// Longest wait between two tries: a Collector that is back is found within this time.
const LONGEST: Duration = Duration::from_secs(15);
/// What a server may ask for: not to be asked without end, and not never again.
const OF_A_SERVER: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);
/// Characters of a server's text that are repeated in the log.
const TEXT: usize = 300;

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The server said so by gRPC.
    #[error("{:?}: {}", .0.code(), shown(.0.message()))]
    Grpc(Status),
    /// The server, or a proxy before it, said so by HTTP.
    #[error("{status}: {}", shown(.message))]
    Http {
        /// The status.
        status: StatusCode,
        /// When it wants to be asked again, if it said.
        delay: Option<Duration>,
        /// What it said besides.
        message: String,
    },
    /// Nothing was heard: the connection could not be made, or it broke, or the answer took too long.
    #[error("{0}")]
    Unheard(String),
}

/// What to do about a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send it again, after the server's own delay if it gave one.
    Again(Option<Duration>),
    /// The server will never take it.
    Never,
}

impl Refusal {
    /// What the specification says of it.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Unheard(_) => Verdict::Again(None),
            Self::Grpc(status) => of_grpc(status),
            Self::Http { status, delay, .. } => match *status {
                StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT => Verdict::Again(*delay),
                _ => Verdict::Never,
            },
        }
    }

    /// By the head and the body of an HTTP answer that is no success.
    pub(super) fn of_http(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
        let delay = text(header::RETRY_AFTER).and_then(|after| retry_after(after, SystemTime::now()));
        let message = match text(header::LOCATION) {
            Some(location) if status.is_redirection() => {
                format!("redirected to {location}, which is not followed; is that the endpoint?")
            }
            _ => said(body),
        };
        Self::Http { status, delay, message }
    }
}

fn of_grpc(status: &Status) -> Verdict {
    let delay = retry_delay(status.details());
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Verdict::Again(delay),
        Code::ResourceExhausted if delay.is_some() => Verdict::Again(delay),
        _ => Verdict::Never,
    }
}

/// What a refusal by HTTP says: the message of `google.rpc.Status`, else its text where it is one.
fn said(body: &[u8]) -> String {
    let status = RpcStatus::decode(body).ok().filter(|status| !status.message.is_empty());
    status.map_or_else(|| std::str::from_utf8(body).unwrap_or_default().to_owned(), |status| status.message)
}

/// A server's text, short and on one line: it goes into the log.
fn shown(text: &str) -> String {
    let line = text.trim().chars().map(|character| if character.is_control() { ' ' } else { character });
    line.take(TEXT).collect()
}

/// The value of a `Retry-After` header: seconds, or a date (RFC 9110, section 10.2.3). A date that has passed is now.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let seconds = text.trim().parse().map(Duration::from_secs);
    let date = || httpdate::parse_http_date(text.trim()).ok();
    seconds.ok().or_else(|| Some(date()?.duration_since(now).unwrap_or_default()))
}

/// Growing waits with jitter, so that a thousand nodes do not come back in one instant.
#[derive(Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure.
    pub(super) fn next(&mut self, server: Option<Duration>) -> Duration {
        let full = INITIAL.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures += 1;
        match server {
            // A little later than it asked for, not all nodes at once.
            Some(delay) => {
                delay.clamp(*OF_A_SERVER.start(), *OF_A_SERVER.end()).mul_f64(1.0 + 0.1 * fraction())
            }
            None => full.mul_f64(0.5 + 0.5 * fraction()),
        }
    }

    /// Forgets the failures.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A random number from 0 to 1; the standard library's hasher keys are random enough to spread nodes.
fn fraction() -> f64 {
    let bits = RandomState::new().hash_one(()) >> 40;
    bits as f64 / f64::from(1_u32 << 24)
}

/// `google.rpc.Status`, as far as it is read.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<ProtoDuration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct ProtoDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

fn retry_delay(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let info = status.details.iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay.unwrap_or_default();
    Some(Duration::new(delay.seconds.try_into().unwrap_or(0), delay.nanos.try_into().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(seconds: i64) -> Vec<u8> {
        let info = RetryInfo { retry_delay: Some(ProtoDuration { seconds, nanos: 0 }) };
        let any =
            Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value: info.encode_to_vec() };
        RpcStatus { message: String::new(), details: vec![any] }.encode_to_vec()
    }

    fn http(status: u16, headers: &[(header::HeaderName, &str)], body: &[u8]) -> Refusal {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        Refusal::of_http(StatusCode::from_u16(status).unwrap(), &headers, body)
    }

    #[test]
    fn retryable_codes_are_retried_and_all_others_are_not() {
        let again = [1, 4, 10, 11, 14, 15];
        for code in 1..=16 {
            let expected = if again.contains(&code) { Verdict::Again(None) } else { Verdict::Never };
            let refusal = Refusal::Grpc(Status::new(Code::from(code), ""));
            assert_eq!(refusal.verdict(), expected, "code {code}");
        }
    }

    #[test]
    fn retryable_http_statuses_are_retried_and_all_others_are_not() {
        let again = [429, 502, 503, 504];
        for status in 300..=599 {
            let expected = if again.contains(&status) { Verdict::Again(None) } else { Verdict::Never };
            assert_eq!(http(status, &[], b"").verdict(), expected, "status {status}");
        }
    }

    #[test]
    fn an_exhausted_server_is_asked_again_only_when_it_says_when() {
        let status = Status::with_details(Code::ResourceExhausted, "", details(7).into());
        assert_eq!(Refusal::Grpc(status).verdict(), Verdict::Again(Some(Duration::from_secs(7))));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:50:07 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
        assert_eq!(retry_after("-1", now), None);
        let refusal = http(503, &[(header::RETRY_AFTER, "9")], b"");
        assert_eq!(refusal.verdict(), Verdict::Again(Some(Duration::from_secs(9))));
    }

    #[test]
    fn what_the_server_says_is_in_the_text_on_one_line() {
        let status = RpcStatus { message: "bad\npoint".into(), details: Vec::new() }.encode_to_vec();
        assert_eq!(http(400, &[], &status).to_string(), "400 Bad Request: bad point");
        assert_eq!(http(404, &[], b"no such page\n").to_string(), "404 Not Found: no such page");
        assert_eq!(http(500, &[], &[0xff, 0xfe]).to_string(), "500 Internal Server Error: ");
        let long = http(500, &[], "x".repeat(5000).as_bytes()).to_string();
        assert!(long.len() < 400, "{long}");
        let moved = http(301, &[(header::LOCATION, "https://other/v1/logs")], b"moved").to_string();
        assert!(moved.contains("redirected to https://other/v1/logs, which is not followed"), "{moved}");
        let refusal = Refusal::Grpc(Status::new(Code::InvalidArgument, "no such field"));
        assert_eq!(refusal.to_string(), "InvalidArgument: no such field");
    }

    #[test]
    fn waits_grow_to_a_bound_and_the_servers_own_delay_is_honoured() {
        let mut backoff = Backoff::default();
        assert!(backoff.next(None) <= INITIAL);
        for _ in 0..40 {
            assert!(backoff.next(None) <= LONGEST);
        }
        assert!(backoff.next(None) >= LONGEST / 2);
        let minute = Duration::from_secs(60);
        assert!((minute..=minute * 11 / 10).contains(&backoff.next(Some(minute))));
        assert!(backoff.next(Some(Duration::ZERO)) >= *OF_A_SERVER.start());
        assert!(backoff.next(Some(Duration::MAX)) <= *OF_A_SERVER.end() * 11 / 10);
    }
}
