//! What tasks read and wrote is counted to the last byte, in the cgroup where they did it, and never less than before.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]
#![expect(unsafe_code, reason = "processes that are forked without a program of their own")]

mod common;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use common::cgroup::Cgroup;
use common::load::{Step, Worker, proc_io, reap};
use common::{can_load, eventually};
use jitterscope_ebpf::Kernel;
use jitterscope_ebpf::abi::io_totals;
use jitterscope_ebpf::io::{Io, Options, REST};

fn open(options: &Options) -> Io {
    Io::open(&Kernel::read(None).unwrap(), options).unwrap()
}

/// What stands under a cgroup now, without a pass.
fn told(io: &Io, id: u64) -> io_totals {
    io.cgroups.get(&id).unwrap().map(|entry| entry.totals).unwrap_or_default()
}

/// What stands under a cgroup after a pass.
fn counted(io: &mut Io, cgroup: &Cgroup) -> io_totals {
    io.pass().unwrap();
    told(io, cgroup.id())
}

/// Soon the cgroup has exactly this: the parent hears of a process's end a moment before its last thread exits.
fn settles(io: &mut Io, id: u64, expected: io_totals) {
    let mut last = io_totals::default();
    eventually(&format!("{expected:?}"), || {
        io.pass().unwrap();
        last = told(io, id);
        last == expected
    });
}

fn sum(all: impl IntoIterator<Item = io_totals>) -> io_totals {
    all.into_iter().fold(io_totals::default(), |mut sum, one| {
        sum.add(&one);
        sum
    })
}

const STEPS: [Step; 3] = [
    Step { reads: 1000, read_size: 4096, writes: 10, write_size: 100 },
    Step { reads: 7, read_size: 65_536, writes: 3000, write_size: 512 },
    Step { reads: 0, read_size: 1, writes: 1, write_size: 1 },
];

#[test]
fn processes_in_three_cgroups_at_once_are_counted_to_the_last_call_and_byte() {
    if !can_load() {
        return;
    }
    let mut io = open(&Options::default());
    let cgroups = STEPS.map(|_| Cgroup::new());
    let start = || cgroups.iter().zip(STEPS).map(|(cgroup, step)| Worker::start(cgroup, step));
    let mut workers: Vec<Worker> = start().chain(start()).collect();
    for _ in 0..3 {
        for (n, cgroup) in cgroups.iter().enumerate() {
            let own = [&workers[n], &workers[n + 3]];
            assert_eq!(counted(&mut io, cgroup), sum(own.map(|worker| worker.expected(false))));
        }
        workers.iter_mut().for_each(Worker::step);
    }
    let mut ended = [io_totals::default(); 3];
    workers.into_iter().enumerate().for_each(|(n, worker)| ended[n % 3].add(&worker.end()));
    for (cgroup, expected) in cgroups.iter().zip(ended) {
        settles(&mut io, cgroup.id(), expected);
    }
}

#[test]
fn what_a_process_did_before_counting_began_is_not_counted_and_all_after_it_is() {
    if !can_load() {
        return;
    }
    let cgroup = Cgroup::new();
    let mut worker = Worker::start(&cgroup, STEPS[0]);
    let before = worker.expected(false);
    let mut io = open(&Options::default());
    assert_eq!(counted(&mut io, &cgroup), io_totals::default());
    worker.step();
    let mut with = counted(&mut io, &cgroup);
    with.add(&before);
    assert_eq!(with, worker.expected(false));
    let all = worker.end();
    eventually("the end", || {
        let mut with = counted(&mut io, &cgroup);
        with.add(&before);
        with == all
    });
}

#[test]
fn a_process_that_moves_takes_what_comes_after_the_pass_to_its_new_cgroup() {
    if !can_load() {
        return;
    }
    let mut io = open(&Options::default());
    let [first, second] = [Cgroup::new(), Cgroup::new()];
    let mut worker = Worker::start(&first, STEPS[1]);
    let here = counted(&mut io, &first);
    assert_eq!(here, worker.expected(false));
    second.take(worker.pid);
    worker.step();
    let mut both = counted(&mut io, &second);
    assert_eq!(told(&io, first.id()), here);
    both.add(&here);
    assert_eq!(both, worker.expected(false));
    let mut rest = worker.end();
    // What is left for the second is all but the first's.
    for (total, there) in [
        (&mut rest.read_chars, here.read_chars),
        (&mut rest.read_calls, here.read_calls),
        (&mut rest.write_chars, here.write_chars),
        (&mut rest.write_calls, here.write_calls),
        (&mut rest.read_bytes, here.read_bytes),
    ] {
        *total -= there;
    }
    settles(&mut io, second.id(), rest);
}

