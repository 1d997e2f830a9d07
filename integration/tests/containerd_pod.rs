//! Real pods in containerd: named within a second, told apart, and still known after their end. Needs root.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test does")]
#![expect(
    clippy::print_stdout,
    reason = "a test that is skipped says why, and one that ran what it measured"
)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jitterscope::pods::{
    CriSetting, CriState, Entity, EntityKind, Namespace, Netns, NetnsSource, Origin, Pods, Settings, start,
};
use jitterscope_integration::containerd::{Container, Containerd, LABEL, Pod};

/// "A new pod's signals carry its identity within 1 s of its first packet."
const IDENTIFIED_WITHIN: Duration = Duration::from_secs(1);

/// Whether the test can run; without root it says so, and fails under CI.
fn is_root() -> bool {
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    assert!(root || std::env::var_os("CI").is_none(), "needs root");
    if !root {
        println!("skipped: needs root to run containerd");
    }
    root
}

fn pods(containerd: &Containerd, cri: bool) -> Pods {
    let cri = if cri { CriSetting::Socket(containerd.socket()) } else { CriSetting::Off };
    let labels = vec![LABEL.to_owned(), "absent".to_owned()];
    let settings = Settings { cri, node_name: Some("node-a".to_owned()), labels, ..Settings::default() };
    let (pods, writer) = start(&settings);
    tokio::spawn(writer);
    pods
}

fn netns(pid: u32) -> u32 {
    u32::try_from(fs::metadata(format!("/proc/{pid}/ns/net")).unwrap().ino()).unwrap()
}

/// Id of a container's cgroup in the v2 hierarchy.
fn cgroup(pod: &Pod, id: &str) -> u64 {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let root = roots.iter().find(|root| fs::exists(format!("{root}/cgroup.controllers")).unwrap());
    fs::metadata(format!("{}{}/{id}", root.unwrap(), pod.cgroup())).unwrap().ino()
}

fn of_pod(pod: &Pod) -> Origin {
    Origin { netns: Netns { inode: netns(pod.pid), cookie: 0 }, ..Origin::default() }
}

fn of_container(pod: &Pod, container: &Container) -> Origin {
    Origin { cgroup: cgroup(pod, &container.id), ..of_pod(pod) }
}

fn text(entity: &Entity, key: &str) -> String {
    let attribute = entity.resource.attributes.iter().find(|attribute| attribute.key == key);
    let value = attribute.and_then(|attribute| attribute.value.clone()?.value);
    match value {
        Some(opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(text)) => text,
        other => format!("{other:?}"),
    }
}

/// Seconds in a file of `/proc` at this place.
fn number(file: &str, place: usize) -> f64 {
    let text = fs::read_to_string(file).unwrap();
    text.rsplit(')').next().unwrap().split_ascii_whitespace().nth(place).unwrap().parse().unwrap()
}

/// How long ago a process started, to a hundredth of a second.
fn age(pid: u32) -> Duration {
    let started = number(&format!("/proc/{pid}/stat"), 19) / 100.0;
    Duration::from_secs_f64((number("/proc/uptime", 0) - started).max(0.0))
}

