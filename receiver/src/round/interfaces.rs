//! The interfaces of one network namespace: `/proc/net/dev` (`net/core/net-procfs.c`, `dev_seq_printf_stats`).

/// Counters of one direction of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Errors.
    pub errors: u64,
    /// Packets dropped; on receive with those that the device missed.
    pub drops: u64,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name in its namespace.
    pub name: String,
    /// What came in.
    pub receive: Direction,
    /// What went out.
    pub transmit: Direction,
}

/// Parses `/proc/net/dev`. A line that is no interface's is passed over.
pub fn parse(text: &str) -> Vec<Interface> {
    text.lines().skip(2).filter_map(interface).collect()
}

fn interface(line: &str) -> Option<Interface> {
    // The kernel pads the name; it may hold a colon itself ("eth0:1"), the numbers cannot.
    let (name, numbers) = line.rsplit_once(':')?;
    let mut fields = [0; 16];
    let mut words = numbers.split_ascii_whitespace();
    for field in &mut fields {
        *field = words.next()?.parse().ok()?;
    }
    let direction = |at: usize| Direction {
        bytes: fields[at],
        packets: fields[at + 1],
        errors: fields[at + 2],
        drops: fields[at + 3],
    };
    Some(Interface { name: name.trim().to_owned(), receive: direction(0), transmit: direction(8) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_is_read_with_both_directions() {
        let interfaces = parse(include_str!("fixtures/dev"));
        let lo = interfaces.iter().find(|interface| interface.name == "lo").expect("lo is there");
        assert_eq!(lo.receive.packets, lo.transmit.packets);
        assert!(lo.receive.bytes > 0);
    }

    #[test]
    fn lines_that_are_no_interface_are_passed_over() {
        assert!(parse("Inter-|\n face |\n  eth0: 1 2 three\nnonsense\n").is_empty());
    }
}
