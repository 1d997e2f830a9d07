//! Processes that make a known number of system calls of known size, step by step, in a cgroup.
#![expect(unsafe_code, reason = "processes that are forked without a program of their own")]

use std::fs;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _, pipe};
use std::os::fd::AsRawFd as _;

use jitterscope_ebpf::abi::io_totals;

use super::cgroup::Cgroup;

/// What a worker does in one step.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub(crate) reads: u64,
    pub(crate) read_size: usize,
    pub(crate) writes: u64,
    pub(crate) write_size: usize,
}

/// Largest read or write.
const BUFFER: usize = 65_536;

/// A forked process that does one step at its start and one more each time it is told to.
pub(crate) struct Worker {
    pub(crate) pid: u32,
    step: Step,
    steps: u64,
    gate: PipeWriter,
    done: PipeReader,
}

impl Worker {
    /// Forks a process that moves itself into the cgroup and does its first step; returns when it has.
    pub(crate) fn start(cgroup: &Cgroup, step: Step) -> Self {
        assert!(step.read_size <= BUFFER && step.write_size <= BUFFER);
        let (wait, gate) = pipe().unwrap();
        let (done, report) = pipe().unwrap();
        let procs = cgroup.procs();
        // SAFETY: the child makes nothing but system calls on what was prepared before, and never returns.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            // SAFETY: see above; all pointers are to live memory of this process.
            unsafe { work(&procs, step, wait.as_raw_fd(), report.as_raw_fd()) }
        }
        let mut worker = Self { pid: pid as u32, step, steps: 0, gate, done };
        worker.finished();
        worker
    }

    fn finished(&mut self) {
        self.done.read_exact(&mut [0]).unwrap();
        self.steps += 1;
    }

    /// Lets it do one more step; returns when it has.
    pub(crate) fn step(&mut self) {
        self.gate.write_all(b"s").unwrap();
        self.finished();
    }

    /// What it has done by its own count: its steps, one byte for moving itself, one byte read and one written for
    /// each step but the one that it waits for.
    pub(crate) fn expected(&self, ended: bool) -> io_totals {
        self.with_storage(ended, &proc_io(self.pid))
    }

    /// Its own count of its calls, with what the kernel says of storage: a page of the program can come from there at any time.
    fn with_storage(&self, ended: bool, kernel: &io_totals) -> io_totals {
        let Step { reads, read_size, writes, write_size } = self.step;
        let told = self.steps - u64::from(!ended);
        io_totals {
            read_calls: self.steps * reads + told,
            read_chars: self.steps * reads * read_size as u64 + told,
            write_calls: self.steps * (writes + 1) + 1,
            write_chars: self.steps * (writes * write_size as u64 + 1) + 1,
            ..*kernel
        }
    }

    /// Ends it, and tells what it did: by its own count, which is that of `/proc/<pid>/io` before it is reaped.
    pub(crate) fn end(mut self) -> io_totals {
        self.gate.write_all(b"q").unwrap();
        let kernel = reap(self.pid);
        assert_eq!(kernel, self.with_storage(true, &kernel));
        kernel
    }
}

/// Waits for the end of a child and reaps it; what `/proc/<pid>/io` said in between.
pub(crate) fn reap(pid: u32) -> io_totals {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `info` is as large as the kernel expects.
    let waited = unsafe { libc::waitid(libc::P_PID, pid, info.as_mut_ptr(), libc::WEXITED | libc::WNOWAIT) };
    assert_eq!(waited, 0);
    let totals = proc_io(pid);
    // SAFETY: no pointer is passed.
    assert_eq!(unsafe { libc::waitpid(pid as i32, std::ptr::null_mut(), 0) }, pid as i32);
    totals
}

/// `/proc/<pid>/io`: the process with its threads, those that ended included, and the children that it waited for.
pub(crate) fn proc_io(pid: u32) -> io_totals {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let field = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap().parse().unwrap()
    };
    io_totals {
        read_chars: field("rchar"),
        write_chars: field("wchar"),
        read_calls: field("syscr"),
        write_calls: field("syscw"),
        read_bytes: field("read_bytes"),
        write_bytes: field("write_bytes"),
        cancelled_write_bytes: field("cancelled_write_bytes"),
    }
}

/// The life of a worker.
///
/// # Safety
/// Runs in a forked child of a process with threads: only system calls, no allocation.
unsafe fn work(procs: &std::ffi::CStr, step: Step, wait: i32, report: i32) -> ! {
    let mut buffer = [0u8; BUFFER];
    let at = buffer.as_mut_ptr().cast();
    // SAFETY: the buffer is as long as the longest read and write; the names end with a zero byte.
    unsafe {
        let zero = libc::open(c"/dev/zero".as_ptr(), libc::O_RDONLY);
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY);
        let own = libc::open(procs.as_ptr(), libc::O_WRONLY);
        let mut intact = libc::write(own, c"0".as_ptr().cast(), 1) == 1;
        loop {
            (0..step.reads).for_each(|_| intact &= libc::read(zero, at, step.read_size) > 0);
            (0..step.writes).for_each(|_| intact &= libc::write(null, at, step.write_size) > 0);
            // After a failure the end is all that is told.
            if !intact || libc::write(report, at, 1) != 1 || libc::read(wait, at, 1) != 1 || buffer[0] == b'q'
            {
                libc::_exit(i32::from(!intact));
            }
        }
    }
}
