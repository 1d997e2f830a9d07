//! The scanner over a made-up `/proc` and cgroup tree, with an injected clock.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::super::names::{ContainerName, PodName};
use super::super::{CriSetting, Roots};
use super::*;
use tempfile::TempDir;

const UID: &str = "0c9a5c1e-7f0e-4a51-9c7a-3b8a4f6d2e11";
const APP: &str = "3f2a1b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f701";
const PAUSE: &str = "aa2a1b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7ff";
const HOST: u32 = 4_026_531_840;
const BLUE: u32 = 4_026_532_281;
const GREEN: u32 = BLUE + 7;

/// A host's files in a temporary directory.
struct Host(TempDir);

impl Host {
    /// With process 1 in the host's namespace, and a v2 hierarchy.
    fn new() -> Self {
        let host = Self(TempDir::new().unwrap());
        fs::create_dir_all(host.path("cgroup")).unwrap();
        fs::write(host.path("cgroup/cgroup.controllers"), "").unwrap();
        host.process(1, HOST, 0, "/init.scope");
        host
    }

    fn path(&self, below: &str) -> std::path::PathBuf {
        self.0.path().join(below)
    }

    fn process(&self, pid: u32, netns: u32, start_ticks: u64, cgroup: &str) {
        let directory = self.path(&format!("proc/{pid}"));
        fs::create_dir_all(directory.join("ns")).unwrap();
        symlink(format!("net:[{netns}]"), directory.join("ns/net")).unwrap();
        let before = "S 1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0";
        fs::write(directory.join("stat"), format!("{pid} (a) b) {before} {start_ticks} 0 0")).unwrap();
        fs::write(directory.join("cgroup"), format!("1:name=systemd:{cgroup}\n0::{cgroup}\n")).unwrap();
    }

    fn end(&self, pid: u32) {
        fs::remove_dir_all(self.path(&format!("proc/{pid}"))).unwrap();
    }

    /// Makes a cgroup and tells its id.
    fn cgroup(&self, path: &str) -> u64 {
        let directory = self.path("cgroup").join(path.trim_start_matches('/'));
        fs::create_dir_all(&directory).unwrap();
        fs::metadata(&directory).unwrap().ino()
    }

    fn settings(&self) -> Settings {
        let roots = Roots {
            proc: self.path("proc"),
            cgroup: self.path("cgroup"),
            netns: vec![],
            host: self.path("root"),
        };
        Settings {
            roots,
            node_name: Some("node-a".to_owned()),
            cri: CriSetting::Off,
            netns: true,
            labels: Vec::new(),
        }
    }

    fn scanner(&self) -> Scanner {
        Scanner::new(&self.settings())
    }
}

fn in_netns(inode: u32) -> Origin {
    Origin { netns: Netns { inode, cookie: 0 }, ..Origin::default() }
}

fn in_cgroup(inode: u32, cgroup: u64) -> Origin {
    Origin { cgroup, ..in_netns(inode) }
}

fn pod_path(container: &str) -> String {
    format!("/kubepods/besteffort/pod{UID}/{container}")
}

fn names() -> Arc<Names> {
    let pod = PodName { name: "cart-7d9f".to_owned(), namespace: "shop".to_owned(), labels: Vec::new() };
    let app = ContainerName { name: "app".to_owned(), pod: UID.to_owned() };
    Arc::new(Names {
        runtime: "containerd".to_owned(),
        pods: [(UID.to_owned(), pod)].into(),
        containers: [(APP.to_owned(), app)].into(),
        sandboxes: [(PAUSE.to_owned(), UID.to_owned())].into(),
    })
}

/// A scan while the runtime answers.
fn told(names: Arc<Names>) -> Request {
    let state = CriState::Connected("containerd".to_owned());
    Request { told: Told { state, names }, ..Request::default() }
}

fn named() -> Request {
    told(names())
}

fn text(entity: &Entity, key: &str) -> Option<String> {
    let attribute = entity.resource.attributes.iter().find(|attribute| attribute.key == key)?;
    match attribute.value.clone()?.value? {
        opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(text) => Some(text),
        other => Some(format!("{other:?}")),
    }
}

