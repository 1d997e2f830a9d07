//! Block requests are counted as often as the kernel counts them, under the cgroup that they are for, and last as long as the
//! test makes the device take.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::cgroup::Cgroup;
use common::passages::{soon, undisturbed};
use common::{can_load, eventually, sh, skip, text};
use jitterscope_ebpf::abi::{block_event, block_key, block_request, histogram};
use jitterscope_ebpf::histogram::Range;
use jitterscope_ebpf::{
    Constant, Kernel, Merge as _, Object, Observer, ObserverOptions, Ring, Table, Telling,
};

/// How long the device is held up.
const HOLD: Duration = Duration::from_millis(400);
/// Between what a loop device takes on a busy machine, and that.
const THRESHOLD: Duration = Duration::from_millis(300);
/// `enum req_op`
const READ: u32 = 0;
const WRITE: u32 = 1;
/// Requests that a loop device takes at once (`LOOP_DEFAULT_HW_Q_DEPTH`, drivers/block/loop.c).
const DEPTH: u64 = 128;
const BLOCK: usize = 4096;

static NEXT: AtomicU32 = AtomicU32::new(0);

struct Probe {
    waits: Table<block_key, histogram>,
    durations: Table<block_key, histogram>,
    requests: Table<u64, block_request>,
    ring: Ring,
    _observer: Observer,
}

impl Probe {
    fn open() -> Self {
        let kernel = Kernel::read(None).unwrap();
        let latency = Range::LATENCY.bounds();
        let queue_first = u32::from(kernel.btf().tracepoint_arguments("block_rq_issue") == Some(2));
        let constants =
            [latency.constant(), Constant { name: "queue_first", value: &queue_first.to_ne_bytes() }];
        let options = ObserverOptions { constants: &constants, ..ObserverOptions::new(0) };
        let mut observer = Observer::open(&Object::BIOLATENCY, &kernel, &options).unwrap();
        let telling = Telling { rate: 1000, burst: 1000, threshold: THRESHOLD, ..Telling::default() };
        observer.configure(&telling).unwrap();
        Self {
            waits: observer.loaded().table("waits").unwrap(),
            durations: observer.loaded().table("durations").unwrap(),
            requests: observer.loaded().table("requests").unwrap(),
            ring: observer.events().unwrap(),
            _observer: observer,
        }
    }

    fn told(&mut self, disk: &Disk) -> Vec<block_event> {
        let records = std::iter::from_fn(|| self.ring.take::<block_event>()).map(Result::unwrap);
        records.filter(|event| text(&event.request.key.disk) == disk.name).collect()
    }
}

/// Sum over the keys of a disk that `wanted` accepts.
fn sum(table: &Table<block_key, histogram>, disk: &Disk, wanted: impl Fn(&block_key) -> bool) -> histogram {
    let mut sum = histogram::default();
    let mut add = |key: &block_key, durations: &histogram| {
        if text(&key.disk) == disk.name && wanted(key) {
            sum.merge(durations);
        }
    };
    table.for_each(&mut add).unwrap();
    sum
}

/// Entries of requests of a disk.
fn under_way(probe: &Probe, disk: &Disk) -> u32 {
    let mut entries = 0;
    let add = |_: &u64, request: &block_request| entries += u32::from(text(&request.key.disk) == disk.name);
    probe.requests.for_each(add).unwrap();
    entries
}

/// A loop device over a file, both removed on drop.
struct Disk {
    name: String,
    file: PathBuf,
}

impl Disk {
    fn new(directory: &Path, megabytes: u32) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = directory.join(format!("jse{}-{number}.disk", std::process::id()));
        let path = file.display();
        sh(&format!("dd if=/dev/zero of={path} bs=1M count={megabytes} conv=fsync 2>&1"));
        sh("test -e /dev/loop-control || modprobe loop");
        let device = sh(&format!("losetup --find --show {path}"));
        Self { name: device.trim().trim_start_matches("/dev/").to_owned(), file }
    }

    fn device(&self) -> String {
        format!("/dev/{}", self.name)
    }

    /// Has requests queued before the device takes them; false where it lets no scheduler have them, and says nothing.
    fn schedule(&self) -> bool {
        let file = format!("/sys/block/{}/queue/scheduler", self.name);
        fs::write(&file, "mq-deadline").unwrap();
        fs::read_to_string(file).unwrap().contains("[mq-deadline]")
    }

    /// Requests that the kernel counts as ended: reads, writes.
    fn ended(&self) -> [u64; 2] {
        let stat = fs::read_to_string(format!("/sys/block/{}/stat", self.name)).unwrap();
        let fields: Vec<u64> = stat.split_whitespace().map(|field| field.parse().unwrap()).collect();
        [fields[0], fields[4]]
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        sh(&format!("losetup --detach {}", self.device()));
        fs::remove_file(&self.file).unwrap();
    }
}

