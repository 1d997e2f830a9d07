//! A socket that drops what it receives.
#![expect(unsafe_code, reason = "socket options that the standard library does not have")]

use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

/// Lets a socket refuse all that comes, or nothing any more.
pub(crate) fn refuse_all(socket: &TcpStream, refuse: bool) {
    let mut drop_it = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut drop_it };
    let option = if refuse { libc::SO_ATTACH_FILTER } else { libc::SO_DETACH_FILTER };
    let (at, length) = ((&raw const program).cast(), size_of_val(&program) as libc::socklen_t);
    // SAFETY: the program and its one instruction live, and are as long as the kernel is told.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, at, length) };
    assert_eq!(set, 0);
}
