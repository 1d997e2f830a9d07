//! When and after how long a request is sent again (OTLP specification, "Failures" and "OTLP/gRPC Throttling").

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use prost::Message;
use tonic::{Code, Status};

/// Wait before the first retry; it doubles with each failure.
const INITIAL: Duration = Duration::from_millis(500);
/// Longest wait between two tries: a Collector that is back is found within this time.
const LONGEST: Duration = Duration::from_secs(15);

/// What to do about a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it again, after the server's own delay if it gave one.
    Again(Option<Duration>),
    /// The server will never take it.
    Never,
}

/// What the specification says of a gRPC status.
pub fn verdict(status: &Status) -> Verdict {
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

/// Growing waits with jitter, so that a thousand nodes do not come back in one instant.
#[derive(Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure.
    pub fn next(&mut self, server: Option<Duration>) -> Duration {
        let full = INITIAL.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures += 1;
        server.unwrap_or_else(|| full.mul_f64(0.5 + 0.5 * fraction()))
    }

    /// Forgets the failures.
    pub fn reset(&mut self) {
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
        RpcStatus { details: vec![any] }.encode_to_vec()
    }

    #[test]
    fn retryable_codes_are_retried_and_all_others_are_not() {
        let again = [1, 4, 10, 11, 14, 15];
        for code in 1..=16 {
            let expected = if again.contains(&code) { Verdict::Again(None) } else { Verdict::Never };
            assert_eq!(verdict(&Status::new(Code::from(code), "")), expected, "code {code}");
        }
    }

    #[test]
    fn an_exhausted_server_is_asked_again_only_when_it_says_when() {
        let status = Status::with_details(Code::ResourceExhausted, "", details(7).into());
        assert_eq!(verdict(&status), Verdict::Again(Some(Duration::from_secs(7))));
    }

    #[test]
    fn waits_grow_to_a_bound_and_the_servers_own_delay_is_honoured() {
        let mut backoff = Backoff::default();
        assert!(backoff.next(None) <= INITIAL);
        for _ in 0..40 {
            assert!(backoff.next(None) <= LONGEST);
        }
        assert!(backoff.next(None) >= LONGEST / 2);
        assert_eq!(backoff.next(Some(Duration::from_secs(60))), Duration::from_secs(60));
    }
}
