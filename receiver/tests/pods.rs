//! Identity on the running host: real namespaces, processes and cgroups. Needs root.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test does")]
#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jitterscope::pods::{
    Address, CriSetting, EntityKind, Namespace, Netns, NetnsSource, Origin, Pods, Settings, Snapshot, start,
};

const UID: &str = "5b1f0c7e-3d7a-4c59-8a52-6e0f9d1b2c33";
const CONTAINER: &str = "7e2a1b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7aa";

/// Whether the test can run; without root it says so, and fails under CI.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "needs root");
    if !root {
        println!("skipped: needs root to make namespaces");
    }
    root
}

/// The receiver's identity part, running in the test's runtime.
fn pods() -> Pods {
    let settings = Settings { cri: CriSetting::Off, ..Settings::default() };
    let (pods, writer) = start(&settings);
    tokio::spawn(writer);
    pods
}

/// A process in a new network namespace; ends with the value.
struct Unshared(Child);

impl Unshared {
    fn new() -> Self {
        let child =
            Command::new("unshare").args(["-n", "sleep", "600"]).stdin(Stdio::null()).spawn().unwrap();
        let unshared = Self(child);
        let ours = netns_inode("self");
        wait_until("the namespace", || netns_inode(&unshared.pid().to_string()) != ours);
        unshared
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn inode(&self) -> u32 {
        netns_inode(&self.pid().to_string()).unwrap()
    }
}

impl Drop for Unshared {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A namespace made by name; removed with the value.
struct Named(String);

impl Named {
    fn new(name: &str) -> Self {
        let named = Self(format!("{name}-{}", std::process::id()));
        named.add();
        named
    }

    fn add(&self) {
        assert!(Command::new("ip").args(["netns", "add", &self.0]).status().unwrap().success());
    }

