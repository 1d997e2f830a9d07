//! Answers what the programs of `thread` ask about processes, on a thread of its own: memory of others may be slow to come.

use std::io;
use std::os::unix::net::UnixStream;
use std::thread;

use jitterscope_ebpf::spans::Questions;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tracing::warn;

/// Whoever holds it lets the thread run; it ends after what it is at.
#[derive(Debug)]
pub(super) struct Watcher {
    _running: UnixStream,
}

impl Watcher {
    /// # Errors
    /// There are too many descriptors or threads.
    pub(super) fn start(questions: Questions) -> io::Result<Self> {
        let (running, end) = UnixStream::pair()?;
        thread::Builder::new().name("span-threads".to_owned()).spawn(move || answer(questions, &end))?;
        Ok(Self { _running: running })
    }
}

/// Until the other end is closed.
fn answer(mut questions: Questions, end: &UnixStream) {
    loop {
        if let Err(error) = questions.answer() {
            warn!(%error, "no more processes are found whose threads say in which span they are");
            return;
        }
        let wanted = [&questions as &dyn std::os::fd::AsFd, end].map(|of| of.as_fd());
        let mut ready = wanted.each_ref().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN));
        match poll(&mut ready, None) {
            Err(error) if error != Errno::INTR => return,
            _ if !ready[1].revents().is_empty() => return,
            _ => {}
        }
    }
}
