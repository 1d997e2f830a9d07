//! Rounds while the node changes: namespaces that come and go, move, lack IPv6. Nothing is lost, mixed up, leaked or kept.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use jitterscope_integration::netns::{Netns, run};
use jitterscope_integration::network::Family;
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Point, Telemetry, has};
use jitterscope_integration::traffic::{CLOSED_PORT, flood};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, metric};

fn receiver() -> Receiver {
    Receiver::start(&["--format", "json", "--set", "interval=100ms"]).unwrap()
}

fn is_refused(point: &Point) -> bool {
    has(&point.attributes, key::UDP_ERROR_REASON.key, "no_port")
        && has(&point.attributes, key::UDP_PROTOCOL.key, "udp")
}

/// Datagrams of a family that nobody listened for, of a namespace by name: all points, in order.
fn refused(telemetry: &Telemetry, name: &str, family: &str) -> Vec<Point> {
    let is = |point: &Point| {
        has(&point.resource, key::NETNS_NAME.key, name)
            && is_refused(point)
            && has(&point.attributes, key::NETWORK_TYPE.key, family)
    };
    telemetry.points(metric::UDP_ERRORS.name).filter(is).collect()
}

/// What a process holds: descriptors, threads, resident KiB.
fn holds(pid: u32) -> [u64; 3] {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let row = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
    };
    [fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64, row("Threads"), row("VmRSS")]
}

/// Warnings and errors in the receiver's log, but those of probes that cannot run here.
fn complaints(receiver: &Receiver) -> Vec<String> {
    let is = |line: &&str| line.contains("\"level\":\"WARN\"") || line.contains("\"level\":\"ERROR\"");
    let skips = |line: &&str| line.contains("\"message\":\"skipped\"");
    receiver.log().lines().filter(is).filter(|line| !skips(line)).map(str::to_owned).collect()
}

/// One namespace with its own number of datagrams of each family, deleted after some collections.
fn come_and_go(receiver: &Receiver, number: usize) -> (String, usize) {
    let netns = Netns::new(&format!("r{number}")).unwrap();
    let datagrams = number + 1;
    for family in Family::BOTH {
        flood(&netns, (family.loopback(), CLOSED_PORT).into(), datagrams).unwrap();
    }
    // Every tenth is gone again before a collection can have seen it.
    if !is_brief(number) {
        receiver.prints(netns.name(), 3).unwrap();
    }
    (netns.name().to_owned(), datagrams)
}

fn is_brief(number: usize) -> bool {
    number.is_multiple_of(10)
}

#[test]
fn two_hundred_namespaces_come_and_go_with_their_own_values_and_leave_nothing_behind() {
    if !requirements::met(&["ip"]) {
        return;
    }
    let mut receiver = receiver();
    let pid = receiver.pid();
    (0..20).for_each(|number| drop(come_and_go(&receiver, number)));
    let before = holds(pid);
    let mut seen = Vec::new();
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..4)
            .map(|lane| {
                let receiver = &receiver;
                scope.spawn(move || {
                    (0..50).map(|n| come_and_go(receiver, 20 + lane * 50 + n)).collect::<Vec<_>>()
                })
            })
            .collect();
        lanes.into_iter().for_each(|lane| seen.extend(lane.join().unwrap()));
    });
    // Those that are gone are forgotten within half a minute.
    let after = poll::until("as many descriptors and threads as before", || {
        let now = holds(pid);
        (now[0] <= before[0] && now[1] <= before[1] + 1).then_some(now)
    })
    .unwrap();
    assert!(after[2] < before[2] + 8 * 1024, "{before:?} {after:?}");
    assert_eq!(complaints(&receiver), Vec::<String>::new());
    receiver.stop().unwrap();
    let mut values: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    let collect = |telemetry: &Telemetry| {
        for point in telemetry.points(metric::UDP_ERRORS.name) {
            if is_refused(&point)
                && let Some(name) = point.resource.get(key::NETNS_NAME.key)
            {
                let series = (name.clone(), point.attributes[key::NETWORK_TYPE.key].clone());
                values.entry(series).or_default().push(point.value as usize);
            }
        }
    };
    receiver.each_printed(metric::UDP_ERRORS.name, collect).unwrap();
    for (name, datagrams) in &seen {
        for family in ["ipv4", "ipv6"] {
            let told = values.remove(&(name.clone(), family.to_owned())).unwrap_or_default();
            assert!(told.is_sorted() && told.iter().all(|value| value <= datagrams), "{name}: {told:?}");
            let complete = told.last() == Some(datagrams);
            assert!(complete || is_brief(datagrams - 1), "{name} of {datagrams}: {told:?}");
        }
    }
}

