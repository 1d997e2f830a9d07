//! Headers that the Collector's authenticator wants: the right ones are let in, wrong ones are refused for good, counted,
//! and told without the secret.

use jitterscope_integration::collector::Collector;
use jitterscope_integration::otlp::deliver::{Bed, given_up};
use jitterscope_integration::otlp::server::Server;
use jitterscope_integration::otlp::{Protocol, Signal};
use jitterscope_semconv::value::ExporterDropCause;

/// Settings of the Collector: both of its receivers ask for this token.
fn guarded(token: &str) -> Vec<String> {
    let ask = |protocol: &str| {
        format!("receivers::otlp::protocols::{protocol}::auth::authenticator: bearertokenauth")
    };
    vec![
        format!("extensions::bearertokenauth::token: {token}"),
        "service::extensions: [bearertokenauth]".to_owned(),
        ask("grpc"),
        ask("http"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_collectors_authenticator_lets_in_who_has_the_token_and_nobody_else() {
    let sink = Server::start(Protocol::Grpc, []).await;
    let guarded = guarded("open-sesame");
    let Some(collector) = Collector::forward(&sink.address.to_string(), &guarded).unwrap() else { return };
    let endpoints = [(Protocol::Grpc, collector.endpoint()), (Protocol::Http, collector.http_endpoint())];
    for (first, (protocol, endpoint)) in (0..).step_by(100).zip(endpoints) {
        let with = |token: &str| {
            let headers = format!("headers: {{Authorization: 'Bearer {token}'}}");
            format!("endpoint: '{endpoint}', protocol: {}, {headers}", protocol.name())
        };
        let mut bed = Bed::start(&[&with("close-sesame")]);
        bed.send(Signal::Logs, first..first + 5);
        let terms = bed.settled(Signal::Logs).await;
        assert_eq!(
            (terms.dropped(ExporterDropCause::Rejected), terms.retries),
            (5, 0),
            "{protocol:?} {terms:?}"
        );
        let error = bed.account(0).error().unwrap();
        let expected = if protocol == Protocol::Grpc { "Unauthenticated" } else { "401" };
        assert!(error.contains(expected) && !error.contains("sesame"), "{error}");
        assert!(!sink.numbers(Signal::Logs).contains(&first));
        // The token is put right by a reload.
        bed.change(&[&with("open-sesame")]);
        for signal in Signal::ALL {
            bed.send(signal, first + 5..first + 10);
            let terms = bed.settled(signal).await;
            assert_eq!(terms.delivered, 5, "{protocol:?} {terms:?}");
            assert!(sink.numbers(signal).ends_with(&[first + 5, first + 6, first + 7, first + 8, first + 9]));
        }
        assert_eq!(given_up(&bed.terms(Signal::Metrics)), 0);
        assert_eq!(bed.account(0).error(), None);
    }
}
