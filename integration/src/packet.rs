//! Sockets and packets that only tests make: a reader that is too slow, a listener that never accepts, datagrams with a
//! wrong checksum.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;

use anyhow::Result;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, connect, ipproto, listen, sendto, socket,
    socket_with,
    sockopt::{set_socket_recv_buffer_size, set_socket_reuseaddr},
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

/// A listening socket whose connections nobody accepts.
#[derive(Debug)]
pub struct Listener(#[expect(dead_code, reason = "it is there to be open")] OwnedFd);

impl Listener {
    /// Listens at an address; the kernel takes one connection more than `backlog`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn bind(address: SocketAddr, backlog: u16) -> Result<Self> {
        let socket = stream(address, SocketFlags::empty())?;
        set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &address)?;
        listen(&socket, backlog.into())?;
        Ok(Self(socket))
    }
}

/// Begins a connection and does not wait for it.
///
/// # Errors
/// There is no route.
pub fn begin(address: SocketAddr) -> Result<OwnedFd> {
    let socket = stream(address, SocketFlags::NONBLOCK)?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

fn stream(address: SocketAddr, flags: SocketFlags) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, SocketType::STREAM, flags, None)
}
