//! What becomes of points and records by what the server answers, which a real one does not show on demand: each gRPC
//! code, each HTTP status, delays, partial success, broken answers. After each, every number has arrived at least once or
//! is in the account, whose equation holds at every look.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::time::{Duration, Instant};

use jitterscope_integration::otlp::deliver::{Bed, given_up, until};
use jitterscope_integration::otlp::server::{Reply, Server};
use jitterscope_integration::otlp::{Protocol, Signal};
use jitterscope_semconv::value::ExporterDropCause;
use prost::Message;

/// gRPC codes that mean "try again" (OTLP specification, table of retryable codes).
const RETRYABLE_CODES: [i32; 6] = [1, 4, 10, 11, 14, 15];
/// HTTP statuses that do.
const RETRYABLE_STATUSES: [u16; 4] = [429, 502, 503, 504];

/// Sends two requests of five to a server that answers the first as told; both must arrive, or the first be rejected.
/// Returns what the server got and why the destination is failing, if it is.
async fn answered(protocol: Protocol, signal: Signal, reply: Reply, again: bool) -> Option<String> {
    let server = Server::start(protocol, [reply.clone()]).await;
    let bed = Bed::start(&[&format!("{}, timeout: 300ms", server.destination())]);
    bed.send(signal, 0..5);
    let error = until("an answer", || {
        let terms = bed.terms(signal);
        (terms.retries > 0 || terms.queued == 0).then(|| bed.account(0).error())
    })
    .await;
    bed.send(signal, 5..10);
    let terms = bed.settled(signal).await;
    let told = format!("{protocol:?} {signal:?} {reply:?}: {terms:?} {error:?} {:?}", server.received());
    let numbers = server.numbers(signal);
    let arrived = |range: std::ops::Range<u64>| {
        numbers.windows(5).filter(|part| part.iter().copied().eq(range.clone())).count()
    };
    assert_eq!(arrived(0..5), if again { 2 } else { 1 }, "{told}");
    assert_eq!(arrived(5..10), 1, "{told}");
    assert_eq!((terms.produced, terms.retries), (10, u64::from(again)), "{told}");
    assert_eq!(bed.account(0).error(), None, "{told}");
    error
}

#[tokio::test]
async fn grpc_codes_that_may_pass_are_tried_again_and_all_others_are_rejected() {
    let mut tests = tokio::task::JoinSet::new();
    for code in 1..=16 {
        let again = RETRYABLE_CODES.contains(&code);
        let signal = Signal::ALL[usize::try_from(code).unwrap() % 3];
        tests.spawn(async move {
            let reply = Reply::Status(code, "because of this", Vec::new());
            let error = answered(Protocol::Grpc, signal, reply, again).await.unwrap();
            assert!(error.ends_with(": because of this"), "{error}");
        });
    }
    tests.join_all().await;
}

#[tokio::test]
async fn http_statuses_that_may_pass_are_tried_again_and_all_others_are_rejected() {
    let mut tests = tokio::task::JoinSet::new();
    let refusals = [300, 301, 302, 303, 307, 308].into_iter().chain(400..=431).chain(500..=511);
    for status in refusals {
        let again = RETRYABLE_STATUSES.contains(&status);
        let signal = Signal::ALL[usize::from(status) % 3];
        tests.spawn(async move {
            let reply = Reply::Answer(status, Vec::new(), b"because of this".to_vec());
            let error = answered(Protocol::Http, signal, reply, again).await.unwrap();
            assert!(error.starts_with(&status.to_string()) && error.contains("because of this"), "{error}");
        });
    }
    for status in [200, 202, 204] {
        tests.spawn(async move {
            assert_eq!(answered(Protocol::Http, Signal::Logs, Reply::status(status), false).await, None);
        });
    }
    tests.join_all().await;
}

/// A proxy before a gRPC server answers in HTTP alone.
#[tokio::test]
async fn a_proxys_word_before_grpc_counts_like_one_of_http() {
    for status in [401, 403, 404, 429, 500, 502, 503, 504] {
        let again = RETRYABLE_STATUSES.contains(&status);
        let error = answered(Protocol::Grpc, Signal::Logs, Reply::status(status), again).await.unwrap();
        assert!(error.contains(&status.to_string()), "{error}");
    }
}

