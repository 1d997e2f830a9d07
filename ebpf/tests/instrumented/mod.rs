//! Processes that are instrumented: the test itself, and others that do what they are told.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod kept;
pub(crate) mod peer;
mod process;
pub(crate) mod watch;

use jitterscope_ebpf::spans::{Questions, Threads};

use crate::common::eventually;
use crate::common::http::Ids;

use process::publish;

/// The thread is in this span from now on.
pub(crate) fn enter(ids: &Ids) {
    process::enter_span(ids.trace, ids.span);
}

/// The thread is in no span from now on.
pub(crate) fn leave() {
    process::leave();
}

/// Lets the programs ask about this process, and answers them. Who answers later ones.
pub(crate) fn become_known(threads: &mut Threads) -> Questions {
    publish();
    let mut questions = threads.questions().unwrap();
    eventually("this process is known", || {
        // Nobody listens there.
        assert!(std::net::TcpStream::connect(("127.0.0.1", 9)).is_err());
        questions.answer().unwrap() > 0
    });
    questions
}
