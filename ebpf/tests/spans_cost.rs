//! What it costs to look at every packet for its request, by the kernel's own account. Figures are told; that a packet
//! without a request costs less than one with it is what can be asserted on a busy machine.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;
mod instrumented;

use common::http::{Ids, Pair, get};
use common::http2::{END_HEADERS, END_STREAM, HEADERS, PREFACE, field, frame};
use common::{Namespace, can_load, note};
use instrumented::{become_known, enter, leave};
use jitterscope_ebpf::spans::{Threads, Wire};
use jitterscope_ebpf::{Kernel, Loaded, RunTimeStats};

const ROUNDS: usize = 3000;

/// Nanoseconds of a run, and how many packets ran through the programs.
fn measure(loaded: &Loaded, mut work: impl FnMut()) -> (f64, u64) {
    let read = || {
        let programs = loaded.programs().unwrap();
        programs.iter().fold((0, 0), |sum, of| (sum.0 + of.time, sum.1 + of.runs))
    };
    let before = read();
    (0..ROUNDS).for_each(|_| work());
    let now = read();
    ((now.0 - before.0) as f64 / (now.1 - before.1) as f64, now.1 - before.1)
}

#[test]
fn a_packet_without_a_request_costs_less_than_one_with_it() {
    if !can_load() {
        return;
    }
    let Ok(_statistics) = RunTimeStats::enable() else { return };
    let namespace = Namespace::new();
    let wire = Wire::open(&Kernel::read(None).unwrap()).unwrap();
    for family in [4, 6] {
        let mut other = Pair::new(&namespace, family);
        let plain = measure(wire.loaded(), || other.ask([0x17; 600]));
        let mut with = Pair::new(&namespace, family);
        let mut http = |others: usize| {
            measure(wire.loaded(), || {
                with.ask(get(&Ids::new(), others));
                with.ok();
            })
        };
        let (short, long) = (http(200), http(1800));
        let mut streams = Pair::new(&namespace, family);
        streams.ask(PREFACE);
        let mut stream = 1;
        let http2 = measure(wire.loaded(), || {
            let head = [field(0x40, "x", &"y".repeat(100)), field(0, "traceparent", &Ids::new().value())];
            streams.ask(frame(HEADERS, END_STREAM | END_HEADERS, stream, &head.concat()));
            streams.answer(frame(HEADERS, END_STREAM | END_HEADERS, stream, &[0x88]));
            stream += 2;
        });
        note(&format!(
            "ns a packet, IPv{family}: no HTTP {:.0} ({} packets), requests of 300 bytes with answers {:.0} ({}), of 1.9 KB {:.0} ({}); of HTTP/2 {:.0} ({})",
            plain.0, plain.1, short.0, short.1, long.0, long.1, http2.0, http2.1
        ));
        assert!(plain.0 < long.0, "{plain:?} {long:?}");
    }
}

#[test]
fn a_send_of_a_process_without_thread_contexts_costs_less_than_one_with_them() {
    if !can_load() {
        return;
    }
    let Ok(_statistics) = RunTimeStats::enable() else { return };
    let namespace = Namespace::new();
    let mut threads = Threads::open(&Kernel::read(None).unwrap(), None).unwrap();
    let mut pair = Pair::new(&namespace, 4);
    let without = measure(threads.loaded(), || pair.ask([0x17; 100]));
    become_known(&mut threads);
    enter(&Ids::new());
    let with = measure(threads.loaded(), || pair.ask([0x17; 100]));
    leave();
    note(&format!("ns a send: process without contexts {:.0}, with {:.0}", without.0, with.0));
    assert!(without.0 < with.0, "{without:?} {with:?}");
}