/// One scan of a new scanner.
fn first_look(host: &Host, request: &Request) -> Snapshot {
    host.scanner().scan(request, Instant::now())
}

#[test]
fn an_origin_without_namespace_and_cgroup_is_the_nodes() {
    let snapshot = first_look(&Host::new(), &Request::default());
    let node = snapshot.resolve(&Origin::default()).unwrap();
    assert_eq!((node.kind, node.name.as_str(), node.key), (EntityKind::Node, "host", 0));
    assert_eq!(text(&node, "k8s.node.name").as_deref(), Some("node-a"));
    assert_eq!(snapshot.resolve(&in_netns(HOST)), Some(node));
}

#[test]
fn a_pods_namespace_is_the_pods_whichever_of_its_containers_is_in_it() {
    let host = Host::new();
    host.process(70, BLUE, 900, &pod_path(APP));
    let snapshot = first_look(&host, &Request::default());
    let pod = snapshot.resolve(&in_netns(BLUE)).unwrap();
    assert_eq!((pod.kind, pod.name.clone()), (EntityKind::Pod, format!("pod/{UID}")));
    assert_eq!(text(&pod, "k8s.pod.uid").as_deref(), Some(UID));
    assert_eq!(text(&pod, "container.id"), None);
    assert_eq!(snapshot.namespaces()[1].source, NetnsSource::Task(70));
}

#[test]
fn a_further_namespace_of_a_pods_process_is_an_entity_by_itself() {
    let host = Host::new();
    host.process(80, GREEN, 950, &pod_path(APP));
    host.process(90, BLUE, 900, &pod_path(PAUSE));
    fs::write(host.path("proc/uptime"), "100.00 0.00\n").unwrap();
    let snapshot = first_look(&host, &Request::default());
    assert_eq!(snapshot.resolve(&in_netns(BLUE)).unwrap().kind, EntityKind::Pod);
    assert_eq!(snapshot.resolve(&in_netns(GREEN)).unwrap().kind, EntityKind::Netns);
}

#[test]
fn the_sockets_cgroup_picks_the_container_and_the_sandbox_is_the_pod() {
    let host = Host::new();
    host.process(70, BLUE, 900, &pod_path(PAUSE));
    let (app, pause) = (host.cgroup(&pod_path(APP)), host.cgroup(&pod_path(PAUSE)));
    let snapshot = first_look(&host, &named());
    let pod = snapshot.resolve(&in_netns(BLUE)).unwrap();
    assert_eq!(pod.name, "shop/cart-7d9f");
    assert_eq!(snapshot.resolve(&in_cgroup(BLUE, pause)), Some(pod.clone()));
    let container = snapshot.resolve(&in_cgroup(BLUE, app)).unwrap();
    assert_eq!((container.kind, container.name.as_str()), (EntityKind::Container, "shop/cart-7d9f/app"));
    assert_eq!(container.pod, Some(pod.key));
    assert_eq!(text(&container, "container.id").as_deref(), Some(APP));
    assert_eq!(text(&container, "k8s.container.name").as_deref(), Some("app"));
    assert_eq!(text(&container, "k8s.namespace.name").as_deref(), Some("shop"));
}

#[test]
fn a_pod_on_the_hosts_network_is_told_from_the_node_by_its_sockets_cgroup() {
    let host = Host::new();
    let (app, service) = (host.cgroup(&pod_path(APP)), host.cgroup("/system.slice/sshd.service"));
    let snapshot = first_look(&host, &named());
    assert_eq!(snapshot.resolve(&in_cgroup(HOST, app)).unwrap().name, "shop/cart-7d9f/app");
    assert_eq!(snapshot.resolve(&in_cgroup(HOST, service)).unwrap().kind, EntityKind::Node);
    assert_eq!(snapshot.resolve(&in_cgroup(HOST, 1 << 40)), None);
    assert_eq!(snapshot.fallback(&in_cgroup(HOST, 1 << 40)).unwrap().kind, EntityKind::Node);
}

