//! What is kept of the thread that sent last on a connection: its span, and nothing once it says that it is in none, or names
//! another trace than its request does.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;
mod instrumented;

use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

use common::http::{Ids, Pair, get};
use common::{Namespace, can_load};
use instrumented::{become_known, enter, leave};
use jitterscope_ebpf::abi::{
    SPAN_KNOWN, SPAN_ROLE_CLIENT, SPAN_ROLE_SERVER, SPAN_SOURCE_THREAD, SPAN_STORAGE_SOCKET, span_context,
    thread_process,
};
use jitterscope_ebpf::spans::{Threads, Wire, storage};
use jitterscope_ebpf::{Kernel, Table};

const FAMILIES: [u8; 2] = [4, 6];

/// The span of who sent last, and the side that it is on.
fn known(contexts: &Table<i32, span_context>, of: &TcpStream) -> Option<(Ids, u32)> {
    let context = contexts.get(&of.as_raw_fd()).unwrap().filter(|kept| kept.state == SPAN_KNOWN)?;
    Some((Ids::of(&context.link)?, context.link.role.into()))
}

#[test]
fn a_thread_that_is_in_no_span_any_more_takes_its_context_away() {
    if !can_load() {
        return;
    }
    let kernel = Kernel::read(None).unwrap();
    if storage(&kernel) != SPAN_STORAGE_SOCKET {
        return common::skip("needs storage with sockets");
    }
    let namespace = Namespace::new();
    let mut threads = Threads::open(&kernel, None).unwrap();
    become_known(&mut threads);
    let contexts = threads.loaded().table("thread_contexts").unwrap();
    for family in FAMILIES {
        let mut pair = Pair::new(&namespace, family);
        for _ in 0..3 {
            let (asks, answers) = (Ids::new(), Ids::new());
            enter(&asks);
            pair.ask([0x17; 100]);
            enter(&answers);
            pair.answer([0x17; 100]);
            assert_eq!(known(&contexts, &pair.client), Some((asks, SPAN_ROLE_CLIENT)));
            assert_eq!(known(&contexts, &pair.server), Some((answers, SPAN_ROLE_SERVER)));
        }
        leave();
        pair.ask([0x17; 100]);
        assert_eq!(known(&contexts, &pair.client), None);
    }
}

#[test]
fn a_process_whose_requests_name_another_trace_is_not_believed_any_more() {
    if !can_load() {
        return;
    }
    let kernel = Kernel::read(None).unwrap();
    let namespace = Namespace::new();
    let wire = Wire::open(&kernel).unwrap();
    let mut threads = Threads::open(&kernel, Some(&wire.spans)).unwrap();
    become_known(&mut threads);
    let processes: Table<u32, thread_process> = wire.loaded().table("thread_processes").unwrap();
    let state = || processes.get(&std::process::id()).unwrap().unwrap().state;
    let conflicts = || wire.counts(SPAN_SOURCE_THREAD).unwrap().conflicting;
    let mut pair = Pair::new(&namespace, 4);
    let ids = Ids::new();
    enter(&ids);
    pair.ask(get(&ids, 10));
    pair.ok();
    assert_eq!((conflicts(), state()), (0, 1));
    pair.ask(get(&Ids::new(), 10));
    assert_eq!((conflicts(), state()), (1, 2));
    leave();
}
