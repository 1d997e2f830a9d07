//! The program that follows packets between device and socket, from user space: how much of the way it sees on this kernel,
//! and its results.

use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::abi::{passage, passage_key, passage_times};
use crate::{Constant, Kernel, LoadError, Loaded, Merge, Object, Observer, ObserverOptions, Table};

/// Where the search for the socket or route of a packet begins.
const ROUTING: [&str; 6] = [
    "tcp_v4_early_demux",
    "udp_v4_early_demux",
    "ip_route_input_noref",
    "tcp_v6_early_demux",
    "udp_v6_early_demux",
    "ip6_route_input",
];
/// Where it is decided that a packet is for this machine.
const LOCAL_IN: [&str; 2] = ["ip_local_deliver", "ip6_input"];
/// Where packets begin their way out.
const DEPARTURES: [&str; 5] =
    ["ip_queue_xmit", "ip_build_and_send_pkt", "ip_send_skb", "ip6_xmit", "ip6_send_skb"];
/// What follows the first of netfilter's two hooks on the way out.
const POSTROUTING: [&str; 2] = ["ip_output", "ip6_output"];

/// All functions that are hooked where the kernel lets functions be hooked.
pub const FUNCTIONS: &[&str] = &[
    ROUTING[0],
    ROUTING[1],
    ROUTING[2],
    ROUTING[3],
    ROUTING[4],
    ROUTING[5],
    LOCAL_IN[0],
    LOCAL_IN[1],
    DEPARTURES[0],
    DEPARTURES[1],
    DEPARTURES[2],
    DEPARTURES[3],
    DEPARTURES[4],
    POSTROUTING[0],
    POSTROUTING[1],
];

/// Whoever has IPv6 has this one.
const IPV6: &str = "ip6_xmit";

fn is_ipv6(function: &str) -> bool {
    function.starts_with("ip6_") || function.contains("_v6_")
}

/// What is seen of the way on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Received packets: what comes before and after `ip_local_deliver` apart, not only the whole.
    pub local_in: bool,
    /// Received packets: the search for socket and route apart from what comes before.
    pub routing: bool,
    /// Sent packets: the whole of all of them. Without it only of TCP, from its decision to send.
    pub departures: bool,
    /// Sent packets: netfilter's two hooks apart.
    pub postrouting: bool,
}

impl View {
    fn of(loaded: &Loaded, kernel: &Kernel) -> Self {
        let is_hooked =
            |function: &str| loaded.attachments().iter().any(|attached| attached.hook == function);
        // A kernel without IPv6 has no packets to miss.
        let has_ipv6 = kernel.btf().has_function(IPV6) || is_hooked(IPV6);
        let is_seen = |function: &&str| is_hooked(function) || (is_ipv6(function) && !has_ipv6);
        let hooked = |functions: &[&str]| functions.iter().all(is_seen);
        let (departures, local_in) = (hooked(&DEPARTURES), hooked(&LOCAL_IN));
        Self {
            local_in,
            routing: local_in && hooked(&ROUTING),
            departures,
            postrouting: departures && hooked(&POSTROUTING),
        }
    }
}

/// The program, attached. Dropping it detaches it.
#[derive(Debug)]
pub struct KernelLatency {
    /// Its hooks, account, settings and events.
    pub observer: Observer,
    /// How long packets took.
    pub times: Table<passage_key, passage_times>,
    /// Packets on their way, by address.
    pub packets: Table<u64, passage>,
    /// How much of the way is seen.
    pub view: View,
}

impl KernelLatency {
    /// Loads and attaches the program. Where packets cannot be seen to begin their way out, all of them are seen at its end
    /// alone.
    ///
    /// # Errors
    /// The kernel refuses it, or there is no cgroup v2 hierarchy.
    pub fn open(kernel: &Kernel, options: &ObserverOptions<'_>) -> Result<Self, LoadError> {
        let mut observer = Observer::open(&Object::KERNELLATENCY, kernel, options)?;
        let mut view = View::of(observer.loaded(), kernel);
        if !view.departures {
            drop(observer);
            observer = Self::open_without_departures(kernel, options)?;
            view = View::of(observer.loaded(), kernel);
        }
        let probe = Self {
            times: observer.loaded().table("times")?,
            packets: observer.loaded().table("packets")?,
            view,
            observer,
        };
        // Those that were freed before the hooks for that were attached.
        probe.packets.retain(|_, _| false)?;
        Ok(probe)
    }

    fn open_without_departures(
        kernel: &Kernel,
        options: &ObserverOptions<'_>,
    ) -> Result<Observer, LoadError> {
        let none = Constant { name: "departures_seen", value: 0_u32.as_bytes() };
        let constants = [options.constants, &[none]].concat();
        let without = [options.without, &DEPARTURES, &POSTROUTING].concat();
        let options = ObserverOptions { constants: &constants, without: &without, ..*options };
        Observer::open(&Object::KERNELLATENCY, kernel, &options)
    }
}

impl Default for passage_times {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl Merge for passage_times {
    fn merge(&mut self, other: &Self) {
        self.total.merge(&other.total);
        self.stages.iter_mut().zip(&other.stages).for_each(|(stage, more)| stage.merge(more));
    }
}
