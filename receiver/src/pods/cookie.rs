//! Cookies of network namespaces: numbers that, unlike inodes, the kernel never hands out twice.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketType, socket};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Looks up the cookies of the namespaces at these paths, if they still have these inodes. 0 where the kernel does not tell
/// (before 5.14), where the namespace is gone, or without `CAP_SYS_ADMIN`, which entering a namespace needs.
///
/// A thread of its own enters one after the other, and ends: no other thread ever leaves its namespace, and none is kept
/// alive.
pub(super) fn look_up(namespaces: Vec<(PathBuf, u32)>) -> Vec<u64> {
    let count = namespaces.len();
    if count == 0 {
        return Vec::new();
    }
    let visit = move || namespaces.iter().map(|(path, inode)| visit(path, *inode).unwrap_or(0)).collect();
    let thread = std::thread::Builder::new().name("netns-cookies".to_owned()).spawn(visit);
    thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(|| vec![0; count])
}

fn visit(path: &Path, inode: u32) -> io::Result<u64> {
    let namespace = File::open(path)?;
    if namespace.metadata()?.ino() != u64::from(inode) {
        return Err(io::ErrorKind::NotFound.into());
    }
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    netns_cookie(socket.as_fd())
}

/// `getsockopt(SO_NETNS_COOKIE)`: the cookie of the socket's network namespace, see `sk_getsockopt` in net/core/sock.c.
#[expect(unsafe_code, reason = "rustix has no wrapper for this option")]
fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
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
