//! Waits for a CPU are counted as often as the kernel switches to a task, last as long as the test keeps the CPU from it, and
//! who ran instead is named.

#![expect(clippy::unwrap_used, reason = "a test")]
#![expect(unsafe_code, reason = "a scheduling policy has no safe wrapper")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::cgroup::Cgroup;
use common::{can_load, eventually, text};
use jitterscope_ebpf::abi::{histogram, runnable, scheduler_event};
use jitterscope_ebpf::histogram::Range;
use jitterscope_ebpf::{Kernel, Object, Observer, ObserverOptions, Ring, Table, Telling};
use rustix::thread::{CpuSet, Pid, sched_setaffinity};

/// How long the hog keeps the CPU.
const HOLD: Duration = Duration::from_millis(500);
/// Between what tasks wait on a busy machine, and that.
const THRESHOLD: Duration = Duration::from_millis(250);
/// The CPU that is fought for.
const CPU: usize = 0;

/// What one test takes from others they would see.
static ALONE: Mutex<()> = Mutex::new(());

/// The program, and the right to keep the CPU.
struct Probe {
    _alone: MutexGuard<'static, ()>,
    waits: Table<u64, histogram>,
    runnable: Table<u64, runnable>,
    ring: Ring,
    observer: Observer,
}

impl Probe {
    fn open() -> Self {
        Self::open_with(&[])
    }

    fn open_with(entries: &[(&str, u32)]) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let kernel = Kernel::read(None).unwrap();
        let latency = Range::LATENCY.bounds();
        let constants = [latency.constant()];
        let options = ObserverOptions { constants: &constants, entries, ..ObserverOptions::new(0) };
        let mut observer = Observer::open(&Object::SCHEDLATENCY, &kernel, &options).unwrap();
        observer.configure(&telling(THRESHOLD)).unwrap();
        Self {
            _alone: alone,
            waits: observer.loaded().table("waits").unwrap(),
            runnable: observer.loaded().table("runnable").unwrap(),
            ring: observer.events().unwrap(),
            observer,
        }
    }

    fn waits(&self, cgroup: &Cgroup) -> histogram {
        self.waits.get(&cgroup.id()).unwrap().unwrap_or_default()
    }

    fn told(&mut self, cgroup: &Cgroup) -> Vec<scheduler_event> {
        let id = cgroup.id();
        let records = std::iter::from_fn(|| self.ring.take::<scheduler_event>()).map(Result::unwrap);
        records.filter(|event| event.head.entity.cgroup == id).collect()
    }
}

fn telling(threshold: Duration) -> Telling {
    Telling { rate: 1000, burst: 1000, threshold, ..Telling::default() }
}

/// `cat` in a cgroup of its own, on the CPU that is fought for: it sleeps until it gets something, and returns that.
struct Echo {
    child: Child,
    cgroup: Cgroup,
}

impl Echo {
    fn start() -> Self {
        let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let cgroup = Cgroup::new();
        cgroup.take(child.id());
        pin(Some(Pid::from_child(&child)), CPU);
        let mut echo = Self { child, cgroup };
        // From now on it sleeps in its read.
        echo.call();
        echo.sleeps();
        echo
    }

    fn call(&mut self) {
        let mut byte = [0];
        self.child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        self.child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    }

    fn sleeps(&self) {
        let stat = format!("/proc/{}/stat", self.child.id());
        eventually("it sleeps", || fs::read_to_string(&stat).unwrap().contains(") S "));
    }

    /// How often it gave up the CPU, to sleep or because it had to.
    fn switches(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
        counts.map(|line| line.split_whitespace().last().unwrap().parse::<u64>().unwrap()).sum()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pin(task: Option<Pid>, cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(task, &set).unwrap();
}

/// Gives the calling thread a real-time priority; 0 is none.
fn priority(sched_priority: i32) {
    let policy = if sched_priority == 0 { libc::SCHED_OTHER } else { libc::SCHED_FIFO };
    // SAFETY: the parameter outlives the call, which is about the calling thread.
    assert_eq!(unsafe { libc::sched_setscheduler(0, policy, &libc::sched_param { sched_priority }) }, 0);
}

/// Runs `meanwhile`, which nothing else keeps from its CPU, while a thread named `hog` has the other; says when that ended.
fn hog<T>(meanwhile: impl FnOnce() -> T) -> (T, Instant) {
    let runs = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let work = || {
            pin(None, CPU);
            priority(10);
            let began = Instant::now();
            runs.store(true, Ordering::Release);
            while began.elapsed() < HOLD {}
            Instant::now()
        };
        let hog = std::thread::Builder::new().name("hog".to_owned()).spawn_scoped(scope, work).unwrap();
        while !runs.load(Ordering::Acquire) {
            std::hint::spin_loop();
        }
        priority(5);
        let outcome = meanwhile();
        priority(0);
        (outcome, hog.join().unwrap())
    })
}

fn seconds(ns: u64) -> Duration {
    Duration::from_nanos(ns)
}

