//! Signals of real pods in containerd: they carry the pod's identity from its first packet on, also after its end, and are
//! told apart from those of plain containers and anonymous namespaces.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command};

use anyhow::Result;
use jitterscope_integration::containerd::{Containerd, Pod};
use jitterscope_integration::netns::{inside_of, run};
use jitterscope_integration::network::Family;
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Attributes, Point, Record, has};
use jitterscope_integration::traffic::CLOSED_PORT;
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, event, metric};

/// "A new pod's signals carry its identity within 1 s of its first packet."
const IDENTIFIED_WITHIN: u64 = 1_000_000_000;

/// The port that netfilter refuses in the test of a container's own socket.
const REFUSED: &str = "1002";

const PROGRAMS: [&str; 6] = ["containerd", "runc", "ctr", "nft", "nsenter", "unshare"];

fn receiver(containerd: &Containerd) -> Receiver {
    let socket = format!("entities.cri=unix://{}", containerd.socket().display());
    Receiver::start(&["--format", "json", "--set", "interval=200ms", "--set", &socket]).unwrap()
}

/// A socket in a namespace, and datagrams to a port where nobody listens, one of each family.
fn lose(sockets: &[UdpSocket; 2]) {
    for (socket, family) in sockets.iter().zip(Family::BOTH) {
        // The refusal of the one before is no surprise.
        let _ = socket.send_to(b"x", (family.loopback(), CLOSED_PORT));
    }
}

/// Sockets of both families in the namespace of a process; an error while its loopback has no addresses yet.
fn open(pid: u32) -> Result<[UdpSocket; 2]> {
    let open =
        || Ok([UdpSocket::bind((Family::V4.loopback(), 0))?, UdpSocket::bind((Family::V6.loopback(), 0))?]);
    inside_of(pid, open)
}

fn sockets(pid: u32) -> [UdpSocket; 2] {
    open(pid).unwrap()
}

fn ports(sockets: &[UdpSocket; 2]) -> [String; 2] {
    sockets.each_ref().map(|socket| socket.local_addr().unwrap().port().to_string())
}

fn netns(pid: u32) -> String {
    fs::metadata(format!("/proc/{pid}/ns/net")).unwrap().ino().to_string()
}

/// Events that happened in a namespace.
fn events(receiver: &Receiver, netns: &str) -> Vec<Record> {
    let mut events: Vec<_> = receiver.printed().unwrap().records().collect();
    events.retain(|record| {
        record.event == event::PACKET_DROPPED.name && has(&record.attributes, key::NETNS_INODE.key, netns)
    });
    events
}

/// Waits for at least so many events of these ports in a namespace.
fn events_from(receiver: &Receiver, netns: &str, ports: &[String; 2], count: usize) -> Vec<Record> {
    let arrived = || {
        let mut events = events(receiver, netns);
        events.retain(|record| ports.iter().any(|port| has(&record.attributes, key::SOURCE_PORT.key, port)));
        (events.len() >= count).then_some(events)
    };
    poll::until(&format!("{count} events of ports {ports:?}"), arrived).unwrap()
}

