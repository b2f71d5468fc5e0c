//! Suggestions made from one half of a generated log, tried on the other half.
//!
//! The log is the same on each run: its numbers come from a generator with a seed. Addresses come at random, each at
//! its own pace: the n-th busiest of `ADDRESSES` is `(ADDRESSES / n)^tail` times as busy as the last.
#![expect(clippy::arithmetic_side_effects, reason = "plain numbers of tests")]

use std::fmt::Write as _;

use portcullis_api::{Micros, Millis};
use portcullis_plugins::rate_limit::Rate;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    read::read_lines,
    suggest::{Suggestion, replay, suggest},
    traffic::{Id, Kind, Request, Traffic},
};

const ADDRESSES: u32 = 1_000;
const MINUTES: f64 = 60.0;
const WINDOW: Millis = Millis::from_secs(60);
const START_S: f64 = 1_785_585_600.0;

/// SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    /// Minutes until the next request of somebody who sends `pace` a minute at random.
    fn wait(&mut self, pace: f64) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let drawn = f64::from(u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap());
        -((drawn + 1.0) / 4_294_967_296.0).ln() / pace
    }
}

/// An address's lines, in minutes `from` to `to`.
fn lines(address: u32, pace: f64, (from, to): (f64, f64), log: &mut String) {
    let mut dice = Dice(u64::from(address));
    let mut minute = from + dice.wait(pace);
    while minute < to {
        let time = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds_f64(START_S + minute * 60.0);
        let time = time.replace_millisecond(time.millisecond()).unwrap().format(&Rfc3339).unwrap();
        writeln!(
            log,
            r#"{{"v":1,"ts":"{time}","event":"access","route":"a.test/orders","code":null,"dur_ms":0.0,"client":{{"ip_pseudonym":"{address}"}},"trail":[]}}"#
        )
        .unwrap();
        minute += dice.wait(pace);
    }
}

/// An hour of a route: its busiest address sends `busiest` requests a minute.
fn hour(tail: f64, busiest: f64) -> String {
    let mut log = String::new();
    for rank in 1..=ADDRESSES {
        lines(rank, busiest / f64::from(rank).powf(tail), (0.0, MINUTES), &mut log);
    }
    log
}

fn requests(log: &str) -> Vec<Request> {
    let mut traffic = Traffic::default();
    read_lines(log.as_bytes(), "generated", &mut traffic).unwrap();
    traffic.sort();
    traffic.routes.remove("a.test/orders").unwrap().requests
}

fn half(requests: &[Request], is_in: impl Fn(&Request) -> bool) -> [Vec<Request>; 2] {
    let (one, other) = requests.iter().partition(|request| is_in(request));
    [one, other]
}

/// The first half hour and the second.
fn by_time(requests: &[Request]) -> [Vec<Request>; 2] {
    let middle = Micros::try_from(std::time::Duration::from_secs_f64(START_S + MINUTES * 30.0).as_micros()).unwrap();
    half(requests, |request| request.at < middle)
}

/// Every other address, so that either half has as busy ones.
fn by_address(requests: &[Request]) -> [Vec<Request>; 2] {
    half(requests, |request| request.client.is_some_and(|client| client.get() % 2 == 0))
}

fn suggested(requests: &[Request]) -> Suggestion {
    suggest(requests, Kind::Client, WINDOW).unwrap().unwrap()
}

/// Percent of requests that a suggestion refuses.
fn refuses(suggestion: &Suggestion, requests: &[Request]) -> f64 {
    let rate = Rate::new(suggestion.threshold, WINDOW, suggestion.threshold).unwrap();
    let number = |n: usize| f64::from(u32::try_from(n).unwrap());
    100.0 * number(replay(requests, Kind::Client, rate).requests) / number(requests.len())
}

#[test]
fn of_ordinary_traffic_a_suggestion_refuses_less_than_one_request_in_a_hundred_of_the_half_it_has_not_seen() {
    let requests = requests(&hour(0.6, 24.0));
    assert!(requests.len() > 50_000, "{}", requests.len());
    for [one, other] in [by_time(&requests), by_address(&requests)] {
        for (seen, held_out) in [(&one, &other), (&other, &one)] {
            let suggestion = suggested(seen);
            let refused = refuses(&suggestion, held_out);
            assert!(refused < 1.0, "{refused} % by {suggestion:?}");
        }
    }
}

#[test]
fn a_flood_in_the_half_it_has_not_seen_is_refused_and_the_others_are_not() {
    let requests = requests(&hour(0.6, 24.0));
    let [seen, mut held_out] = by_time(&requests);
    let suggestion = suggested(&seen);
    let mut log = String::new();
    lines(ADDRESSES + 1, 600.0, (30.0, MINUTES), &mut log);
    let flooder = Id::new(ADDRESSES + 1);
    let flood: Vec<Request> =
        self::requests(&log).into_iter().map(|request| Request { client: flooder, ..request }).collect();
    held_out.extend(&flood);
    held_out.sort_by_key(|request| request.at);
    let [flood, others] = half(&held_out, |request| request.client == flooder);
    assert!(refuses(&suggestion, &flood) > 95.0 && refuses(&suggestion, &others) < 1.0, "{suggestion:?}");
}

#[test]
fn where_few_addresses_send_most_the_share_that_is_told_is_that_of_the_half_it_has_not_seen() {
    let requests = requests(&hour(1.0, 60.0));
    let [one, other] = by_time(&requests);
    for (seen, held_out) in [(&one, &other), (&other, &one)] {
        let suggestion = suggested(seen);
        let (told, found) = (refuses(&suggestion, seen), refuses(&suggestion, held_out));
        assert!(told > 1.0 && (told - found).abs() < 1.0, "{told} % were told and {found} % found: {suggestion:?}");
    }
}
