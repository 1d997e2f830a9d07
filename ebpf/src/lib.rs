//! The CO-RE eBPF programs of jitterscope, one C file per probe in `src/bpf`, and what loads and reads them.
//!
//! [`Object`] is a compiled C file. [`Object::load`] attaches its programs in the best form that the running
//! [`Kernel`] accepts; the [`Loaded`] object gives typed access to maps and ring, and detaches on drop.

#![expect(
    unsafe_code,
    reason = "bpf(2) and a few other system calls have no safe wrapper; all are in `sys` and `memory`"
)]

pub mod abi;
pub mod btf;
mod cgroups;
pub mod counters;
pub mod datagrams;
pub mod histogram;
mod hook;
pub mod io;
mod kernel;
pub mod kernellatency;
mod load;
pub mod memory;
mod objects;
mod observer;
pub mod packetloss;
mod ring;
pub mod socketlatency;
pub mod sockets;
pub mod spans;
mod stats;
mod symbols;
mod sys;
mod table;
pub mod virtcmdlatency;

pub use hook::Form;
pub use kernel::{Kernel, KernelError, host_netns};
pub use load::links::Links;
pub use load::{Attachment, Attempt, Constant, LoadError, LoadOptions, Loaded, Missing, Object, OnDemand};
pub use observer::{Observer, ObserverOptions, Telling};
pub use ring::{Ring, TooShort};
pub use stats::{MapUsage, ProgramStats, RunTimeStats};
pub use symbols::{FunctionRange, Functions, Symbols, nearest_functions};
pub use table::{Entries, Merge, PerCpuTable, Table, TableError};
