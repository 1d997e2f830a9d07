//! What only shows inside a network namespace: its cookie, a number that, unlike its inode, the kernel never hands out twice,
//! and the addresses of its interfaces.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketType, socket};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::address::{self, Address};

/// A namespace to look into.
pub(super) struct Visit {
    /// A file that opens it.
    pub(super) path: PathBuf,
    /// What it must have for inode: another namespace can be behind the path by now.
    pub(super) inode: u32,
}

/// What was seen inside.
#[derive(Clone, Default)]
pub(super) struct Inside {
    /// 0: the kernel does not tell (before 5.14), or the namespace could not be entered.
    pub(super) cookie: u64,
    /// Of all interfaces but loopback.
    pub(super) addresses: Vec<Address>,
}

/// Looks into each namespace. Nothing is seen where one is gone, or without `CAP_SYS_ADMIN`, which entering needs.
///
/// A thread of its own enters one after the other, and ends: no other thread ever leaves its namespace, and none is kept
/// alive.
pub(super) fn look(visits: Vec<Visit>) -> Vec<Inside> {
    let count = visits.len();
    if count == 0 {
        return Vec::new();
    }
    let all =
        move || visits.iter().map(|visit| enter(&visit.path, visit.inode).unwrap_or_default()).collect();
    let thread = std::thread::Builder::new().name("netns-visitor".to_owned()).spawn(all);
    thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(|| vec![Inside::default(); count])
}

fn enter(path: &Path, inode: u32) -> io::Result<Inside> {
    let namespace = File::open(path)?;
    if namespace.metadata()?.ino() != u64::from(inode) {
        return Err(io::ErrorKind::NotFound.into());
    }
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    let cookie = netns_cookie(socket.as_fd()).unwrap_or_default();
    Ok(Inside { cookie, addresses: address::of_this_thread().unwrap_or_default() })
}

/// `getsockopt(SO_NETNS_COOKIE)`: the cookie of the socket's network namespace, see `sk_getsockopt` in net/core/sock.c.
#[expect(unsafe_code, reason = "rustix has no wrapper for this option")]
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which has that size; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
