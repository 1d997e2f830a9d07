//! Processes whose threads say in which span they are: every form of program and library, what becomes of one that splits or
//! becomes another program, and those that are hostile.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;
mod instrumented;

use std::fs;
use std::net::{TcpListener, TcpStream};

use common::http::Ids;
use common::{Namespace, eventually, skip};
use instrumented::kept::{Kept, each};
use instrumented::peer::{Built, FORMS, Form, LARGE, MUSL_LIBRARY, Peer};
use jitterscope_ebpf::abi::{SPAN_ROLE_CLIENT, THREAD_ASKED};

/// A port of the namespace's loopback interface at which somebody listens.
fn listen(within: &Namespace) -> (TcpListener, u16) {
    let listener = within.inside(|| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Lets a process connect until user space was asked about it, and has answered: whether that found its contexts.
fn is_found(kept: &Kept, peer: &mut Peer) -> bool {
    let pid = peer.pid.cast_unsigned();
    eventually("somebody asks for the process", || {
        // Nobody listens there.
        assert!(peer.tell("connect 9") < 0);
        kept.processes().get(&pid).unwrap().is_some()
    });
    kept.answer();
    kept.is_known(pid)
}

/// Lets it connect until it is asked about again, and found.
fn is_found_later(kept: &Kept, peer: &mut Peer) {
    eventually("it is found", || {
        assert!(peer.tell("connect 9") < 0);
        kept.answer();
        kept.is_known(peer.pid.cast_unsigned())
    });
}

/// What is kept after a send.
fn sent(kept: &Kept, peer: &mut Peer, connection: &TcpStream) -> Option<Ids> {
    peer.send();
    kept.known(connection, SPAN_ROLE_CLIENT)
}

fn sent_within(kept: &Kept, peer: &mut Peer, connection: &TcpStream) {
    let ids = Ids::new();
    peer.enter(&ids);
    assert_eq!(sent(kept, peer, connection), Some(ids));
}

fn built(form: Form) -> Option<Built> {
    let built = Built::new(form);
    if built.is_none() {
        assert!(std::env::var_os("CI").is_none(), "needs {}", form.compiler);
        skip(&format!("{}: needs {}", form.name, form.compiler));
    }
    built
}

#[test]
fn the_variable_is_found_in_every_form_of_program_and_library() {
    let forms: Vec<Built> = FORMS.into_iter().chain([MUSL_LIBRARY]).filter_map(built).collect();
    each(|kept, namespace| forms.iter().for_each(|built| is_read(kept, namespace, built)));
}

fn is_read(kept: &Kept, namespace: &Namespace, built: &Built) {
    let (_listener, port) = listen(namespace);
    let mut peer = built.start(namespace);
    peer.must("publish");
    assert!(is_found(kept, &mut peer), "{built:?}");
    let connection = peer.connect(port);
    assert_eq!(sent(kept, &mut peer, &connection), None, "{built:?}");
    sent_within(kept, &mut peer, &connection);
    peer.must("leave");
    assert_eq!(sent(kept, &mut peer, &connection), None, "{built:?}");
    sent_within(kept, &mut peer, &connection);
    // A thread that has not touched the variable yet.
    peer.tell("thread");
    assert_eq!(sent(kept, &mut peer, &connection), None, "{built:?}");
    sent_within(kept, &mut peer, &connection);
    peer.must("end");
    sent_within(kept, &mut peer, &connection);
}

#[test]
fn a_process_without_a_context_is_asked_about_and_left_alone() {
    let Some(built) = built(FORMS[0]) else { return };
    each(|kept, namespace| {
        let (_listener, port) = listen(namespace);
        let mut peer = built.start(namespace);
        peer.enter(&Ids::new());
        assert!(!is_found(kept, &mut peer));
        let connection = peer.connect(port);
        assert_eq!(sent(kept, &mut peer, &connection), None);
        assert_eq!(kept.counts().captured, 0);
        // Once it says something it is found at a later send.
        peer.must("publish");
        is_found_later(kept, &mut peer);
        let connection = peer.connect(port);
        sent_within(kept, &mut peer, &connection);
    });
}

#[test]
fn the_child_of_a_process_is_another_one() {
    let Some(built) = built(FORMS[0]) else { return };
    each(|kept, namespace| {
        let (_listener, port) = listen(namespace);
        let mut peer = built.start(namespace);
        peer.must("publish");
        assert!(is_found(kept, &mut peer));
        let of_parent = peer.connect(port);
        sent_within(kept, &mut peer, &of_parent);
        // It has the variable, and its value, but says nothing of it.
        peer.fork();
        assert!(!is_found(kept, &mut peer));
        let of_child = peer.connect(port);
        assert_eq!(sent(kept, &mut peer, &of_child), None);
        peer.must("publish");
        is_found_later(kept, &mut peer);
        let of_child = peer.connect(port);
        sent_within(kept, &mut peer, &of_child);
    });
}

#[test]
fn a_process_that_becomes_another_program_is_another_one() {
    let Some(built) = built(FORMS[0]) else { return };
    each(|kept, namespace| {
        let (_listener, port) = listen(namespace);
        let mut peer = built.start(namespace);
        peer.must("publish");
        assert!(is_found(kept, &mut peer));
        let before = peer.connect(port);
        sent_within(kept, &mut peer, &before);
        assert_eq!(peer.tell("exec"), peer.pid.into());
        // The memory is another one: what was known of it is not believed.
        assert!(kept.processes().get(&peer.pid.cast_unsigned()).unwrap().is_none());
        peer.enter(&Ids::new());
        assert!(!is_found(kept, &mut peer));
        let after = peer.connect(port);
        assert_eq!(sent(kept, &mut peer, &after), None);
    });
}

#[test]
fn a_process_that_ends_is_forgotten() {
    let Some(built) = built(FORMS[0]) else { return };
    each(|kept, namespace| {
        let mut peer = built.start(namespace);
        peer.must("publish");
        assert!(is_found(kept, &mut peer));
        let pid = peer.pid.cast_unsigned();
        drop(peer);
        eventually("it is forgotten", || kept.processes().get(&pid).unwrap().is_none());
    });
}

/// What a process publishes that wants to hurt who reads it: version, size and address of what it points to.
const WRONG: [&str; 12] = [
    "publish 1",
    "publish 3",
    "publish 2 1",
    "publish 2 4294967295",
    "publish 2 65536",
    "publish 2 65537",
    "publish 2 0 1",
    "publish 2 0 ffffffffffffffff",
    "publish 2 0 fffffffffffffff0",
    "publish 2 0 ffff888000000000",
    "publish 2 0 8000000000000000",
    "publish 2 65536 7fffffffe000",
];

/// And what it does to it afterwards.
const DEEDS: [&str; 3] = ["flicker", "shrink", "hide"];

#[test]
fn what_a_hostile_process_says_is_nothing() {
    let Some(built) = built(FORMS[0]) else { return };
    each(|kept, namespace| {
        let (_listener, port) = listen(namespace);
        let deeds = DEEDS.map(|deed| ["publish", deed]);
        for told in WRONG.iter().map(|told| vec![*told]).chain(deeds.map(Vec::from)) {
            let mut peer = built.start(namespace);
            told.iter().for_each(|what| peer.must(what));
            peer.enter(&Ids::new());
            assert!(!is_found(kept, &mut peer), "{told:?}");
            let connection = peer.connect(port);
            assert_eq!(sent(kept, &mut peer, &connection), None, "{told:?}");
            let state = kept.processes().get(&peer.pid.cast_unsigned()).unwrap().unwrap().state;
            assert_eq!(state, THREAD_ASKED, "{told:?}");
        }
    });
}

/// Each word of the headers of a library leads elsewhere, in a file of its own; they are mapped beside each other.
#[test]
fn what_only_looks_like_a_library_is_none() {
    let Some(built) = built(LARGE) else { return };
    let whole = fs::read(built.path("library.so")).unwrap();
    each(|kept, namespace| {
        let mut peer = built.start_bare(namespace);
        peer.must("publish");
        for value in [u64::MAX, 1 << 63, 0x7fff_ffff_f000, whole.len() as u64 - 1] {
            // The file's header, and those of its first segments.
            for at in (16..64 + 56 * 4).step_by(8) {
                let mut bytes = whole.clone();
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
                let broken = built.path(&format!("broken-{value}-{at}.so"));
                fs::write(&broken, &bytes).unwrap();
                peer.must(&format!("map {}", broken.display()));
            }
        }
        assert!(!is_found(kept, &mut peer));
        // The whole one is found beside them.
        built.load(&mut peer);
        is_found_later(kept, &mut peer);
    });
}
