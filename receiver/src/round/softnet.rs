//! What each CPU's receive path counts: `/proc/net/softnet_stat` (`net/core/net-procfs.c`, `softnet_seq_show`).
//!
//! A line a CPU that is online, of hexadecimal columns without names. New kernels add columns at the end: the number of
//! the CPU and the backlog came with 5.10.

/// The counters of one CPU. All are 32 bits wide in the kernel (`struct softnet_data`) and wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Which.
    pub number: u32,
    /// Packets taken from the devices and from other CPUs.
    pub processed: u32,
    /// Packets dropped, for the backlog was full.
    pub dropped: u32,
    /// Rounds that ended with packets left, for time or budget was used up.
    pub time_squeezes: u32,
    /// Interrupts by other CPUs that had packets for this one (receive packet steering).
    pub received_rps: u32,
    /// Packets dropped because their flow filled the backlog; counted as dropped too.
    pub flow_limited: u32,
    /// Packets that wait now; none where the kernel does not say.
    pub backlog: Option<u32>,
}

/// Parses `softnet_stat`. A line that is too short is passed over.
pub fn parse(text: &str) -> Vec<Cpu> {
    text.lines().enumerate().filter_map(|(line, columns)| cpu(line, columns)).collect()
}

fn cpu(line: usize, columns: &str) -> Option<Cpu> {
    let columns: Vec<u32> = columns
        .split_ascii_whitespace()
        .map(|column| u32::from_str_radix(column, 16).ok())
        .collect::<Option<_>>()?;
    let at = |column: usize| columns.get(column).copied();
    Some(Cpu {
        number: at(12).or_else(|| u32::try_from(line).ok())?,
        processed: at(0)?,
        dropped: at(1)?,
        time_squeezes: at(2)?,
        received_rps: at(9)?,
        flow_limited: at(10).unwrap_or(0),
        backlog: at(11),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_with_fifteen_columns_tells_cpu_and_backlog() {
        let text =
            "0000001a 00000002 00000003 0 0 0 0 0 0 00000004 00000005 00000009 00000007 00000006 00000003\n";
        let expected = Cpu {
            number: 7,
            processed: 26,
            dropped: 2,
            time_squeezes: 3,
            received_rps: 4,
            flow_limited: 5,
            backlog: Some(9),
        };
        assert_eq!(parse(text), [expected]);
    }

    #[test]
    fn a_kernel_with_eleven_columns_numbers_cpus_by_line() {
        let line = "ffffffff 0 0 0 0 0 0 0 0 0 1\n";
        let cpus = parse(&line.repeat(2));
        assert_eq!(cpus.iter().map(|cpu| cpu.number).collect::<Vec<_>>(), [0, 1]);
        assert_eq!((cpus[1].processed, cpus[1].flow_limited, cpus[1].backlog), (u32::MAX, 1, None));
    }

    #[test]
    fn what_is_no_line_of_a_cpu_is_passed_over() {
        assert_eq!(parse("\n00000001 00000002\nno numbers at all 0 0 0 0 0 0 0 0\n"), []);
    }
}
