//! The addresses of one network namespace: `/proc/net/fib_trie` for IPv4 (`net/ipv4/fib_trie.c`,
//! `fib_trie_seq_show`) and `/proc/net/if_inet6` for IPv6 (`net/ipv6/addrconf.c`, `if6_seq_show`).

use std::net::{Ipv4Addr, Ipv6Addr};

/// Local IPv4 addresses beyond loopback, each once.
pub fn ipv4(fib_trie: &str) -> Vec<Ipv4Addr> {
    let mut addresses = Vec::new();
    let mut leaf = None;
    for line in fib_trie.lines() {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            addresses.extend(leaf.filter(|address| !address.is_loopback()));
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// IPv6 addresses that mean one place beyond a link: neither loopback nor link-local.
pub fn ipv6(if_inet6: &str) -> Vec<Ipv6Addr> {
    let address = |line: &str| {
        let bits = u128::from_str_radix(line.split_ascii_whitespace().next()?, 16).ok()?;
        Some(Ipv6Addr::from(bits))
    };
    let routable = |address: &Ipv6Addr| !address.is_loopback() && !address.is_unicast_link_local();
    if_inet6.lines().filter_map(address).filter(routable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_ipv4_addresses_are_found_once_and_loopback_is_left_out() {
        let addresses = ipv4(include_str!("fixtures/fib_trie"));
        assert_eq!(addresses, [Ipv4Addr::new(10, 9, 8, 7)]);
    }

    #[test]
    fn ipv6_addresses_are_found_without_loopback_and_link_local() {
        let addresses = ipv6(include_str!("fixtures/if_inet6"));
        assert_eq!(addresses, ["fd00::9:8:7".parse::<Ipv6Addr>().expect("an address")]);
    }
}
