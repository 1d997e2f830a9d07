//! Several datagrams sent as one packet.
#![expect(unsafe_code, reason = "an option of UDP that no crate has")]

use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

/// `UDP_SEGMENT`, udp(7): what is sent at once is cut into datagrams on its way.
pub(crate) fn send_in_segments_of(socket: &UdpSocket, size: libc::c_int) {
    let (value, length) = ((&raw const size).cast(), size_of_val(&size) as libc::socklen_t);
    // SAFETY: `value` points to a live integer of this length.
    let set =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, value, length) };
    assert_eq!(set, 0);
}
