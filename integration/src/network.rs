//! A node in miniature: a router that plays the host, and two containers behind it, each on a veth pair.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use anyhow::{Result, anyhow};

use crate::netns::{Netns, connect};
use crate::poll;

/// The versions of the internet protocol; every test goes through both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The loopback address.
    #[must_use]
    pub fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// The unspecified address, to bind to.
    #[must_use]
    pub fn any(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// The value of `network.type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    /// Host `host` of the network behind the router's port `net`: 1 is the router, 2 the container.
    #[must_use]
    pub fn address(self, net: u8, host: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 99, net, host).into(),
            Self::V6 => Ipv6Addr::new(0xfd99, net.into(), 0, 0, 0, 0, 0, host.into()).into(),
        }
    }
}

/// Ports below those that the kernel gives away by itself (`ip_local_port_range`): no connection and no listener of another
/// test takes one between the look and the use.
const PORTS: Range<u16> = 20_000..32_000;

/// The next of these ports that this process looks at; others start elsewhere.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// Addresses on the IPv4 loopback that nothing listens on.
///
/// # Errors
/// All ports are taken.
pub fn free_addresses<const N: usize>() -> Result<[String; N]> {
    let start = std::process::id() * 16 % PORTS.len() as u32;
    let candidates = std::iter::repeat_with(|| {
        let at = (start as usize + usize::from(NEXT.fetch_add(1, Relaxed))) % PORTS.len();
        format!("127.0.0.1:{}", usize::from(PORTS.start) + at)
    });
    let free = candidates.take(PORTS.len()).filter(|address| TcpListener::bind(address).is_ok());
    let found: Vec<String> = free.take(N).collect();
    found.try_into().map_err(|found: Vec<_>| anyhow!("{} ports are free, not {N}", found.len()))
}

/// The two containers and the router between them.
#[derive(Debug)]
pub struct Network {
    /// Forwards; its devices are `port-a` and `port-b`.
    pub router: Netns,
    /// On network 1, device `eth0`.
    pub a: Netns,
    /// On network 2, device `eth0`.
    pub b: Netns,
}

impl Network {
    /// Makes it, with neighbours resolved.
    ///
    /// # Errors
    /// No privilege, or a tool fails.
    pub fn new() -> Result<Self> {
        let network = Self { router: Netns::new("router")?, a: Netns::new("a")?, b: Netns::new("b")? };
        network.router.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        network.attach(&network.a, "port-a", 1)?;
        network.attach(&network.b, "port-b", 2)?;
        Ok(network)
    }

    fn attach(&self, container: &Netns, port: &str, net: u8) -> Result<()> {
        let ends = [(&self.router, port), (container, "eth0")];
        // Only the test's own packets are to travel: nobody asks for routers, and no neighbour is asked for again.
        for (netns, _) in ends {
            netns.sh("sysctl -qw net.ipv6.conf.default.router_solicitations=0")?;
        }
        connect(ends[0], ends[1])?;
        for (netns, device) in ends {
            for neighbours in [format!("net.ipv4.neigh.{device}"), format!("net.ipv6.neigh.{device}")] {
                netns.sh(&format!(
                    "sysctl -qw {neighbours}.base_reachable_time_ms=3600000 {neighbours}.delay_first_probe_time=3600"
                ))?;
            }
        }
        for family in Family::BOTH {
            let (length, flag) = if family == Family::V4 { (24, "") } else { (64, "nodad") };
            let (router, own) = (family.address(net, 1), family.address(net, 2));
            self.router.ip(&format!("addr add {router}/{length} dev {port} {flag}"))?;
            container.ip(&format!("addr add {own}/{length} dev eth0 {flag}"))?;
            container.ip(&format!("route add default via {router}"))?;
        }
        for family in Family::BOTH {
            let router = family.address(net, 1);
            // Also right after the link came up, when the kernel has no route for IPv6 yet.
            let answered = || container.sh(&format!("ping -c 1 -W 1 {router}")).ok();
            poll::until(&format!("{router} answers"), answered)?;
        }
        Ok(())
    }
}