#[test]
fn every_switch_to_a_task_has_one_wait_in_its_own_cgroup() {
    if !can_load() {
        return;
    }
    let probe = Probe::open();
    let mut echoes = [Echo::start(), Echo::start(), Echo::start()];
    let counts = |echoes: &[Echo]| -> Vec<(u64, u64)> {
        echoes.iter().for_each(Echo::sleeps);
        echoes.iter().map(|echo| (probe.waits(&echo.cgroup).count(), echo.switches())).collect()
    };
    let before = counts(&echoes);
    for (calls, echo) in [100, 1000, 3000].into_iter().zip(&mut echoes) {
        (0..calls).for_each(|_| echo.call());
    }
    let after = counts(&echoes);
    for ((calls, before), after) in [100, 1000, 3000].into_iter().zip(before).zip(after) {
        assert_eq!(after.0 - before.0, after.1 - before.1, "{before:?} {after:?}");
        // The next call can come before it sleeps.
        assert!(after.0 - before.0 > calls / 2, "{before:?} {after:?}");
    }
}

#[test]
fn a_woken_task_waits_as_long_as_another_has_its_cpu_and_that_one_is_named() {
    if !can_load() {
        return;
    }
    let mut probe = Probe::open();
    let mut echo = Echo::start();
    let quiet = probe.told(&echo.cgroup);
    assert!(quiet.is_empty(), "{quiet:?}");
    let before = probe.waits(&echo.cgroup);
    let ((asked, answered), end) = hog(|| {
        let asked = Instant::now();
        echo.call();
        (asked, Instant::now())
    });
    echo.sleeps();
    let told = probe.told(&echo.cgroup);
    let [event] = told.as_slice() else { panic!("{told:?}") };
    let waited = seconds(event.wait);
    assert!(waited <= answered - asked, "{waited:?} {:?}", answered - asked);
    // A part of the hold was over when the task was woken, and the wake-up takes its time.
    assert!(waited + Duration::from_millis(20) >= end - asked, "{waited:?} {:?}", end - asked);
    assert_eq!((event.pid, event.preempted, event.cpu), (echo.child.id(), 0, CPU as u32));
    assert_eq!((text(&event.command), text(&event.instead.command)), ("cat".to_owned(), "hog".to_owned()));
    assert_eq!(event.instead.pid, std::process::id());
    let sum = seconds(probe.waits(&echo.cgroup).sum - before.sum);
    assert!(sum >= waited && sum <= waited + THRESHOLD, "{sum:?} {waited:?}");
}

#[test]
fn a_task_that_loses_its_cpu_waits_until_it_has_it_again() {
    if !can_load() {
        return;
    }
    let mut probe = Probe::open();
    let cgroup = Cgroup::new();
    let mut busy = Command::new("sh");
    busy.args(["-c", "echo; while :; do :; done"]).stdout(Stdio::piped());
    let mut busy = busy.spawn().unwrap();
    cgroup.take(busy.id());
    // From the line on it waits for nothing but its CPU.
    busy.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    pin(Some(Pid::from_child(&busy)), CPU);
    eventually("it runs", || probe.waits(&cgroup).count() > 0);
    hog(|| ());
    let mut told = Vec::new();
    eventually("it is told", || {
        told.extend(probe.told(&cgroup));
        told.iter().any(|event| text(&event.instead.command) == "hog")
    });
    busy.kill().unwrap();
    busy.wait().unwrap();
    let event = told.iter().find(|event| text(&event.instead.command) == "hog").unwrap();
    assert!(seconds(event.wait) + Duration::from_millis(20) >= HOLD, "{event:?}");
    assert_eq!((event.pid, event.preempted), (busy.id(), 1), "{event:?}");
}

#[test]
fn no_entry_stays_behind_when_tasks_end() {
    if !can_load() {
        return;
    }
    let probe = Probe::open();
    let entries = || {
        let mut entries = Vec::new();
        probe.runnable.for_each(|task, entry| entries.push((*task, entry.since))).unwrap();
        entries
    };
    for _ in 0..300 {
        Command::new("true").status().unwrap();
    }
    let mut left = entries();
    eventually("everybody had a turn", || {
        let now = entries();
        left.retain(|entry| now.contains(entry));
        left.is_empty()
    });
    let account = probe.observer.account().unwrap();
    assert_eq!((account.overflow, account.seen), (0, account.submitted + account.suppressed + account.lost));
}

#[test]
fn what_has_no_room_is_counted_as_missing() {
    if !can_load() {
        return;
    }
    let probe = Probe::open_with(&[("waits", 1)]);
    // The only entry is soon taken by the machine itself, in whose cgroup the rest of the test is.
    eventually("the map is full", || probe.waits.for_each(|_, _| {}).unwrap() == 1);
    let mut echo = Echo::start();
    let before = (probe.observer.account().unwrap().overflow, echo.switches());
    (0..100).for_each(|_| echo.call());
    echo.sleeps();
    let after = (probe.observer.account().unwrap().overflow, echo.switches());
    assert!(after.0 - before.0 >= after.1 - before.1, "{before:?} {after:?}");
    assert_eq!((probe.waits(&echo.cgroup).count(), probe.waits.for_each(|_, _| {}).unwrap()), (0, 1));
}
