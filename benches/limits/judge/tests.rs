#![expect(clippy::arithmetic_side_effects, reason = "the numbers of the tests are small")]

use super::*;

const LIMIT: Limit = Limit { interval: 100, burst: 3, spent_late: 0 };

fn at(sent: i64, received: i64, answer: Answer) -> Seen {
    Seen { key: 0, sent, received, answer }
}

fn admitted(times: &[(i64, i64)]) -> Vec<Seen> {
    times.iter().map(|&(sent, received)| at(sent, received, Answer::Admitted)).collect()
}

/// The definition, by trying every window.
fn worst(limit: Limit, admitted: &[Seen]) -> i64 {
    let mut worst = 0;
    for first in admitted {
        for last in admitted.iter().filter(|last| last.received >= first.sent) {
            let within = admitted.iter().filter(|one| one.sent >= first.sent && one.received <= last.received).count();
            let flowed_in = (last.received - first.sent).div_euclid(limit.interval);
            worst = worst.max(i64::try_from(within).unwrap() - limit.burst - flowed_in);
        }
    }
    worst
}

#[test]
fn the_ideal_admits_the_burst_and_then_one_an_interval() {
    let mut ideal = Ideal::new(LIMIT);
    let times = [0, 0, 0, 0, 99, 100, 150, 200, 1_000, 1_000, 1_000, 1_000];
    let admitted: Vec<i64> = times.into_iter().filter(|at| ideal.admits(*at)).collect();
    assert_eq!(admitted, [0, 0, 0, 100, 200, 1_000, 1_000, 1_000]);
}

#[test]
fn what_can_have_been_right_is_not_beyond() {
    assert_eq!(beyond(LIMIT, &admitted(&[(0, 1), (0, 1), (0, 1), (0, 100)])), (0, 0));
    assert_eq!(beyond(LIMIT, &admitted(&[(0, 1), (0, 1), (0, 1), (0, 99)])), (1, 1));
}

#[test]
fn every_request_too_many_counts_and_the_largest_excess_is_the_worst_window() {
    let all = admitted(&[(0, 5), (0, 5), (0, 5), (0, 5), (0, 5), (10_000, 10_001)]);
    assert_eq!(beyond(LIMIT, &all), (2, 2));
}

#[test]
fn the_tree_finds_what_trying_every_window_finds() {
    let mut state = 12_345_u64;
    let mut next = |below: i64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(state >> 40).unwrap() % below
    };
    for _ in 0..200 {
        let mut sent = 0;
        let all: Vec<Seen> = (0..1 + next(30))
            .map(|_| {
                sent += next(90);
                at(sent, sent + next(150), Answer::Admitted)
            })
            .collect();
        assert_eq!(beyond(LIMIT, &all).1, worst(LIMIT, &all), "{all:?}");
        assert_eq!(beyond(LIMIT, &all).0 > 0, worst(LIMIT, &all) > 0);
    }
}

#[test]
fn a_refusal_is_early_only_when_a_token_was_left_whatever_was_under_way() {
    let of = |others: &[(i64, i64)], refused: (i64, i64)| {
        let mut seen = admitted(others);
        seen.push(at(refused.0, refused.1, Answer::Refused));
        Judged::of(LIMIT, &seen).early
    };
    assert_eq!(of(&[], (0, 1)), 1);
    assert_eq!(of(&[(0, 1), (0, 1)], (5, 6)), 1, "two of three are taken");
    assert_eq!(of(&[(0, 1), (0, 1), (0, 1)], (5, 6)), 0);
    assert_eq!(of(&[(0, 1), (0, 1), (3, 50)], (5, 6)), 0, "the third may have been decided first");
    assert_eq!(of(&[(0, 1), (0, 1), (0, 1)], (100, 101)), 0, "as late as 1, the token is back at 101");
    assert_eq!(of(&[(0, 1), (0, 1), (0, 1)], (101, 102)), 1);
}

#[test]
fn keys_are_judged_apart_and_one_does_not_make_up_for_another() {
    let mut seen = admitted(&[(0, 1), (0, 1), (0, 1), (0, 1)]);
    seen.extend((0..3).map(|_| Seen { key: 1, ..at(0, 1, Answer::Refused) }));
    let judged = Judged::of(LIMIT, &seen);
    assert_eq!((judged.offered, judged.admitted, judged.ideal), (7, 4, 6));
    assert_eq!((judged.short, judged.beyond, judged.early), (3, 1, 3));
}

#[test]
fn what_the_documentation_allows_for_is_told_apart() {
    let limit = Limit { spent_late: 2, ..LIMIT };
    let judged = Judged::of(limit, &admitted(&[(0, 1); 6]));
    assert_eq!((judged.beyond, judged.excess, judged.beyond_documented), (3, 3, 1));
}
