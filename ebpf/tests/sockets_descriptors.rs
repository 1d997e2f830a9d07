//! The pass counts the descriptors of every process by kind, as `/proc/<pid>/fd` lists them.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;
mod holding;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::mpsc;

use common::cgroup::Cgroup;
use common::{Namespace, can_load, eventually};
use holding::{Holder, Killed, descriptors, links, open};
use jitterscope_ebpf::sockets::Options;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{MemfdFlags, OFlags};
use rustix::thread::UnshareFlags;

#[test]
#[ignore = "a process of the other tests"]
fn hold() {
    holding::hold(|name, number| match name {
        "pipes" => many(number, || io::pipe().unwrap()),
        "epolls" => many(number, || epoll::create(epoll::CreateFlags::empty()).unwrap()),
        "events" => many(number, || eventfd(0, EventfdFlags::empty()).unwrap()),
        "memfds" => many(number, || rustix::fs::memfd_create("x", MemfdFlags::empty()).unwrap()),
        "paths" => many(number, open_socket_path),
        "threads" => Box::new(threads(number)),
        "unshared" => Box::new(unshared(number)),
        _ => panic!("nobody knows how to hold {name}"),
    });
}

fn many<T: 'static>(number: usize, make: impl Fn() -> T) -> Box<dyn std::any::Any> {
    Box::new((0..number).map(|_| make()).collect::<Vec<_>>())
}

/// The name of a Unix socket, opened as a place in the file system: no socket.
fn open_socket_path() -> OwnedFd {
    let path = std::env::temp_dir().join(format!(
        "jitterscope-{}-{:?}",
        std::process::id(),
        std::time::Instant::now()
    ));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let opened = rustix::fs::open(&path, OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    std::fs::remove_file(&path).unwrap();
    opened
}

/// Threads that have the process's table.
fn threads(number: usize) -> Vec<mpsc::Sender<()>> {
    let thread = |_| {
        let (sender, receiver) = mpsc::channel::<()>();
        std::thread::spawn(move || receiver.recv());
        sender
    };
    (0..number).map(thread).collect()
}

/// A thread with a table of its own, a copy with so many files more.
fn unshared(number: usize) -> mpsc::Sender<()> {
    let (sender, receiver) = mpsc::channel::<()>();
    let (ready, wait) = mpsc::channel();
    std::thread::spawn(move || {
        #[expect(unsafe_code, reason = "a thread's own table of descriptors")]
        // SAFETY: the thread opens its own files afterwards and closes no others.
        unsafe {
            rustix::thread::unshare_unsafe(UnshareFlags::FILES).unwrap();
        }
        let files: Vec<File> = (0..number).map(|_| File::open("/dev/null").unwrap()).collect();
        ready.send(()).unwrap();
        let _ = receiver.recv();
        files.len()
    });
    wait.recv().unwrap();
    sender
}

/// Compares the only process of a namespace with its links, both ways to get to sockets.
fn compare(namespace: &Namespace, holder: &Holder) -> [u64; 5] {
    let mut kinds = [0; 5];
    for typed in [true, false] {
        let mut pass = open(&Options { typed, ..Options::default() });
        let told = links(holder.pid);
        pass.pass().unwrap();
        kinds = descriptors(&pass, namespace.inode()).open;
        assert_eq!(kinds, told);
    }
    kinds
}

#[test]
fn descriptors_of_each_kind_are_those_that_proc_lists() {
    if !can_load() {
        return;
    }
    let namespace = Namespace::new();
    let holder = Holder::new(
        &namespace,
        "udp4=7 unix=3 files=11 pipes=5 epolls=4 events=6 memfds=2 paths=8 threads=9",
    );
    let [sockets, files, pipes, epolls, others] = compare(&namespace, &holder);
    // Standard input, output and what the shell left are pipes and files, too.
    assert_eq!((sockets, epolls), (13, 4));
    assert!(files >= 11 + 8 && pipes >= 10 && others >= 6 + 2, "{files} {pipes} {others}");
}

#[test]
fn ten_thousand_descriptors_of_a_process_count_against_its_limit() {
    if !can_load() {
        return;
    }
    let namespace = Namespace::new();
    let holder = Holder::with(&namespace, "files=10000", "ulimit -S -n 16000; ");
    let _other = Holder::with(&namespace, "files=100", "ulimit -S -n 1000; ");
    let mut pass = open(&Options::default());
    pass.pass().unwrap();
    let found = descriptors(&pass, namespace.inode());
    let expected: u64 = links(holder.pid).iter().sum();
    assert!(expected >= 10_000);
    assert_eq!((found.fullest_open, found.fullest_limit), (expected, 16_000));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", holder.pid)).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some("16000"));
}

#[test]
fn a_thread_with_a_table_of_its_own_counts_and_shared_tables_count_once() {
    if !can_load() {
        return;
    }
    let namespace = Namespace::new();
    let holder = Holder::new(&namespace, "threads=20 files=10 unshared=50");
    let mut pass = open(&Options::default());
    pass.pass().unwrap();
    let found: u64 = descriptors(&pass, namespace.inode()).open.iter().sum();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", holder.pid)).unwrap();
    let tables = tasks.map(|task| std::fs::read_dir(task.unwrap().path().join("fd")).unwrap().count() as u64);
    // Threads that share a table have equal numbers; the one with its own has fifty files more.
    let tables: BTreeSet<u64> = tables.collect();
    assert!(tables.len() == 2 && tables.iter().max() >= tables.iter().min().map(|least| least + 50).as_ref());
    assert_eq!(found, tables.iter().sum::<u64>());
}

#[test]
fn a_process_that_moves_takes_its_descriptors_along_and_its_sockets_stay() {
    if !can_load() {
        return;
    }
    let namespace = Namespace::new();
    let script = format!(
        "exec 3<>/dev/udp/127.0.0.1/9; exec nsenter --net=/proc/{}/ns/net sleep 60",
        std::process::id()
    );
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &namespace.name, "bash", "-c", &script]);
    let _child = Killed(command.spawn().unwrap());
    let mut pass = open(&Options::default());
    eventually("the process has moved and its socket has not", || {
        pass.pass().unwrap();
        let sockets = holding::sums(&pass, namespace.inode());
        let udp = sockets.get(&(17, 4, 0)).map(|sums| sums.sockets);
        udp == Some(1) && descriptors(&pass, namespace.inode()).open == [0; 5]
    });
}

