//! Typed access to BPF maps: single entries, and whole tables read in batches (`BPF_MAP_LOOKUP_BATCH`, 5.6+)
//! or, where a kernel or map type has none, key by key.

use std::fs;
use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::sys;

/// Entries asked for in one batch: large enough to make the system call cheap, and with 64 CPUs' values of
/// 8 bytes a buffer of 128 KiB.
const BATCH: usize = 256;

/// A failed access to a map.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The object has no such map, or it was taken already.
    #[error("no map {0}")]
    Absent(String),
    /// Key or value have other sizes in the kernel than here.
    #[error("map {name}: key and value of {found:?} bytes, not {expected:?}")]
    Layout {
        /// Name of the map.
        name: String,
        /// Key and value bytes of the kernel's map.
        found: (usize, usize),
        /// Key and value bytes asked for.
        expected: (usize, usize),
    },
    /// The kernel refused.
    #[error("map {name}: {source}")]
    Kernel {
        /// Name of the map.
        name: String,
        /// What the system call returned.
        source: io::Error,
    },
}

/// Values that are kept per CPU and make sense only together.
pub trait Merge {
    /// Adds another CPU's value to this one.
    fn merge(&mut self, other: &Self);
}

impl Merge for u64 {
    fn merge(&mut self, other: &Self) {
        *self += other;
    }
}

/// A table of either kind, as it is read.
pub trait Entries {
    /// What values stand under.
    type Key;
    /// One value; of a table with one for each CPU, their sum.
    type Value;

    /// Calls `visit` with every entry; returns how many there were.
    ///
    /// # Errors
    /// The map cannot be read.
    fn for_each(&self, visit: impl FnMut(&Self::Key, &Self::Value)) -> Result<usize, TableError>;

    /// Removes the entries for which `keep` is false; returns how many.
    ///
    /// # Errors
    /// The map cannot be read or written.
    fn retain(&self, keep: impl FnMut(&Self::Key, &Self::Value) -> bool) -> Result<usize, TableError>;
}

/// What both kinds of table share: a map's descriptor and the sizes of its entries.
#[derive(Debug)]
pub(crate) struct RawTable {
    name: String,
    fd: OwnedFd,
    key: usize,
    /// Bytes of one entry's value as the system call copies it: all CPUs' values for a per-CPU map.
    value: usize,
}

impl RawTable {
    pub(crate) fn new(name: &str, fd: OwnedFd, key: usize, value: usize) -> Self {
        Self { name: name.to_owned(), fd, key, value }
    }

    fn error(&self, source: io::Error) -> TableError {
        TableError::Kernel { name: self.name.clone(), source }
    }

    fn lookup(&self, key: &[u8], value: &mut [u8]) -> Result<bool, TableError> {
        sys::lookup(self.fd.as_fd(), key, value).map_err(|e| self.error(e))
    }

