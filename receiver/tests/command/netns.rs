//! A network namespace in which packets are dropped in known numbers; removed with the value, also after a panic.

use std::{
    fs::File,
    net::UdpSocket,
    os::fd::AsFd,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::telemetry::{Point, metrics, points_of};

/// A port on which nobody listens in a new namespace.
const CLOSED: u16 = 9;

static MADE: AtomicU32 = AtomicU32::new(0);

/// A named network namespace with its loopback interface up.
pub(crate) struct Netns(String);

impl Netns {
    /// Makes one.
    pub(crate) fn new() -> Self {
        let name = format!("jsc-{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed));
        let netns = Self(name);
        ip(&["netns", "add", &netns.0]);
        ip(&["-n", &netns.0, "link", "set", "lo", "up"]);
        netns
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Sends this many datagrams to a closed port, each of which the kernel drops; half of them over IPv6.
    pub(crate) fn drop_datagrams(&self, count: usize) {
        std::thread::scope(|scope| {
            let sent = scope.spawn(|| {
                let target = File::open(format!("/run/netns/{}", self.0)).unwrap();
                move_into_link_name_space(target.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                let four = UdpSocket::bind("127.0.0.1:0").unwrap();
                let six = UdpSocket::bind("[::1]:0").unwrap();
                for number in 0..count {
                    let sent = match number % 2 {
                        0 => four.send_to(b"x", ("127.0.0.1", CLOSED)),
                        _ => six.send_to(b"x", ("::1", CLOSED)),
                    };
                    assert_eq!(sent.unwrap(), 1);
                }
            });
            sent.join().unwrap();
        });
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).stderr(Stdio::null()).status();
    }
}

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().unwrap().success(), "ip {arguments:?}");
}

impl Netns {
    /// The packets that a receiver's output says were dropped in it: the last value of each series, added up.
    pub(crate) fn dropped(&self, output: &str) -> Option<i64> {
        let requests = metrics(output);
        let mut of_it = requests.iter().rev().map(|request| points_of(request, "jitterscope.packet.drops"));
        let latest = of_it.find(|points| points.iter().any(|point| point.is_of(&self.0)))?;
        Some(latest.iter().filter(|point| point.is_of(&self.0)).map(Point::value).sum())
    }
}
