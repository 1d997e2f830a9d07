//! The program of `io` from user space: passes over all tasks, and what they read and wrote by cgroup.

use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::abi::{io_cgroup, io_state, io_task, io_totals};
use crate::{Constant, Kernel, LoadError, LoadOptions, Loaded, Object, Table, TableError};

/// Key of the entry that has what could not be told apart: the cgroups were too many.
pub const REST: u64 = 0;

/// Remembered tasks that have ended, beyond which they are removed: 100 KiB of them are not worth a walk over all.
const ENDED: u64 = 1024;

impl io_totals {
    /// Adds another account to this one.
    pub fn add(&mut self, other: &Self) {
        self.read_chars += other.read_chars;
        self.write_chars += other.write_chars;
        self.read_calls += other.read_calls;
        self.write_calls += other.write_calls;
        self.read_bytes += other.read_bytes;
        self.write_bytes += other.write_bytes;
        self.cancelled_write_bytes += other.cancelled_write_bytes;
    }
}

/// What is decided when the program is loaded.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most tasks that are remembered from pass to pass; others are added at their end only.
    pub tasks: u32,
    /// Most cgroups told apart; the others' part is under [`REST`].
    pub cgroups: u32,
}

impl Default for Options {
    /// Room for a large node: kernels allow 32,768 processes unless they are told otherwise, and 250 pods make some 3,000
    /// cgroups. Memory is taken as entries come, some 150 bytes each.
    fn default() -> Self {
        Self { tasks: 65_536, cgroups: 16_384 }
    }
}

/// The program, attached. Dropping it detaches it.
#[derive(Debug)]
pub struct Io {
    loaded: Loaded,
    /// What the tasks of each cgroup read and wrote since counting began, by id in the v2 hierarchy.
    pub cgroups: Table<u64, io_cgroup>,
    tasks: Table<u64, io_task>,
    state: Table<u32, io_state>,
    locks: bool,
}

impl Io {
    /// Loads and attaches the program, and makes the first pass: what tasks did before it is not counted.
    ///
    /// # Errors
    /// The kernel lacks the hook or the iterator, or does not allow them.
    pub fn open(kernel: &Kernel, options: &Options) -> Result<Self, LoadError> {
        let (loaded, locks) = match Self::load(kernel, options, true) {
            Ok(loaded) => (loaded, true),
            Err(LoadError::Hook { .. }) => (Self::load(kernel, options, false)?, false),
            Err(error) => return Err(error),
        };
        let mut program = Self {
            cgroups: loaded.table("cgroups")?,
            tasks: loaded.table("tasks")?,
            state: loaded.table("state")?,
            locks,
            loaded,
        };
        program.cgroups.insert(&REST, &io_cgroup::new_zeroed())?;
        // The hook is there already: a task that begins after this moment is seen at its exit.
        program.pass()?;
        Ok(program)
    }

    fn load(kernel: &Kernel, options: &Options, locks: bool) -> Result<Loaded, LoadError> {
        let locks = u32::from(locks);
        Object::IO.load(&LoadOptions {
            constants: &[Constant { name: "locks", value: locks.as_bytes() }],
            entries: &[("tasks", options.tasks), ("cgroups", options.cgroups)],
            ..LoadOptions::new(kernel)
        })
    }

    /// Whether a task's exit and a pass that meets it there keep out of each other's way. Old kernels (5.10) do not
    /// let them: then what the task did since the pass before can be added twice.
    pub fn locks(&self) -> bool {
        self.locks
    }

    /// Adds what all tasks did since the last pass.
    ///
    /// # Errors
    /// The kernel ended the pass early, and the next one makes up for it; or it refuses an access to a map.
    pub fn pass(&mut self) -> Result<(), TableError> {
        if self.state()?.ended > ENDED {
            self.forget_ended()?;
        }
        let failed = |source| TableError::Kernel { name: "tasks".to_owned(), source };
        self.loaded.iterate("task").map_err(failed)
    }

    /// Removes what is remembered of tasks that have ended. Not while a pass is under way: an entry that is removed must
    /// not be in use again while a program still holds it.
    fn forget_ended(&self) -> Result<(), TableError> {
        let mut left = 0;
        self.tasks.retain(|_, task| {
            left += u64::from(task.ended == 0);
            task.ended == 0
        })?;
        // Exits between the two lines are missing in these figures until the next time.
        self.state.insert(&0, &io_state { tasks: left, ended: 0, ..self.state()? })
    }

    /// When counting began, and how many tasks are remembered.
    ///
    /// # Errors
    /// The kernel refuses to say.
    pub fn state(&self) -> Result<io_state, TableError> {
        Ok(self.state.get(&0)?.unwrap_or(io_state::new_zeroed()))
    }

    /// Attached hooks, programs, maps.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }
}
