//! A full accept queue: the final ACK of a handshake that it turns away is a drop like any other; a SYN that it turns away
//! is freed without a trace and is in the kernel's own counter.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use jitterscope_integration::faults::{Bed, bed};
use jitterscope_integration::kernel::counter;
use jitterscope_integration::network::Family;
use jitterscope_integration::packet::{Listener, begin};
use jitterscope_integration::poll;
use jitterscope_integration::receiver::limitation;
use jitterscope_integration::telemetry::{Point, Record, Telemetry, has};
use jitterscope_semconv::{attribute as key, metric};

/// Connections that the queue takes is one more than this.
const BACKLOG: u16 = 4;

/// The port of the listener that never accepts.
const PORT: u16 = 1008;

fn listen(bed: &Bed, family: Family) -> (Listener, SocketAddr) {
    // A full queue of half-open connections is not to be the matter.
    bed.network.b.sh("sysctl -qw net.ipv4.tcp_syncookies=0 net.ipv4.tcp_max_syn_backlog=1024").unwrap();
    let address = SocketAddr::new(family.address(2, 2), PORT);
    (bed.network.b.inside(|| Listener::bind(address, BACKLOG)).unwrap(), address)
}

/// Fills the accept queue.
fn fill(bed: &Bed, address: SocketAddr) -> Vec<TcpStream> {
    let connect = || (0..=BACKLOG).map(|_| Ok(TcpStream::connect(address)?)).collect();
    bed.network.a.inside(connect).unwrap()
}

fn overflows(bed: &Bed) -> u64 {
    counter(&bed.network.b, "TcpExtListenOverflows").unwrap()
}

fn of_b(bed: &Bed) -> impl Fn(&Point) -> bool {
    let name = bed.network.b.name().to_owned();
    move |point| has(&point.resource, key::NETNS_NAME.key, &name)
}

/// What `tcp.listen.drops` says of the server's namespace.
fn told_overflows(bed: &Bed, told: &Telemetry) -> u64 {
    let of_b = of_b(bed);
    let overflow = |point: &Point| has(&point.attributes, key::TCP_LISTEN_DROP_REASON.key, "overflow");
    told.total(metric::TCP_LISTEN_DROPS.name, |point| of_b(point) && overflow(point))
}

#[test]
fn a_final_ack_that_a_full_accept_queue_turns_away_is_the_servers_loss() {
    for family in Family::BOTH {
        let Some(mut bed) = bed() else { return };
        let (_listener, address) = listen(&bed, family);
        // Three handshakes stop before their final ACK, which does not leave the client; then the queue fills.
        bed.network.a.refuse("output", &format!("tcp dport {PORT} tcp flags & (syn | ack) == ack")).unwrap();
        let held: Vec<TcpStream> =
            bed.network.a.inside(|| (0..3).map(|_| Ok(TcpStream::connect(address)?)).collect()).unwrap();
        let refused = |told: &Telemetry| {
            told.total(metric::PACKET_DROPS.name, |point| {
                has(&point.resource, key::NETNS_NAME.key, bed.network.a.name())
            })
        };
        bed.network.a.allow().unwrap();
        let _queued = fill(&bed, address);
        // The server says SYN-ACK again, the client answers.
        poll::until("an overflow", || (overflows(&bed) >= 3).then_some(())).unwrap();
        drop(held);
        let is_ack = |record: &Record| {
            has(&record.attributes, key::DESTINATION_PORT.key, &PORT.to_string())
                && has(&record.resource, key::NETNS_NAME.key, bed.network.b.name())
        };
        let arrived =
            || bed.receiver.printed().unwrap().records().any(|record| is_ack(&record)).then_some(());
        poll::until("an event", arrived).unwrap();
        // No more of them while the counters are compared.
        bed.network.a.refuse("output", &format!("tcp dport {PORT}")).unwrap();
        bed.receiver.stop().unwrap();

        let told = bed.receiver.printed().unwrap();
        let (overflows, of_b) = (overflows(&bed), of_b(&bed));
        let lost = told.total(metric::PACKET_DROPS.name, &of_b);
        assert_eq!(lost, overflows, "{} lost by a; {}", refused(&told), bed.told());
        assert_eq!(told_overflows(&bed, &told), overflows);
        let reason = bed.reason(&["TCP_LISTEN_OVERFLOW"]);
        for record in told.records().filter(is_ack) {
            let told = |key: &str| record.attributes.get(key).map(String::as_str);
            assert_eq!(told(key::PACKET_DROP_REASON.key), Some(reason), "{record:#?}");
            assert_eq!(told(key::NETWORK_TRANSPORT.key), Some("tcp"));
            assert_eq!(told(key::NETWORK_TYPE.key), Some(family.name()));
            assert_eq!(told(key::NETWORK_IO_DIRECTION.key), Some("receive"));
            assert_eq!(told(key::NETWORK_INTERFACE_NAME.key), Some("eth0"));
            assert_eq!(told(key::SOURCE_ADDRESS.key), Some(family.address(1, 2).to_string().as_str()));
            assert_eq!(told(key::DESTINATION_ADDRESS.key), Some(address.ip().to_string().as_str()));
            assert!(told(key::TCP_FLAGS.key).is_some_and(|flags| flags.contains("ACK")), "{record:#?}");
        }
    }
}

#[test]
fn a_syn_that_a_full_accept_queue_turns_away_is_accounted_for() {
    for family in Family::BOTH {
        let Some(mut bed) = bed() else { return };
        let (_listener, address) = listen(&bed, family);
        let _queued = fill(&bed, address);
        let refused: Vec<_> = (0..3).map(|_| bed.network.a.inside(|| begin(address)).unwrap()).collect();
        poll::within(Duration::from_secs(20), "overflows", || (overflows(&bed) >= 3).then_some(())).unwrap();
        bed.network.a.refuse("output", &format!("tcp dport {PORT}")).unwrap();
        bed.receiver.stop().unwrap();
        drop(refused);

        let told = bed.receiver.printed().unwrap();
        let overflows = overflows(&bed);
        assert_eq!(told_overflows(&bed, &told), overflows, "{}", bed.told());
        let (of_b, lost) = (of_b(&bed), |reason: &'static str| {
            move |point: &Point| has(&point.attributes, key::PACKET_DROP_REASON.key, reason)
        });
        let (counted, all) = (
            told.total(metric::PACKET_DROPS.name, |point| of_b(point) && lost("ListenOverflows")(point)),
            told.total(metric::PACKET_DROPS.name, &of_b),
        );
        // Where the kernel refuses a hook on the function, the probe says so and the counter above is the account.
        let hooked = !limitation("packetloss").unwrap().contains("tcp_conn_request");
        assert_eq!((counted, all), if hooked { (overflows, overflows) } else { (0, 0) }, "{}", bed.told());
    }
}
