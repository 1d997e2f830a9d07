//! Every program that links anomalies to spans is taken by the kernel in the form that can, with both sources beside each
//! other: in the others it is as if there were no spans.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;
mod instrumented;

use common::{Network, can_load, note};
use instrumented::kept::storages;
use instrumented::watch::observe;
use jitterscope_ebpf::kernellatency::KernelLatency;
use jitterscope_ebpf::socketlatency::SocketLatency;
use jitterscope_ebpf::spans::{Reads, Threads, Wire};
use jitterscope_ebpf::{Form, Kernel, Loaded, Object, ObserverOptions};

/// A hook of socketlatency that links nothing, and has no storage with sockets in tracing programs before 5.11.
const UNLINKED: (&str, &str) = ("socketlatency", "inet_sock_set_state");

fn is_typed(loaded: &Loaded, name: &str) {
    for attached in loaded.attachments().iter().filter(|attached| (name, attached.hook.as_str()) != UNLINKED)
    {
        note(&format!("{name}: {attached:?}"));
        assert_ne!(attached.form, Form::RawTp, "{name}: {attached:?}");
    }
}

#[test]
fn programs_that_link_are_taken_in_the_form_that_knows_types() {
    if !can_load() {
        return;
    }
    let (kernel, network) = (Kernel::read(None).unwrap(), Network::new());
    for storage in storages(&kernel) {
        let wire = Wire::open_with(&kernel, storage).unwrap();
        let threads = Threads::open_with(&kernel, Some(&wire.spans), storage, Reads::THREADS).unwrap();
        is_typed(threads.loaded(), "thread");
        for object in [&Object::PACKETLOSS, &Object::TCPRETRANS, &Object::TCPRESET] {
            is_typed(observe(object, &kernel, &network, &wire.spans).0.loaded(), object.name);
        }
        let options =
            ObserverOptions { spans: Some(&wire.spans), ..ObserverOptions::new(network.router.inode()) };
        is_typed(SocketLatency::open(&kernel, &options).unwrap().observer.loaded(), "socketlatency");
        is_typed(KernelLatency::open(&kernel, &options).unwrap().observer.loaded(), "kernellatency");
    }
}
