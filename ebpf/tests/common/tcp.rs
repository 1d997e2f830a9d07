//! What the kernel says of a connection.
#![expect(unsafe_code, reason = "a socket option that the standard library does not have")]

use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

/// `TCP_INFO`, tcp(7).
pub(crate) fn info(socket: &TcpStream) -> libc::tcp_info {
    // SAFETY: plain numbers, for which zero is valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&info) as libc::socklen_t;
    let at = (&raw mut info).cast();
    // SAFETY: the structure is as long as the call is told.
    let got = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, at, &raw mut length)
    };
    assert_eq!(got, 0);
    info
}