    /// Calls `visit` with every key and value; returns how many there were.
    fn scan(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<usize, TableError> {
        match self.scan_batches(visit) {
            Ok(count) => Ok(count),
            Err(error) if is_unsupported(&error) => self.scan_keys(visit),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Fails with "unsupported" only before the first call of `visit`.
    fn scan_batches(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> io::Result<usize> {
        let (mut capacity, mut count, mut position) = (BATCH, 0, None);
        let (mut keys, mut values) = (vec![0; capacity * self.key], vec![0; capacity * self.value]);
        loop {
            let buffers = (keys.as_mut_slice(), values.as_mut_slice());
            let batch = match sys::lookup_batch(self.fd.as_fd(), &mut position, buffers, capacity) {
                Ok(batch) => batch,
                // One hash bucket holds more than the buffer.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    capacity *= 2;
                    keys.resize(capacity * self.key, 0);
                    values.resize(capacity * self.value, 0);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let entries = keys.chunks_exact(self.key).zip(values.chunks_exact(self.value));
            entries.take(batch.count).for_each(|(key, value)| visit(key, value));
            count += batch.count;
            if batch.last {
                return Ok(count);
            }
        }
    }

    /// One system call for each key and value. An entry deleted meanwhile by someone else restarts the
    /// kernel's walk, so an entry may then be visited twice.
    fn scan_keys(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<usize, TableError> {
        let (mut key, mut next) = (Vec::new(), vec![0; self.key]);
        let mut value = vec![0; self.value];
        let mut count = 0;
        while sys::next_key(self.fd.as_fd(), &key, &mut next).map_err(|e| self.error(e))? {
            if self.lookup(&next, &mut value)? {
                visit(&next, &value);
                count += 1;
            }
            key.clone_from(&next);
        }
        Ok(count)
    }
}

/// Kernels say EINVAL for an unknown command and ENOTSUPP (524) or EOPNOTSUPP for a map type without it.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | 524 | libc::EOPNOTSUPP))
}

/// A hash or array with one value for each key.
#[derive(Debug)]
pub struct Table<K, V> {
    raw: RawTable,
    types: PhantomData<(K, V)>,
}

impl<K, V> Table<K, V>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable,
{
    pub(crate) fn new(name: &str, fd: OwnedFd) -> Self {
        Self { raw: RawTable::new(name, fd, size_of::<K>(), size_of::<V>()), types: PhantomData }
    }

    /// The value under `key`.
    pub fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        let mut value = V::new_zeroed();
        let found = self.raw.lookup(key.as_bytes(), value.as_mut_bytes())?;
        Ok(found.then_some(value))
    }

    /// Writes `value` under `key`, replacing what was there.
    pub fn insert(&self, key: &K, value: &V) -> Result<(), TableError> {
        sys::update(self.raw.fd.as_fd(), key.as_bytes(), value.as_bytes()).map_err(|e| self.raw.error(e))
    }

    /// Writes `value` over what is under `key`; false when nothing is.
    pub fn replace(&self, key: &K, value: &V) -> Result<bool, TableError> {
        sys::replace_value(self.raw.fd.as_fd(), key.as_bytes(), value.as_bytes())
            .map_err(|e| self.raw.error(e))
    }

    /// Removes `key`; false when it was not there.
    pub fn remove(&self, key: &K) -> Result<bool, TableError> {
        sys::delete(self.raw.fd.as_fd(), key.as_bytes()).map_err(|e| self.raw.error(e))
    }

    /// Calls `visit` with every entry; returns how many there were.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &V)) -> Result<usize, TableError>
    where
        K: KnownLayout,
        V: KnownLayout,
    {
        self.raw.scan(&mut |key, value| {
            if let (Ok(key), Ok(value)) = (K::read_from_bytes(key), V::read_from_bytes(value)) {
                visit(&key, &value);
            }
        })
    }

    /// Fills `values` with the first entries of an array, in one batch (5.6+); the array must have as many.
    pub fn first(&self, values: &mut [V]) -> Result<(), TableError> {
        if values.is_empty() {
            return Ok(());
        }
        let mut keys = vec![0; values.len() * self.raw.key];
        let count = values.len();
        let buffers = (keys.as_mut_slice(), values.as_mut_bytes());
        let read = sys::lookup_batch(self.raw.fd.as_fd(), &mut None, buffers, count);
        match read.map_err(|error| self.raw.error(error))?.count {
            read if read == count => Ok(()),
            read => Err(self.raw.error(io::Error::other(format!("{read} entries instead of {count}")))),
        }
    }

    /// Removes the entries for which `keep` is false; returns how many.
    pub fn retain(&self, mut keep: impl FnMut(&K, &V) -> bool) -> Result<usize, TableError>
    where
        K: KnownLayout + Clone,
        V: KnownLayout,
    {
        let mut gone = Vec::new();
        self.for_each(|key, value| {
            if !keep(key, value) {
                gone.push(key.clone());
            }
        })?;
        gone.iter().try_for_each(|key| self.remove(key).map(drop))?;
        Ok(gone.len())
    }
}

impl<K, V> Entries for Table<K, V>
where
    K: FromBytes + IntoBytes + Immutable + KnownLayout + Clone,
    V: FromBytes + IntoBytes + Immutable + KnownLayout,
{
    type Key = K;
    type Value = V;

    fn for_each(&self, visit: impl FnMut(&K, &V)) -> Result<usize, TableError> {
        self.for_each(visit)
    }

    fn retain(&self, keep: impl FnMut(&K, &V) -> bool) -> Result<usize, TableError> {
        self.retain(keep)
    }
}

impl<K, V> AsFd for Table<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.fd.as_fd()
    }
}

/// A hash or array with one value for each key and CPU; reads give the sum over all CPUs.
#[derive(Debug)]
pub struct PerCpuTable<K, V> {
    raw: RawTable,
    types: PhantomData<(K, V)>,
}

impl<K, V> PerCpuTable<K, V>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable + Merge,
{
    pub(crate) fn new(name: &str, fd: OwnedFd, cpus: usize) -> Self {
        let raw = RawTable::new(name, fd, size_of::<K>(), size_of::<V>().next_multiple_of(8) * cpus);
        Self { raw, types: PhantomData }
    }

    /// The same map once more.
    pub(crate) fn share(&self) -> io::Result<Self> {
        let raw = &self.raw;
        let fd = raw.fd.try_clone()?;
        Ok(Self { raw: RawTable::new(&raw.name, fd, raw.key, raw.value), types: PhantomData })
    }

    /// The value under `key`, summed over all CPUs.
    pub fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        let mut values = vec![0; self.raw.value];
        let found = self.raw.lookup(key.as_bytes(), &mut values)?;
        Ok(found.then(|| sum(&values)))
    }

    /// Removes `key`; false when it was not there.
    pub fn remove(&self, key: &K) -> Result<bool, TableError> {
        sys::delete(self.raw.fd.as_fd(), key.as_bytes()).map_err(|e| self.raw.error(e))
    }

    /// Removes the entries for which `keep` is false; returns how many.
    ///
    /// # Errors
    /// The map cannot be read or written.
    pub fn retain(&self, mut keep: impl FnMut(&K, &V) -> bool) -> Result<usize, TableError>
    where
        K: Clone,
    {
        let mut gone = Vec::new();
        self.for_each(|key, value| {
            if !keep(key, value) {
                gone.push(key.clone());
            }
        })?;
        gone.iter().try_for_each(|key| self.remove(key).map(drop))?;
        Ok(gone.len())
    }

    /// Calls `visit` with every key and its value summed over all CPUs; returns how many there were.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &V)) -> Result<usize, TableError> {
        self.raw.scan(&mut Self::visitor(&mut visit))
    }

