//! Input, output and pressure of two containers of a real pod, and the node's pressure, are what the kernel shows to other
//! processes.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use jitterscope_integration::containerd::{Container, Containerd, Pod};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Point, Telemetry, has};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, metric};

/// Waits for a line in a pipe, copies that many blocks of a thousand bytes by short-lived processes, and waits again.
fn script(blocks: u32) -> String {
    format!(
        "b=/bin/busybox; $b mkfifo /f; while true; do read go </f && \
         for i in 1 2 3 4 5 6 7 8 9; do $b dd if=/dev/zero of=/dev/null bs=1000 count={blocks}; done; done"
    )
}

/// Lets a container's process go once: opening the pipe waits for it.
fn go(container: &Container) {
    let pipe = format!("/proc/{}/root/f", container.pid);
    poll::until("the pipe", || fs::metadata(&pipe).ok()).unwrap();
    fs::write(&pipe, "go\n").unwrap();
}

/// What the receiver tells of a process with all its former children, in the order of `/proc/<pid>/io`.
fn told(telemetry: &Telemetry, of: impl Fn(&Point) -> bool) -> Vec<u64> {
    let total = |name: &str, direction: &str| {
        telemetry
            .total(name, |point| of(point) && has(&point.attributes, key::DISK_IO_DIRECTION.key, direction))
    };
    vec![
        total(metric::IO_IO.name, "read"),
        total(metric::IO_IO.name, "write"),
        total(metric::IO_OPERATIONS.name, "read"),
        total(metric::IO_OPERATIONS.name, "write"),
        total(metric::IO_STORAGE_IO.name, "read"),
        total(metric::IO_STORAGE_IO.name, "write"),
        telemetry.total(metric::IO_STORAGE_CANCELLED.name, &of),
    ]
}

fn shown(container: &Container) -> Vec<u64> {
    let text = fs::read_to_string(format!("/proc/{}/io", container.pid)).unwrap();
    text.lines().map(|line| line.split_once(": ").unwrap().1.parse().unwrap()).collect()
}

fn difference(after: &[u64], before: &[u64]) -> Vec<u64> {
    after.iter().zip(before).map(|(after, before)| after - before).collect()
}

fn is_of(container: &Container) -> impl Fn(&Point) -> bool {
    let id = container.id.clone();
    move |point| has(&point.resource, key::CONTAINER_ID.key, &id)
}

/// The values once they stand still over some collections.
fn settled(receiver: &Receiver, containers: &[Container]) -> Vec<Vec<u64>> {
    let mut last = Vec::new();
    poll::until("standing counters", || {
        receiver.prints(metric::IO_IO.name, 3).unwrap();
        let telemetry = receiver.printed().unwrap();
        let now: Vec<_> = containers.iter().map(|one| told(&telemetry, is_of(one))).collect();
        let known = now.iter().all(|values| values.iter().any(|value| *value > 0));
        let before = std::mem::replace(&mut last, now.clone());
        (known && now == before).then_some(now)
    })
    .unwrap()
}

/// Every series has one point in each request.
fn check_unique(telemetry: &Telemetry) {
    for request in &telemetry.metrics {
        let one = Telemetry { metrics: vec![request.clone()], ..Telemetry::default() };
        let mut seen = BTreeSet::new();
        for (_, metric) in one.metrics() {
            seen.insert(metric.name.clone());
        }
        for name in seen {
            let mut series = BTreeSet::new();
            for point in one.points(&name) {
                let described = format!("{name} {:?} {:?}", point.resource, point.attributes);
                assert!(series.insert(described.clone()), "twice: {described}");
            }
        }
    }
}

/// The cgroup of a container, or of its pod, in the v2 hierarchy.
fn cgroup(pod: &Pod, container: Option<&Container>) -> PathBuf {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    let root = roots.into_iter().find(|root| root.join("cgroup.controllers").exists()).unwrap();
    let of_pod = root.join(pod.cgroup().trim_start_matches('/'));
    container.map_or_else(|| of_pod.clone(), |container| of_pod.join(&container.id))
}

/// Seconds of a line in a file of pressure.
fn seconds(file: &PathBuf, kind: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(kind)).unwrap();
    line.rsplit_once("total=").unwrap().1.parse::<f64>().unwrap() / 1e6
}

