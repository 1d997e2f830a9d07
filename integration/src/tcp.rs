//! TCP as only tests make it: segments by hand, sockets with rare options.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Result, ensure};
use rustix::net::{AddressFamily, Protocol, SendFlags, SocketType, bind, ipproto, listen, sendto, socket};

/// The synchronize flag.
pub const SYN: u8 = 0x02;
/// The acknowledgement flag.
pub const ACK: u8 = 0x10;

/// Sends one segment without data from an address of this namespace, as if a connection had sent it.
///
/// # Errors
/// No `CAP_NET_RAW`, or no route.
pub fn segment(from: SocketAddr, to: SocketAddr, flags: u8, sequence: u32) -> Result<()> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let raw: OwnedFd = socket(family, SocketType::RAW, Some(ipproto::TCP))?;
    bind(&raw, &SocketAddr::new(from.ip(), 0))?;
    let mut header = Vec::with_capacity(20);
    header.extend(from.port().to_be_bytes());
    header.extend(to.port().to_be_bytes());
    header.extend(sequence.to_be_bytes());
    header.extend(1_u32.to_be_bytes());
    // Five words long, flags, window, no checksum yet, no urgent data.
    header.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = checksum(from.ip(), to.ip(), &header);
    header[16..18].copy_from_slice(&sum.to_be_bytes());
    sendto(&raw, &header, SendFlags::empty(), &SocketAddr::new(to.ip(), 0))?;
    Ok(())
}

/// The checksum over pseudo header and segment (RFC 9293, 3.1).
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let length = u16::try_from(segment.len()).unwrap_or(u16::MAX).to_be_bytes();
    let whole = [&octets(from), &octets(to), &[0, 6][..], &length, segment].concat();
    let mut sum: u32 = whole.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Makes a socket that waits for the other side's FIN end at once when it is closed (`TCP_LINGER2` below zero).
///
/// # Errors
/// The kernel refuses it.
pub fn without_fin_wait(stream: &TcpStream) -> Result<()> {
    let never: libc::c_int = -1;
    #[expect(unsafe_code, reason = "no crate wraps this option")]
    // SAFETY: the descriptor is open, and the option's value is an int that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_LINGER2,
            (&raw const never).cast(),
            size_of_val(&never) as libc::socklen_t,
        )
    };
    ensure!(result == 0, std::io::Error::last_os_error());
    Ok(())
}

/// A listening socket of Multipath TCP.
///
/// # Errors
/// The kernel has none, or the address is taken.
pub fn mptcp_listener(address: SocketAddr) -> Result<TcpListener> {
    let socket = mptcp(address)?;
    bind(&socket, &address)?;
    listen(&socket, 16)?;
    Ok(socket.into())
}

/// A connection of Multipath TCP.
///
/// # Errors
/// The kernel has none, or nobody listens.
pub fn mptcp_connect(address: SocketAddr) -> Result<TcpStream> {
    let socket = mptcp(address)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket.into())
}

fn mptcp(address: SocketAddr) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol = std::num::NonZeroU32::new(libc::IPPROTO_MPTCP as u32).map(Protocol::from_raw);
    Ok(socket(family, SocketType::STREAM, protocol)?)
}
