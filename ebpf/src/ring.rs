//! The ring buffer by which a program hands event records to user space.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::maps::{Map, MapData, RingBuf};
use zerocopy::FromBytes;

use crate::table::TableError;

/// The reading end of a ring. Its descriptor is readable while records wait; it can be polled
/// edge-triggered, if [`Ring::take`] is called until it returns `None`.
pub struct Ring {
    ring: RingBuf<MapData>,
}

impl Ring {
    pub(crate) fn new(name: &str, map: Map) -> Result<Self, TableError> {
        let failed = |e| TableError::Kernel { name: name.to_owned(), source: io::Error::other(e) };
        Ok(Self { ring: RingBuf::try_from(map).map_err(failed)? })
    }

    /// Takes the next record, `None` when none waits.
    ///
    /// # Errors
    /// The record is shorter than `T`: the C file submits another structure than the caller names.
    pub fn take<T: FromBytes>(&mut self) -> Option<Result<T, TooShort>> {
        let item = self.ring.next()?;
        Some(T::read_from_prefix(&item).map(|(record, _)| record).map_err(|_| TooShort(item.len())))
    }
}

/// A record of so many bytes, which is less than the structure has that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a ring record of {0} bytes is shorter than its structure")]
pub struct TooShort(pub usize);

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("fd", &self.as_raw_fd()).finish()
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
