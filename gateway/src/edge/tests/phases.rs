//! The phase machine, with time and bytes handed in.

use std::time::Duration;

use portcullis_api::{Millis, Size};
use portcullis_config::document::Bounds;
use tokio::time::Instant;

use super::super::{
    conn::{Flight, after},
    watch::{Cut, HEAD_SLACK_BYTES, Limits, Unfinished, Watch},
};

const HEAD: u64 = 50;
const IDLE: u64 = 600;
const GAP: u64 = 100;

fn limits() -> Limits {
    Limits::from(&Bounds {
        head_timeout: Millis::new(HEAD),
        idle_timeout: Millis::new(IDLE),
        body_timeout: Millis::new(GAP),
        head_bytes_max: Size::new(100),
        ..Bounds::default()
    })
}

struct Http1 {
    start: Instant,
    flight: Flight,
    watch: Watch,
}

impl Http1 {
    fn new() -> Self {
        let start = Instant::now();
        Self { start, flight: Flight::new(start), watch: Watch::http1(limits()) }
    }
    fn at(&self, ms: u64) -> Instant {
        after(self.start, Duration::from_millis(ms))
    }
    fn read(&mut self, bytes: usize, ms: u64) {
        let at = self.at(ms);
        self.watch.on_read(&vec![b'a'; bytes], &self.flight, at);
    }
    fn next(&mut self, ms: u64) -> Option<(u64, Cut)> {
        let at = self.at(ms);
        self.watch
            .deadline(&self.flight, at)
            .map(|(at, cut)| (u64::try_from(at.duration_since(self.start).as_millis()).unwrap(), cut))
    }
}

#[test]
fn a_head_has_its_deadline_from_its_first_byte_however_it_drips() {
    let mut c = Http1::new();
    assert_eq!(c.next(0), Some((IDLE, Cut::Idle)));
    c.read(1, 10);
    assert_eq!(c.next(10), Some((10 + HEAD, Cut::HeadTimeout)));
    c.read(1, 40);
    assert_eq!(c.next(40), Some((10 + HEAD, Cut::HeadTimeout)));
}

#[test]
fn a_request_has_no_deadline_of_ours_and_idle_begins_when_it_ends() {
    let mut c = Http1::new();
    c.read(10, 0);
    c.flight.start();
    assert_eq!((c.next(9_999), c.watch.room(&c.flight)), (None, Ok(None)));
    c.flight.finish(c.at(10_000));
    assert_eq!(c.next(10_000), Some((10_000 + IDLE, Cut::Idle)));
    c.read(1, 10_100);
    assert_eq!(c.next(10_100), Some((10_100 + HEAD, Cut::HeadTimeout)), "the second head counts afresh");
    assert_eq!(c.watch.room(&c.flight), Ok(Some(HEAD_SLACK_BYTES + 99)));
}

#[test]
fn a_head_may_fill_its_bound_and_the_slack_and_not_one_byte_more() {
    let mut c = Http1::new();
    assert_eq!(c.watch.room(&c.flight), Ok(Some(HEAD_SLACK_BYTES + 100)));
    c.read(HEAD_SLACK_BYTES + 99, 0);
    assert_eq!(c.watch.room(&c.flight), Ok(Some(1)));
    c.read(1, 0);
    assert_eq!(c.watch.room(&c.flight), Err(Cut::HeadTooLarge), "the parser asks for more");
    c.flight.start();
    assert_eq!(c.watch.room(&c.flight), Ok(None), "the head was complete");
}

#[test]
fn a_body_has_a_gap_and_ten_times_as_long_in_all() {
    let mut c = Http1::new();
    c.read(10, 0);
    c.flight.start();
    let wait = c.flight.want(c.at(0));
    let mut now = 0;
    while now < 950 {
        assert_eq!(c.next(now), Some(if now < 900 { (now + GAP, Cut::BodyStalled) } else { (1000, Cut::BodyTimeout) }));
        now += 90;
        c.read(1, now);
    }
    c.flight.done(wait);
    assert_eq!(c.next(now), None);
}

#[test]
fn the_time_in_which_nobody_reads_is_not_the_clients() {
    let mut c = Http1::new();
    c.read(10, 0);
    c.flight.start();
    c.flight.want(c.at(0));
    // The upstream was slow: the first wait for bytes begins at 500.
    assert_eq!(c.next(500), Some((600, Cut::BodyStalled)));
}