/// A process in a network namespace of its own, ended when dropped.
struct Anonymous(Child);

impl Anonymous {
    fn start(script: &str) -> Self {
        let mut unshare = Command::new("unshare");
        Self(unshare.args(["--net", "sh", "-c", script]).stdin(Stdio::piped()).spawn().unwrap())
    }
}

impl Drop for Anonymous {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_namespace_whose_last_process_ends_goes_away_at_once() {
    if !requirements::met(&["ip", "unshare"]) {
        return;
    }
    let here = Netns::new("peer").unwrap();
    let receiver = receiver();
    for round in 0..20 {
        let there = Anonymous::start("exec sleep 600");
        let link = format!("link add p{round} type veth peer name eth0 netns {}", there.0.id());
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = || fs::read_link(format!("/proc/{}/ns/net", there.0.id())).ok();
        poll::until("its namespace", || theirs().filter(|theirs| *theirs != own)).unwrap();
        here.ip(&link).unwrap();
        receiver.prints(metric::UDP_ERRORS.name, 3).unwrap();
        drop(there);
        let gone = || here.ip(&format!("link show p{round}")).is_err().then_some(());
        poll::within(Duration::from_secs(1), "the other end of its device is gone", gone).unwrap();
    }
    assert_eq!(complaints(&receiver), Vec::<String>::new());
}

#[test]
fn a_process_that_changes_its_namespace_leaves_the_counters_where_they_are() {
    if !requirements::met(&["ip", "unshare", "nsenter"]) {
        return;
    }
    let [first, second] = ["first", "second"].map(|label| Netns::new(label).unwrap());
    for (netns, datagrams) in [(&first, 11), (&second, 22)] {
        flood(netns, (Family::V6.loopback(), CLOSED_PORT).into(), datagrams).unwrap();
    }
    let mut receiver = receiver();
    let enter = |netns: &Netns| format!("nsenter --net=/run/netns/{}", netns.name());
    let script = format!("exec {} sh -c 'read go; exec {} sleep 600'", enter(&first), enter(&second));
    let mut process = Anonymous::start(&script);
    let inside = |netns: &Netns| {
        let inode = format!("net:[{}]", netns.inode().unwrap());
        let link = fs::read_link(format!("/proc/{}/ns/net", process.0.id())).ok();
        link.is_some_and(|link| link.as_os_str() == inode.as_str()).then_some(())
    };
    poll::until("it is in the first", || inside(&first)).unwrap();
    receiver.prints(metric::UDP_ERRORS.name, 4).unwrap();
    process.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let inside = |netns: &Netns| {
        let inode = format!("net:[{}]", netns.inode().unwrap());
        let link = fs::read_link(format!("/proc/{}/ns/net", process.0.id())).ok();
        link.is_some_and(|link| link.as_os_str() == inode.as_str()).then_some(())
    };
    poll::until("it is in the second", || inside(&second)).unwrap();
    receiver.prints(metric::UDP_ERRORS.name, 4).unwrap();
    receiver.stop().unwrap();
    let telemetry = receiver.printed().unwrap();
    for (netns, datagrams) in [(&first, 11.0), (&second, 22.0)] {
        let points = refused(&telemetry, netns.name(), "ipv6");
        assert!(points.len() > 3 && points.iter().all(|point| point.value == datagrams), "{points:#?}");
    }
    assert_eq!(complaints(&receiver), Vec::<String>::new());
}

#[test]
fn a_namespace_with_ipv6_switched_off_is_read_like_the_others() {
    if !requirements::met(&["ip", "sysctl"]) {
        return;
    }
    let netns = Netns::new("v4only").unwrap();
    run(netns.command("sysctl").args(["-q", "-w", "net.ipv6.conf.all.disable_ipv6=1"])).unwrap();
    flood(&netns, (Family::V4.loopback(), CLOSED_PORT).into(), 9).unwrap();
    let mut receiver = receiver();
    receiver.stop().unwrap();
    let last = refused(&receiver.printed().unwrap(), netns.name(), "ipv4").pop();
    assert_eq!(last.map(|point| point.value), Some(9.0));
    assert_eq!(complaints(&receiver), Vec::<String>::new());
}