/// A time of pressure that was told after the file was read, between what the file shows before and after.
fn check_pressure(receiver: &Receiver, file: &PathBuf, resource: &str, of: impl Fn(&Point) -> bool) -> Point {
    let earlier = seconds(file, "some");
    receiver.prints(metric::PRESSURE_TIME.name, 2).unwrap();
    let telemetry = receiver.printed().unwrap();
    let mut points = telemetry.last(metric::PRESSURE_TIME.name);
    points.retain(|point| {
        of(point)
            && has(&point.attributes, key::PRESSURE_RESOURCE.key, resource)
            && has(&point.attributes, key::PRESSURE_KIND.key, "some")
    });
    assert_eq!(points.len(), 1, "{points:#?}");
    let point = points.remove(0);
    let later = seconds(file, "some");
    let told = point.value;
    assert!((earlier..=later).contains(&told), "{}: {earlier} {told} {later}", file.display());
    point
}

/// Nanoseconds since 1970 when a process started.
fn start_of(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let ticks: u64 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap();
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let booted: u64 =
        stat.lines().find_map(|line| line.strip_prefix("btime ")).unwrap().trim().parse().unwrap();
    booted * 1_000_000_000 + ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second())
}

#[tokio::test(flavor = "multi_thread")]
async fn input_output_and_pressure_of_two_containers_are_what_the_kernel_shows_of_each() {
    if !requirements::met(&["containerd", "runc", "ctr"]) {
        return;
    }
    let mut containerd = Containerd::start().await.unwrap();
    let socket = format!("entities.cri=unix://{}", containerd.socket().display());
    let receiver =
        Receiver::start(&["--format", "json", "--set", "interval=200ms", "--set", &socket]).unwrap();
    let pod = containerd.run_pod("shop", "cart-7d9f").await.unwrap();
    let one = containerd.start_container(&pod, "app", &["sh", "-c", &script(300)]).await.unwrap();
    let other = containerd.start_container(&pod, "side", &["sh", "-c", &script(7)]).await.unwrap();
    let containers = [one, other];
    containers.iter().for_each(go);
    let (told_before, shown_before) = (settled(&receiver, &containers), containers.each_ref().map(shown));
    containers.iter().for_each(go);
    let (told_after, shown_after) = (settled(&receiver, &containers), containers.each_ref().map(shown));
    for (n, blocks) in [300, 7].into_iter().enumerate() {
        let kernel = difference(&shown_after[n], &shown_before[n]);
        assert!(kernel[1] >= 9 * blocks * 1000, "{kernel:?}");
        assert_eq!(difference(&told_after[n], &told_before[n]), kernel);
    }
    if fs::exists("/proc/pressure/cpu").unwrap() {
        for container in &containers {
            let files = cgroup(&pod, Some(container));
            let point = check_pressure(&receiver, &files.join("cpu.pressure"), "cpu", is_of(container));
            assert!(point.start.abs_diff(start_of(container.pid)) < 1_500_000_000, "{point:?}");
            assert!(has(&point.resource, key::K8S_POD_NAME.key, "cart-7d9f"), "{point:?}");
        }
        let of_pod = |point: &Point| {
            has(&point.resource, key::K8S_POD_UID.key, &pod.uid)
                && !point.resource.contains_key(key::CONTAINER_ID.key)
        };
        check_pressure(&receiver, &cgroup(&pod, None).join("cpu.pressure"), "cpu", of_pod);
    }
    check_unique(&receiver.printed().unwrap());
}

#[test]
fn the_nodes_pressure_is_that_of_proc_since_boot() {
    if !requirements::met(&[]) || !fs::exists("/proc/pressure/cpu").unwrap() {
        return;
    }
    let receiver = Receiver::start(&["--format", "json", "--set", "interval=200ms"]).unwrap();
    let of_node = |point: &Point| {
        !point.resource.contains_key(key::CONTAINER_ID.key)
            && !point.resource.contains_key(key::K8S_POD_UID.key)
    };
    for resource in ["cpu", "memory", "io"] {
        let file = PathBuf::from("/proc/pressure").join(resource);
        let point = check_pressure(&receiver, &file, resource, of_node);
        assert!(point.start.abs_diff(start_of(1)) < 5_000_000_000, "{point:?}");
    }
}
