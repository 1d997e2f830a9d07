//! What is kept of a connection's last request: its trace context if that is surely what the bytes say, and nothing if there
//! is any doubt. Both ends of a connection must know the same.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::Write as _;

use common::contexts::{Ambiguous, Contexts, FAMILIES, Source, each};
use common::http::{Ids, Pair, get};
use common::{Namespace, can_load};
use jitterscope_ebpf::Kernel;
use jitterscope_ebpf::abi::SPAN_STORAGE_ADDRESS;

#[test]
fn the_last_request_is_known_to_both_ends_wherever_its_traceparent_stands() {
    each(|source, pair| {
        let before = source.counts();
        let places: Vec<usize> = (0..300).chain([1000, 1500, 1900, 2100, 3500, 3900]).collect();
        for others in &places {
            let ids = Ids::new();
            pair.ask(get(&ids, *others));
            assert_eq!(source.both(pair), Ok(Some(ids)), "behind {others} bytes");
            pair.ok();
            assert_eq!(source.both(pair), Ok(Some(ids)));
        }
        // Both ends are on this machine.
        assert_eq!(source.counts().captured - before.captured, 2 * places.len() as u64);
        assert_eq!(source.counts().ambiguous, before.ambiguous);
    });
}

#[test]
fn every_way_to_write_it_that_the_standards_allow_is_understood() {
    each(|source, pair| {
        let ids = Ids::new();
        let (value, tail) = (ids.value(), "Accept: */*\r\n\r\n");
        for method in ["GET", "POST", "PUT", "HEAD", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"] {
            pair.ask(format!("{method} /a/b?c=d HTTP/1.1\r\ntraceparent: {value}\r\n{tail}"));
            assert_eq!(source.both(pair), Ok(Some(ids)), "{method}");
            pair.ok();
            pair.ask(format!("{method} / HTTP/1.1\r\n{tail}"));
            assert_eq!(source.both(pair), Ok(None), "{method}");
            pair.ok();
        }
        for header in [
            format!("Traceparent: {value}"),
            format!("TRACEPARENT:{value}"),
            format!("tRaCePaReNt: {value} "),
            format!("tracestate: a=b\r\ntraceparent: {value}\t"),
        ] {
            pair.ask(format!("GET / HTTP/1.0\r\n{header}\r\n{tail}"));
            assert_eq!(source.both(pair), Ok(Some(ids)), "{header}");
            pair.ok();
            pair.ask(format!("GET / HTTP/1.1\r\n{tail}"));
            assert_eq!(source.both(pair), Ok(None));
            pair.ok();
        }
    });
}

#[test]
fn what_is_not_a_valid_context_takes_away_the_one_before() {
    each(|source, pair| {
        let ids = Ids::new();
        let (trace, span) = (ids.trace_text(), ids.span_text());
        let value = ids.value();
        let (zero, short) = ("0".repeat(32), &trace[1..]);
        let headers = [
            String::new(),
            format!("traceparent: 01-{trace}-{span}-01\r\n"),
            format!("traceparent: ff-{trace}-{span}-01\r\n"),
            format!("traceparent: 00-{}-{span}-01\r\n", trace.to_uppercase()),
            format!("traceparent: 00-{trace}-{}-01\r\n", span.to_uppercase()),
            format!("traceparent: 00-{zero}-{span}-01\r\n"),
            format!("traceparent: 00-{trace}-{}-01\r\n", &zero[..16]),
            format!("traceparent: 00-{short}-{span}-01\r\n"),
            format!("traceparent: 00-{short}g-{span}-01\r\n"),
            format!("traceparent: 00-{short}:-{span}-01\r\n"),
            format!("traceparent: 00-{short}`-{span}-01\r\n"),
            format!("traceparent: 00-{trace}-{span}-0g\r\n"),
            format!("traceparent: 00-{trace}-{span}-01-more\r\n"),
            format!("traceparent: 00-{trace}_{span}-01\r\n"),
            format!("traceparent: 00-{trace}-{span}\r\n"),
            format!("traceparent:   {value}\r\n"),
            format!("traceparent:\r\n {value}\r\n"),
            format!("traceparent : {value}\r\n"),
            format!("x-traceparent: {value}\r\n"),
            format!("traceparent-x: {value}\r\n"),
            format!("traceparent: {value}\r\ntraceparent: {value}\r\n"),
            format!("x: traceparent: {value}\r\n"),
            format!("x: y\rtraceparent: {value}\r\n"),
        ];
        for header in headers {
            pair.ask(get(&Ids::new(), 0));
            assert!(matches!(source.both(pair), Ok(Some(_))), "before {header}");
            pair.ok();
            pair.ask(format!("GET / HTTP/1.1\r\nHost: shop\r\n{header}Accept: */*\r\n\r\n"));
            assert_eq!(source.both(pair), Ok(None), "{header}");
            pair.ok();
        }
    });
}

