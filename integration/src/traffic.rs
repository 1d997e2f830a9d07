//! Traffic that tests make: from inside a namespace, with known totals.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::Result;

use crate::netns::Netns;
use crate::network::Family;

/// The discard port, where nobody listens.
pub const CLOSED_PORT: u16 = 9;

/// Sends `count` datagrams of one byte as fast as one sender can. The kernel's refusals of earlier ones are passed over.
///
/// # Errors
/// The namespace cannot be entered, or a datagram cannot be sent.
pub fn flood(from: &Netns, to: SocketAddr, count: usize) -> Result<()> {
    from.inside(|| {
        let socket = UdpSocket::bind((unspecified(to.ip()), 0))?;
        for _ in 0..count {
            socket.send_to(b"x", to)?;
        }
        Ok(())
    })
}

/// Where to bind for sending to an address.
#[must_use]
pub fn unspecified(to: IpAddr) -> IpAddr {
    if to.is_ipv4() { Family::V4.any() } else { Family::V6.any() }
}
