//! What a fault must be counted as, and the traffic that runs into it.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use jitterscope_ebpf::abi::{DIRECTION_RECEIVE, DIRECTION_TRANSMIT, drop_key};

use super::{Namespace, Network, Probe};

pub(crate) const RECEIVE: u8 = DIRECTION_RECEIVE as u8;
pub(crate) const TRANSMIT: u8 = DIRECTION_TRANSMIT as u8;
pub(crate) const FAMILIES: [u8; 2] = [4, 6];

/// What a fault must be counted as.
pub(crate) struct Expected {
    pub(crate) family: u8,
    pub(crate) protocol: u8,
    pub(crate) direction: u8,
    /// Dropped by the router, on behalf of the container.
    pub(crate) host: bool,
    /// Any of these, where the kernel gives reasons; empty where it has none for this.
    pub(crate) reasons: &'static [&'static str],
}

impl Expected {
    fn matches(&self, probe: &Probe, charged: u32, key: &drop_key) -> bool {
        let reason = probe.probe.reasons().name(key.reason);
        let right_reason =
            !probe.probe.reasons().exist() || reason.is_some_and(|r| self.reasons.contains(&r));
        let place = (key.family, key.protocol, key.direction, key.host != 0);
        key.netns == charged
            && right_reason
            && place == (self.family, self.protocol, self.direction, self.host)
    }

    pub(crate) fn count(&self, probe: &Probe, charged: &Namespace) -> u64 {
        let inode = charged.inode();
        probe.count(|key| self.matches(probe, inode, key))
    }

    /// Runs `fault` and waits until it is counted `times`.
    pub(crate) fn rises_by(
        &self,
        network: &Network,
        probe: &Probe,
        charged: &Namespace,
        times: u64,
        fault: impl FnOnce(),
    ) {
        let before = self.count(probe, charged);
        fault();
        let reached = || self.count(probe, charged) - before >= times;
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while !reached() && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
        let counted = self.count(probe, charged) - before;
        let all = [&network.router, &network.a, &network.b];
        assert_eq!(counted, times, "family {}:\n{}", self.family, probe.describe(&all));
    }
}

/// A socket that is bound to any address.
pub(crate) fn udp(family: u8) -> UdpSocket {
    UdpSocket::bind(if family == 4 { "0.0.0.0:0" } else { "[::]:0" }).unwrap()
}

/// Sends datagrams from inside; netfilter's refusal on output is no failure here.
pub(crate) fn datagrams(from: &Namespace, to: IpAddr, port: u16, count: usize) {
    from.inside(|| {
        let socket = udp(if to.is_ipv4() { 4 } else { 6 });
        for _ in 0..count {
            let _ = socket.send_to(&[0; 1000], (to, port));
        }
    });
}
