//! What lies between the receiver and a server: proxies from the environment, and a name whose address changes.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use jitterscope_integration::otlp::certificates::{Authority, Volume, server};
use jitterscope_integration::otlp::deliver::{Bed, until};
use jitterscope_integration::otlp::server::Server;
use jitterscope_integration::otlp::{Protocol, Signal};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::requirements;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};

fn env(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new("env");
    command.args(variables.iter().map(|(name, value)| format!("{name}={value}")));
    command
}

/// A destination of HTTP, told for `--set`.
fn destination(endpoint: &str, more: &str) -> String {
    format!("export.otlp=[{{endpoint: '{endpoint}', protocol: http/protobuf{more}}}]")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_a_proxy_names_the_whole_address_and_who_asks() {
    let proxy = Server::start(Protocol::Http, []).await;
    let url = format!("http://user:pass@{}", proxy.address);
    let set = destination("http://collector.invalid:4318/base", ", signals: [metrics]");
    let _receiver = Receiver::start_by(env(&[("http_proxy", &url)]), &["--set", &set]).unwrap();
    let request = until("a request", || proxy.received().into_iter().next()).await;
    assert_eq!(request.path, "http://collector.invalid:4318/base/v1/metrics");
    assert_eq!(request.headers["host"], "collector.invalid:4318");
    // user:pass
    assert_eq!(request.headers["proxy-authorization"], "Basic dXNlcjpwYXNz");
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_needs_no_proxy_is_asked_itself_and_grpc_knows_none() {
    let proxy = Server::start(Protocol::Http, []).await;
    let (http, grpc) = (Server::start(Protocol::Http, []).await, Server::start(Protocol::Grpc, []).await);
    let url = format!("http://{}", proxy.address);
    let excepted = [("HTTP_PROXY", &*url), ("NO_PROXY", "example.com,127.0.0.0/8")];
    let _one = Receiver::start_by(env(&excepted), &["--set", &destination(&http.endpoint(), "")]).unwrap();
    let _other = Receiver::start_by(env(&[("ALL_PROXY", &url)]), &["--endpoint", &grpc.endpoint()]).unwrap();
    until("both have a request", || {
        (!http.received().is_empty() && !grpc.received().is_empty()).then_some(())
    })
    .await;
    assert_eq!(proxy.connections(), 0);
}

/// A proxy that passes on bytes to `to`, whatever it is asked for; gives the first line of each request.
async fn tunnel(to: SocketAddr) -> (SocketAddr, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, lines) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).await.unwrap() > 0 {}
            let _ = asked.try_send(head);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut onward = TcpStream::connect(to).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut stream, &mut onward).await });
        }
    });
    (address, lines)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encrypted_request_goes_through_a_tunnel_that_cannot_read_it() {
    let authority = Authority::new("authority");
    let tls = server(&authority, None, Protocol::Http);
    let backend = Server::start_at("127.0.0.1:0".parse().unwrap(), Protocol::Http, Some(tls), []).await;
    let (proxy, mut asked) = tunnel(backend.address).await;
    let volume = Volume::new(&authority.certificate(), &authority.sign("client"));
    let set = destination("https://localhost", &format!(", signals: [metrics], {}", volume.tls(false)));
    let url = format!("http://user:pass@{proxy}");
    let _receiver = Receiver::start_by(env(&[("https_proxy", &url)]), &["--set", &set]).unwrap();
    let request = until("a request", || backend.received().into_iter().next()).await;
    assert_eq!(request.path, "/v1/metrics");
    assert_eq!(request.headers.get("proxy-authorization"), None);
    let head = asked.recv().await.unwrap();
    assert!(head.starts_with("CONNECT localhost:443 HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("proxy-authorization: basic"), "{head}");
}

#[tokio::test]
async fn both_versions_of_ip_are_spoken() {
    for protocol in Protocol::BOTH {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let server = Server::start_at(address.parse().unwrap(), protocol, None, []).await;
            let bed = Bed::start(&[&server.destination()]);
            bed.send(Signal::Logs, 0..9);
            assert_eq!(bed.settled(Signal::Logs).await.delivered, 9, "{protocol:?} {address}");
            assert!(server.numbers(Signal::Logs).into_iter().eq(0..9));
            assert_eq!(bed.terms(Signal::Logs).retries, 0);
        }
    }
}

#[tokio::test]
async fn grpc_goes_over_a_unix_socket_that_comes_late_and_again() {
    let server = Server::start(Protocol::Grpc, []).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("otlp.sock");
    let bed = Bed::start(&[&format!("endpoint: 'unix://{}'", path.display())]);
    bed.send(Signal::Logs, 0..5);
    let error = until("it is not there", || bed.account(0).error()).await;
    assert!(error.contains("No such file"), "{error}");
    for round in 1..3 {
        let listener = UnixListener::bind(&path).unwrap();
        let to = server.address;
        let socket = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut onward = TcpStream::connect(to).await.unwrap();
                connections.spawn(async move { copy_bidirectional(&mut stream, &mut onward).await });
            }
        });
        assert_eq!(bed.settled(Signal::Logs).await.delivered, round * 5);
        // The server's end goes, and with it the socket.
        socket.abort();
        assert!(socket.await.unwrap_err().is_cancelled());
        fs::remove_file(&path).unwrap();
        bed.send(Signal::Logs, round * 5..round * 5 + 5);
    }
    let mut unique = server.numbers(Signal::Logs);
    unique.dedup();
    assert!(unique.into_iter().eq(0..10));
}

