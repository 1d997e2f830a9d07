//! How fast the shop is, as a client of it says.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Language, Load, asking};
use crate::network::{Family, Network};

/// What a client has measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Answers a second.
    pub rate: f64,
    /// From request to answer, the middle one.
    pub middle: Duration,
    /// The one that 99 of 100 are below.
    pub late: Duration,
}

/// Lets a client of Go ask the server in the network's `b`, whatever that is written in, and waits until it is done.
///
/// # Errors
/// It is not built, or gets no answer at all, or not to each request.
pub fn measure(network: &Network, family: Family, load: Load) -> Result<Measured> {
    let output = asking(Language::Go, network, family, load)?.output()?;
    let told = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{}: {told}", output.status);
    let number = |name: &str| -> Result<u64> {
        let found = told.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        Ok(found.with_context(|| format!("no {name} in {told}"))?.parse()?)
    };
    let (answered, during) = (number("answered")?, Duration::from_nanos(number("during")?));
    ensure!(answered > 0 && number("failed")? == 0, "{told}");
    Ok(Measured {
        rate: answered as f64 / during.as_secs_f64(),
        middle: Duration::from_nanos(number("middle")?),
        late: Duration::from_nanos(number("late")?),
    })
}