#[test]
fn a_head_in_pieces_takes_away_the_context_before_and_gives_none() {
    each(|source, pair| {
        let text = get(&Ids::new(), 20);
        let value = text.find("00-").unwrap();
        for at in [3, 10, 17, 30, value - 20, value - 5, value - 1, value, value + 20, value + 54] {
            pair.ask(get(&Ids::new(), 0));
            assert!(matches!(source.both(pair), Ok(Some(_))));
            pair.ok();
            pair.ask(&text[..at]);
            assert_eq!(source.both(pair), Ok(None), "the first {at} bytes");
            pair.ask(&text[at..]);
            assert_eq!(source.both(pair), Ok(None), "after the first {at} bytes");
            pair.ok();
        }
    });
}

#[test]
fn a_body_is_not_searched_and_does_not_hide_the_head() {
    each(|source, pair| {
        let (ids, other) = (Ids::new(), Ids::new());
        let body = format!("x\r\ntraceparent: {}\r\n\r\n", other.value());
        let length = body.len();
        pair.ask(format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}"));
        assert_eq!(source.both(pair), Ok(None));
        pair.ok();
        pair.ask(format!(
            "POST / HTTP/1.1\r\nContent-Length: {length}\r\ntraceparent: {}\r\n\r\n{body}",
            ids.value()
        ));
        assert_eq!(source.both(pair), Ok(Some(ids)));
        pair.ask("more of the body");
        assert_eq!(source.both(pair), Ok(Some(ids)), "what comes before the answer belongs to the request");
    });
}

#[test]
fn a_body_that_looks_like_a_request_makes_the_connection_ambiguous() {
    each(|source, pair| {
        let inner = get(&Ids::new(), 0);
        let length = inner.len();
        pair.ask(format!("PUT /log HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"));
        assert_eq!(source.both(pair), Ok(None));
        pair.ask(&inner);
        assert_eq!(source.both(pair), Err(Ambiguous));
        pair.ok();
        pair.ask(get(&Ids::new(), 0));
        assert_eq!(source.both(pair), Err(Ambiguous));
    });
}

#[test]
fn overlapping_requests_make_the_connection_ambiguous_for_good() {
    each(|source, pair| {
        pair.ask(format!("{}{}", get(&Ids::new(), 0), get(&Ids::new(), 0)));
        assert_eq!(source.both(pair), Err(Ambiguous));
        pair.ok();
        pair.ok();
        pair.ask(get(&Ids::new(), 0));
        assert_eq!(source.both(pair), Err(Ambiguous));
    });
    each(|source, pair| {
        pair.ask(get(&Ids::new(), 0));
        assert!(matches!(source.both(pair), Ok(Some(_))));
        pair.ask(get(&Ids::new(), 0));
        assert_eq!(source.both(pair), Err(Ambiguous));
    });
}

#[test]
fn messages_that_are_no_requests_take_the_context_away() {
    each(|source, pair| {
        let messages: [&[u8]; 7] = [
            b"PROPFIND / HTTP/1.1\r\nHost: shop\r\n\r\n",
            b"get / http/1.1\r\nHost: shop\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET gibberish without a version\r\n\r\n",
            b"GET \x17\x03\x03\x01\x00 these are records of TLS, by chance \n\n",
            b"\x81\x85a frame of a web socket",
            b"x",
        ];
        for message in messages {
            let ids = Ids::new();
            pair.ask(get(&ids, 0));
            assert_eq!(source.both(pair), Ok(Some(ids)));
            pair.ok();
            pair.ask(message);
            assert_eq!(source.both(pair), Ok(None), "{message:?}");
            pair.ok();
        }
    });
}

#[test]
fn an_answer_is_no_request_whatever_is_in_it() {
    each(|source, pair| {
        let ids = Ids::new();
        pair.ask(get(&ids, 0));
        pair.answer(get(&Ids::new(), 0));
        pair.answer(get(&Ids::new(), 100));
        assert_eq!(source.both(pair), Ok(Some(ids)));
    });
}

#[test]
fn connections_without_http_are_not_kept() {
    each(|source, pair| {
        pair.ask(b"\x16\x03\x01\x02\x00\x01 the first record of TLS, more or less");
        pair.ask(b"GET \x16\x03\x01\x02\x00\x01 and one that looks like a method \r\n\r\n");
        pair.answer(b"220 ready\r\n");
        pair.ask(b"HELO shop, and some more text\r\n");
        assert!(source.context(&pair.client).is_none() && source.context(&pair.server).is_none());
    });
}

#[test]
fn a_socket_that_is_gone_leaves_nothing_behind() {
    if !can_load() {
        return;
    }
    let namespace = Namespace::new();
    let source = Source::open(&Kernel::read(None).unwrap(), SPAN_STORAGE_ADDRESS);
    let Contexts::Addresses(table) = &source.contexts else { unreachable!() };
    for family in FAMILIES {
        let mut pair = Pair::new(&namespace, family);
        pair.ask(get(&Ids::new(), 0));
        let ports: Vec<u32> =
            [&pair.client, &pair.server].map(|one| source.context(one).unwrap().ports).to_vec();
        pair.client.flush().unwrap();
        drop(pair);
        common::eventually("both contexts are gone", || {
            let mut left = 0;
            table.for_each(|_, c| left += usize::from(ports.contains(&c.ports))).unwrap();
            left == 0
        });
    }
}