#[test]
fn a_foreign_cgroup_in_a_pods_namespace_leaves_it_the_pods() {
    let host = Host::new();
    host.process(70, BLUE, 900, &pod_path(PAUSE));
    let stranger = host.cgroup(&format!("/docker/{APP}"));
    let service = host.cgroup("/system.slice/sshd.service");
    let snapshot = first_look(&host, &Request::default());
    for cgroup in [stranger, service] {
        assert_eq!(snapshot.resolve(&in_cgroup(BLUE, cgroup)).unwrap().kind, EntityKind::Pod);
    }
}

#[test]
fn names_that_come_later_keep_the_key() {
    let host = Host::new();
    host.process(70, BLUE, 900, &pod_path(APP));
    let mut scanner = host.scanner();
    let start = Instant::now();
    let request = told(Arc::default());
    let before = scanner.scan(&request, start).resolve(&in_netns(BLUE)).unwrap();
    assert_eq!(before.pending_until, Some(start + Duration::from_secs(1)));
    assert_eq!(scanner.demand(start), Demand::Urgent);
    assert_eq!(scanner.demand(start + Duration::from_secs(6)), Demand::Idle);
    let after = scanner.scan(&named(), start).resolve(&in_netns(BLUE)).unwrap();
    assert_eq!((after.key, after.name.as_str(), after.pending_until), (before.key, "shop/cart-7d9f", None));
}

#[test]
fn labels_that_are_wanted_later_or_no_more_keep_the_key() {
    let host = Host::new();
    host.process(70, BLUE, 900, &pod_path(APP));
    let mut scanner = host.scanner();
    let labelled = |labels: &[&str]| {
        let mut names = Arc::unwrap_or_clone(names());
        let pod = names.pods.get_mut(UID).unwrap();
        pod.labels = labels.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
        told(Arc::new(names))
    };
    let key = scanner.scan(&named(), Instant::now()).resolve(&in_netns(BLUE)).unwrap().key;
    for labels in [&["team"][..], &["app", "team"], &[]] {
        let pod = scanner.scan(&labelled(labels), Instant::now()).resolve(&in_netns(BLUE)).unwrap();
        let found = |name: &&str| text(&pod, &format!("k8s.pod.label.{name}")).is_some();
        assert_eq!(pod.key, key);
        assert_eq!(
            ["app", "team"].map(|name| found(&name)),
            ["app", "team"].map(|name| labels.contains(&name))
        );
    }
}

#[test]
fn the_runtime_can_name_the_pod_of_a_container_whose_path_does_not() {
    let host = Host::new();
    host.process(70, BLUE, 900, &format!("/default/{APP}"));
    let pod = first_look(&host, &named()).resolve(&in_netns(BLUE)).unwrap();
    assert_eq!((pod.kind, pod.name.as_str()), (EntityKind::Pod, "shop/cart-7d9f"));
}

#[test]
fn a_namespace_outside_of_containers_is_an_entity_by_its_inode() {
    let host = Host::new();
    host.process(70, BLUE, 900, "/user.slice/user-0.slice/session-3.scope");
    let snapshot = first_look(&host, &Request::default());
    let entity = snapshot.resolve(&in_netns(BLUE)).unwrap();
    assert_eq!((entity.kind, entity.name.as_str()), (EntityKind::Netns, "netns/4026532281"));
    assert_eq!(text(&entity, "jitterscope.netns.inode").as_deref(), Some("IntValue(4026532281)"));
    assert_eq!(snapshot.counts().netns, 1);
}

#[test]
fn namespaces_outside_of_containers_are_left_out_when_the_settings_say_so() {
    let host = Host::new();
    host.process(70, BLUE, 900, "/user.slice");
    let settings = Settings { netns: false, ..host.settings() };
    let snapshot = Scanner::new(&settings).scan(&Request::default(), Instant::now());
    assert_eq!(snapshot.namespaces().len(), 1);
    assert_eq!((snapshot.resolve(&in_netns(BLUE)), snapshot.fallback(&in_netns(BLUE))), (None, None));
}

