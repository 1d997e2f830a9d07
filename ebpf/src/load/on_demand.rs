//! Programs that are attached nowhere and run when user space says so (`BPF_PROG_TEST_RUN`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::programs::{Program, ProgramError, RawTracePoint};

use super::{Attempt, FormError, LoadError, Loaded, attempt};
use crate::hook::Form;
use crate::sys;

/// A loaded program of a section `raw_tp` without a hook. Dropping it unloads it, once its [`Loaded`] is gone too.
#[derive(Debug)]
pub struct OnDemand {
    fd: OwnedFd,
}

impl OnDemand {
    /// Runs it once with these arguments of its context (at most 12; as many as it reads), without preemption and under
    /// RCU; gives what it returned. `bpf_prog_test_run_raw_tp`, `net/bpf/test_run.c`, 5.10+.
    pub fn run(&self, arguments: &[u64]) -> io::Result<u32> {
        sys::test_run(self.fd.as_fd(), arguments, None)
    }

    /// Runs it once on another CPU; fails with `ENXIO` for one that is offline.
    pub fn run_on(&self, cpu: u32) -> io::Result<u32> {
        sys::test_run(self.fd.as_fd(), &[], Some(cpu))
    }
}

impl Loaded {
    /// Loads the program `name`.
    pub fn on_demand(&mut self, name: &'static str) -> Result<OnDemand, LoadError> {
        let object = self.name;
        let refused = |attempt: Attempt| LoadError::Program { object, program: name, attempt };
        let program = self.ebpf.program_mut(name).ok_or(FormError::Absent);
        let fd = program.and_then(|program| load(program).map_err(FormError::Program));
        fd.map(|fd| OnDemand { fd }).map_err(|error| refused(attempt(Form::RawTp, &error)))
    }
}

fn load(program: &mut Program) -> Result<OwnedFd, ProgramError> {
    let program: &mut RawTracePoint = program.try_into()?;
    program.load()?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}
