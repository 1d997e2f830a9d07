//! Whose records are in a file.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use crate::account::Account;

/// The accounts of the probes whose records a destination was given: a file knows them by name only.
#[derive(Clone)]
pub(super) struct Owners {
    /// A number of this process alone. What another one put into a file is in none of these accounts.
    pub(super) run: i64,
    accounts: Vec<Arc<Account>>,
}

impl Default for Owners {
    fn default() -> Self {
        let run = RandomState::new().hash_one(std::process::id());
        Self { run: run.cast_signed(), accounts: Vec::new() }
    }
}

impl Owners {
    pub(super) fn add(&mut self, account: &Arc<Account>) {
        if self.of(self.run, account.definition.name).is_none() {
            self.accounts.push(Arc::clone(account));
        }
    }

    /// Whose records they are that a process put into a file.
    pub(super) fn of(&self, run: i64, probe: &str) -> Option<Arc<Account>> {
        let mut accounts = self.accounts.iter().filter(|_| run == self.run);
        accounts.find(|account| account.definition.name == probe).map(Arc::clone)
    }
}
