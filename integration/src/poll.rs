//! Waiting for something to become true, in place of sleeping and hoping.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Far more than anything takes here, also in an emulated machine beside a compiler.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Time between two looks; many of them read a file that grows.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks until there is an answer.
///
/// # Errors
/// There is none after [`PATIENCE`]; `what` says what was waited for.
pub fn until<T>(what: &str, answer: impl FnMut() -> Option<T>) -> Result<T> {
    within(PATIENCE, what, answer)
}

/// As [`until`], with a deadline of its own.
///
/// # Errors
/// There is no answer in time.
pub fn within<T>(patience: Duration, what: &str, mut answer: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = answer() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("not within {patience:?}: {what}");
        }
        sleep(PAUSE);
    }
}
