//! Sockets and packets that only tests make: a reader that is too slow, datagrams with a wrong checksum.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;

use anyhow::Result;
use rustix::net::{
    AddressFamily, SendFlags, SocketType, ipproto, sendto, socket,
    sockopt::set_socket_recv_buffer_size,
};

/// A socket that takes the fewest bytes that the kernel allows, and reads none.
///
/// # Errors
/// The address cannot be bound.
pub fn slow_reader(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    set_socket_recv_buffer_size(&socket, 1)?;
    Ok(socket)
}

/// Sends datagrams to an address, from and to these ports, whose checksum is wrong.
///
/// # Errors
/// No `CAP_NET_RAW`.
pub fn damaged_datagrams(to: IpAddr, (source, destination): (u16, u16), count: u64) -> Result<()> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    // The kernel fills in the IP header and leaves this one, UDP's, alone.
    let raw: OwnedFd = socket(family, SocketType::RAW, Some(ipproto::UDP))?;
    let payload = b"damaged";
    let length = u16::try_from(8 + payload.len())?;
    // 0 would mean "no checksum"; the right one of the two families and of these ports differ from this.
    let header = [source, destination, length, 0x1234].map(u16::to_be_bytes).concat();
    let packet = [header.as_slice(), payload].concat();
    for _ in 0..count {
        sendto(&raw, &packet, SendFlags::empty(), &SocketAddr::new(to, 0))?;
    }
    Ok(())
}