/// A disk whose file is on a file system that can be frozen: then nothing is written to it.
struct Slow {
    disk: Option<Disk>,
    mount: PathBuf,
    _outer: Disk,
}

impl Slow {
    fn new() -> Self {
        let outer = Disk::new(&std::env::temp_dir(), 96);
        let mount = outer.file.with_extension("mount");
        fs::create_dir(&mount).unwrap();
        let (device, path) = (outer.device(), mount.display());
        sh(&format!("mkfs.ext4 -q {device} && mount {device} {path}"));
        let disk = Some(Disk::new(&mount, 32));
        Self { disk, mount, _outer: outer }
    }

    fn disk(&self) -> &Disk {
        self.disk.as_ref().unwrap()
    }

    /// Freezes the file system while `meanwhile` begins something, and for as long as the hold.
    fn hold<T>(&self, meanwhile: impl FnOnce() -> T) -> T {
        let path = self.mount.display();
        sh(&format!("sync && fsfreeze --freeze {path}"));
        let begun = meanwhile();
        std::thread::sleep(HOLD);
        sh(&format!("fsfreeze --unfreeze {path}"));
        begun
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // After a failure it may be frozen still.
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.mount).output();
        drop(self.disk.take());
        // Whoever looks at the mounts of the machine holds it for a moment.
        eventually("nobody uses the file system", || {
            Command::new("umount").arg(&self.mount).output().unwrap().status.success()
        });
        fs::remove_dir(&self.mount).unwrap();
    }
}

/// A cgroup with an account of block requests of its own, where it is the v2 hierarchy that keeps them.
fn cgroup() -> Cgroup {
    let cgroup = Cgroup::new();
    let procs = cgroup.procs().into_string().unwrap();
    let parent = Path::new(&procs).parent().and_then(Path::parent).unwrap();
    let _ = fs::write(parent.join("cgroup.subtree_control"), "+io");
    cgroup
}

/// `dd` in a cgroup.
fn dd(cgroup: &Cgroup, arguments: &str) -> Child {
    let procs = cgroup.procs().into_string().unwrap();
    let script = format!("echo 0 > {procs} && exec dd {arguments} status=none");
    Command::new("sh").args(["-c", &script]).spawn().unwrap()
}

#[test]
fn every_request_is_counted_once_under_its_cgroup_operation_and_disk() {
    if !can_load() {
        return;
    }
    undisturbed("every request", count_requests);
}

/// Whether all requests were counted; that some were counted twice or under another key is a failure.
fn count_requests() -> bool {
    let disk = Disk::new(&std::env::temp_dir(), 64);
    let device = disk.device();
    let groups = [cgroup(), cgroup()];
    let probe = Probe::open();
    let before = disk.ended();
    let first = [READ, WRITE].map(|op| sum(&probe.durations, &disk, |key| key.operation == op).count());
    let jobs = [
        (&groups[0], READ, 1000, format!("if={device} of=/dev/null bs=4k count=1000 iflag=direct")),
        (&groups[0], WRITE, 300, format!("if=/dev/zero of={device} bs=4k count=300 oflag=direct")),
        (&groups[1], READ, 500, format!("if={device} of=/dev/null bs=16k count=500 iflag=direct")),
    ];
    let mut children: Vec<Child> = jobs.iter().map(|(group, .., arguments)| dd(group, arguments)).collect();
    assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
    let mut are_all = true;
    for (group, operation, requests, _) in jobs {
        let of = |key: &block_key| (key.cgroup, key.operation) == (group.id(), operation);
        for table in [&probe.waits, &probe.durations] {
            let counted = sum(table, &disk, of).count();
            assert!(counted <= requests, "{operation}: {counted} of {requests}");
            are_all &= counted == requests;
        }
    }
    // Requests too large for the device are cut, and those of others, as udev's, are counted too.
    sh(&format!("dd if={device} of=/dev/null bs=8M count=4 iflag=direct status=none"));
    let as_many = || {
        let ended = disk.ended();
        [READ, WRITE].into_iter().zip(first).zip(before.into_iter().zip(ended)).all(
            |((op, first), (before, ended))| {
                sum(&probe.durations, &disk, |key| key.operation == op).count() - first == ended - before
            },
        )
    };
    are_all && soon(as_many) && under_way(&probe, &disk) == 0
}

