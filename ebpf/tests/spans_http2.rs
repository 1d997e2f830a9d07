//! What is kept of requests of HTTP/2: the trace context of the one that is open, and nothing while several are.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use common::contexts::{Ambiguous, FAMILIES, Source, each};
use common::http::{Ids, Pair};
use common::http2::{
    CONTINUATION, Connection, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, PING, PREFACE, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, field, field_named_as, frame,
};
use common::{Namespace, can_load};
use jitterscope_ebpf::abi::{EXTENT_CLOSED, EXTENT_OPEN};

/// Runs a case with each storage and family, with a fresh connection of a real implementation.
fn each_real<F: Future<Output = ()>>(case: impl Fn(&'static Source, &'static Pair, Connection) -> F) {
    if !can_load() {
        return;
    }
    let namespace = Namespace::new();
    for source in Source::all() {
        let source: &'static Source = Box::leak(Box::new(source));
        for family in FAMILIES {
            let pair: &'static Pair = Box::leak(Box::new(Pair::new(&namespace, family)));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { case(source, pair, Connection::new(pair).await).await });
        }
    }
}

#[test]
fn each_request_in_turn_is_known_to_both_ends_until_the_next_one() {
    each_real(|source, pair, mut connection| async move {
        for number in 0..200 {
            let ids = Ids::new();
            let call = connection.get(&ids, number).await;
            assert_eq!(source.both(pair), Ok(Some(ids)), "request {number}");
            assert_eq!(source.context(&pair.server).unwrap().extent, EXTENT_OPEN);
            call.answer(10).await;
            assert_eq!(source.both(pair), Ok(Some(ids)), "after request {number}");
            assert_eq!(source.context(&pair.client).unwrap().extent, EXTENT_CLOSED);
            if number % 10 == 0 {
                let other = format!("value {number}");
                let call = connection.ask(&[("x-parent", &ids.value()), ("x-other", &other)], true).await;
                assert_eq!(source.both(pair), Ok(None));
                call.answer(0).await;
            }
        }
    });
}

#[test]
fn requests_that_overlap_have_no_span_and_the_next_one_alone_has_its_own() {
    each_real(|source, pair, mut connection| async move {
        for round in 0..20 {
            let first = connection.get(&Ids::new(), round).await;
            let second = connection.get(&Ids::new(), round).await;
            assert_eq!(source.both(pair), Err(Ambiguous));
            first.answer(1).await;
            assert_eq!(source.both(pair), Err(Ambiguous), "one is open, but it was not alone");
            let third = connection.get(&Ids::new(), round).await;
            assert_eq!(source.both(pair), Err(Ambiguous));
            second.answer(1).await;
            third.take_back().await;
            let ids = Ids::new();
            let alone = connection.get(&ids, round).await;
            assert_eq!(source.both(pair), Ok(Some(ids)), "round {round}");
            alone.answer(1).await;
        }
    });
}

#[test]
fn bodies_of_many_packets_do_not_hide_the_request_nor_its_end() {
    each_real(|source, pair, mut connection| async move {
        for length in [1, 100, 1_448, 16_384, 60_000, 65_535] {
            let ids = Ids::new();
            let mut call = connection.ask(&[("traceparent", &ids.value())], false).await;
            call.send(length).await;
            assert_eq!(source.both(pair), Ok(Some(ids)), "{length}");
            assert_eq!(source.context(&pair.server).unwrap().extent, EXTENT_OPEN);
            call.answer(length).await;
            assert_eq!(source.both(pair), Ok(Some(ids)), "{length}");
            assert_eq!(source.context(&pair.server).unwrap().extent, EXTENT_CLOSED);
        }
    });
}

#[test]
fn more_open_requests_than_there_is_room_for_end_the_links_of_the_connection() {
    each_real(|source, pair, mut connection| async move {
        let mut open = Vec::new();
        for number in 0..17 {
            open.push(connection.get(&Ids::new(), number).await);
        }
        for call in open {
            call.answer(1).await;
        }
        connection.get(&Ids::new(), 0).await.answer(1).await;
        assert_eq!(source.both(pair), Err(Ambiguous));
    });
}