fn assert_is(resource: &Attributes, pod: &Pod) {
    assert!(has(resource, key::K8S_POD_UID.key, &pod.uid), "{resource:#?}");
    assert!(has(resource, key::K8S_POD_NAME.key, &pod.name), "{resource:#?}");
    assert!(has(resource, key::K8S_NAMESPACE_NAME.key, &pod.namespace), "{resource:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_signals_carry_its_identity_within_a_second_of_its_first_packet_and_after_its_end() {
    if !requirements::met(&PROGRAMS) {
        return;
    }
    let mut containerd = Containerd::start().await.unwrap();
    let receiver = receiver(&containerd);
    // The first event of all waits for the kernel's symbols; it is not a pod's.
    let other = Anonymous::start();
    let first = sockets(other.0.id());
    lose(&first);
    events_from(&receiver, &netns(other.0.id()), &ports(&first), 2);
    let pod = containerd.run_pod("shop", "cart-7d9f").await.unwrap();
    let (inode, sockets) = (netns(pod.pid), sockets(pod.pid));
    lose(&sockets);
    for event in events_from(&receiver, &inode, &ports(&sockets), 2) {
        assert_is(&event.resource, &pod);
        let late = event.observed.saturating_sub(event.time);
        assert!(late < IDENTIFIED_WITHIN, "{late} ns: {event:#?}");
    }
    // Its counters too, under no other resource before.
    let counters = poll::until("the pod's counters", || {
        let printed = receiver.printed().unwrap();
        let io: Vec<_> = printed.points(metric::K8S_POD_NETWORK_IO.name).collect();
        let found = io.iter().any(|point| has(&point.resource, key::K8S_POD_UID.key, &pod.uid));
        found.then_some(printed)
    })
    .unwrap();
    for name in [metric::K8S_POD_NETWORK_IO.name, metric::UDP_ERRORS.name, metric::PACKET_DROPS.name] {
        let mut points: Vec<_> = counters.points(name).collect();
        assert!(
            points.iter().all(|point| !has(&point.resource, key::NETNS_INODE.key, &inode)),
            "{name}: {points:#?}"
        );
        points.retain(|point| has(&point.resource, key::K8S_POD_UID.key, &pod.uid));
        points.iter().for_each(|point| assert_is(&point.resource, &pod));
    }

    // What it loses at its end is read when it is gone.
    receiver.freeze().unwrap();
    lose(&sockets);
    containerd.remove_pod(&pod).await.unwrap();
    receiver.wake().unwrap();
    let late = events_from(&receiver, &inode, &ports(&sockets), 4);
    late.iter().for_each(|event| assert_is(&event.resource, &pod));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_its_names_when_the_runtimes_socket_is_set_while_the_receiver_runs() {
    if !requirements::met(&PROGRAMS) {
        return;
    }
    let mut containerd = Containerd::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jitterscope.yaml");
    fs::write(&file, "entities: {cri: off}\n").unwrap();
    let path = file.display().to_string();
    let receiver = Receiver::start(&["--format", "json", "--set", "interval=200ms", "-c", &path]).unwrap();
    let pod = containerd.run_pod("shop", "cart-7d9f").await.unwrap();
    let (inode, sockets) = (netns(pod.pid), sockets(pod.pid));
    lose(&sockets);
    for event in events_from(&receiver, &inode, &ports(&sockets), 2) {
        assert!(has(&event.resource, key::K8S_POD_UID.key, &pod.uid), "{event:#?}");
        assert!(!event.resource.contains_key(key::K8S_POD_NAME.key), "{event:#?}");
    }
    // Not what the kernel itself sends in a namespace that is new.
    let datagrams = |point: &&Point| {
        has(&point.resource, key::K8S_POD_UID.key, &pod.uid)
            && point.attributes.contains_key(key::NETWORK_TYPE.key)
            && has(&point.attributes, key::NETWORK_TRANSPORT.key, "udp")
    };
    // Both families' counters are told without names, too, before there are any.
    poll::until("the pod's counters", || {
        let drops = receiver.printed().unwrap().last(metric::PACKET_DROPS.name);
        (drops.iter().filter(datagrams).count() == 2).then_some(())
    })
    .unwrap();
    fs::write(&file, format!("entities: {{cri: \"unix://{}\"}}\n", containerd.socket().display())).unwrap();
    let drops = poll::until("the pod's counters under its names", || {
        let drops = receiver.printed().unwrap().last(metric::PACKET_DROPS.name);
        let named = |point: &Point| has(&point.resource, key::K8S_POD_NAME.key, &pod.name);
        drops.iter().any(named).then_some(drops)
    })
    .unwrap();
    let of_pod: Vec<_> = drops.iter().filter(datagrams).collect();
    // A series for each family, without names and then with them: the same packets, counted since the same moment.
    assert!(of_pod.len() == 4 && of_pod.iter().all(|point| point.value == 1.0), "{of_pod:#?}");
    assert!(of_pod.iter().all(|point| point.start == of_pod[0].start), "{of_pod:#?}");
    lose(&sockets);
    let events = events_from(&receiver, &inode, &ports(&sockets), 4);
    events.iter().skip(2).for_each(|event| assert_is(&event.resource, &pod));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_containers_own_socket_name_the_container() {
    if !requirements::met(&PROGRAMS) {
        return;
    }
    let mut containerd = Containerd::start().await.unwrap();
    let receiver = receiver(&containerd);
    let pod = containerd.run_pod("shop", "cart-7d9f").await.unwrap();
    let mut nft = Command::new("nsenter");
    nft.args(["--target", &pod.pid.to_string(), "--net", "nft"]);
    nft.arg(format!(
        "add table inet t; add chain inet t c {{ type filter hook output priority 0; }}; \
         add rule inet t c tcp dport {REFUSED} drop"
    ));
    run(&mut nft).unwrap();
    let nc = format!("echo x | $b nc -w 1 127.0.0.1 {REFUSED}; echo x | $b nc -w 1 ::1 {REFUSED}");
    let send = format!("b=/bin/busybox; while true; do {nc}; $b sleep 1; done");
    let app = containerd.start_container(&pod, "app", &["sh", "-c", &send]).await.unwrap();
    let inode = netns(pod.pid);
    for family in Family::BOTH {
        let event = poll::until("an event of the container's socket", || {
            let events = events(&receiver, &inode);
            let is = |record: &Record| {
                has(&record.attributes, key::DESTINATION_PORT.key, REFUSED)
                    && has(&record.attributes, key::NETWORK_TYPE.key, family.name())
            };
            events.into_iter().find(is)
        })
        .unwrap();
        assert_is(&event.resource, &pod);
        assert!(has(&event.resource, key::K8S_CONTAINER_NAME.key, "app"), "{event:#?}");
        assert!(has(&event.resource, key::CONTAINER_ID.key, &app.id), "{event:#?}");
    }
}

/// A process in a network namespace that has no name, ended when dropped.
struct Anonymous(Child);

impl Anonymous {
    fn start() -> Self {
        let mut unshare = Command::new("unshare");
        let anonymous =
            Self(unshare.args(["--net", "sh", "-c", "ip link set lo up && exec sleep 600"]).spawn().unwrap());
        let own = netns(std::process::id());
        // The interface is up before its IPv6 address is there: what counts is that both can be bound.
        let inside = || {
            let pid = anonymous.0.id();
            (netns(pid) != own && open(pid).is_ok()).then_some(())
        };
        poll::until("a namespace of its own", inside).unwrap();
        anonymous
    }
}

impl Drop for Anonymous {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_plain_containers_and_anonymous_namespaces_are_told_apart() {
    if !requirements::met(&PROGRAMS) {
        return;
    }
    let mut containerd = Containerd::start().await.unwrap();
    let receiver = receiver(&containerd);
    let pod = containerd.run_pod("shop", "cart-7d9f").await.unwrap();
    let plain = containerd.run_plain(&["sleep", "600"]).unwrap();
    run(Command::new("nsenter").args(["-t", &plain.pid.to_string(), "-n", "ip", "link", "set", "lo", "up"]))
        .unwrap();
    let anonymous = Anonymous::start();
    let resources = [pod.pid, plain.pid, anonymous.0.id()].map(|pid| {
        let sockets = sockets(pid);
        lose(&sockets);
        let events = events_from(&receiver, &netns(pid), &ports(&sockets), 2);
        assert_eq!(events[0].resource, events[1].resource);
        events[0].resource.clone()
    });
    assert_is(&resources[0], &pod);
    assert!(has(&resources[1], key::CONTAINER_ID.key, &plain.id), "{resources:#?}");
    assert!(!resources[1].contains_key(key::K8S_POD_UID.key), "{resources:#?}");
    let nameless = Attributes::from([(key::NETNS_INODE.key.to_owned(), netns(anonymous.0.id()))]);
    assert_eq!(resources[2], nameless);
}
