//! Rounds while the node changes: namespaces that come and go, move, lack IPv6. Nothing is lost, mixed up, leaked or kept.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

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

/// The kernel takes namespaces apart one after the other, in a task of its own.
const AT_ONCE: Duration = Duration::from_secs(3);

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
        poll::within(AT_ONCE, "the other end of its device is gone", gone).unwrap();
    }
    assert_eq!(receiver.complaints(), Vec::<String>::new());
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
    assert_eq!(receiver.complaints(), Vec::<String>::new());
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
    assert_eq!(receiver.complaints(), Vec::<String>::new());
}