#[test]
fn a_request_takes_as_long_as_its_device_is_held_up_and_is_told_with_its_process() {
    if !can_load() {
        return;
    }
    let slow = Slow::new();
    let (disk, group) = (slow.disk(), cgroup());
    let mut probe = Probe::open();
    assert!(probe.told(disk).is_empty());
    let arguments = format!("if=/dev/zero of={} bs=4k count=1 seek=10 oflag=direct", disk.device());
    let began = Instant::now();
    let mut child = slow.hold(|| dd(&group, &arguments));
    assert!(child.wait().unwrap().success());
    let took = began.elapsed();
    let told = probe.told(disk);
    let [event] = told.as_slice() else { panic!("{told:?}") };
    let request = &event.request;
    let device = Duration::from_nanos(event.duration);
    // `dd` needs a moment before it writes.
    assert!(device + Duration::from_millis(80) >= HOLD && device <= took, "{device:?} {took:?}");
    assert!(request.issued - request.began < 50_000_000, "{request:?}");
    assert_eq!((request.key.operation, request.sector, request.size), (WRITE, 80, 4096), "{request:?}");
    assert_eq!((request.pid, text(&request.command)), (child.id(), "dd".to_owned()));
    assert_eq!((request.key.cgroup, event.head.entity.cgroup), (group.id(), group.id()));
    let counted = sum(&probe.durations, disk, |key| key.cgroup == group.id());
    assert_eq!((counted.count(), counted.sum), (1, event.duration));
}

/// A block of zeros where the device can fetch it.
#[repr(align(4096))]
struct Block([u8; BLOCK]);

/// Writes one block past the page cache.
fn write(device: &str, offset: u64) {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(device).unwrap();
    file.write_all_at(&Block([0; BLOCK]).0, offset).unwrap();
}

/// Writes blocks that far from each other, all at once while the device is held up, and waits for them.
fn write_held(slow: &Slow, blocks: u64, distance: u64) {
    let device = slow.disk().device();
    std::thread::scope(|scope| {
        slow.hold(|| {
            for n in 0..blocks {
                let device = &device;
                scope.spawn(move || write(device, n * distance));
            }
        });
    });
}

#[test]
fn requests_beyond_what_the_device_takes_at_once_are_queued_until_it_goes_on() {
    if !can_load() {
        return;
    }
    let slow = Slow::new();
    let disk = slow.disk();
    if !disk.schedule() {
        return skip("needs a loop device with a scheduler (5.14)");
    }
    let probe = Probe::open();
    let wanted = DEPTH + 32;
    // Apart from each other, so that none is merged.
    write_held(&slow, wanted, 65536);
    let waits = sum(&probe.waits, disk, |key| key.operation == WRITE);
    let low = |bucket: usize| (f64::from(Range::LATENCY.lowest + bucket as i32) / 4.0).exp2();
    let long = |(bucket, _): &(usize, &u64)| low(*bucket) >= 0.1;
    let queued: u64 = waits.buckets.iter().enumerate().filter(long).map(|(_, count)| count).sum();
    assert_eq!((waits.count(), queued), (wanted, wanted - DEPTH), "{waits:?}");
    assert_eq!(sum(&probe.durations, disk, |key| key.operation == WRITE).count(), wanted);
}

#[test]
fn requests_that_are_merged_while_they_are_queued_are_counted_as_one() {
    if !can_load() {
        return;
    }
    let slow = Slow::new();
    let disk = slow.disk();
    if !disk.schedule() {
        return skip("needs a loop device with a scheduler (5.14)");
    }
    let probe = Probe::open();
    let before = disk.ended();
    let blocks = 3 * DEPTH;
    write_held(&slow, blocks, BLOCK as u64);
    let writes = || disk.ended()[1] - before[1];
    eventually("the kernel counts as many", || {
        sum(&probe.durations, disk, |key| key.operation == WRITE).count() == writes()
    });
    assert!(writes() < blocks, "none was merged: {}", writes());
    assert_eq!(sum(&probe.waits, disk, |key| key.operation == WRITE).count(), writes());
    assert_eq!(under_way(&probe, disk), 0);
}