    fn delete(&self) {
        assert!(Command::new("ip").args(["netns", "del", &self.0]).status().unwrap().success());
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    fn inode(&self) -> u32 {
        u32::try_from(fs::metadata(self.path()).unwrap().ino()).unwrap()
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).stderr(Stdio::null()).status();
    }
}

fn netns_inode(process: &str) -> Option<u32> {
    let link = fs::read_link(format!("/proc/{process}/ns/net")).ok()?;
    link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn namespace(snapshot: &Snapshot, inode: u32) -> Namespace {
    let found = snapshot.namespaces().iter().find(|namespace| namespace.id.inode == inode);
    found.unwrap_or_else(|| panic!("namespace {inode} is not in the snapshot")).clone()
}

fn in_netns(inode: u32) -> Origin {
    Origin { netns: Netns { inode, cookie: 0 }, ..Origin::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anonymous_namespace_is_known_as_soon_as_it_is_asked_for() {
    if !is_root() {
        return;
    }
    let pods = pods();
    let unshared = Unshared::new();
    let began = Instant::now();
    let entity = pods.attribute(&in_netns(unshared.inode())).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(
        (entity.kind, entity.name.clone()),
        (EntityKind::Netns, format!("netns/{}", unshared.inode()))
    );
    let namespace = namespace(&pods.snapshot(), unshared.inode());
    assert_eq!(namespace.source, NetnsSource::Task(unshared.pid()));
    assert_ne!(namespace.id.cookie, 0);
    assert_eq!(namespace.entity.key, entity.key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_namespace_has_its_name_and_needs_no_process() {
    if !is_root() {
        return;
    }
    let pods = pods();
    let blue = Named::new("jitterscope-blue");
    pods.refreshed().await;
    let namespace = namespace(&pods.snapshot(), blue.inode());
    assert_eq!(namespace.entity.name, format!("netns/{}", blue.0));
    assert_eq!((namespace.source, namespace.started_unix_nano), (NetnsSource::Mount(blue.path()), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_lead_to_their_namespace_unless_two_have_them() {
    if !is_root() {
        return;
    }
    let pods = pods();
    let (blue, green) = (Named::new("jitterscope-ba"), Named::new("jitterscope-ga"));
    let ip = |arguments: &[&str]| assert!(Command::new("ip").args(arguments).status().unwrap().success());
    for (netns, end, own) in [(&blue.0, "end0", "198.19.7.1/24"), (&green.0, "end1", "fd77:219::1/64")] {
        ip(&["-n", netns, "link", "add", end, "type", "veth", "peer", "name", "other"]);
        ip(&["-n", netns, "addr", "add", own, "dev", end]);
        ip(&["-n", netns, "addr", "add", "198.19.8.1/24", "dev", end]);
    }
    ip(&["-n", &blue.0, "link", "set", "end0", "address", "0a:00:00:00:07:01"]);
    pods.refreshed().await;
    let addresses = pods.snapshot().addresses();
    let owner = |address: Address| addresses.get(&address).map(|owner| owner.inode);
    let ip = |text: &str| Address::Ip(text.parse().unwrap());
    assert_eq!(owner(ip("198.19.7.1")), Some(blue.inode()));
    assert_eq!(owner(Address::Mac([0x0a, 0, 0, 0, 7, 1])), Some(blue.inode()));
    assert_eq!(owner(ip("fd77:219::1")), Some(green.inode()));
    assert_eq!(owner(ip("198.19.8.1")), None);
    assert_eq!(owner(ip("127.0.0.1")), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_made_again_under_the_same_name_is_another_one() {
    if !is_root() {
        return;
    }
    let pods = pods();
    let blue = Named::new("jitterscope-again");
    pods.refreshed().await;
    let before = namespace(&pods.snapshot(), blue.inode());
    blue.delete();
    blue.add();
    pods.refreshed().await;
    let after = namespace(&pods.snapshot(), blue.inode());
    assert_ne!((before.instance, before.entity.key), (after.instance, after.entity.key));
}

/// Makes namespaces until one has this inode: the kernel gives the lowest free number, once the former one is torn down.
/// `None`: somebody else was faster.
fn with_inode(inode: u32) -> Option<Unshared> {
    let mut others = Vec::new();
    for _ in 0..30 {
        let candidate = Unshared::new();
        if candidate.inode() == inode {
            return Some(candidate);
        }
        others.push(candidate);
    }
    None
}

/// A namespace as it was seen, and another one that has its inode now.
async fn successor(pods: &Pods) -> (Namespace, Unshared) {
    for _ in 0..20 {
        let first = Unshared::new();
        let inode = first.inode();
        pods.refreshed().await;
        let before = namespace(&pods.snapshot(), inode);
        drop(first);
        if let Some(second) = with_inode(inode) {
            return (before, second);
        }
    }
    panic!("no inode was used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reused_inode_belongs_to_the_new_namespace_and_the_old_cookie_to_the_old_one() {
    if !is_root() {
        return;
    }
    let pods = pods();
    let (before, second) = successor(&pods).await;
    let inode = second.inode();
    pods.refreshed().await;
    let snapshot = pods.snapshot();
    let after = namespace(&snapshot, inode);
    assert_ne!(before.instance, after.instance);
    assert_ne!(before.id.cookie, after.id.cookie);
    let of = |id: Netns| snapshot.resolve(&Origin { netns: id, ..Origin::default() }).map(|one| one.key);
    assert_eq!((of(before.id), of(after.id)), (Some(before.entity.key), Some(after.entity.key)));
    assert_eq!(of(Netns { inode, cookie: u64::MAX }), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_namespace_is_the_nodes_with_its_cookie() {
    if !is_root() {
        return;
    }
    let snapshot = pods().snapshot();
    let host = &snapshot.namespaces()[0];
    assert!(host.host && host.id.cookie != 0);
    assert_eq!(Some(host.id.inode), netns_inode("1").or_else(|| netns_inode("self")));
    let origin = Origin { netns: host.id, ..Origin::default() };
    assert_eq!(snapshot.resolve(&origin).unwrap().kind, EntityKind::Node);
}

/// Removes a cgroup and its parents up to the first that is in use.
struct Cgroup(Vec<PathBuf>);

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.0.iter().for_each(|path| drop(fs::remove_dir(path)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cgroups_id_resolves_to_its_container_on_the_hosts_network() {
    if !is_root() {
        return;
    }
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let Some(root) = roots.into_iter().find(|root| root.join("cgroup.controllers").exists()) else {
        panic!("no cgroup v2 hierarchy is mounted");
    };
    let pods = pods();
    let pod = root.join(format!("jitterscope-{}/pod{UID}", std::process::id()));
    let container = pod.join(CONTAINER);
    let _cgroup = Cgroup(vec![container.clone(), pod.clone(), pod.parent().unwrap().to_owned()]);
    fs::create_dir_all(&container).unwrap();
    let host = pods.snapshot().namespaces()[0].id;
    let origin = Origin { netns: host, cgroup: fs::metadata(&container).unwrap().ino(), pid: 0 };
    assert_eq!(pods.snapshot().resolve(&origin), None);
    let entity = pods.attribute(&origin).await.unwrap();
    assert_eq!(entity.name, format!("pod/{UID}/{}", &CONTAINER[..12]));
    fs::remove_dir(&container).unwrap();
    pods.refreshed().await;
    assert_eq!(pods.attribute(&origin).await.unwrap().key, entity.key);
}
