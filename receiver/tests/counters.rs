//! Every number of the kernel's counter files, on every kernel of the matrix and on the running one, has a metric or stands
//! among those left out with the reason; `counters.md` says so for people.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use jitterscope::{
    probe::homes::{Home, LEFT_OUT, LeftOut, homes},
    round::counters::{Counters, Parser},
};

const REGENERATE: &str = "UPDATE_REFERENCE=1 cargo test -p jitterscope --test counters";

/// The files as captured on the kernels of the matrix, in folders of that name.
const KERNELS: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "7.3"];

fn fixtures(kernel: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(kernel)
}

/// A file of a folder; empty where the kernel has none, such as without IPv6.
fn read(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap_or_default()
}

/// The names of all numbers of a kernel's files.
fn names(folder: &Path) -> BTreeSet<String> {
    let tables: [Counters; 5] = [
        Parser::default().paired(&read(folder, "snmp")),
        Parser::default().paired(&read(folder, "netstat")),
        Parser::default().listed(&read(folder, "snmp6")),
        Parser::default().grouped(&read(folder, "sockstat")),
        Parser::default().grouped(&read(folder, "sockstat6")),
    ];
    let named = tables.iter().flat_map(Counters::iter).map(|(name, _)| name.to_owned());
    let softnet = read(folder, "softnet_stat");
    let columns = softnet.lines().next().unwrap_or_default().split_ascii_whitespace().count();
    let softnet = (0..columns).map(|column| format!("softnet_stat:{column}"));
    named.chain(softnet).chain(settings(&read(folder, "snmp"))).collect()
}

/// The first two columns of `Ip` are settings of the namespace's, which the parser leaves out.
fn settings(snmp: &str) -> Vec<String> {
    let names = snmp.lines().next().and_then(|line| line.strip_prefix("Ip: ")).unwrap_or_default();
    names.split_ascii_whitespace().take(2).map(|name| format!("Ip{name}")).collect()
}

fn known() -> BTreeSet<&'static str> {
    let left_out = LEFT_OUT.iter().map(|(name, _)| *name);
    homes().iter().map(|home| home.counter).chain(left_out).collect()
}

fn homeless(folder: &Path) -> Vec<String> {
    let known = known();
    names(folder).into_iter().filter(|name| !known.contains(name.as_str())).collect()
}

#[test]
fn every_counter_of_every_kernel_has_a_metric_or_a_reason_to_have_none() {
    for kernel in KERNELS {
        let folder = fixtures(kernel);
        assert!(names(&folder).len() > 200, "{kernel}: the fixtures are not whole");
        assert_eq!(homeless(&folder), [""; 0], "{kernel}");
    }
}

#[test]
fn every_counter_of_the_running_kernel_has_a_metric_or_a_reason_to_have_none() {
    let folder = Path::new("/proc/net");
    assert!(names(folder).contains("TcpActiveOpens"));
    assert_eq!(homeless(folder), [""; 0]);
}

#[test]
fn a_counter_that_nobody_knows_is_found() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    fs::write(folder.path().join("netstat"), "TcpExt: TW New\nTcpExt: 1 2\n").expect("it can be written to");
    assert_eq!(homeless(folder.path()), ["TcpExtNew"]);
}

#[test]
fn no_counter_has_two_places_and_none_is_of_no_kernel() {
    let mut places = BTreeMap::new();
    homes().iter().map(|home| home.counter).chain(LEFT_OUT.iter().map(|(name, _)| *name)).for_each(|name| {
        *places.entry(name).or_insert(0) += 1;
    });
    places.retain(|_, places| *places > 1);
    assert!(places.is_empty(), "{places:?}");
    let all: BTreeSet<_> = KERNELS.iter().flat_map(|kernel| names(&fixtures(kernel))).collect();
    let unknown: Vec<_> = known().into_iter().filter(|name| !all.contains(*name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn no_two_counters_are_one_point() {
    let mut points = BTreeMap::new();
    for home in homes() {
        let attributes: Vec<_> = home.attributes.iter().map(|(key, value)| (key.key, *value)).collect();
        let other = points.insert((home.metric.name, attributes), home.counter);
        assert!(other.is_none(), "{} and {other:?}", home.counter);
    }
}

#[test]
fn every_point_has_the_attributes_and_values_that_the_registry_allows() {
    for home in homes() {
        let keys: Vec<_> = home.attributes.iter().map(|(key, _)| key.key).collect();
        for reference in home.metric.attributes {
            let required = reference.level == jitterscope_semconv::RequirementLevel::Required;
            assert!(!required || keys.contains(&reference.attribute.key), "{}: {keys:?}", home.counter);
        }
        for (key, value) in &home.attributes {
            assert!(home.metric.attributes.iter().any(|known| known.attribute == *key), "{}", home.counter);
            assert!(key.closed_values().is_none_or(|values| values.contains(value)), "{}", home.counter);
        }
    }
}

#[test]
fn the_page_of_counters_is_what_the_probes_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("counters.md");
    let page = page();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(&path, page).expect("the page can be written");
        return;
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), page, "{REGENERATE}");
}

fn page() -> String {
    let mut page = format!(
        "# Where each number of the kernel goes\n\n\
         Every number of `/proc/net/{{snmp,netstat,snmp6,sockstat,sockstat6,softnet_stat}}` on the kernels {} and the\n\
         metric that it is in, under its name in nstat(8). Written from the probes' tables, and checked against the files of\n\
         these kernels and of the running one:\n\n```sh\n{REGENERATE}\n```\n\n\
         ICMP by type (`IcmpMsg`, `Icmp6InType…`, `Icmp6OutType…`) is in `jitterscope.icmp.messages`, probe `ip`.\n\n\
         | counter | metric | attributes | probe |\n|---|---|---|---|\n",
        KERNELS.join(", ")
    );
    homes().iter().for_each(|home| page += &row(home));
    page += "\n## Left out\n\n| number | why |\n|---|---|\n";
    for (name, why) in LEFT_OUT {
        let _ = writeln!(page, "| `{name}` | {} |", reason(*why));
    }
    page
}

fn row(home: &Home) -> String {
    let attributes: Vec<_> =
        home.attributes.iter().map(|(key, value)| format!("`{}={value}`", key.key)).collect();
    let without: Vec<_> = home.without.iter().map(|counter| format!("`{counter}`")).collect();
    let less = if without.is_empty() { String::new() } else { format!(" without {}", without.join(", ")) };
    let columns = [
        format!("`{}`{less}", home.counter),
        format!("`{}`", home.metric.name),
        attributes.join(" "),
        format!("`{}`", home.probe),
    ];
    format!("| {} |\n", columns.join(" | "))
}

fn reason(why: LeftOut) -> String {
    match why {
        LeftOut::Setting => "a setting, not a counter".to_owned(),
        LeftOut::Duplicate(metrics) => {
            let metrics: Vec<_> = metrics.iter().map(|metric| format!("`{}`", metric.name)).collect();
            format!("a duplicate of {}", metrics.join(" and "))
        }
        LeftOut::Label => "no counter: the number of the CPU".to_owned(),
        LeftOut::Removed => "removed from the kernel, always zero".to_owned(),
    }
}
