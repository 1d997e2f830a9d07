//! What processes say of their threads.

use jitterscope_ebpf::spans::fuzz;

use crate::fuzz::Target;

pub(crate) const TARGETS: &[Target] = &[Target {
    name: "process_context",
    read: fuzz::read,
    samples: &[fuzz::HEADER, fuzz::MESSAGE, fuzz::MAPS],
}];