#[test]
fn sockets_and_descriptors_are_the_cgroups_that_their_process_is_in() {
    if !can_load() {
        return;
    }
    let cgroup = Cgroup::new();
    let namespace = Namespace::new();
    let procs = cgroup.procs();
    let before = format!("echo $$ >{}; ", procs.to_str().unwrap());
    let _inside = Holder::with(&namespace, "tcp4=2 tcp6=3 files=20", &before);
    let _outside = Holder::new(&namespace, "tcp4=1");
    let id = cgroup.id();
    let mut pass = open(&Options::default());
    pass.pass().unwrap();
    let (mut sockets, mut files, mut times) = (0, 0, 0);
    pass.sockets(|key, sums| sockets += if key.entity.cgroup == id { sums.sockets } else { 0 }).unwrap();
    pass.descriptors(|owner, sums| files += if owner.cgroup == id { sums.open[1] } else { 0 }).unwrap();
    pass.round_trips(|owner, rtt| times += if owner.cgroup == id { rtt.count() } else { 0 }).unwrap();
    assert_eq!((sockets, times), (2 * 2 + 1 + 3 * 2 + 1, 2 * 2 + 3 * 2));
    assert!(files >= 20, "{files}");
}

#[test]
fn a_process_that_is_gone_leaves_zeros() {
    if !can_load() {
        return;
    }
    let namespace = Namespace::new();
    let holder = Holder::new(&namespace, "files=10");
    let mut pass = open(&Options::default());
    pass.pass().unwrap();
    assert!(descriptors(&pass, namespace.inode()).open[1] >= 10);
    drop(holder);
    pass.pass().unwrap();
    assert_eq!(descriptors(&pass, namespace.inode()).open, [0; 5]);
}

#[test]
fn processes_that_come_and_go_during_passes_do_no_harm() {
    if !can_load() {
        return;
    }
    let namespace = Namespace::new();
    let holder = Holder::new(&namespace, "udp4=50");
    let mut pass = open(&Options::default());
    let churn = std::thread::spawn(|| (0..100).try_for_each(|_| run("true")));
    while !churn.is_finished() {
        pass.pass().unwrap();
        assert_eq!(descriptors(&pass, namespace.inode()).open, links(holder.pid));
    }
    churn.join().unwrap().unwrap();
    eventually("the pass is over", || {
        pass.account().is_ok_and(|account| account.ended + 1 == account.number)
    });
}

fn run(program: &str) -> io::Result<()> {
    Command::new(program).status().map(drop)
}