/// A receiver for which `collector.test` has the address in a file, as for a headless service of Kubernetes, whose name has the
/// address of a pod, and of another one after that has gone.
struct Named {
    names: tempfile::NamedTempFile,
    _receiver: Receiver,
}

impl Named {
    fn start(port: u16, protocol: Protocol) -> Self {
        let names = tempfile::NamedTempFile::new().unwrap();
        fs::write(names.path(), "127.0.0.1 collector.test\n").unwrap();
        let hide = format!("mount --bind {} /etc/hosts && exec \"$0\" \"$@\"", names.path().display());
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &hide]);
        let set = format!(
            "export.otlp=[{{endpoint: 'http://collector.test:{port}', protocol: {}, timeout: 500ms}}]",
            protocol.name()
        );
        let _receiver = Receiver::start_by(command, &["--set", &set]).unwrap();
        Self { names, _receiver }
    }

    fn moves_to(&self, address: [u8; 4], port: u16) -> SocketAddr {
        let address = SocketAddr::from((address, port));
        fs::write(self.names.path(), format!("{} collector.test\n", address.ip())).unwrap();
        address
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_looked_up_again_for_every_new_connection() {
    if !requirements::met(&["unshare", "mount"]) {
        return;
    }
    for protocol in Protocol::BOTH {
        let former = Server::start(protocol, []).await;
        let port = former.address.port();
        let name = Named::start(port, protocol);
        until("a request", || (!former.received().is_empty()).then_some(())).await;
        let next = name.moves_to([127, 0, 0, 2], port);
        drop(former);
        let next = Server::start_at(next, protocol, None, []).await;
        until("a request at the new address", || (!next.received().is_empty()).then_some(())).await;
    }
}

/// Takes connections and keeps them, and never says a word.
async fn mute() -> (SocketAddr, tokio::task::JoinHandle<()>, tokio::sync::watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (count, counted) = tokio::sync::watch::channel(0);
    let task = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
            count.send_replace(kept.len());
        }
    });
    (address, task, counted)
}

/// The connection to the former address stays open all the time: nothing but the missing answer tells that it is worth nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_takes_connections_and_never_answers_is_left_for_the_names_new_address() {
    if !requirements::met(&["unshare", "mount"]) {
        return;
    }
    for protocol in Protocol::BOTH {
        let (former, task, connections) = mute().await;
        let name = Named::start(former.port(), protocol);
        until("a second connection to who never answers", || (*connections.borrow() > 1).then_some(())).await;
        let next = name.moves_to([127, 0, 0, 2], former.port());
        let next = Server::start_at(next, protocol, None, []).await;
        until("a request at the new address", || (!next.received().is_empty()).then_some(())).await;
        task.abort();
    }
}
