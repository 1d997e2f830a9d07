//! Addresses of a namespace's interfaces, by which packets that the host handles for it are recognised.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Address {
    /// Ethernet.
    Mac([u8; 6]),
    /// IPv4 or IPv6, link-local ones included.
    Ip(IpAddr),
}

/// Addresses beyond this many of one namespace are left out: a pod has three to six, a router in a namespace some dozens.
const MAX_ADDRESSES: usize = 64;

/// The list that getifaddrs(3) gives, freed in the end.
struct List(*mut libc::ifaddrs);

impl Drop for List {
    #[expect(unsafe_code, reason = "the standard library does not list interfaces")]
    fn drop(&mut self) {
        // SAFETY: the pointer is what getifaddrs gave, and nobody else frees it.
        unsafe { libc::freeifaddrs(self.0) }
    }
}

/// Addresses of all interfaces but loopback in the network namespace of the calling thread, sorted.
#[expect(unsafe_code, reason = "the standard library does not list interfaces")]
pub(super) fn of_this_thread() -> io::Result<Vec<Address>> {
    let mut first = std::ptr::null_mut();
    // SAFETY: `first` outlives the call, which writes a pointer to it.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let list = List(first);
    // SAFETY: the list ends with null, and its entries live until `list` is dropped.
    let entries =
        std::iter::successors(unsafe { list.0.as_ref() }, |entry| unsafe { entry.ifa_next.as_ref() });
    let others = entries.filter(|entry| entry.ifa_flags & libc::IFF_LOOPBACK as u32 == 0);
    let mut addresses: Vec<Address> = others.filter_map(address).take(MAX_ADDRESSES).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

#[expect(unsafe_code, reason = "a socket address is read by its family")]
fn address(entry: &libc::ifaddrs) -> Option<Address> {
    let pointer = entry.ifa_addr;
    // SAFETY: null, or a socket address that lives as long as the entry, of the size that its family has.
    unsafe {
        match i32::from(pointer.as_ref()?.sa_family) {
            libc::AF_PACKET => mac(pointer.cast::<libc::sockaddr_ll>().read_unaligned()),
            libc::AF_INET => {
                let address = pointer.cast::<libc::sockaddr_in>().read_unaligned().sin_addr.s_addr;
                Some(Address::Ip(Ipv4Addr::from(u32::from_be(address)).into()))
            }
            libc::AF_INET6 => {
                let address = pointer.cast::<libc::sockaddr_in6>().read_unaligned().sin6_addr.s6_addr;
                Some(Address::Ip(Ipv6Addr::from(address).into()))
            }
            _ => None,
        }
    }
}

/// The address of an Ethernet device; others, tunnels for example, have none.
fn mac(link: libc::sockaddr_ll) -> Option<Address> {
    let octets = *link.sll_addr.first_chunk::<6>()?;
    (link.sll_halen == 6 && octets != [0; 6]).then_some(Address::Mac(octets))
}
