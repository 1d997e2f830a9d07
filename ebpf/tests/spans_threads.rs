//! What is kept of the thread that sent last on a connection: its span, and nothing once it says that it is in none, or is
//! not what it was.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;
mod instrumented;

use std::time::Instant;

use common::contexts::FAMILIES;
use common::http::{Ids, Pair};
use common::note;
use instrumented::kept::each_known;
use instrumented::{enter, leave};
use jitterscope_ebpf::abi::{SPAN_ROLE_CLIENT, SPAN_ROLE_SERVER, THREAD_KNOWN, thread_process};

#[test]
fn a_thread_that_is_in_no_span_any_more_takes_its_context_away() {
    each_known(|kept, namespace| {
        for family in FAMILIES {
            let mut pair = Pair::new(namespace, family);
            for _ in 0..3 {
                let (asks, answers) = (Ids::new(), Ids::new());
                enter(&asks);
                pair.ask([0x17; 100]);
                enter(&answers);
                pair.answer([0x17; 100]);
                assert_eq!(kept.known(&pair.client, SPAN_ROLE_CLIENT), Some(asks));
                assert_eq!(kept.known(&pair.server, SPAN_ROLE_SERVER), Some(answers));
            }
            leave();
            pair.ask([0x17; 100]);
            assert_eq!(kept.known(&pair.client, SPAN_ROLE_CLIENT), None);
        }
    });
}

#[test]
fn each_thread_is_in_a_span_of_its_own_or_in_none() {
    each_known(|kept, namespace| {
        let mut pair = Pair::new(namespace, 4);
        let ids = Ids::new();
        enter(&ids);
        std::thread::scope(|scope| scope.spawn(|| pair.ask([0x17; 100])).join().unwrap());
        assert_eq!(kept.known(&pair.client, SPAN_ROLE_CLIENT), None);
        pair.ask([0x17; 100]);
        assert_eq!(kept.known(&pair.client, SPAN_ROLE_CLIENT), Some(ids));
        // One that ends within its span, and another one that has its stack after it.
        let other = Ids::new();
        std::thread::scope(|scope| {
            let ends = || {
                enter(&other);
                pair.ask([0x17; 100]);
            };
            scope.spawn(ends).join().unwrap();
        });
        assert_eq!(kept.known(&pair.client, SPAN_ROLE_CLIENT), Some(other));
        std::thread::scope(|scope| scope.spawn(|| pair.ask([0x17; 100])).join().unwrap());
        assert_eq!(kept.known(&pair.client, SPAN_ROLE_CLIENT), None);
        leave();
    });
}

#[test]
fn what_is_known_of_a_process_is_not_taken_for_one_that_has_its_number_later() {
    each_known(|kept, namespace| {
        let (pid, processes) = (std::process::id(), kept.processes());
        let known = processes.get(&pid).unwrap().unwrap();
        assert_eq!(known.state, THREAD_KNOWN);
        for other in [
            thread_process { started: known.started - 1, ..known },
            thread_process { program: known.program + 1, ..known },
        ] {
            let mut pair = Pair::new(namespace, 4);
            processes.insert(&pid, &other).unwrap();
            enter(&Ids::new());
            pair.ask([0x17; 100]);
            assert_eq!(kept.known(&pair.client, SPAN_ROLE_CLIENT), None);
            // It is asked about anew, and found again.
            kept.find();
            let ids = Ids::new();
            enter(&ids);
            pair.ask([0x17; 100]);
            assert_eq!(kept.known(&pair.client, SPAN_ROLE_CLIENT), Some(ids));
            leave();
        }
    });
}

/// Contexts that change between two sends.
const CHANGES: u32 = 20_000;
const SENDS: u32 = 100;
const THREADS: u32 = 4;

#[test]
fn contexts_that_change_all_the_time_are_kept_as_they_were_when_their_thread_sent() {
    each_known(|kept, namespace| {
        let started = Instant::now();
        let work = || {
            let mut pair = Pair::new(namespace, 4);
            for _ in 0..SENDS {
                let mut last = Ids::new();
                for _ in 0..CHANGES {
                    last.trace[15] = last.trace[15].wrapping_add(1);
                    last.span = last.trace[8..].try_into().unwrap();
                    enter(&last);
                }
                pair.ask([0x17; 10]);
                assert_eq!(kept.known(&pair.client, SPAN_ROLE_CLIENT), Some(last));
            }
            leave();
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        let changes = f64::from(CHANGES * SENDS * THREADS) / started.elapsed().as_secs_f64();
        note(&format!("{changes:.0} contexts a second"));
    });
}
