//! Work on a thread that may wait for the disk, for which nobody else waits longer than a while.

use std::time::Duration;

use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, timeout_at},
};

use super::error::StoreError;

/// How long a destination waits for its disk before it goes on without it; sending stands still meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same once the receiver is to end.
const PATIENCE_AT_END: Duration = Duration::from_millis(300);

/// Work under way.
pub(super) struct Work<T> {
    answer: oneshot::Receiver<T>,
    thread: JoinHandle<()>,
}

impl<T: Send + 'static> Work<T> {
    pub(super) fn start(work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (tell, answer) = oneshot::channel();
        // What nobody waits for any more is dropped, and a file closed, on this thread too.
        let thread = spawn_blocking(move || drop(tell.send(work())));
        Self { answer, thread }
    }

    /// Its result, if it is there in time.
    pub(super) async fn until(&mut self, time: Instant) -> Option<Result<T, StoreError>> {
        let broke = |_| StoreError::Unusable("its thread panicked; see the log".to_owned());
        Some(timeout_at(time, &mut self.answer).await.ok()?.map_err(broke))
    }

    /// Gives up waiting.
    pub(super) fn leave(self) -> JoinHandle<()> {
        self.thread
    }
}

/// Until when work that begins now is waited for.
pub(super) fn patience(ending: bool) -> Instant {
    Instant::now() + if ending { PATIENCE_AT_END } else { PATIENCE }
}
