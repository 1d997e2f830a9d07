//! jitterscope: what the kernel knows about every container's network, as OTLP.
//!
//! One process per node reads procfs and eBPF maps at each interval and eBPF ring records as they come, gives
//! each figure and event the Resource of the pod, container, namespace or node that it belongs to, and sends it.
//!
//! ```text
//!  kernel                          receiver                                     Collector
//!  procfs, netlink  --tick-->   +------------+   bounded channel   +-------------+
//!  BPF maps         --tick-->   | probe task | ---- Delivery ----> | destination | --OTLP-->
//!  BPF ring         --ready-->  +------------+                     |    queue    |
//!                                     |                            +-------------+
//!                              origin | entity
//!                               pods (/proc, cgroup tree, CRI)
//! ```
//!
//! Two hops lead from the kernel to the wire, a probe's task ([`probe::task`]) and a destination's ([`export`]), and
//! there is no telemetry model in between: OTLP messages are built straight from map values and ring records
//! ([`batch`]).
//!
//! # Invariants
//!
//! 1. The kernel's map is the cumulative state. User space reads values and emits cumulative points; a batch that is
//!    lost costs resolution, never data. Nothing that is counted is counted in user space from a stream of events.
//! 2. Events are rare and limited in the kernel, per probe and entity; what was suppressed is counted.
//! 3. Every loss is counted by cause and exported: `seen = exported + suppressed + lost + dropped`, each term counted
//!    where it happens ([`account`]).
//! 4. Attribution comes from the socket or the packet, never from the task that happened to run.
//! 5. A probe fails alone: it is skipped with a reason, and the others go on ([`supervisor`]).
//! 6. Nothing is unbounded: every channel, queue, map and cache has a limit with a reason, and what happens there is
//!    counted.
//! 7. Names and units come from the schema crate only.
//! 8. One writer for each thing: a task owns its probes, their maps and their series; entities are published as
//!    immutable snapshots that are read without locks ([`pods`]).
//! 9. Least privilege: no packet is changed, no process is written to, nothing listens beyond loopback unless it is
//!    configured.

pub mod account;
pub mod batch;
pub mod capabilities;
pub mod cli;
pub mod clock;
pub mod config;
pub mod export;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod health;
pub mod logging;
pub mod netlink;
pub mod node;
pub mod pods;
pub mod probe;
pub mod round;
pub mod spans;
pub mod supervisor;
pub mod telemetry;
pub mod web;