#[test]
fn settings_that_change_between_two_scans_take_namespaces_in_and_leave_them_out() {
    let host = Host::new();
    host.process(70, BLUE, 900, "/user.slice");
    let mut scanner = host.scanner();
    let now = Instant::now();
    let entities = [true, false, true].map(|include| {
        scanner.include_netns(include);
        scanner.scan(&Request::default(), now).resolve(&in_netns(BLUE)).is_some()
    });
    assert_eq!(entities, [true, false, true]);
}

#[test]
fn what_is_gone_still_resolves_for_thirty_seconds() {
    let host = Host::new();
    host.process(70, BLUE, 900, &pod_path(APP));
    let mut scanner = host.scanner();
    let start = Instant::now();
    let name = |snapshot: &Snapshot| snapshot.resolve(&in_netns(BLUE)).map(|entity| entity.name.clone());
    let alive = name(&scanner.scan(&named(), start));
    assert_eq!(alive.as_deref(), Some("shop/cart-7d9f"));
    host.end(70);
    let gone = scanner.scan(&Request::default(), start + Duration::from_secs(1));
    assert_eq!(gone.namespaces().len(), 1);
    assert_eq!(name(&gone), alive);
    let later = scanner.scan(&Request::default(), start + Duration::from_secs(30));
    assert_eq!(name(&later), alive);
    drop((gone, later));
    let too_late = scanner.scan(&Request::default(), start + Duration::from_secs(32));
    assert_eq!(name(&too_late), None);
    assert_eq!(too_late.counts().pods, 0);
}

#[test]
fn a_pod_whose_names_come_after_its_end_is_named_all_the_same() {
    let host = Host::new();
    host.process(70, BLUE, 900, &pod_path(APP));
    let app = host.cgroup(&pod_path(APP));
    let mut scanner = host.scanner();
    scanner.scan(&told(Arc::default()), Instant::now());
    host.end(70);
    scanner.scan(&told(Arc::default()), Instant::now());
    let snapshot = scanner.scan(&named(), Instant::now());
    assert_eq!(snapshot.resolve(&in_netns(BLUE)).unwrap().name, "shop/cart-7d9f");
    assert_eq!(snapshot.resolve(&in_cgroup(BLUE, app)).unwrap().name, "shop/cart-7d9f/app");
}

#[test]
fn a_deleted_cgroup_still_resolves_for_thirty_seconds_after_it_was_missed() {
    let host = Host::new();
    let app = host.cgroup(&pod_path(APP));
    let mut scanner = host.scanner();
    let start = Instant::now();
    let alive = scanner.scan(&named(), start).resolve(&in_cgroup(HOST, app));
    fs::remove_dir_all(host.path("cgroup/kubepods")).unwrap();
    let missed = start + Duration::from_secs(31);
    assert_eq!(scanner.scan(&Request::default(), missed).resolve(&in_cgroup(HOST, app)), alive);
    let late = missed + Duration::from_secs(29);
    assert_eq!(scanner.scan(&Request::default(), late).resolve(&in_cgroup(HOST, app)), alive);
    let too_late = missed + Duration::from_secs(31);
    assert_eq!(scanner.scan(&Request::default(), too_late).resolve(&in_cgroup(HOST, app)), None);
}

#[test]
fn a_reused_inode_does_not_inherit_the_former_owner() {
    let host = Host::new();
    host.process(70, BLUE, 900, &pod_path(APP));
    let mut scanner = host.scanner();
    let start = Instant::now();
    let before = scanner.scan(&named(), start);
    host.end(70);
    // The same process id and inode, one second later, by somebody else.
    host.process(70, BLUE, 1000, "/user.slice");
    let after = scanner.scan(&Request::default(), start + Duration::from_secs(1));
    assert_eq!(after.resolve(&in_netns(BLUE)).unwrap().kind, EntityKind::Netns);
    assert_ne!(after.namespaces()[1].instance, before.namespaces()[1].instance);
}