/// `sh -c script`, put into the cgroup before it does anything, and stopped until then. Its end is for [`reap`] to see.
#[expect(clippy::zombie_processes, reason = "it is waited for by its id")]
fn shell(cgroup: &Cgroup, script: &str) -> u32 {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("read go; {script}")]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    cgroup.take(child.id());
    drop(child.stdin.take());
    child.id()
}

#[test]
fn threads_children_and_programs_are_counted_once_each_as_their_parent_sees_them_at_its_end() {
    if !can_load() {
        return;
    }
    let mut io = open(&Options::default());
    let cgroup = Cgroup::new();
    // Children that are waited for are in their parent's account too; a program replaces another in the same task.
    let script = "for i in 1 2 3 4 5; do dd if=/dev/zero of=/dev/null bs=1000 count=50 2>/dev/null; done; \
                  (dd if=/dev/zero of=/dev/null bs=7 count=11 2>/dev/null) & wait; \
                  exec dd if=/dev/zero of=/dev/null bs=300 count=1000";
    let seen = reap(shell(&cgroup, script));
    assert!(seen.read_calls > 1261 && seen.write_chars > 550_077, "{seen:?}");
    settles(&mut io, cgroup.id(), seen);
}

#[test]
fn threads_that_end_before_their_process_are_counted_once() {
    if !can_load() {
        return;
    }
    let mut io = open(&Options::default());
    let cgroup = Cgroup::new();
    // A compressor with threads: some end long before the process, with passes in between.
    let pid = shell(&cgroup, "head -c 20000000 /dev/zero | xz -0 -T 4 >/dev/null");
    let stopped = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stopped.load(Ordering::Relaxed) {
                io.pass().unwrap();
            }
        });
        let seen = reap(pid);
        stopped.store(true, Ordering::Relaxed);
        seen
    });
    settles(&mut io, cgroup.id(), seen);
}

/// A child that reads and writes at once and is gone: so many calls of so many bytes each.
fn flash(cgroup: &Cgroup, calls: u64, size: usize) -> u32 {
    let procs = cgroup.procs();
    let buffer = [0u8; 4096];
    // SAFETY: the child makes nothing but system calls on what was prepared before, and never returns.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: as above; the buffer is longer than any write.
        unsafe {
            let own = libc::open(procs.as_ptr(), libc::O_WRONLY);
            libc::write(own, c"0".as_ptr().cast(), 1);
            let null = libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY);
            for _ in 0..calls {
                libc::write(null, buffer.as_ptr().cast(), size);
            }
            libc::_exit(0);
        }
    }
    assert!(pid > 0);
    pid as u32
}

#[test]
fn ten_thousand_processes_that_end_between_and_during_passes_lose_nothing_and_no_sum_ever_falls() {
    if !can_load() {
        return;
    }
    let mut io = open(&Options::default());
    let cgroups = [Cgroup::new(), Cgroup::new()];
    let ids = cgroups.each_ref().map(Cgroup::id);
    let stopped = AtomicBool::new(false);
    let mut readings = 0;
    std::thread::scope(|scope| {
        let (io, stopped, readings) = (&mut io, &stopped, &mut readings);
        scope.spawn(move || {
            let mut last = [io_totals::default(); 2];
            while !stopped.load(Ordering::Relaxed) {
                io.pass().unwrap();
                for (last, id) in last.iter_mut().zip(ids) {
                    let now = told(io, id);
                    assert!(now.write_chars >= last.write_chars && now.write_calls >= last.write_calls);
                    assert!(now.read_chars >= last.read_chars && now.read_calls >= last.read_calls);
                    *last = now;
                    *readings += 1;
                }
            }
        });
        let began = Instant::now();
        for round in 0..1000 {
            let both = [(0, 3, 100), (1, 5, 10)].repeat(5);
            let pids: Vec<u32> =
                both.iter().map(|(at, calls, size)| flash(&cgroups[*at], *calls, *size)).collect();
            // Some stay behind as zombies for a while.
            if round % 10 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            // SAFETY: no pointer is passed.
            pids.iter().for_each(|pid| unsafe {
                libc::waitpid(*pid as i32, std::ptr::null_mut(), 0);
            });
        }
        println!("10,000 processes in {:?}", began.elapsed());
        stopped.store(true, Ordering::Relaxed);
    });
    println!("{readings} readings meanwhile");
    assert!(readings > 10, "{readings}");
    let expected = |calls: u64, size: u64| io_totals {
        write_calls: 5000 * (calls + 1),
        write_chars: 5000 * (calls * size + 1),
        ..io_totals::default()
    };
    settles(&mut io, ids[0], expected(3, 100));
    settles(&mut io, ids[1], expected(5, 10));
}

