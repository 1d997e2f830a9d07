//! Attaching one program in one form, and why the kernel does not accept it.

use aya::programs::cgroup_skb::CgroupSkbAttachType;
use aya::programs::links::CgroupAttachMode;
use aya::programs::{
    BtfTracePoint, CgroupSkb, FEntry, FExit, Iter, KProbe, Program, ProgramError, RawTracePoint,
};

use super::{Attempt, chain};
use crate::cgroups::{CgroupsError, cgroups_root};
use crate::hook::Form;
use crate::kernel::{Kernel, KernelError};

/// How often a program is offered to the kernel while signals interrupt the verifier.
const TRIES: u32 = 10;

/// Why one form did not attach.
#[derive(Debug, thiserror::Error)]
pub(super) enum FormError {
    #[error("needs the running kernel's own BTF")]
    ForeignBtf,
    #[error("not in the object")]
    Absent,
    #[error(transparent)]
    Cgroups(#[from] CgroupsError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("{}", chain(.0))]
    Program(#[from] ProgramError),
}

impl FormError {
    /// The verifier gives up when a signal waits for the thread (`kernel/bpf/verifier.c`, `do_check`); that says nothing of
    /// the program.
    fn is_interrupted(&self) -> bool {
        match self {
            Self::Program(ProgramError::LoadError { io_error, .. }) => {
                io_error.raw_os_error() == Some(libc::EAGAIN)
            }
            _ => false,
        }
    }
}

pub(super) fn attempt(form: Form, error: &FormError) -> Attempt {
    let (mut errno, mut verifier_log) = (None, String::new());
    let mut reason = error.to_string();
    match error {
        FormError::Program(ProgramError::LoadError { io_error, verifier_log: log }) => {
            errno = io_error.raw_os_error();
            verifier_log = log.to_string();
            reason = format!("the kernel refused to load it: {io_error}");
        }
        FormError::Program(ProgramError::SyscallError(call)) => errno = call.io_error.raw_os_error(),
        _ => {}
    }
    Attempt { form, reason, errno, verifier_log }
}

/// Loads and attaches a program.
pub(super) fn attach_program(
    program: &mut Program,
    form: Form,
    hook: &str,
    kernel: &Kernel,
) -> Result<(), FormError> {
    let mut offer = || {
        attach_once(program, form, hook, kernel).inspect_err(|_| {
            // A program that loaded but did not attach would stay in the kernel for nothing.
            let _ = unload(program);
        })
    };
    let mut offered = offer();
    for _ in 1..TRIES {
        if !offered.as_ref().is_err_and(FormError::is_interrupted) {
            break;
        }
        offered = offer();
    }
    offered
}

fn attach_once(program: &mut Program, form: Form, hook: &str, kernel: &Kernel) -> Result<(), FormError> {
    match form {
        Form::TpBtf => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(hook, kernel.parsed()?)?;
            program.attach().map(drop)?;
        }
        Form::RawTp => {
            let program: &mut RawTracePoint = program.try_into()?;
            program.load()?;
            program.attach(hook).map(drop)?;
        }
        Form::Fentry => {
            let program: &mut FEntry = program.try_into()?;
            program.load(hook, kernel.parsed()?)?;
            program.attach().map(drop)?;
        }
        Form::Fexit => {
            let program: &mut FExit = program.try_into()?;
            program.load(hook, kernel.parsed()?)?;
            program.attach().map(drop)?;
        }
        Form::Kprobe | Form::Kretprobe => {
            let program: &mut KProbe = program.try_into()?;
            program.load()?;
            program.attach(hook, 0).map(drop)?;
        }
        Form::Iter => {
            // Attached for each pass, see `Loaded::iterate`.
            let program: &mut Iter = program.try_into()?;
            program.load(hook, kernel.parsed()?)?;
        }
        Form::CgroupSkb => {
            let way = match hook {
                "ingress" => CgroupSkbAttachType::Ingress,
                _ => CgroupSkbAttachType::Egress,
            };
            let program: &mut CgroupSkb = program.try_into()?;
            program.load()?;
            // As a link, which stands beside others' programs whatever the mode says.
            program.attach(cgroups_root()?, way, CgroupAttachMode::Single).map(drop)?;
        }
    }
    Ok(())
}

pub(super) fn unload(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::BtfTracePoint(p) => p.unload(),
        Program::RawTracePoint(p) => p.unload(),
        Program::FEntry(p) => p.unload(),
        Program::FExit(p) => p.unload(),
        Program::KProbe(p) => p.unload(),
        Program::Iter(p) => p.unload(),
        Program::CgroupSkb(p) => p.unload(),
        _ => Ok(()),
    }
}
