//! What the load balancer IPVS counts in one namespace: `/proc/net/ip_vs_stats` (`net/netfilter/ipvs/ip_vs_ctl.c`,
//! `ip_vs_stats_show`).
//!
//! Two lines of headings, then the totals in hexadecimal; what follows are rates.

/// Totals since the module was loaded, or since they were set to zero (`ipvsadm --zero`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections that were given to a server.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets from servers.
    pub packets_out: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes from servers.
    pub bytes_out: u64,
}

/// Parses `ip_vs_stats`; `None` when it is something else.
pub fn parse(text: &str) -> Option<Totals> {
    let mut columns =
        text.lines().nth(2)?.split_ascii_whitespace().map(|column| u64::from_str_radix(column, 16));
    let mut next = || columns.next()?.ok();
    Some(Totals {
        connections: next()?,
        packets_in: next()?,
        packets_out: next()?,
        bytes_in: next()?,
        bytes_out: next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_totals_are_read_and_the_rates_are_not() {
        let text = "   Total Incoming Outgoing         Incoming         Outgoing\n   \
                    Conns  Packets  Packets            Bytes            Bytes\n      \
                    1F       A0        B   1000000000000000                C\n\n \
                    Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n       \
                    1        2        3                4                5\n";
        let expected =
            Totals { connections: 31, packets_in: 160, packets_out: 11, bytes_in: 1 << 60, bytes_out: 12 };
        assert_eq!(parse(text), Some(expected));
    }

    #[test]
    fn a_torn_file_gives_nothing() {
        assert_eq!(parse(""), None);
        assert_eq!(parse("heading\nheading\n 1 2 3 4\n"), None);
        assert_eq!(parse("heading\nheading\n 1 2 3 4 x\n"), None);
    }
}
