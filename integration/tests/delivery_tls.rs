//! TLS and mTLS over both protocols, and certificates that are renewed while the receiver runs.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::SocketAddr;

use jitterscope_integration::otlp::certificates::{Authority, Identity, Volume, server};
use jitterscope_integration::otlp::deliver::{Bed, until};
use jitterscope_integration::otlp::server::Server;
use jitterscope_integration::otlp::{Protocol, Signal};

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Sends one more request and waits until it is delivered.
async fn deliver(bed: &Bed, numbers: std::ops::Range<u64>) {
    bed.send(Signal::Logs, numbers);
    let terms = bed.settled(Signal::Logs).await;
    assert_eq!(terms.delivered, terms.produced);
}

async fn failing(bed: &Bed, with: &str) -> String {
    until(with, || bed.account(0).error().filter(|error| error.contains(with))).await
}

#[tokio::test]
async fn a_server_is_believed_by_its_authority_alone() {
    for protocol in Protocol::BOTH {
        let (right, wrong) = (Authority::new("right"), Authority::new("wrong"));
        let server = Server::start_at(any(), protocol, Some(server(&right, None, protocol)), []).await;
        let mut volume = Volume::new(&wrong.certificate(), &right.sign("client"));
        let bed = Bed::start(&[&format!("{}, {}", server.destination(), volume.tls(false))]);
        bed.send(Signal::Logs, 0..10);
        failing(&bed, "invalid peer certificate").await;
        assert_eq!(server.received().len(), 0);
        // The right authority comes into the file: what waited goes out, without a restart.
        volume.renew(&right.certificate(), &right.sign("client"));
        let terms = bed.settled(Signal::Logs).await;
        assert_eq!((terms.delivered, server.numbers(Signal::Logs).len()), (10, 10), "{protocol:?}");
    }
}

#[tokio::test]
async fn the_name_of_a_server_is_checked() {
    for protocol in Protocol::BOTH {
        let authority = Authority::new("authority");
        let tls = server(&authority, None, protocol);
        let server = Server::start_at("127.0.0.2:0".parse().unwrap(), protocol, Some(tls), []).await;
        let volume = Volume::new(&authority.certificate(), &authority.sign("client"));
        let endpoint = format!("endpoint: 'https://{}', protocol: {}", server.address, protocol.name());
        let bed = Bed::start(&[&format!("{endpoint}, {}", volume.tls(false))]);
        bed.send(Signal::Logs, 0..1);
        failing(&bed, "not valid for name").await;
    }
}

#[tokio::test]
async fn a_server_of_http_1_is_none_of_grpc() {
    let authority = Authority::new("authority");
    let tls = server(&authority, None, Protocol::Http);
    let server = Server::start_at(any(), Protocol::Http, Some(tls), []).await;
    let volume = Volume::new(&authority.certificate(), &authority.sign("client"));
    let bed = Bed::start(&[&format!("endpoint: '{}', {}", server.endpoint(), volume.tls(false))]);
    bed.send(Signal::Logs, 0..1);
    // rustls refuses in the handshake already when the two have no protocol in common.
    failing(&bed, "NoApplicationProtocol").await;
}

#[tokio::test]
async fn renewed_certificates_are_used_by_the_next_request_and_nothing_is_lost() {
    for protocol in Protocol::BOTH {
        let authority = Authority::new("authority");
        let tls = server(&authority, Some(&authority), protocol);
        let server = Server::start_at(any(), protocol, Some(tls), []).await;
        let mut volume = Volume::new(&authority.certificate(), &authority.sign("first"));
        let bed = Bed::start(&[&format!("{}, {}", server.destination(), volume.tls(true))]);
        deliver(&bed, 0..3).await;
        deliver(&bed, 3..6).await;
        assert_eq!(server.connections(), 1, "{protocol:?}");
        for round in 1..4 {
            volume.renew(&authority.certificate(), &authority.sign("next"));
            deliver(&bed, round * 6..round * 6 + 6).await;
            assert_eq!(server.connections(), 1 + usize::try_from(round).unwrap(), "{protocol:?}");
        }
        assert!(server.numbers(Signal::Logs).into_iter().eq(0..24), "{protocol:?}");
        assert_eq!(bed.terms(Signal::Logs).retries, 0);
    }
}

