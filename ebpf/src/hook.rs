//! Hooks as the C files declare them: each `SEC("form/hook")` is one program, and programs for the same hook
//! are alternatives, tried in the order of [`Form`].

use std::fmt;

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};

/// How a program is attached to a hook, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// A tracepoint with typed arguments (5.5+, needs the kernel's own BTF).
    TpBtf,
    /// A tracepoint with untyped arguments (4.17+).
    RawTp,
    /// Entry of a kernel function, by trampoline (5.5+, needs the kernel's own BTF).
    Fentry,
    /// Exit of a kernel function, by trampoline.
    Fexit,
    /// Entry of a kernel function, by breakpoint or ftrace.
    Kprobe,
    /// Exit of a kernel function, by a return address of the kernel's own.
    Kretprobe,
    /// A walk over the kernel's objects, made on demand (5.8+, needs the kernel's own BTF).
    Iter,
    /// Packets of all sockets, at the root of the cgroup hierarchy (4.10+, as a link 5.7+).
    CgroupSkb,
}

impl Form {
    const ALL: [Self; 8] = [
        Self::TpBtf,
        Self::RawTp,
        Self::Fentry,
        Self::Fexit,
        Self::Kprobe,
        Self::Kretprobe,
        Self::Iter,
        Self::CgroupSkb,
    ];

    /// The prefix of the section name.
    pub fn name(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::RawTp => "raw_tp",
            Self::Fentry => "fentry",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::Kretprobe => "kretprobe",
            Self::Iter => "iter",
            Self::CgroupSkb => "cgroup_skb",
        }
    }

    /// Whether it watches the end of a function: another hook than its beginning.
    fn is_exit(self) -> bool {
        matches!(self, Self::Fexit | Self::Kretprobe)
    }

    /// True when the kernel finds the hook by a type id of its own BTF.
    pub(crate) fn needs_type(self) -> bool {
        matches!(self, Self::TpBtf | Self::Fentry | Self::Fexit | Self::Iter)
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A place in the kernel and the programs that can watch it, best form first. The beginning of a function and its end are two.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) name: String,
    pub(crate) programs: Vec<(Form, String)>,
}

impl Hook {
    /// What is left of it without `names`, each a hook or one form of it as its section has it; `None`: nothing.
    pub(crate) fn without(mut self, names: &[&str]) -> Option<Self> {
        let named = |section: &str| names.contains(&section);
        self.programs.retain(|(form, _)| !named(&format!("{form}/{}", self.name)));
        (!named(&self.name) && !self.programs.is_empty()).then_some(self)
    }
}

/// Reads the hooks of a compiled object, in the order of first appearance.
pub(crate) fn hooks(elf: &[u8]) -> Result<Vec<Hook>, object::Error> {
    let file = object::File::parse(elf)?;
    let mut hooks: Vec<Hook> = Vec::new();
    for symbol in file.symbols().filter(|s| s.kind() == SymbolKind::Text && s.is_global()) {
        let Some(index) = symbol.section_index() else { continue };
        let section = file.section_by_index(index)?;
        if let Some((form, hook)) = attach_point(section.name()?) {
            add(&mut hooks, hook, form, symbol.name()?);
        }
    }
    hooks.iter_mut().for_each(|h| h.programs.sort());
    Ok(hooks)
}

fn attach_point(section: &str) -> Option<(Form, &str)> {
    let (prefix, hook) = section.split_once('/')?;
    Form::ALL.into_iter().find(|form| form.name() == prefix).map(|form| (form, hook))
}

fn add(hooks: &mut Vec<Hook>, hook: &str, form: Form, program: &str) {
    let program = (form, program.to_owned());
    let is_same =
        |h: &&mut Hook| h.name == hook && h.programs.iter().all(|(f, _)| f.is_exit() == form.is_exit());
    match hooks.iter_mut().find(is_same) {
        Some(known) => known.programs.push(program),
        None => hooks.push(Hook { name: hook.to_owned(), programs: vec![program] }),
    }
}
