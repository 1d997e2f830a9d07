//! An application on whose connections nothing can be read, and whose threads say in which span they are: faults on known
//! requests, and every link is to the request that was hit, nearly every one of which has one.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]
#![expect(clippy::print_stdout, reason = "the figures of a run")]

#[path = "../../ebpf/tests/instrumented/process.rs"]
mod instrumented;

use std::collections::HashMap;
use std::io::{Read as _, Result, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{scope, sleep, spawn};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jitterscope_integration::collector::Collector;
use jitterscope_integration::join::{Ids, Join, Request};
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::requirements;
use jitterscope_integration::shop::{self, Fault, PORT};
use jitterscope_integration::telemetry::hex;

const SOURCE: [&str; 2] = ["--set", "spans.sources.thread=true"];

const CONNECTIONS: usize = 64;
/// Requests a second.
const RATE: usize = 500;
const REQUESTS: usize = 10 * RATE;
/// Requests by whose end the receiver has long looked at this process.
const SPARED: usize = 2 * RATE;
/// Of so many requests one is hit.
const EVERY: usize = 20;

/// What a record of TLS begins with. The rules that make faults look behind four bytes of a request, nine of an answer.
const RECORD: &[u8] = b"\x17\x03\x03\0";
const REQUEST: usize = 200;
/// Where the ids are within it, as they are within what TLS hides.
const IDS: usize = REQUEST - 24;
const ANSWER: usize = 100;

/// The trace and span of a request: no two are alike, also of both families.
fn ids_of(number: usize, family: Family) -> [u8; 24] {
    let mut ids = [0; 24];
    let spread = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ids[..8].copy_from_slice(&spread.to_be_bytes());
    ids[8] = family.name().as_bytes()[3];
    ids[16..].copy_from_slice(&(!spread.rotate_left(23)).to_be_bytes());
    ids
}

fn enter(ids: &[u8]) {
    let (trace, span) = ids.split_at(16);
    instrumented::enter_span(trace.try_into().unwrap(), span.try_into().unwrap());
}

fn fault_of(number: usize) -> Option<Fault> {
    let is_hit = number >= SPARED && number % EVERY == EVERY - 1;
    is_hit.then(|| Fault::ALL[number / EVERY % Fault::ALL.len()])
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos().try_into().unwrap()
}

/// Answers until the client is gone.
fn serve(mut connection: TcpStream) {
    let mut request = [0; REQUEST];
    while connection.read_exact(&mut request).is_ok() {
        enter(&request[IDS..]);
        let is = |fault: Fault| request[RECORD.len()..].starts_with(fault.path().as_bytes());
        if is(Fault::Abort) {
            // Closed like this, a connection is reset.
            rustix::net::sockopt::set_socket_linger(&connection, Some(Duration::ZERO)).unwrap();
            drop(connection);
            instrumented::leave();
            return;
        }
        let status = match () {
            () if is(Fault::AnswerLost) => "221",
            () if is(Fault::AnswerKept) => "222",
            () => "200",
        };
        let mut answer = [0x17; ANSWER];
        answer[..RECORD.len()].copy_from_slice(RECORD);
        answer[9..12].copy_from_slice(status.as_bytes());
        // A client that was reset does not take it.
        let _ = connection.write_all(&answer);
        instrumented::leave();
    }
    instrumented::leave();
}

/// A client's connection, if it has one.
#[derive(Default)]
struct Client {
    connection: Option<TcpStream>,
}

impl Client {
    /// Makes a request; the port that it was asked from.
    fn ask(&mut self, to: SocketAddr, ids: &[u8], fault: Option<Fault>) -> Result<u16> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => TcpStream::connect(to)?,
        };
        let port = connection.local_addr()?.port();
        let mut request = [0x17; REQUEST];
        let path = fault.map_or("/goods/", Fault::path);
        request[..RECORD.len()].copy_from_slice(RECORD);
        request[RECORD.len()..][..path.len()].copy_from_slice(path.as_bytes());
        request[IDS..].copy_from_slice(ids);
        connection.write_all(&request)?;
        if connection.read_exact(&mut [0; ANSWER]).is_ok() {
            self.connection = Some(connection);
        }
        Ok(port)
    }
}

/// Makes the requests; each as its client knows it.
fn ask_all(to: SocketAddr, family: Family) -> HashMap<Ids, Request> {
    let (next, started, made) = (AtomicUsize::new(0), Instant::now(), Mutex::new(HashMap::new()));
    let work = || {
        let mut client = Client::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= REQUESTS {
                return;
            }
            let due = Duration::from_secs_f64(number as f64 / RATE as f64);
            sleep(due.saturating_sub(started.elapsed()));
            let (ids, fault, start) = (ids_of(number, family), fault_of(number), now());
            enter(&ids);
            let port = client.ask(to, &ids, fault).unwrap();
            instrumented::leave();
            let request = Request { fault, time: (start, now()), ports: vec![port.to_string()] };
            made.lock().unwrap().insert((hex(&ids[..16]), hex(&ids[16..])), request);
        }
    };
    scope(|scope| (0..CONNECTIONS).for_each(|_| drop(scope.spawn(work))));
    made.into_inner().unwrap()
}

fn run(family: Family) -> Option<Join> {
    if !requirements::met(&["ip", "nft"]) {
        return None;
    }
    let mut collector = Collector::start().unwrap()?;
    let network = Network::new().unwrap();
    shop::inject(&network).unwrap();
    let endpoint = collector.endpoint();
    let arguments = [shop::ALL_TOLD.as_slice(), &SOURCE, &["--endpoint", &endpoint]].concat();
    let mut receiver = Receiver::start(&arguments).unwrap();
    instrumented::publish();
    let to = SocketAddr::from((family.address(2, 2), PORT));
    let listener = network.b.inside(|| Ok(TcpListener::bind(to)?)).unwrap();
    spawn(move || listener.incoming().flatten().for_each(|connection| drop(spawn(|| serve(connection)))));
    let requests = network.a.inside(|| Ok(ask_all(to, family))).unwrap();
    receiver.stop().unwrap();
    collector.stop().unwrap();
    Some(Join::with(requests, &collector.received().unwrap(), &network))
}

/// A server that ends a connection in place of an answer has sent nothing by which its thread could be known.
const UNSEEN: (Fault, &str) = (Fault::Abort, "server");

fn check(family: Family) {
    let Some(join) = run(family) else { return };
    println!("{family:?}: {join}");
    assert_eq!(join.wrong, [""; 0]);
    assert_eq!(join.requests.len(), REQUESTS);
    for ((fault, event, role), (all, found)) in &join.found {
        let recall = *found as f64 / *all as f64;
        assert!(*all > 10, "{fault:?} of {all} alone");
        assert!((*fault, *role) == UNSEEN || recall >= 0.95, "{fault:?} by {event} ({role}): {recall}");
    }
    assert!(join.exemplars > 0, "{join}");
}

#[test]
fn requests_of_threads_that_were_hit_are_found_and_no_others() {
    // One after the other: programs see the process once for both.
    Family::BOTH.into_iter().for_each(check);
}