#[test]
fn another_process_that_was_seen_before_vouches_for_the_namespace() {
    let host = Host::new();
    host.process(70, BLUE, 900, "/user.slice");
    host.process(71, BLUE, 950, "/user.slice");
    let mut scanner = host.scanner();
    let before = scanner.scan(&Request::default(), Instant::now());
    host.end(70);
    let after = scanner.scan(&Request::default(), Instant::now());
    assert_eq!(after.namespaces()[1].source, NetnsSource::Task(71));
    assert_eq!(after.namespaces()[1].instance, before.namespaces()[1].instance);
    assert_eq!(after.namespaces()[1].entity.key, before.namespaces()[1].entity.key);
}

#[test]
fn a_process_that_is_moved_into_a_container_after_its_start_is_recognised() {
    let host = Host::new();
    host.process(70, BLUE, 900, "/system.slice/containerd.service");
    let mut scanner = host.scanner();
    let now = Instant::now();
    assert_eq!(scanner.scan(&named(), now).namespaces()[1].entity.kind, EntityKind::Netns);
    fs::write(host.path("proc/70/cgroup"), format!("0::{}\n", pod_path(APP))).unwrap();
    assert_eq!(scanner.scan(&named(), now).namespaces()[1].entity.name, "shop/cart-7d9f");
}

#[test]
fn zombies_and_files_that_are_no_process_are_passed_over() {
    let host = Host::new();
    fs::create_dir_all(host.path("proc/71/ns")).unwrap();
    fs::create_dir_all(host.path("proc/sys")).unwrap();
    fs::write(host.path("proc/12ab"), "").unwrap();
    let snapshot = first_look(&host, &Request::default());
    assert_eq!((snapshot.namespaces().len(), snapshot.gaps().unreadable), (1, 0));
}

#[test]
fn without_proc_what_was_known_stays_and_the_failure_is_counted() {
    let host = Host::new();
    host.process(70, BLUE, 900, &pod_path(APP));
    let mut scanner = host.scanner();
    scanner.scan(&named(), Instant::now());
    fs::rename(host.path("proc"), host.path("hidden")).unwrap();
    let snapshot = scanner.scan(&named(), Instant::now());
    assert_eq!(snapshot.gaps().failed_scans, 1);
    assert_eq!(snapshot.resolve(&in_netns(BLUE)).unwrap().name, "shop/cart-7d9f");
}

#[test]
fn an_origin_that_a_scan_did_not_find_is_not_asked_for_again_for_a_while() {
    let host = Host::new();
    let mut scanner = host.scanner();
    let start = Instant::now();
    let unknown = in_netns(BLUE);
    let request = Request { origins: vec![unknown], ..Request::default() };
    assert!(scanner.scan(&request, start).is_absent(&unknown));
    assert!(scanner.scan(&Request::default(), start + Duration::from_secs(9)).is_absent(&unknown));
    assert!(!scanner.scan(&Request::default(), start + Duration::from_secs(11)).is_absent(&unknown));
}

#[test]
fn an_unseen_namespace_falls_back_to_an_entity_of_its_own() {
    let snapshot = first_look(&Host::new(), &Request::default());
    let unknown = in_netns(BLUE);
    assert_eq!(snapshot.resolve(&unknown), None);
    let entity = snapshot.fallback(&unknown).unwrap();
    assert_eq!((entity.kind, entity.name.as_str()), (EntityKind::Netns, "netns/4026532281"));
    assert_eq!(entity.key, snapshot.fallback(&unknown).unwrap().key);
    assert_ne!(entity.key, snapshot.fallback(&in_netns(BLUE + 1)).unwrap().key);
}

#[test]
fn without_a_v2_hierarchy_namespaces_still_resolve_by_the_v1_lines() {
    let host = Host::new();
    fs::remove_file(host.path("cgroup/cgroup.controllers")).unwrap();
    host.process(70, BLUE, 900, &pod_path(APP));
    fs::write(host.path("proc/70/cgroup"), format!("7:memory:{}\n", pod_path(APP))).unwrap();
    let snapshot = first_look(&host, &named());
    assert_eq!(snapshot.resolve(&in_cgroup(BLUE, 77)).unwrap().name, "shop/cart-7d9f");
    assert_eq!(snapshot.resolve(&in_cgroup(HOST, 77)).unwrap().kind, EntityKind::Node);
}

