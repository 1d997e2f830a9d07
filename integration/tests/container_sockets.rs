//! What the containers of a real pod leave unread in their sockets, and cannot send, is counted and told as theirs.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use jitterscope_integration::containerd::{Container, Containerd, Pod};
use jitterscope_integration::netns::inside_of;
use jitterscope_integration::network::Family;
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Distribution, Record, has};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{Event, Metric, attribute as key, event, metric};
use rustix::io::ioctl_fionread;
use rustix::process::{Pid, Signal, kill_process};

/// How long data is left waiting.
const HOLD: Duration = Duration::from_millis(300);
/// Ports of the containers' ends, and of the test's.
const READER: u16 = 7000;
const WRITER: u16 = 7001;

/// Lets a container's process stand still, and returns when it does; or go on.
fn stop(container: &Container, still: bool) {
    let pid = Pid::from_raw(container.pid.try_into().unwrap()).unwrap();
    kill_process(pid, if still { Signal::STOP } else { Signal::CONT }).unwrap();
    let stat = format!("/proc/{}/stat", container.pid);
    let stands = || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T ")) == still;
    poll::until("its state", || stands().then_some(())).unwrap();
}

/// The container's last distribution of a family.
fn waits(receiver: &Receiver, metric: &Metric, of: &Container, family: Family) -> Distribution {
    let is_wanted = |one: &Distribution| {
        has(&one.resource, key::CONTAINER_ID.key, &of.id)
            && has(&one.attributes, key::NETWORK_TYPE.key, family.name())
            && has(&one.attributes, key::NETWORK_TRANSPORT.key, "tcp")
    };
    let found = || receiver.printed().unwrap().distributions(metric.name).filter(is_wanted).last();
    poll::until("its waits", found).unwrap()
}

/// An event of the container, of data that waited as long as the test made it: of some of what does not fit into the window
/// TCP sends a part earlier, to see whether it still does not.
fn told(receiver: &Receiver, event: &Event, of: &Container, family: Family) -> Record {
    let is_wanted = |record: &Record| {
        record.event == event.name
            && has(&record.resource, key::CONTAINER_ID.key, &of.id)
            && has(&record.attributes, key::NETWORK_TYPE.key, family.name())
            && record.attributes[key::SOCKET_DELAY.key].parse::<f64>().unwrap() >= HOLD.as_secs_f64()
    };
    poll::until("an event", || receiver.printed().unwrap().records().find(is_wanted)).unwrap()
}

/// An event says who it was, and of which pod.
fn check(told: &Record, of: &Container, family: Family) {
    assert!(has(&told.attributes, key::PROCESS_PID.key, &of.pid.to_string()), "{told:?}");
    assert!(has(&told.attributes, key::TASK_COMMAND.key, "busybox"), "{told:?}");
    assert!(
        has(&told.attributes, key::NETWORK_LOCAL_ADDRESS.key, &family.loopback().to_string()),
        "{told:?}"
    );
    assert!(has(&told.resource, key::K8S_POD_NAME.key, "cart-7d9f"), "{told:?}");
}

/// A container that stands still while it is sent something.
async fn reader(receiver: &Receiver, containerd: &mut Containerd, pod: &Pod, family: Family) {
    let port = READER + u16::from(family == Family::V6) * 10;
    let listen = ["nc", "-l", "-p", &port.to_string()];
    let container =
        containerd.start_container(pod, &format!("reader-{}", family.name()), &listen).await.unwrap();
    let connect = || Ok(TcpStream::connect((family.loopback(), port)).ok());
    let mut client = poll::until("a connection", || inside_of(pod.pid, connect).unwrap()).unwrap();
    stop(&container, true);
    let wrote = Instant::now();
    client.write_all(&[0; 100]).unwrap();
    std::thread::sleep(HOLD);
    stop(&container, false);
    let one = waits(receiver, &metric::SOCKET_READ_WAIT, &container, family);
    assert_eq!(one.point.count, 1, "{one:?}");
    let sum = one.point.sum.unwrap();
    assert!(sum >= HOLD.as_secs_f64() && sum <= wrote.elapsed().as_secs_f64(), "{one:?}");
    let told = told(receiver, &event::SOCKET_READ_SLOW, &container, family);
    check(&told, &container, family);
    assert!(has(&told.attributes, key::NETWORK_LOCAL_PORT.key, &port.to_string()), "{told:?}");
}

/// A container whose peer does not read.
async fn writer(receiver: &Receiver, containerd: &mut Containerd, pod: &Pod, family: Family) {
    let address = (family.loopback(), WRITER);
    let listener = inside_of(pod.pid, || Ok(TcpListener::bind(address)?)).unwrap();
    let script = format!("exec /bin/busybox nc {} {WRITER} </dev/zero", family.loopback());
    let name = format!("writer-{}", family.name());
    let container = containerd.start_container(pod, &name, &["sh", "-c", &script]).await.unwrap();
    let mut accepted = listener.accept().unwrap().0;
    let mut last = 0;
    poll::until("a full window", || {
        std::thread::sleep(HOLD / 3);
        let before = std::mem::replace(&mut last, ioctl_fionread(&accepted).unwrap());
        (before > 0 && before == last).then_some(())
    })
    .unwrap();
    std::thread::sleep(HOLD);
    // All that waited, and more.
    accepted.read_exact(&mut vec![0; 20_000_000]).unwrap();
    drop(accepted);
    let told = told(receiver, &event::SOCKET_WRITE_SLOW, &container, family);
    check(&told, &container, family);
    assert!(has(&told.attributes, key::NETWORK_PEER_PORT.key, &WRITER.to_string()), "{told:?}");
    // The event comes at once, the distribution with a collection that begins after it.
    receiver.prints(metric::SOCKET_WRITE_WAIT.name, 2).unwrap();
    let all = waits(receiver, &metric::SOCKET_WRITE_WAIT, &container, family);
    assert!(all.point.count > 1 && all.point.sum.unwrap() >= HOLD.as_secs_f64(), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_sockets_is_the_containers_that_reads_and_writes() {
    if !requirements::met(&["containerd", "runc", "ctr"]) {
        return;
    }
    let mut containerd = Containerd::start().await.unwrap();
    let settings = [
        "interval=500ms".to_owned(),
        format!("entities.cri=unix://{}", containerd.socket().display()),
        "probes.socketlatency.enabled=true".to_owned(),
        "probes.socketlatency.threshold=250ms".to_owned(),
    ];
    let mut arguments = vec!["--format", "json"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let receiver = Receiver::start(&arguments).unwrap();
    let pod = containerd.run_pod("shop", "cart-7d9f").await.unwrap();
    for family in Family::BOTH {
        reader(&receiver, &mut containerd, &pod, family).await;
        writer(&receiver, &mut containerd, &pod, family).await;
    }
}
