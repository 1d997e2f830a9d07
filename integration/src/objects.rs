//! The BPF objects that the kernel holds, as bpftool lists them: what a receiver leaves behind is seen here.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::netns::run;
use crate::poll;

/// Numbers of all programs, maps and links of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Programs.
    pub programs: BTreeSet<u64>,
    /// Maps.
    pub maps: BTreeSet<u64>,
    /// Links: what is attached.
    pub links: BTreeSet<u64>,
}

impl Objects {
    /// Those that there are now. bpftool itself has some while it lists: what a second list does not have is left out.
    ///
    /// # Errors
    /// bpftool cannot list them.
    pub fn list() -> Result<Self> {
        let (first, second) = (Self::once()?, Self::once()?);
        let both = |a: &BTreeSet<u64>, b: &BTreeSet<u64>| a.intersection(b).copied().collect();
        Ok(Self {
            programs: both(&first.programs, &second.programs),
            maps: both(&first.maps, &second.maps),
            links: both(&first.links, &second.links),
        })
    }

    fn once() -> Result<Self> {
        Ok(Self { programs: numbers("prog")?, maps: numbers("map")?, links: numbers("link")? })
    }

    /// Those that are not in `others`.
    #[must_use]
    pub fn beyond(&self, others: &Self) -> Self {
        let less = |a: &BTreeSet<u64>, b: &BTreeSet<u64>| a.difference(b).copied().collect();
        Self {
            programs: less(&self.programs, &others.programs),
            maps: less(&self.maps, &others.maps),
            links: less(&self.links, &others.links),
        }
    }
}

/// bpftool fails when one of them goes while it lists.
fn numbers(kind: &str) -> Result<BTreeSet<u64>> {
    let list = || run(Command::new("bpftool").args(["--json", kind, "list"])).ok();
    let text = poll::until("a list of bpftool", list)?;
    let listed: Value = serde_json::from_str(&text)?;
    let listed = listed.as_array().with_context(|| text.clone())?;
    listed.iter().map(|one| one["id"].as_u64().with_context(|| one.to_string())).collect()
}
