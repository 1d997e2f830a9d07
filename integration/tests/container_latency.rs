//! What containers of a real pod wait for a CPU, and their block requests, are counted and told as theirs.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::fs;

use jitterscope_integration::containerd::{Container, Containerd};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Distribution, Record, Telemetry, has};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, event, metric};

/// Direct writes of the container that writes.
const WRITES: u64 = 100;

/// Waits for lines in a pipe, which it keeps open both ways so that none is lost, and does something for each.
fn script(work: &str) -> String {
    format!("b=/bin/busybox; $b mkfifo /f; exec 3<>/f; while read go <&3; do {work}; done")
}

/// Lets a container's process go once: opening the pipe waits for it.
fn go(container: &Container) {
    let pipe = format!("/proc/{}/root/f", container.pid);
    poll::until("the pipe", || fs::metadata(&pipe).ok()).unwrap();
    fs::write(&pipe, "go\n").unwrap();
}

/// How often a container's only process gave up the CPU.
fn switches(container: &Container) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", container.pid)).unwrap();
    let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
    counts.map(|line| line.split_whitespace().last().unwrap().parse::<u64>().unwrap()).sum()
}

/// The last distribution of a metric that a container has, with the attribute; its count.
fn count(telemetry: &Telemetry, name: &str, of: &Container, wanted: impl Fn(&Distribution) -> bool) -> u64 {
    let is_wanted = |one: &Distribution| has(&one.resource, key::CONTAINER_ID.key, &of.id) && wanted(one);
    let last = telemetry.distributions(name).filter(is_wanted).last();
    last.map_or(0, |one| one.point.count)
}

/// Waits for a CPU and switches once both stand still.
fn settled(receiver: &Receiver, container: &Container) -> (u64, u64) {
    let mut last = (0, 0);
    poll::until("standing counters", || {
        receiver.prints(metric::SCHEDULER_WAIT.name, 3).unwrap();
        let telemetry = receiver.printed().unwrap();
        let waits = count(&telemetry, metric::SCHEDULER_WAIT.name, container, |_| true);
        let now = (waits, switches(container));
        let before = std::mem::replace(&mut last, now);
        (waits > 0 && now == before).then_some(now)
    })
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_for_a_cpu_and_block_requests_are_those_of_the_container() {
    if !requirements::met(&["containerd", "runc", "ctr"]) {
        return;
    }
    let mut containerd = Containerd::start().await.unwrap();
    let settings = [
        "interval=200ms".to_owned(),
        format!("entities.cri=unix://{}", containerd.socket().display()),
        "probes.schedlatency.enabled=true".to_owned(),
        "probes.biolatency.enabled=true".to_owned(),
        "probes.biolatency.threshold=0ms".to_owned(),
    ];
    let mut arguments = vec!["--format", "json"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let receiver = Receiver::start(&arguments).unwrap();
    let pod = containerd.run_pod("shop", "cart-7d9f").await.unwrap();
    let dd = format!("$b dd if=/dev/zero of=/d bs=4096 count={WRITES} oflag=direct");
    let calm = containerd.start_container(&pod, "calm", &["sh", "-c", &script(":")]).await.unwrap();
    let writer = containerd.start_container(&pod, "writer", &["sh", "-c", &script(&dd)]).await.unwrap();

    go(&calm);
    let before = settled(&receiver, &calm);
    (0..50).for_each(|_| go(&calm));
    let after = settled(&receiver, &calm);
    assert!(after.1 > before.1 && after.0 - before.0 == after.1 - before.1, "{before:?} {after:?}");

    go(&writer);
    let is_write = |one: &Distribution| has(&one.attributes, key::BLOCK_OPERATION.key, "write");
    let telemetry = poll::until("the writes", || {
        receiver.prints(metric::BLOCK_DURATION.name, 1).unwrap();
        let telemetry = receiver.printed().unwrap();
        let writes = count(&telemetry, metric::BLOCK_DURATION.name, &writer, is_write);
        (writes >= WRITES).then_some(telemetry)
    })
    .unwrap();
    for metric in [&metric::BLOCK_DURATION, &metric::BLOCK_QUEUE_WAIT] {
        assert_eq!(count(&telemetry, metric.name, &writer, is_write), WRITES);
        assert_eq!(count(&telemetry, metric.name, &calm, is_write), 0);
    }
    let told = poll::until("an event", || {
        let own = |record: &Record| {
            record.event == event::BLOCK_SLOW.name
                && has(&record.resource, key::CONTAINER_ID.key, &writer.id)
                && has(&record.attributes, key::BLOCK_OPERATION.key, "write")
        };
        receiver.printed().unwrap().records().find(own)
    })
    .unwrap();
    assert!(has(&told.attributes, key::BLOCK_SIZE.key, "4096"), "{told:?}");
    assert!(has(&told.attributes, key::TASK_COMMAND.key, "busybox"), "{told:?}");
    assert!(has(&told.resource, key::K8S_POD_NAME.key, "cart-7d9f"), "{told:?}");
}
