//! A netkit pair (6.7 and newer), over netlink: Debian 12's `ip` does not know the kind.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use jitterscope_ebpf::Functions;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket};

use super::Namespace;

// include/uapi/linux/rtnetlink.h, netlink.h
const RTM_NEWLINK: u16 = 16;
const REQUEST_CREATE_EXCL_ACK: u16 = 0x1 | 0x400 | 0x200 | 0x4;
// include/uapi/linux/if_link.h
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_NETKIT_PEER_INFO: u16 = 1;
const IFLA_NETKIT_MODE: u16 = 5;
const NETKIT_L2: u32 = 0;
/// `struct ifinfomsg` that says nothing.
const ANY_LINK: [u8; 16] = [0; 16];

/// Whether the running kernel has the driver, by itself or, once it was asked for, as a module.
pub(crate) fn exists() -> bool {
    !Functions::read().unwrap().ranges(&["netkit_xmit"]).is_empty()
}

/// Makes a pair, one end in each namespace, with Ethernet headers.
pub(crate) fn connect(host: (&Namespace, &str), container: (&Namespace, &str)) -> io::Result<()> {
    let inside = File::open(container.0.path())?;
    let peer = [
        ANY_LINK.to_vec(),
        attribute(IFLA_IFNAME, &text(container.1)),
        attribute(IFLA_NET_NS_FD, &inside.as_raw_fd().to_ne_bytes()),
    ];
    let data = [
        attribute(IFLA_NETKIT_PEER_INFO, &peer.concat()),
        attribute(IFLA_NETKIT_MODE, &NETKIT_L2.to_ne_bytes()),
    ];
    let info = [attribute(IFLA_INFO_KIND, b"netkit"), attribute(IFLA_INFO_DATA, &data.concat())];
    let link =
        [ANY_LINK.to_vec(), attribute(IFLA_IFNAME, &text(host.1)), attribute(IFLA_LINKINFO, &info.concat())];
    host.0.inside(|| ask(&link.concat()))
}

/// Sends one request and reads the kernel's answer.
fn ask(body: &[u8]) -> io::Result<()> {
    let length = (16 + body.len()) as u32;
    let kind = [RTM_NEWLINK, REQUEST_CREATE_EXCL_ACK].map(u16::to_ne_bytes).concat();
    let request = [&length.to_ne_bytes()[..], &kind, &[0; 8], body].concat();
    // No protocol: NETLINK_ROUTE.
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    assert!(length >= 20, "{length} bytes are no answer");
    match i32::from_ne_bytes(answer[16..20].try_into().unwrap()) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

fn text(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

/// Length, type, value, padding to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
