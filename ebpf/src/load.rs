//! Loading an object and attaching its programs in the best form that the kernel accepts.

mod attach;
pub(crate) mod links;
mod on_demand;

use std::fmt;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::{Map, MapData};
use aya::programs::Iter;
use aya::{Ebpf, EbpfError, EbpfLoader};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::hook::{Form, Hook, hooks};
use crate::kernel::{Kernel, KernelError};
use crate::ring::Ring;
use crate::stats::{self, MapUsage, ProgramStats};
use crate::sys;
use crate::table::{Merge, PerCpuTable, Table, TableError};

use attach::{FormError, attach_program, attempt, unload};
use links::Links;

pub use on_demand::OnDemand;

/// A compiled C file: its programs, maps and constants. The constants of this type are all there are.
#[derive(Debug)]
pub struct Object {
    /// Name of the C file, and of the probe.
    pub name: &'static str,
    pub(crate) elf: &'static [u8],
    /// Hooks that the probe can do without.
    pub(crate) optional: &'static [&'static str],
}

/// A value for a `const volatile` variable of the C file, set before the verifier sees it.
#[derive(Clone, Copy, Debug)]
pub struct Constant<'a> {
    /// Name of the variable.
    pub name: &'a str,
    /// Its bytes, exactly as many as the variable has.
    pub value: &'a [u8],
}

/// What the caller decides about an object.
#[derive(Debug)]
pub struct LoadOptions<'a> {
    /// The running kernel.
    pub kernel: &'a Kernel,
    /// Load-time constants; what is not named keeps the value of the C file.
    pub constants: &'a [Constant<'a>],
    /// Limits of maps, in entries (bytes for a ring), where they differ from the C file.
    pub entries: &'a [(&'a str, u32)],
    /// Hooks to leave alone (`tcp_conn_request`), or one form of them (`fentry/tcp_conn_request`): a probe that knows that
    /// the kernel's own account suffices, or a test of the next form.
    pub without: &'a [&'a str],
    /// What it has to do with span links, if its programs can make some.
    pub links: Links<'a>,
    /// The table of OpenTelemetry eBPF Instrumentation, for an object that reads it.
    pub instrumentation: Option<BorrowedFd<'a>>,
}

impl<'a> LoadOptions<'a> {
    /// The object as the C file has it.
    pub fn new(kernel: &'a Kernel) -> Self {
        Self { kernel, constants: &[], entries: &[], without: &[], links: Links::Off, instrumentation: None }
    }
}

/// A hook that is being watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Tracepoint or kernel function.
    pub hook: String,
    /// How it is attached.
    pub form: Form,
    /// The C function.
    pub program: String,
}

/// One form of a hook that the kernel did not accept.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The form.
    pub form: Form,
    /// Why, in the kernel's or the loader's words, in one line.
    pub reason: String,
    /// The system call's error number, where one failed (`EPERM`: a missing privilege).
    pub errno: Option<i32>,
    /// What the verifier had to say; empty when it was not asked.
    pub verifier_log: String,
}

/// A hook that could not be attached in any form.
#[derive(Clone, Debug)]
pub struct Missing {
    /// Tracepoint or kernel function.
    pub hook: String,
    /// What was tried, best form first.
    pub attempts: Vec<Attempt>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.hook)?;
        for (i, attempt) in self.attempts.iter().enumerate() {
            let separator = if i == 0 { ": " } else { "; " };
            write!(f, "{separator}{}: {}", attempt.form, attempt.reason)?;
        }
        Ok(())
    }
}

/// An object that cannot be used on this kernel.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel's type information is missing or not understood.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The compiled file is malformed, or its maps could not be made (`EPERM`: no `CAP_BPF`).
    #[error("eBPF object {object}: {}", chain(source))]
    Object {
        /// Name of the object.
        object: &'static str,
        /// What went wrong.
        source: Box<EbpfError>,
    },
    /// Its programs could not be given the maps of others.
    #[error("eBPF object {object}: maps of span links: {source}")]
    Links {
        /// Name of the object.
        object: &'static str,
        /// What the system call returned.
        source: io::Error,
    },
    /// The sections of the compiled file could not be read.
    #[error("eBPF object {object}: {source}")]
    Sections {
        /// Name of the object.
        object: &'static str,
        /// What went wrong.
        source: object::Error,
    },
    /// A hook that the probe cannot do without could not be attached.
    #[error("eBPF object {object}: no hook {missing}")]
    Hook {
        /// Name of the object.
        object: &'static str,
        /// The hook, and why each form failed, verifier logs included.
        missing: Missing,
    },
    /// A program that is attached nowhere was refused.
    #[error("eBPF object {object}: program {program}: {}", attempt.reason)]
    Program {
        /// Name of the object.
        object: &'static str,
        /// The C function.
        program: &'static str,
        /// Why, the verifier's log included.
        attempt: Attempt,
    },
    /// A map of the object is not what the caller takes it for.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// An error with its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}