    /// [`Self::for_each`] without batches, as old kernels need it.
    pub fn for_each_by_key(&self, mut visit: impl FnMut(&K, &V)) -> Result<usize, TableError> {
        self.raw.scan_keys(&mut Self::visitor(&mut visit))
    }

    fn visitor(visit: &mut dyn FnMut(&K, &V)) -> impl FnMut(&[u8], &[u8]) {
        |key, values| {
            if let Ok(key) = K::read_from_bytes(key) {
                visit(&key, &sum(values));
            }
        }
    }
}

impl<K, V> Entries for PerCpuTable<K, V>
where
    K: FromBytes + IntoBytes + Immutable + Clone,
    V: FromBytes + IntoBytes + Immutable + Merge,
{
    type Key = K;
    type Value = V;

    fn for_each(&self, visit: impl FnMut(&K, &V)) -> Result<usize, TableError> {
        self.for_each(visit)
    }

    fn retain(&self, keep: impl FnMut(&K, &V) -> bool) -> Result<usize, TableError> {
        self.retain(keep)
    }
}

impl<K, V> AsFd for PerCpuTable<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.fd.as_fd()
    }
}

/// The kernel pads each CPU's value to eight bytes.
fn sum<V: FromBytes + Merge>(values: &[u8]) -> V {
    let mut total = V::new_zeroed();
    for value in values.chunks_exact(size_of::<V>().next_multiple_of(8)) {
        if let Ok((value, _)) = V::read_from_prefix(value) {
            total.merge(&value);
        }
    }
    total
}

/// How many CPUs this machine can ever have, which is how many values a per-CPU map keeps.
pub(crate) fn possible_cpus() -> io::Result<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit(['-', ',']).next().and_then(|n| n.parse::<usize>().ok());
    last.map(|n| n + 1).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, text))
}