#[test]
fn a_head_that_was_left_is_told_from_one_that_became_a_request() {
    let mut c = Http1::new();
    assert_eq!(c.watch.unfinished(&c.flight), Unfinished::default());
    c.read(10, 0);
    assert_eq!(c.watch.unfinished(&c.flight).head, Some("closed"));
    assert!(c.watch.is_before_request(&c.flight));
    c.flight.start();
    assert_eq!(c.watch.unfinished(&c.flight), Unfinished::default());
    assert!(!c.watch.is_before_request(&c.flight));
    c.flight.finish(c.at(0));
    assert!(c.watch.is_before_request(&c.flight));
    assert!(!http2().watch.is_before_request(&c.flight), "h2 answers itself");
}

fn frame(length: u8, kind: u8, flags: u8, stream: u8) -> Vec<u8> {
    let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
    bytes.resize(9 + usize::from(length), 0);
    bytes
}

fn http2() -> Http1 {
    let mut c = Http1::new();
    c.watch = Watch::http2(limits(), c.start);
    c
}

fn preface(c: &mut Http1, ms: u64) {
    let at = c.at(ms);
    c.watch.on_read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &c.flight, at);
}

#[test]
fn an_http2_client_owes_its_preface_at_once_and_every_header_block_in_time() {
    let mut c = http2();
    assert_eq!(c.next(0), Some((HEAD, Cut::HeadTimeout)));
    preface(&mut c, 10);
    assert_eq!(c.next(10), Some((IDLE, Cut::Idle)));
    let at = c.at(20);
    c.watch.on_read(&frame(4, 1, 0, 1), &c.flight, at);
    assert_eq!(c.next(20), Some((20 + HEAD, Cut::HeadTimeout)));
    c.watch.on_read(&frame(4, 9, 4, 1), &c.flight, at);
    c.flight.start();
    assert_eq!(c.next(30), None);
    let at = c.at(40);
    c.watch.on_read(&frame(4, 1, 0, 3), &c.flight, at);
    assert_eq!(c.next(40), Some((40 + HEAD, Cut::HeadTimeout)), "also beside an open stream");
}

#[test]
fn an_http2_ping_is_no_body() {
    let mut c = http2();
    preface(&mut c, 0);
    let at = c.at(0);
    c.watch.on_read(&frame(4, 1, 4, 1), &c.flight, at);
    c.flight.start();
    c.flight.want(at);
    assert_eq!(c.next(0), Some((GAP, Cut::BodyStalled)));
    let at = c.at(90);
    c.watch.on_read(&frame(8, 6, 0, 0), &c.flight, at);
    assert_eq!(c.next(90), Some((GAP, Cut::BodyStalled)));
    c.watch.on_read(&frame(1, 0, 0, 1), &c.flight, at);
    assert_eq!(c.next(90), Some((90 + GAP, Cut::BodyStalled)));
}

#[test]
fn an_http2_client_without_window_is_not_blamed_for_silence() {
    let mut c = http2();
    preface(&mut c, 0);
    let at = c.at(0);
    c.watch.on_read(&frame(4, 1, 4, 1), &c.flight, at);
    c.flight.start();
    c.flight.want(at);
    for _ in 0..300 {
        c.watch.on_read(&frame(200, 0, 0, 1), &c.flight, at);
    }
    assert_eq!(c.next(0), Some((GAP, Cut::BodyStalled)));
    assert_eq!(c.next(500), Some((500 + GAP, Cut::BodyStalled)), "it may not send");
    let mut update = frame(4, 8, 0, 0);
    update[11] = 0xff;
    c.watch.on_write(&update);
    assert_eq!(c.next(600), Some((700, Cut::BodyStalled)), "now it may");
    assert_eq!(c.next(650), Some((700, Cut::BodyStalled)));
    assert_eq!(c.next(999), Some((700, Cut::BodyStalled)));
}

#[test]
fn http2_heads_that_reached_no_filter_are_counted() {
    let mut c = http2();
    let at = c.at(0);
    assert_eq!(c.watch.unfinished(&c.flight), Unfinished::default(), "nothing was sent");
    c.watch.on_read(b"PRI", &c.flight, at);
    assert_eq!(c.watch.unfinished(&c.flight).head, Some("closed"));
    c.watch.on_read(b" * HTTP/2.0\r\n\r\nSM\r\n\r\n", &c.flight, at);
    for stream in [1, 3, 5] {
        c.watch.on_read(&frame(4, 1, 4, stream), &c.flight, at);
    }
    c.flight.start();
    c.watch.on_read(&frame(4, 1, 0, 7), &c.flight, at);
    c.flight.set_cut(Cut::HeadTimeout);
    assert_eq!(c.watch.unfinished(&c.flight), Unfinished { head: Some("timeout"), refused: 2 });
}