#[test]
fn a_hybrid_hosts_v2_hierarchy_is_found_beside_its_controllers() {
    let host = Host::new();
    fs::remove_file(host.path("cgroup/cgroup.controllers")).unwrap();
    let app = host.cgroup(&format!("unified{}", pod_path(APP)));
    fs::write(host.path("cgroup/unified/cgroup.controllers"), "").unwrap();
    let snapshot = first_look(&host, &named());
    assert_eq!(snapshot.resolve(&in_cgroup(HOST, app)).unwrap().name, "shop/cart-7d9f/app");
}

#[test]
fn a_namespace_started_when_its_oldest_process_did() {
    let host = Host::new();
    host.process(70, BLUE, 4000, "/user.slice");
    host.process(99, BLUE, 3000, "/user.slice");
    fs::write(host.path("proc/uptime"), "100.00 0.00\n").unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i128;
    let snapshot = first_look(&host, &Request::default());
    let (netns, node) = (&snapshot.namespaces()[1], &snapshot.namespaces()[0]);
    let ago = |started: Option<u64>| ((now - i128::from(started.unwrap())) as f64 / 1e9).round();
    assert_eq!((ago(netns.started_unix_nano), ago(node.started_unix_nano)), (70.0, 100.0));
    assert_eq!(netns.source, NetnsSource::Task(99));
}

#[test]
fn the_node_is_described_by_the_hosts_own_files() {
    let host = Host::new();
    fs::create_dir_all(host.path("root/etc")).unwrap();
    fs::write(host.path("root/etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::write(host.path("root/etc/os-release"), "ID=debian\nPRETTY_NAME=\"Debian 12\"\n").unwrap();
    let node = first_look(&host, &Request::default()).node();
    assert_eq!(text(&node, "host.id").as_deref(), Some("0123456789abcdef0123456789abcdef"));
    assert_eq!(text(&node, "os.description").as_deref(), Some("Debian 12"));
    let kinds: Vec<_> = node.resource.entity_refs.iter().map(|entity| entity.r#type.as_str()).collect();
    assert_eq!(kinds, ["host", "os"]);
}

#[test]
fn a_pod_and_its_container_have_their_outermost_cgroup_each_and_begin_with_its_first_process() {
    let host = Host::new();
    host.process(70, BLUE, 900, &pod_path(APP));
    host.process(71, BLUE, 950, &pod_path(APP));
    host.process(60, BLUE, 800, &pod_path(PAUSE));
    fs::write(host.path("proc/uptime"), "100.00 0.00\n").unwrap();
    host.cgroup(&format!("{}/nested", pod_path(APP)));
    host.cgroup(&pod_path(PAUSE));
    for (container, processes) in [(APP, "71\n70\n"), (PAUSE, "60\n")] {
        let file = format!("cgroup{}/cgroup.procs", pod_path(container));
        fs::write(host.path(&file), processes).unwrap();
    }
    let snapshot = first_look(&host, &named());
    let mut found: Vec<_> = snapshot.directories().iter().collect();
    found.sort_by_key(|directory| directory.path.clone());
    let [pod, app] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!((pod.entity.kind, app.entity.kind), (EntityKind::Pod, EntityKind::Container));
    let path = |below: String| host.path(&format!("cgroup{below}"));
    assert_eq!(*pod.path, *path(format!("/kubepods/besteffort/pod{UID}")));
    assert_eq!(*app.path, *path(pod_path(APP)));
    // The sandbox began a second before the container, as ticks are hundredths.
    let (pod, app) = (pod.started_unix_nano.unwrap(), app.started_unix_nano.unwrap());
    assert!((app - pod).abs_diff(1_000_000_000) < 100_000_000, "{pod} {app}");
}