impl Object {
    /// Creates the maps, loads one program for each hook and attaches it.
    ///
    /// Fails when a hook that is not optional accepts none of its forms; [`Loaded::missing`] has the others.
    pub fn load(&self, options: &LoadOptions<'_>) -> Result<Loaded, LoadError> {
        let hooks = hooks(self.elf).map_err(|source| LoadError::Sections { object: self.name, source })?;
        // Without CAP_SYS_RESOURCE this fails, and since 5.11 nothing needs it.
        let _ = sys::raise_memlock();
        let mut loaded = self.create(options)?;
        for hook in hooks.into_iter().filter_map(|hook| hook.without(options.without)) {
            match loaded.attach(&hook, options.kernel) {
                Ok(attachment) => loaded.attachments.push(attachment),
                Err(missing) if self.optional.contains(&hook.name.as_str()) => loaded.missing.push(missing),
                Err(missing) => return Err(LoadError::Hook { object: self.name, missing }),
            }
        }
        if links::has_links(self.elf) {
            links::let_go(&mut loaded.ebpf, &options.links, options.instrumentation);
        }
        Ok(loaded)
    }

    fn create(&self, options: &LoadOptions<'_>) -> Result<Loaded, LoadError> {
        let has_links = links::has_links(self.elf);
        let storage = options.links.storage();
        let mut loader = EbpfLoader::new();
        loader.btf(Some(options.kernel.parsed()?));
        if has_links {
            loader.override_global(links::STORAGE, storage.as_bytes(), true);
        }
        for constant in options.constants {
            loader.override_global(constant.name, constant.value, true);
        }
        for (map, entries) in options.entries {
            loader.map_max_entries(map, *entries);
        }
        let ebpf = loader
            .load(self.elf)
            .map_err(|source| LoadError::Object { object: self.name, source: Box::new(source) })?;
        if has_links {
            links::connect(&ebpf, &options.links, options.instrumentation)
                .map_err(|source| LoadError::Links { object: self.name, source })?;
        }
        let cpus = options.kernel.possible_cpus();
        Ok(Loaded {
            name: self.name,
            ebpf,
            cpus,
            attachments: Vec::new(),
            missing: Vec::new(),
            ended: Vec::new(),
        })
    }
}

/// An attached object. Dropping it detaches its programs and frees its maps.
#[derive(Debug)]
pub struct Loaded {
    name: &'static str,
    ebpf: Ebpf,
    cpus: usize,
    attachments: Vec<Attachment>,
    missing: Vec<Missing>,
    /// Statistics of programs that have been detached.
    ended: Vec<ProgramStats>,
}

impl Loaded {
    /// Name of the object.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The hooks being watched, with the form that the kernel accepted.
    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// The optional hooks that this kernel does not have, with the reasons.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// A hash or array map. `K` and `V` must have the sizes of the map's key and value.
    pub fn table<K, V>(&self, name: &str) -> Result<Table<K, V>, TableError>
    where
        K: FromBytes + IntoBytes + Immutable,
        V: FromBytes + IntoBytes + Immutable,
    {
        Ok(Table::new(name, self.map_fd(name, (size_of::<K>(), size_of::<V>()))?))
    }

    /// A per-CPU hash or array map.
    pub fn per_cpu_table<K, V>(&self, name: &str) -> Result<PerCpuTable<K, V>, TableError>
    where
        K: FromBytes + IntoBytes + Immutable,
        V: FromBytes + IntoBytes + Immutable + Merge,
    {
        let fd = self.map_fd(name, (size_of::<K>(), size_of::<V>()))?;
        Ok(PerCpuTable::new(name, fd, self.cpus))
    }

    /// Takes the ring buffer `name`; a second call finds none.
    pub fn ring(&mut self, name: &str) -> Result<Ring, TableError> {
        let map = self.ebpf.take_map(name).ok_or_else(|| TableError::Absent(name.to_owned()))?;
        Ring::new(name, map)
    }