#[tokio::test]
async fn what_was_not_heard_is_sent_again() {
    for protocol in Protocol::BOTH {
        for signal in Signal::ALL {
            let error = answered(protocol, signal, Reply::Silent, true).await.unwrap();
            assert_eq!(error, "no answer within 300ms");
            assert!(answered(protocol, signal, Reply::Cut, true).await.is_some());
        }
    }
    assert!(answered(Protocol::Http, Signal::Logs, Reply::CutShort, true).await.is_some());
    assert!(answered(Protocol::Grpc, Signal::Logs, Reply::NoStatus, true).await.is_some());
}

#[tokio::test]
async fn what_was_taken_with_an_unreadable_answer_is_not_sent_twice() {
    let garbage = || Reply::Taken(vec![0xff; 40]);
    for protocol in Protocol::BOTH {
        assert_eq!(answered(protocol, Signal::Metrics, garbage(), false).await, None);
    }
    assert_eq!(answered(Protocol::Grpc, Signal::Logs, Reply::CutShort, false).await, None);
    let huge = || Reply::Taken(vec![0; 8 << 20]);
    for protocol in Protocol::BOTH {
        assert_eq!(answered(protocol, Signal::Logs, huge(), false).await, None);
    }
}

#[tokio::test]
async fn a_redirect_and_a_page_for_people_are_refusals_that_say_what_is_wrong() {
    let moved = Reply::Answer(301, vec![("location", "https://other.example/".into())], Vec::new());
    let error = answered(Protocol::Http, Signal::Logs, moved, false).await.unwrap();
    assert!(error.contains("redirected to https://other.example/, which is not followed"), "{error}");
    let page =
        Reply::Answer(200, vec![("content-type", "text/html; charset=utf-8".into())], b"<html>".into());
    let error = answered(Protocol::Http, Signal::Logs, page, false).await.unwrap();
    assert!(error.contains("is it an OTLP endpoint?"), "{error}");
}

/// `google.rpc.Status` as far as it is told here.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// Details with `google.rpc.RetryInfo` of one second: field 1 is a `Duration`, whose field 1 are seconds.
fn in_a_second() -> Vec<u8> {
    let info =
        Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value: vec![0x0a, 2, 0x08, 1] };
    RpcStatus { message: String::new(), details: vec![info] }.encode_to_vec()
}

#[tokio::test]
async fn a_server_that_says_when_is_asked_then() {
    let date = || httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(2));
    let http = |status, when: String| {
        (Protocol::Http, Reply::Answer(status, vec![("retry-after", when)], Vec::new()))
    };
    let cases: [&dyn Fn() -> (Protocol, Reply); 4] = [
        &|| (Protocol::Grpc, Reply::Status(14, "", in_a_second())),
        // Rate limits answer so; without the details it would be final.
        &|| (Protocol::Grpc, Reply::Status(8, "", in_a_second())),
        &|| http(429, "1".into()),
        &|| http(503, date()),
    ];
    for case in cases {
        let begun = Instant::now();
        let (protocol, reply) = case();
        answered(protocol, Signal::Logs, reply.clone(), true).await;
        // The backoff of a first failure is at most half a second; a date is of whole seconds.
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(5), "{reply:?}: {took:?}");
    }
}

#[tokio::test]
async fn the_message_of_a_status_in_the_body_is_told() {
    let status = RpcStatus { message: "no such tenant".into(), details: Vec::new() }.encode_to_vec();
    let error = answered(Protocol::Http, Signal::Logs, Reply::Answer(400, Vec::new(), status), false).await;
    assert_eq!(error.unwrap(), "400 Bad Request: no such tenant");
}

/// A partial success: a message with fields 1 (count) and 2 (text) in field 1 of the answer, for both signals.
fn partial(rejected: u8, text: &str) -> Reply {
    let mut partial = vec![0x08, rejected, 0x12, u8::try_from(text.len()).unwrap()];
    partial.extend(text.bytes());
    let mut answer = vec![0x0a, u8::try_from(partial.len()).unwrap()];
    answer.extend(partial);
    Reply::Taken(answer)
}

