//! Names of drop reasons, from the running kernel's BTF: they change with every release.

use std::collections::HashMap;

use crate::btf::Btf;

const PREFIX: &str = "SKB_DROP_REASON_";
const SUBSYSTEM_PREFIX: &str = "SKB_DROP_REASON_SUBSYS_";

/// The running kernel's drop reasons.
#[derive(Debug, Default)]
pub struct Reasons {
    names: HashMap<u32, String>,
    subsystems: HashMap<u32, String>,
}

impl Reasons {
    /// Reads `enum skb_drop_reason` and `enum skb_drop_reason_subsys`, whichever the kernel has. Open
    /// vSwitch and mac80211 have enums of their own, known where they are built in.
    pub(crate) fn read(btf: &Btf) -> Self {
        let mut reasons = Self::default();
        for name in ["ovs_drop_reason", "mac80211_drop_reason", "skb_drop_reason"] {
            let constants = btf.enumerators(name).unwrap_or_default();
            reasons.names.extend(constants.into_iter().map(|(n, value)| (value as u32, n)));
        }
        let subsystems = btf.enumerators("skb_drop_reason_subsys").unwrap_or_default();
        reasons.subsystems.extend(subsystems.into_iter().map(|(n, value)| (value as u32, n)));
        reasons
    }

    /// The value of a constant of `enum skb_drop_reason`.
    pub(crate) fn value(&self, constant: &str) -> Option<u32> {
        self.names.iter().find(|(_, name)| *name == constant).map(|(value, _)| *value)
    }

    /// Name of `reason` without its prefix (`NO_SOCKET`); `None` when this kernel's BTF does not have it.
    pub fn name(&self, reason: u32) -> Option<&str> {
        let name = self.names.get(&reason)?;
        Some(name.strip_prefix(PREFIX).unwrap_or(name))
    }

    /// Who defines `reason`, by its upper 16 bits (`CORE`); `None` when the kernel has no subsystems (before 6.4).
    pub fn subsystem(&self, reason: u32) -> Option<&str> {
        let name = self.subsystems.get(&(reason >> 16))?;
        Some(name.strip_prefix(SUBSYSTEM_PREFIX).unwrap_or(name))
    }

    /// True when the kernel gives reasons at all (5.17+).
    pub fn exist(&self) -> bool {
        !self.names.is_empty()
    }
}