    /// Lets the iterator program of `hook` (`task_file`, say) visit every object once, and returns when it has.
    ///
    /// # Errors
    /// The object has no such program, or the kernel ends the pass early; the program has then seen a part.
    pub fn iterate(&mut self, hook: &str) -> io::Result<()> {
        let is_wanted = |a: &&Attachment| a.form == Form::Iter && a.hook == hook;
        let name = &self.attachments.iter().find(is_wanted).ok_or(io::ErrorKind::NotFound)?.program;
        let program = self.ebpf.program_mut(name).ok_or(io::ErrorKind::NotFound)?;
        let program: &mut Iter = program.try_into().map_err(io::Error::other)?;
        let link = program.attach().and_then(|id| program.take_link(id)).map_err(io::Error::other)?;
        let mut pass = link.into_file().map_err(io::Error::other)?;
        // What programs write is of no interest. After a million silent objects the kernel returns EAGAIN, and the next
        // read goes on (`MAX_ITER_OBJECTS`, kernel/bpf/bpf_iter.c).
        let mut ignored = [0; 64];
        loop {
            match pass.read(&mut ignored) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Detaches the programs. The maps stay, with what was counted; programs that run on other CPUs at this moment end
    /// within a few microseconds.
    pub fn detach(&mut self) {
        self.ended = self.programs().unwrap_or_default();
        for attachment in std::mem::take(&mut self.attachments) {
            if let Some(program) = self.ebpf.program_mut(&attachment.program) {
                // It can only fail for a program that is not loaded.
                let _ = unload(program);
            }
        }
    }

    /// Run count and time of each program, as of its end when it has been detached (zero unless [`crate::RunTimeStats`]
    /// is on).
    pub fn programs(&self) -> io::Result<Vec<ProgramStats>> {
        if self.attachments.is_empty() {
            return Ok(self.ended.clone());
        }
        let stats = |a: &Attachment| {
            let program = self.ebpf.program(&a.program).ok_or(io::ErrorKind::NotFound)?;
            let fd = program.fd().map_err(io::Error::other)?;
            stats::program(&a.program, fd.as_fd())
        };
        self.attachments.iter().map(stats).collect()
    }

    /// Limit and kernel memory of each map that has not been taken.
    pub fn maps(&self) -> io::Result<Vec<MapUsage>> {
        let usage = |(name, map): (&str, &Map)| Some(stats::map(name, data(map)?.fd().as_fd()));
        self.ebpf.maps().filter_map(usage).collect()
    }

    /// A descriptor of a map for other objects.
    pub(crate) fn share(&self, name: &str) -> Result<OwnedFd, TableError> {
        let map = self.ebpf.map(name).and_then(data).ok_or_else(|| TableError::Absent(name.to_owned()))?;
        let failed = |source| TableError::Kernel { name: name.to_owned(), source };
        map.fd().as_fd().try_clone_to_owned().map_err(failed)
    }

    /// A descriptor of our own for the map `name`, if its entries have the `expected` sizes.
    fn map_fd(&self, name: &str, expected: (usize, usize)) -> Result<OwnedFd, TableError> {
        let absent = || TableError::Absent(name.to_owned());
        let fd = data(self.ebpf.map(name).ok_or_else(absent)?).ok_or_else(absent)?.fd().as_fd();
        let failed = |source| TableError::Kernel { name: name.to_owned(), source };
        let found = stats::entry_size(fd).map_err(failed)?;
        if found != expected {
            return Err(TableError::Layout { name: name.to_owned(), found, expected });
        }
        fd.try_clone_to_owned().map_err(failed)
    }

    /// Loads and attaches the first of the hook's programs that the kernel accepts.
    fn attach(&mut self, hook: &Hook, kernel: &Kernel) -> Result<Attachment, Missing> {
        let mut attempts = Vec::new();
        for (form, name) in &hook.programs {
            match self.attach_form(*form, name, &hook.name, kernel) {
                Ok(()) => {
                    return Ok(Attachment { hook: hook.name.clone(), form: *form, program: name.clone() });
                }
                Err(error) => attempts.push(attempt(*form, &error)),
            }
        }
        Err(Missing { hook: hook.name.clone(), attempts })
    }

    fn attach_form(&mut self, form: Form, name: &str, hook: &str, kernel: &Kernel) -> Result<(), FormError> {
        if form.needs_type() && !kernel.attaches_by_type() {
            return Err(FormError::ForeignBtf);
        }
        let program = self.ebpf.program_mut(name).ok_or(FormError::Absent)?;
        attach_program(program, form, hook, kernel)
    }
}

/// The map behind aya's type for it; `None` for types that our objects do not use.
fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(m)
        | Map::HashMap(m)
        | Map::LruHashMap(m)
        | Map::PerCpuArray(m)
        | Map::PerCpuHashMap(m)
        | Map::PerCpuLruHashMap(m)
        | Map::RingBuf(m)
        | Map::SkStorage(m)
        | Map::StackTraceMap(m) => Some(m),
        _ => None,
    }
}

#[cfg(test)]
#[expect(clippy::print_stdout, reason = "a test")]
mod tests {
    use super::*;

    /// The object under a licence that excludes the helpers it calls, which the verifier refuses.
    fn refused() -> Object {
        let mut elf = Object::PACKETLOSS.elf.to_vec();
        let at = elf.windows(12).position(|w| w == b"Dual BSD/GPL").unwrap();
        elf[at..at + 12].copy_from_slice(b"Proprietary!");
        Object { name: "refused", elf: elf.leak(), optional: &[] }
    }

    #[test]
    fn an_object_that_the_verifier_refuses_names_hook_and_forms_and_carries_the_log() {
        let Ok(kernel) = Kernel::read(None) else {
            assert!(std::env::var_os("CI").is_none());
            return println!("skipped: needs BTF");
        };
        match refused().load(&LoadOptions::new(&kernel)) {
            Err(LoadError::Hook { missing, .. }) => {
                let forms: Vec<Form> = missing.attempts.iter().map(|a| a.form).collect();
                assert_eq!((missing.hook.as_str(), forms), ("kfree_skb", vec![Form::TpBtf, Form::RawTp]));
                let first = &missing.attempts[0];
                assert_eq!(first.errno, Some(libc::EINVAL));
                assert!(first.verifier_log.contains("GPL"), "{}", first.verifier_log);
            }
            Err(LoadError::Object { .. }) if std::env::var_os("CI").is_none() => {
                println!("skipped: needs root");
            }
            other => panic!("{other:?}"),
        }
    }
}