#[tokio::test]
async fn certificates_that_do_not_fit_yet_are_tried_again_and_the_former_stay() {
    for protocol in Protocol::BOTH {
        let authority = Authority::new("authority");
        let tls = server(&authority, Some(&authority), protocol);
        let server = Server::start_at(any(), protocol, Some(tls), []).await;
        let mut volume = Volume::new(&authority.certificate(), &authority.sign("first"));
        let bed = Bed::start(&[&format!("{}, {}", server.destination(), volume.tls(true))]);
        deliver(&bed, 0..1).await;
        // A certificate with another's key, and no certificate at all.
        let [one, other] = [authority.sign("one"), authority.sign("other")];
        volume.renew(
            &authority.certificate(),
            &Identity { certificate: one.certificate.clone(), key: other.key },
        );
        deliver(&bed, 1..2).await;
        volume.renew("", &Identity { certificate: String::new(), key: String::new() });
        deliver(&bed, 2..3).await;
        assert_eq!(server.connections(), 1, "{protocol:?}");
        volume.renew(&authority.certificate(), &one);
        deliver(&bed, 3..4).await;
        assert_eq!(server.connections(), 2, "{protocol:?}");
    }
}

/// The whole of a cluster's certificates is replaced: the server comes back with another authority's, and believes only
/// clients of that one.
#[tokio::test]
async fn a_server_and_its_clients_change_authorities_without_a_loss() {
    for protocol in Protocol::BOTH {
        let (former, next) = (Authority::new("former"), Authority::new("next"));
        let tls = server(&former, Some(&former), protocol);
        let before = Server::start_at(any(), protocol, Some(tls), []).await;
        let mut volume = Volume::new(&former.certificate(), &former.sign("client"));
        let settings = format!("{}, timeout: 2s, {}", before.destination(), volume.tls(true));
        let bed = Bed::start(&[&settings]);
        deliver(&bed, 0..5).await;
        let address = before.address;
        let arrived = before.numbers(Signal::Logs);
        drop(before);
        let tls = server(&next, Some(&next), protocol);
        let after = Server::start_at(address, protocol, Some(tls), []).await;
        bed.send(Signal::Logs, 5..10);
        failing(&bed, "invalid peer certificate").await;
        // Only half of it is right: the server refuses the client.
        volume.renew(&next.certificate(), &former.sign("client"));
        until("a refusal by the server", || {
            bed.account(0).error().filter(|error| !error.contains("invalid peer"))
        })
        .await;
        assert_eq!(after.received().len(), 0);
        volume.renew(&next.certificate(), &next.sign("client"));
        let terms = bed.settled(Signal::Logs).await;
        assert_eq!((terms.delivered, terms.produced), (10, 10));
        assert!(arrived.into_iter().chain(after.numbers(Signal::Logs)).eq(0..10), "{protocol:?}");
    }
}

/// Certificates that nobody has signed, as in a test of somebody's: believed where that is said, and nowhere else.
#[tokio::test]
async fn whoever_answers_is_believed_only_where_the_settings_say_so() {
    for protocol in Protocol::BOTH {
        let tls = server(&Authority::new("nobody"), None, protocol);
        let server = Server::start_at(any(), protocol, Some(tls), []).await;
        let careful = Bed::start(&[&server.destination()]);
        careful.send(Signal::Logs, 0..5);
        failing(&careful, "certificate").await;
        assert_eq!(server.received().len(), 0, "{protocol:?}");
        let careless = format!("{}, tls: {{insecure_skip_verify: true}}", server.destination());
        let careless = Bed::start(&[&careless]);
        deliver(&careless, 0..5).await;
        assert_eq!(server.numbers(Signal::Logs), [0, 1, 2, 3, 4], "{protocol:?}");
    }
}
