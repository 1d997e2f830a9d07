//! Errors of sockets: the kernel's name, and a sentence for people.

use libc::{
    ECONNABORTED, ECONNREFUSED, ECONNRESET, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, EPIPE, EPROTO,
    ETIMEDOUT,
};

/// Number, name and meaning of the errors that the kernel gives connections (`net/ipv4/tcp_input.c`, `tcp_timer.c`, `icmp.c`).
const ERRORS: &[(i32, &str, &str)] = &[
    (
        ECONNREFUSED,
        "ECONNREFUSED",
        "the other side refused it: nobody listens there, or it answered with a reset",
    ),
    (ETIMEDOUT, "ETIMEDOUT", "the other side never answered"),
    (EHOSTUNREACH, "EHOSTUNREACH", "a router or the neighbour table says that the host cannot be reached"),
    (ENETUNREACH, "ENETUNREACH", "a router says that the network cannot be reached"),
    (ENETDOWN, "ENETDOWN", "the interface is down"),
    (EHOSTDOWN, "EHOSTDOWN", "the host is down"),
    (ECONNRESET, "ECONNRESET", "the other side reset it"),
    (ECONNABORTED, "ECONNABORTED", "it was aborted on this side"),
    (EPIPE, "EPIPE", "the other side has closed it already"),
    (EPROTO, "EPROTO", "a router says that the other side does not speak the protocol"),
];

/// The name of an error; `_OTHER`, OpenTelemetry's word, for those without one here.
pub(super) fn name(number: u32) -> &'static str {
    find(number).map_or("_OTHER", |(_, name, _)| name)
}

/// What an error means; `None` for no error.
pub(super) fn sentence(number: u32) -> Option<&'static str> {
    (number != 0).then(|| find(number).map_or("an error without a name here", |(_, _, sentence)| sentence))
}

fn find(number: u32) -> Option<&'static (i32, &'static str, &'static str)> {
    ERRORS.iter().find(|(known, ..)| u32::try_from(*known) == Ok(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_names_and_sentences_and_success_has_no_sentence() {
        assert_eq!(name(ETIMEDOUT as u32), "ETIMEDOUT");
        assert_eq!(name(u32::MAX), "_OTHER");
        assert_eq!(sentence(0), None);
        assert!(sentence(ECONNREFUSED as u32).is_some());
    }
}
