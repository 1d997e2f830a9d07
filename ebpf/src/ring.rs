//! The ring buffer by which a program hands event records to user space.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::maps::{Map, MapData, RingBuf};
use zerocopy::FromBytes;

use crate::table::TableError;

/// The reading end of a ring. Its descriptor is readable while records wait; it can be polled
/// edge-triggered, if [`Ring::next`] is called until it returns `None`.
pub struct Ring {
    ring: RingBuf<MapData>,
}

impl Ring {
    pub(crate) fn new(name: &str, map: Map) -> Result<Self, TableError> {
        let failed = |e| TableError::Kernel { name: name.to_owned(), source: io::Error::other(e) };
        Ok(Self { ring: RingBuf::try_from(map).map_err(failed)? })
    }

    /// Takes the next record, `None` when none waits. A record shorter than `T` is skipped; it would mean
    /// that the C file submits another structure than the caller names.
    #[expect(clippy::should_implement_trait, reason = "the caller chooses the record's type")]
    pub fn next<T: FromBytes>(&mut self) -> Option<T> {
        loop {
            let item = self.ring.next()?;
            if let Ok((record, _)) = T::read_from_prefix(&item) {
                return Some(record);
            }
        }
    }
}

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
