//! Counters of RDMA ports in sysfs: a file each, with a number.

use std::{collections::BTreeMap, fs, path::Path};

/// Directories of a port that hold counters: those that the InfiniBand architecture defines, and the driver's own.
const DIRECTORIES: [&str; 2] = ["counters", "hw_counters"];

/// No counter but a setting: for how many milliseconds the kernel gives the same numbers again.
const LIFESPAN: &str = "lifespan";

/// Counters that are read of one port; drivers have some dozens.
const MAX_COUNTERS: usize = 512;

/// Ports that are read; a machine has a few devices with one or two.
const MAX_PORTS: usize = 1024;

/// One counter of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counter {
    pub(super) device: String,
    pub(super) port: u32,
    pub(super) name: String,
    pub(super) value: u64,
}

pub(super) fn has_devices(root: &Path) -> bool {
    !names(root).is_empty()
}

/// Every counter of every port.
pub(super) fn counters(root: &Path) -> Vec<Counter> {
    let mut found = Vec::new();
    for (device, port) in ports(root) {
        let folder = root.join(&device).join("ports").join(port.to_string());
        let counter = |(name, value)| Counter { device: device.clone(), port, name, value };
        found.extend(of_port(&folder).into_iter().map(counter));
    }
    found
}

fn ports(root: &Path) -> impl Iterator<Item = (String, u32)> {
    let of_device = |device: String| {
        let ports = names(&root.join(&device).join("ports"));
        ports.into_iter().filter_map(move |port| Some((device.clone(), port.parse().ok()?)))
    };
    names(root).into_iter().flat_map(of_device).take(MAX_PORTS)
}

/// What both directories have under one name is the same counter.
fn of_port(folder: &Path) -> BTreeMap<String, u64> {
    let mut values = BTreeMap::new();
    for directory in DIRECTORIES {
        let directory = folder.join(directory);
        for name in names(&directory).into_iter().take(MAX_COUNTERS).filter(|name| name != LIFESPAN) {
            // A driver says so in words where it does not count ("N/A (no PMA)").
            let text = fs::read_to_string(directory.join(&name)).unwrap_or_default();
            if let Ok(value) = text.trim().parse() {
                values.entry(name).or_insert(value);
            }
        }
    }
    values
}

/// Names in a directory, sorted; none if there is no such directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device as the kernel shows it, without the symbolic link that leads to it.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (file, text) in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, text).expect("a file");
        }
        root
    }

    fn read(files: &[(&str, &str)]) -> Vec<(String, u32, String, u64)> {
        let root = tree(files);
        let found = counters(root.path()).into_iter();
        found.map(|one| (one.device, one.port, one.name, one.value)).collect()
    }

    #[test]
    fn counters_of_both_kinds_are_read_of_every_port() {
        let found = read(&[
            ("mlx5_0/ports/1/counters/port_xmit_data", "18446744073709551615\n"),
            ("mlx5_0/ports/1/hw_counters/rx_read_requests", "7\n"),
            ("mlx5_0/ports/2/counters/port_rcv_errors", "0\n"),
            ("mlx5_0/node_guid", "0000:0000:0000:0000\n"),
        ]);
        let expected =
            [(1, "port_xmit_data", u64::MAX), (1, "rx_read_requests", 7), (2, "port_rcv_errors", 0)];
        assert_eq!(
            found,
            expected.map(|(port, name, value)| ("mlx5_0".to_owned(), port, name.to_owned(), value))
        );
    }

    #[test]
    fn what_is_no_counter_is_left_out() {
        let found = read(&[
            ("rxe0/ports/1/hw_counters/lifespan", "10\n"),
            ("rxe0/ports/1/counters/symbol_error", "N/A (no PMA)\n"),
            ("rxe0/ports/gids/counters/port_rcv_data", "1\n"),
        ]);
        assert_eq!(found, []);
    }

    #[test]
    fn a_name_in_both_directories_is_one_counter() {
        let found = read(&[
            ("bnxt_re0/ports/1/counters/rx_pkts", "5\n"),
            ("bnxt_re0/ports/1/hw_counters/rx_pkts", "6\n"),
        ]);
        assert_eq!(found.iter().map(|one| one.3).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn without_the_directory_there_are_no_devices() {
        let root = tree(&[]);
        assert!(!has_devices(root.path()) && !has_devices(&root.path().join("none")));
        assert_eq!(counters(&root.path().join("none")), []);
    }
}