/// Ways to put a field into the table, or not (RFC 7541, section 6.2): with, without, never.
const WAYS: [u8; 3] = [0x40, 0x00, 0x10];

/// A connection on which frames made by hand are sent.
struct ByHand<'a> {
    source: &'a Source,
    pair: &'a mut Pair,
    stream: u32,
}

impl<'a> ByHand<'a> {
    fn new(source: &'a Source, pair: &'a mut Pair) -> Self {
        pair.ask([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
        pair.answer(frame(SETTINGS, 0, 0, &[]));
        Self { source, pair, stream: 1 }
    }

    /// A request with this head, and its answer; what was known of it.
    fn request(&mut self, flags: u8, head: &[u8]) -> Result<Option<Ids>, Ambiguous> {
        self.pair.ask(frame(HEADERS, END_STREAM | flags, self.stream, head));
        let known = self.source.both(self.pair);
        self.answer();
        known
    }

    fn answer(&mut self) {
        self.pair.answer(frame(HEADERS, END_STREAM | END_HEADERS, self.stream, &[0x88]));
        self.stream += 2;
    }

    /// That a request is understood as ever.
    fn check(&mut self) {
        let ids = Ids::new();
        assert_eq!(self.request(END_HEADERS, &field(0, "traceparent", &ids.value())), Ok(Some(ids)));
    }
}

#[test]
fn every_way_to_write_a_field_is_understood() {
    each(|source, pair| {
        let mut by_hand = ByHand::new(source, pair);
        for way in WAYS {
            let ids = Ids::new();
            let head = [field(way, "x", "y"), field(way, "traceparent", &ids.value()), vec![0x82]].concat();
            assert_eq!(by_hand.request(END_HEADERS, &head), Ok(Some(ids)), "{way}");
            let padded = [&[5], &head[..], &[0; 5]].concat();
            assert_eq!(by_hand.request(END_HEADERS | PADDED, &padded), Ok(Some(ids)));
            let depends = [&[0, 0, 0, 0, 16], &head[..]].concat();
            assert_eq!(by_hand.request(END_HEADERS | PRIORITY, &depends), Ok(Some(ids)));
        }
        let ids = Ids::new();
        // The last entry of the table, from the first way.
        assert_eq!(by_hand.request(END_HEADERS, &field_named_as(62, &ids.value())), Ok(Some(ids)));
        by_hand.request(END_HEADERS, &field(0x40, "other", "entry")).unwrap();
        assert_eq!(by_hand.request(END_HEADERS, &field_named_as(62, &ids.value())), Ok(None), "of `other`");
        assert_eq!(by_hand.request(END_HEADERS, &field_named_as(63, &ids.value())), Ok(Some(ids)));
        // The whole field from the table: whose value that is was not kept.
        assert_eq!(by_hand.request(END_HEADERS, &[0x80 | 63]), Ok(None));
        by_hand.check();
    });
}

#[test]
fn heads_without_a_valid_context_have_none() {
    each(|source, pair| {
        let mut by_hand = ByHand::new(source, pair);
        let value = Ids::new().value();
        let long = "x".repeat(126);
        for head in [
            field(0, "x-traceparent", &value),
            field(0, "tracepareNt", &value),
            field(0, "traceparent", &value[1..]),
            field(0, "traceparent", &format!("{value}-")),
            field(0, "traceparent", &value.to_uppercase()),
            field(0, "traceparent", &value.replace("00-", "01-")),
            field(0, "x", &format!("traceparent{value}")),
            [field(0, "traceparent", &value), field(0, "traceparent", &value)].concat(),
            field_named_as(62, &value),
            field(0, "x", &long),
        ] {
            assert_eq!(by_hand.request(END_HEADERS, &head), Ok(None), "{head:?}");
            by_hand.check();
        }
    });
}

#[test]
fn a_head_that_is_not_in_one_frame_and_packet_gives_no_context_and_names_of_the_table_none_after_it() {
    let in_table = field(0x40, "traceparent", &Ids::new().value());
    each(|source, pair| {
        let mut by_hand = ByHand::new(source, pair);
        assert!(matches!(by_hand.request(END_HEADERS, &in_table), Ok(Some(_))));
        let (start, rest) = in_table.split_at(20);
        by_hand.pair.ask(frame(HEADERS, END_STREAM, by_hand.stream, start));
        by_hand.pair.ask(frame(CONTINUATION, END_HEADERS, by_hand.stream, rest));
        assert_eq!(by_hand.source.both(by_hand.pair), Ok(None));
        by_hand.answer();
        assert_eq!(by_hand.request(END_HEADERS, &field_named_as(62, &Ids::new().value())), Ok(None));
        by_hand.check();
    });
    each(|source, pair| {
        let mut by_hand = ByHand::new(source, pair);
        for at in [1, 5, 8, 9, 10, 30, 70] {
            let bytes =
                frame(HEADERS, END_STREAM | END_HEADERS, by_hand.stream, &field(0, "x", &"y".repeat(70)));
            by_hand.pair.ask(&bytes[..at]);
            by_hand.pair.ask(&bytes[at..]);
            assert_eq!(by_hand.source.both(by_hand.pair), Ok(None), "{at}");
            by_hand.answer();
            by_hand.check();
        }
    });
}

#[test]
fn frames_of_the_connection_and_unknown_ones_do_not_touch_the_request() {
    each(|source, pair| {
        let mut by_hand = ByHand::new(source, pair);
        let ids = Ids::new();
        by_hand.pair.ask(frame(HEADERS, END_HEADERS, 1, &field(0, "traceparent", &ids.value())));
        by_hand.pair.answer(frame(PING, 0, 0, &[0; 8]));
        by_hand.pair.ask([frame(PING, 1, 0, &[0; 8]), frame(0x2a, 1, 1, b"?")].concat());
        by_hand.pair.answer(frame(DATA, END_STREAM, 3, b"of no request"));
        assert_eq!(by_hand.source.both(by_hand.pair), Ok(Some(ids)));
        assert_eq!(by_hand.source.context(&by_hand.pair.client).unwrap().extent, EXTENT_OPEN);
        by_hand.pair.answer(frame(RST_STREAM, 0, 1, &[0; 4]));
        assert_eq!(by_hand.source.context(&by_hand.pair.client).unwrap().extent, EXTENT_CLOSED);
        by_hand.stream = 3;
        by_hand.check();
    });
}

/// Frames of the connection go along with the request that shares their packet; those of another request do not.
#[test]
fn a_packet_that_begins_with_frames_of_the_connection_is_its_requests() {
    each(|source, pair| {
        let by_hand = ByHand::new(source, pair);
        for (stream, of, shares) in [(1, 0, true), (3, 1, false), (5, 0, true)] {
            let before = frame(PING, 0, of, &[0; 8]);
            let head = frame(HEADERS, END_HEADERS, stream, &field(0, "traceparent", &Ids::new().value()));
            by_hand.pair.ask([before.as_slice(), &head].concat());
            let of_it = head.len() + if shares { before.len() } else { 0 };
            for socket in [&by_hand.pair.client, &by_hand.pair.server] {
                let kept = by_hand.source.context(socket).unwrap();
                assert_eq!(kept.end.wrapping_sub(kept.start) as usize, of_it, "stream {stream}");
            }
            by_hand.pair.answer(frame(RST_STREAM, 0, stream, &[0; 4]));
        }
    });
}

#[test]
fn what_is_not_followed_ends_the_links_of_the_connection() {
    for frames in [frame(PUSH_PROMISE, 0, 1, &[0, 0, 0, 2]), vec![0xff; 40]] {
        each(|source, pair| {
            let mut by_hand = ByHand::new(source, pair);
            by_hand.check();
            by_hand.pair.answer(&frames);
            let value = Ids::new().value();
            assert_eq!(
                by_hand.request(END_HEADERS, &field(0, "traceparent", &value)),
                Err(Ambiguous),
                "{frames:?}"
            );
        });
    }
}
