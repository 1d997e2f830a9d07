//! An event's time is the wall clock's when it happened, to a millisecond, also after that clock was set. It is set in a virtual
//! machine only: elsewhere others live by it.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::{SocketAddr, UdpSocket};
use std::ops::RangeInclusive;

use jitterscope_integration::faults::{Bed, bed};
use jitterscope_integration::network::Family;
use jitterscope_integration::poll;
use jitterscope_integration::telemetry::Record;
use jitterscope_semconv::{attribute as key, event};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// A millisecond, in nanoseconds.
const EXACT: u64 = 1_000_000;
/// The first of the ports that datagrams are sent to.
const PORT: u16 = 20_000;
/// By how many seconds the clock is set before each datagram.
const STEPS: [i64; 3] = [3600, -7200, 1];

fn wall() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Whether nobody else lives by this machine's clock: virtme-ng says on the kernel's command line that it started it.
fn is_own_machine() -> bool {
    std::fs::read_to_string("/proc/cmdline").unwrap().contains("virtme")
}

fn set_clock(by: i64) {
    if by != 0 && is_own_machine() {
        let now = clock_gettime(ClockId::Realtime);
        clock_settime(ClockId::Realtime, Timespec { tv_sec: now.tv_sec + by, ..now }).unwrap();
    }
}

/// Sends a datagram that its own namespace drops. When that was, by the wall clock.
fn lose(bed: &Bed, family: Family, port: u16) -> RangeInclusive<u64> {
    let send = || {
        let socket = UdpSocket::bind((family.address(1, 2), 0))?;
        let before = wall();
        // The rule is told to the sender as a missing permission.
        let _ = socket.send_to(b"x", SocketAddr::new(family.address(2, 2), port));
        Ok(before..=wall())
    };
    bed.network.a.inside(send).unwrap()
}

/// The record of the datagram to a port.
fn record(bed: &Bed, port: u16) -> Option<Record> {
    let (told, port) = (bed.receiver.printed().unwrap(), port.to_string());
    let mut records = told.records().filter(|one| one.event == event::PACKET_DROPPED.name);
    records.find(|one| one.attributes.get(key::DESTINATION_PORT.key) == Some(&port))
}

#[test]
fn an_event_has_the_time_of_the_wall_clock_also_after_that_was_set() {
    let Some(mut bed) = bed() else { return };
    bed.network.a.refuse("output", &format!("udp dport {PORT}-{}", PORT + 99)).unwrap();
    for (number, (family, by)) in Family::BOTH.iter().flat_map(|of| STEPS.map(|by| (*of, by))).enumerate() {
        let port = PORT + number as u16;
        set_clock(by);
        let time = lose(&bed, family, port);
        // Only then is it set again: what waits to be read when that happens has the new time.
        let record = poll::until("the event", || record(&bed, port)).unwrap();
        let exact = time.start() - EXACT..=time.end() + EXACT;
        assert!(exact.contains(&record.time), "by {by} s: {} is not within {exact:?}", record.time);
        assert!(record.observed >= time.start() - EXACT, "by {by} s: {record:?}");
    }
    bed.receiver.stop().unwrap();
}