/// Asks until the entity has this name.
async fn named(pods: &Pods, origin: &Origin, name: &str) -> Arc<Entity> {
    let began = Instant::now();
    loop {
        let entity = pods.attribute(origin).await.unwrap();
        if entity.name == name {
            return entity;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "still {} instead of {name}", entity.name);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn namespace(pods: &Pods, inode: u32) -> Option<Namespace> {
    pods.snapshot().namespaces().iter().find(|namespace| namespace.id.inode == inode).cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_named_within_a_second_and_known_after_its_end() {
    if !is_root() {
        return;
    }
    let mut containerd = Containerd::start().await.unwrap();
    let pods = pods(&containerd, true);
    let pod = containerd.run_pod("shop", "cart-7d9f").await.unwrap();

    // Only from here on can the pod's containers run, and send.
    let made = Instant::now();
    let entity = named(&pods, &of_pod(&pod), "shop/cart-7d9f").await;
    let took = made.elapsed();
    assert!(took < IDENTIFIED_WITHIN, "{took:?} after the pod was made");
    assert_eq!(entity.kind, EntityKind::Pod);
    assert_eq!(text(&entity, "k8s.pod.uid"), pod.uid);
    assert_eq!(text(&entity, "k8s.pod.name"), "cart-7d9f");
    assert_eq!(text(&entity, "k8s.namespace.name"), "shop");
    assert_eq!(text(&entity, "k8s.node.name"), "node-a");
    let labels = entity.resource.attributes.iter().filter(|one| one.key.starts_with("k8s.pod.label."));
    assert_eq!(labels.count(), 1, "only what is wanted");
    assert_eq!(text(&entity, &format!("k8s.pod.label.{LABEL}")), "shop");

    let app = containerd.start_container(&pod, "app", &["sleep", "600"]).await.unwrap();
    let container = named(&pods, &of_container(&pod, &app), "shop/cart-7d9f/app").await;
    assert!(age(app.pid) < IDENTIFIED_WITHIN, "{:?} after the start of its first process", age(app.pid));
    println!("pod named {took:?} after it was made, container {:?} after its start", age(app.pid));
    assert_eq!((container.kind, container.pod), (EntityKind::Container, Some(entity.key)));
    assert_eq!(text(&container, "k8s.container.name"), "app");
    assert_eq!(text(&container, &format!("k8s.pod.label.{LABEL}")), "shop");
    assert_eq!(text(&container, "container.id"), app.id);
    assert_eq!(text(&container, "container.runtime.name"), "containerd");

    let sandbox = Origin { cgroup: cgroup(&pod, &pod.sandbox), ..of_pod(&pod) };
    assert_eq!(pods.attribute(&sandbox).await.unwrap().key, entity.key);

    let seen = namespace(&pods, netns(pod.pid)).unwrap();
    assert_eq!((seen.source, seen.entity.key), (NetnsSource::Task(pod.pid), entity.key));
    let origins = [of_pod(&pod), of_container(&pod, &app)].map(|origin| Origin { netns: seen.id, ..origin });
    containerd.remove_pod(&pod).await.unwrap();
    pods.refreshed().await;
    assert_eq!(namespace(&pods, seen.id.inode), None);
    let late = origins.map(|origin| pods.snapshot().resolve(&origin).map(|entity| entity.name.clone()));
    assert_eq!(late, [Some("shop/cart-7d9f".to_owned()), Some("shop/cart-7d9f/app".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_starts_later_names_all_pods_before_it_is_settled() {
    if !is_root() {
        return;
    }
    let mut containerd = Containerd::start().await.unwrap();
    let mut running = Vec::new();
    for name in ["cart-1", "cart-2", "till-1"] {
        running.push(containerd.run_pod("shop", name).await.unwrap());
    }
    let pods = pods(&containerd, true);
    pods.settled().await;
    for pod in &running {
        let namespace = namespace(&pods, netns(pod.pid)).unwrap();
        assert_eq!(namespace.entity.name, format!("shop/{}", pod.name));
    }
    assert_eq!(pods.snapshot().cri(), &CriState::Connected("containerd".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_runtimes_socket_a_pod_has_its_uid_and_a_container_its_id() {
    if !is_root() {
        return;
    }
    let mut containerd = Containerd::start().await.unwrap();
    let pods = pods(&containerd, false);
    let pod = containerd.run_pod("shop", "cart-7d9f").await.unwrap();
    let app = containerd.start_container(&pod, "app", &["sleep", "600"]).await.unwrap();
    let name = format!("pod/{}", pod.uid);
    named(&pods, &of_pod(&pod), &name).await;
    named(&pods, &of_container(&pod, &app), &format!("{name}/{}", &app.id[..12])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_container_is_told_from_a_pod_and_from_an_anonymous_namespace() {
    if !is_root() {
        return;
    }
    let mut containerd = Containerd::start().await.unwrap();
    let pods = pods(&containerd, true);
    let pod = containerd.run_pod("shop", "cart-7d9f").await.unwrap();
    let plain = containerd.run_plain(&["sleep", "600"]).unwrap();
    let mut anonymous = std::process::Command::new("unshare").args(["-n", "sleep", "600"]).spawn().unwrap();
    while netns(anonymous.id()) == netns(std::process::id()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let origin = |pid| Origin { netns: Netns { inode: netns(pid), cookie: 0 }, ..Origin::default() };
    let nameless = pods.attribute(&origin(anonymous.id())).await;
    anonymous.kill().unwrap();
    anonymous.wait().unwrap();
    assert_eq!(nameless.unwrap().kind, EntityKind::Netns);

    let container = named(&pods, &origin(plain.pid), &format!("container/{}", &plain.id[..12])).await;
    assert_eq!((container.kind, container.pod), (EntityKind::Container, None));
    assert_eq!(text(&container, "container.id"), plain.id);
    assert_eq!(text(&container, "container.runtime.name"), "docker");
    named(&pods, &of_pod(&pod), "shop/cart-7d9f").await;
}

/// How a namespace was seen at one time: its number, the name of whose it is, whether a better one may come.
type View = (u64, String, bool);

/// All views of all namespaces until one belongs to the pod of this name.
async fn views(pods: Pods, until: &str) -> Vec<View> {
    let mut views: Vec<View> = Vec::new();
    while !views.iter().any(|(_, name, _)| name == until) {
        pods.refreshed().await;
        let now = Instant::now();
        views.extend(pods.snapshot().namespaces().iter().map(|namespace| {
            let entity = &namespace.entity;
            (namespace.instance, entity.name.clone(), entity.pending_until.is_some_and(|until| now < until))
        }));
    }
    views
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_pod_is_made_every_earlier_name_of_its_namespace_is_pending() {
    if !is_root() {
        return;
    }
    let mut containerd = Containerd::start().await.unwrap();
    let pods = pods(&containerd, true);
    let views = tokio::spawn(views(pods.clone(), "shop/queue-0"));
    let pod = containerd.run_pod("shop", "queue-0").await.unwrap();
    let views = tokio::time::timeout(Duration::from_secs(10), views).await.unwrap().unwrap();
    let instance = namespace(&pods, netns(pod.pid)).unwrap().instance;
    let ours: Vec<_> = views.into_iter().filter(|(number, ..)| *number == instance).collect();
    let (last, early) = ours.split_last().unwrap();
    assert_eq!((last.1.as_str(), last.2), ("shop/queue-0", false));
    assert!(early.iter().all(|(_, _, pending)| *pending), "{early:?}");
}