#[test]
fn what_reaches_storage_is_told_apart_from_what_system_calls_moved() {
    if !can_load() {
        return;
    }
    let mut io = open(&Options::default());
    let cgroup = Cgroup::new();
    let folder = Folder::new();
    let file = folder.0.join("data").display().to_string();
    // Past the page cache where the file system can; otherwise written out by fsync.
    let script = format!(
        "dd if=/dev/zero of={file} bs=64k count=16 oflag=direct || \
         dd if=/dev/zero of={file} bs=64k count=16 conv=fsync; \
         dd if={file} of=/dev/null bs=64k iflag=direct || true; \
         dd if=/dev/zero of={file}.gone bs=64k count=16; rm {file}.gone"
    );
    let seen = reap(shell(&cgroup, &format!("{{ {script}; }} 2>/dev/null")));
    println!("{seen:?}");
    assert!(seen.write_chars >= 2 * 1_048_576);
    if is_on_a_device(&folder) {
        assert!(seen.write_bytes >= 2 * 1_048_576 && seen.read_bytes >= 1_048_576, "{seen:?}");
        assert!(seen.cancelled_write_bytes >= 1_048_576, "{seen:?}");
    }
    settles(&mut io, cgroup.id(), seen);
}

/// A directory beside the test program, which is on a disk where there is one.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = format!("jse-io-{}", std::process::id());
        let path =
            std::env::var_os("TMPDIR").map_or("/var/tmp".into(), std::path::PathBuf::from).join(folder);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether the folder is on a block device: others have no account of storage.
fn is_on_a_device(folder: &Folder) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = std::fs::metadata(&folder.0).unwrap().dev();
    let known = format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device));
    let known = std::path::Path::new(&known).exists();
    println!("on a block device: {known}");
    known
}

#[test]
fn a_zombie_in_a_cgroup_that_is_gone_was_counted_and_is_not_counted_again() {
    if !can_load() {
        return;
    }
    let mut io = open(&Options::default());
    let cgroup = Cgroup::new();
    let id = cgroup.id();
    let pid = flash(&cgroup, 20, 10);
    eventually("a zombie", || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z"));
    cgroup.remove();
    io.pass().unwrap();
    let expected = proc_io(pid);
    assert_eq!((expected.write_calls, expected.write_chars), (21, 201));
    assert_eq!(told(&io, id), expected);
    reap(pid);
    for _ in 0..3 {
        io.pass().unwrap();
        assert_eq!(told(&io, id), expected);
    }
}

#[test]
fn tasks_that_have_ended_are_forgotten() {
    if !can_load() {
        return;
    }
    let mut io = open(&Options::default());
    let cgroup = Cgroup::new();
    let step = Step { reads: 1, read_size: 1, writes: 1, write_size: 1 };
    for _ in 0..4 {
        let workers: Vec<Worker> = (0..300).map(|_| Worker::start(&cgroup, step)).collect();
        io.pass().unwrap();
        for worker in workers {
            worker.end();
        }
    }
    // 1,200 have ended, which is more than stay.
    io.pass().unwrap();
    let state = io.state().unwrap();
    assert!(state.ended < 1200 && state.tasks < 2000, "{state:?}");
    let expected = counted(&mut io, &cgroup);
    assert_eq!((expected.read_calls, expected.write_calls), (1200 * 2, 1200 * 3));
}

#[test]
fn tasks_and_cgroups_beyond_the_limits_are_counted_together_and_no_later_than_at_their_end() {
    if !can_load() {
        return;
    }
    let mut io = open(&Options { tasks: 1, cgroups: 2 });
    let cgroups = [Cgroup::new(), Cgroup::new(), Cgroup::new()];
    let before = told(&io, REST);
    let workers: Vec<Worker> =
        cgroups.iter().zip(STEPS).map(|(cgroup, step)| Worker::start(cgroup, step)).collect();
    let ended = sum(workers.into_iter().map(Worker::end));
    eventually("all at the end", || {
        io.pass().unwrap();
        let mut all = BTreeMap::new();
        io.cgroups
            .for_each(|id, entry| {
                all.insert(*id, entry.totals);
            })
            .unwrap();
        assert!(all.len() <= 2, "{all:?}");
        // Other processes of the machine count there too.
        let rest = told(&io, REST);
        rest.read_chars >= before.read_chars + ended.read_chars
            && rest.write_calls >= before.write_calls + ended.write_calls
    });
}