#[tokio::test]
async fn a_partial_success_is_never_sent_again_and_what_it_rejects_is_counted() {
    for protocol in Protocol::BOTH {
        for signal in Signal::ALL {
            // The last one claims more than it was sent.
            for (reply, rejected) in
                [(partial(2, "too old"), 2), (partial(0, "careful"), 0), (partial(99, ""), 5)]
            {
                let server = Server::start(protocol, [reply]).await;
                let bed = Bed::start(&[&server.destination()]);
                bed.send(signal, 0..5);
                let terms = bed.settled(signal).await;
                assert_eq!(terms.dropped(ExporterDropCause::Rejected), rejected, "{protocol:?} {signal:?}");
                assert_eq!((terms.delivered, given_up(&terms)), (5 - rejected, rejected));
                assert_eq!((server.received().len(), terms.retries), (1, 0));
            }
        }
    }
}

#[tokio::test]
async fn requests_go_as_the_specification_says_and_over_one_connection() {
    for protocol in Protocol::BOTH {
        for compression in ["none", "gzip", "zstd"] {
            let server = Server::start(protocol, []).await;
            let more = format!("compression: {compression}, headers: {{api-key: secret}}");
            let bed = Bed::start(&[&format!("{}, {more}", server.destination())]);
            for round in 0..5 {
                for signal in Signal::ALL {
                    bed.send(signal, round * 300..(round + 1) * 300);
                    bed.settled(signal).await;
                }
            }
            for signal in Signal::ALL {
                assert!(server.numbers(signal).into_iter().eq(0..1500), "{protocol:?} {compression}");
            }
            assert_eq!(server.connections(), 1, "{protocol:?}");
            let received = server.received();
            let header = |name: &str| received[0].headers.get(name).map(|value| value.to_str().unwrap());
            assert_eq!(header("api-key"), Some("secret"));
            assert!(header("user-agent").unwrap().starts_with("jitterscope/"));
            let encoding = Some(compression).filter(|name| *name != "none");
            match protocol {
                Protocol::Grpc => {
                    assert_eq!(header("content-type"), Some("application/grpc"));
                    assert_eq!(header("grpc-encoding"), encoding);
                }
                Protocol::Http => {
                    assert_eq!(header("content-type"), Some("application/x-protobuf"));
                    assert_eq!(header("content-encoding"), encoding);
                    let paths = [0, 1, 2].map(|at: usize| &*received[at].path);
                    assert_eq!(paths, ["/v1/metrics", "/v1/logs", "/v1/traces"]);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_path_is_kept_and_an_endpoint_of_one_signal_is_taken_as_it_is() {
    let server = Server::start(Protocol::Http, []).await;
    let to = |path: &str, more: &str| {
        format!("endpoint: '{}{path}', protocol: http/protobuf{more}", server.endpoint())
    };
    let paths = [
        to("/api/otlp/", ""),
        to("/my/metrics", ", append_path: false, signals: [metrics]"),
        to("/my/logs/", ", append_path: false, signals: [logs]"),
        to("/my/traces", ", append_path: false, signals: [traces]"),
    ];
    let bed = Bed::start(&paths.each_ref().map(String::as_str));
    for signal in Signal::ALL {
        bed.send(signal, 0..1);
    }
    let general = ["/api/otlp/v1/logs", "/api/otlp/v1/metrics", "/api/otlp/v1/traces"];
    let expected: Vec<_> = general.into_iter().chain(["/my/logs/", "/my/metrics", "/my/traces"]).collect();
    let arrived = until("all requests", || {
        let mut paths: Vec<_> = server.received().into_iter().map(|request| request.path).collect();
        paths.sort();
        (paths.len() >= expected.len()).then_some(paths)
    })
    .await;
    assert_eq!(arrived, expected);
    assert_eq!(bed.account(1).terms(Signal::Logs).produced, 0);
}

/// One that takes connections and never answers, beside one that does.
#[tokio::test]
async fn a_destination_that_hangs_holds_up_no_other_and_loses_nothing_once_it_answers() {
    for protocol in Protocol::BOTH {
        let hangs = Server::start(protocol, [Reply::Silent, Reply::Silent]).await;
        let answers = Server::start(protocol, []).await;
        let bed = Bed::start(&[&format!("{}, timeout: 500ms", hangs.destination()), &answers.destination()]);
        let begun = Instant::now();
        bed.send(Signal::Logs, 0..100);
        until("the other one has it", || (answers.numbers(Signal::Logs).len() == 100).then_some(())).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        let terms = bed.settled(Signal::Logs).await;
        assert_eq!((terms.delivered, terms.retries), (100, 2), "{protocol:?}");
        // What was open to it was worth nothing.
        assert_eq!(hangs.connections(), 3, "{protocol:?}");
    }
}
