//! Violations at the edge of the window, blocks to their end, and a table that stays small.

use std::{collections::HashMap, net::Ipv4Addr, num::NonZeroU32};

use portcullis_api::{Millis, Topology};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::bans::*;
use crate::testing::{HandClock, now_or_never};

const SECOND: Micros = 1_000_000;
const NOW: Micros = 3_600 * SECOND;
const CODE: &str = "waf.urls";

fn numbers(max: u32, window_s: u64, block_s: u64) -> Violations {
    let max = NonZeroU32::new(max).unwrap();
    Violations {
        max: portcullis_api::At::nowhere(max),
        window: Millis::from_secs(window_s),
        block: Millis::from_secs(block_s),
    }
}

fn table(max: u32, window_s: u64, block_s: u64) -> BanTable {
    BanTable::new(&numbers(max, window_s, block_s), RandomState::new())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Entries that the table holds.
fn entries(table: &BanTable) -> usize {
    table.sets.iter().map(|set| set.lock().len()).sum()
}

#[test]
fn the_tenth_violation_in_a_minute_blocks_for_ten_minutes() {
    let table = BanTable::new(&Violations::default(), RandomState::new());
    let client = ip("192.0.2.1");
    for n in 0..9 {
        assert_eq!(table.record(client, CODE, NOW + n * SECOND), None, "{n}");
        assert_eq!(table.active(client, NOW + n * SECOND), None);
    }
    let ban = table.record(client, CODE, NOW + 59 * SECOND).unwrap();
    assert_eq!((ban.client, ban.code, ban.until - ban.since), (Client::Address(client), CODE, 600 * SECOND));
    assert_eq!(table.active(client, ban.until - 1), Some(ban));
    assert_eq!(table.active(client, ban.until), None);
    assert_eq!(table.active(ip("192.0.2.2"), ban.since), None);
}

#[test]
fn a_violation_as_old_as_the_window_counts_no_more() {
    let client = ip("192.0.2.1");
    let two = |gap| {
        let table = table(2, 60, 600);
        table.record(client, CODE, NOW);
        table.record(client, CODE, NOW + gap).is_some()
    };
    assert!(two(60 * SECOND - 1));
    assert!(!two(60 * SECOND));
}

#[test]
fn after_a_block_a_client_starts_anew() {
    let table = table(2, 60, 10);
    let client = ip("192.0.2.1");
    table.record(client, CODE, NOW);
    let ban = table.record(client, CODE, NOW).unwrap();
    assert_eq!(table.record(client, CODE, ban.until - 1), None, "nothing is counted during a block");
    assert_eq!(table.record(client, CODE, ban.until), None);
    assert!(table.record(client, CODE, ban.until).is_some());
}

#[test]
fn a_lifted_block_is_gone_with_its_violations() {
    let table = table(2, 60, 600);
    let client = ip("192.0.2.1");
    assert!(!table.lift(table.key(client)));
    table.record(client, CODE, NOW);
    table.record(client, CODE, NOW);
    assert!(table.lift(table.key(client)));
    assert_eq!((table.active(client, NOW), table.list(NOW)), (None, vec![]));
    assert_eq!(table.record(client, CODE, NOW), None);
    assert!(!table.lift(table.key(client)), "violations alone are no block");
}

#[test]
fn blocks_are_listed_by_their_end_and_only_while_they_are_on() {
    let table = table(1, 60, 600);
    let later = table.record(ip("192.0.2.2"), CODE, NOW + SECOND).unwrap();
    let sooner = table.record(ip("2001:db8::"), CODE, NOW).unwrap();
    assert_eq!(table.list(NOW + SECOND), [sooner, later]);
    assert_eq!(table.list(sooner.until), [later]);
}

#[test]
fn other_numbers_hold_from_here_on_and_blocks_keep_their_end() {
    let table = table(1, 60, 600);
    let client = ip("192.0.2.1");
    let ban = table.record(client, CODE, NOW).unwrap();
    table.configure(&numbers(3, 60, 5));
    assert_eq!(table.active(client, NOW + 599 * SECOND), Some(ban));
    let other = ip("192.0.2.2");
    assert_eq!(table.record(other, CODE, NOW), None);
    assert_eq!(table.record(other, CODE, NOW), None);
    let short = table.record(other, CODE, NOW).unwrap();
    assert_eq!(short.until - short.since, 5 * SECOND);
}

#[test]
fn a_flood_of_clients_stays_in_bounds_and_frees_no_blocked_one() {
    let table = table(2, 60, 600);
    let blocked = ip("2001:db8::");
    table.record(blocked, CODE, NOW);
    assert!(table.record(blocked, CODE, NOW).is_some());
    for n in 0..200_000_u32 {
        assert_eq!(table.record(Ipv4Addr::from(n).into(), CODE, NOW + u64::from(n)), None);
    }
    assert!((60_000..=CLIENTS_MAX).contains(&entries(&table)));
    assert!(table.active(blocked, NOW + SECOND).is_some());
    assert_eq!(table.lost(), 0);
}

#[test]
fn a_block_that_ends_early_is_counted() {
    let table = table(1, 60, 600);
    for n in 0..200_000_u32 {
        assert!(table.record(Ipv4Addr::from(n).into(), CODE, NOW).is_some());
    }
    let on = table.list(NOW).len();
    assert_eq!(u64::try_from(on).unwrap() + table.lost(), 200_000);
}

#[test]
fn clients_without_violations_make_room_first_and_blocked_ones_last() {
    let entry = |stamps: &[Micros], until: Option<Micros>| Place {
        key: ClientKey(1),
        stamps: stamps.iter().copied().collect(),
        begun: until.map(|until| Ban { client: Client::Address(ip("::1")), code: CODE, since: 0, until }),
    };
    let order = [
        entry(&[], Some(NOW)), // its block is over
        entry(&[NOW - 9], None),
        entry(&[NOW - 8], None),
        entry(&[NOW - 9, NOW - 8], None),
        entry(&[], Some(NOW + 1)),
        entry(&[], Some(NOW + 2)),
    ];
    assert!(order.is_sorted_by(|a, b| a.worth(NOW) < b.worth(NOW)));
}

/// The tables of two gateways of one deployment.
fn two_tables(max: u32) -> [BanTable; 2] {
    let key = Secret::new(vec![7; 32]);
    [0, 1].map(|_| BanTable::shared(&numbers(max, 60, 600), RandomState::new(), &key))
}

fn block(age_s: u64, remaining_s: u64) -> Block {
    Block { code: CODE.to_owned(), age: age_s * SECOND, remaining: remaining_s * SECOND }
}

#[test]
fn two_gateways_find_a_client_by_one_key_that_does_not_tell_its_address() {
    let [one, two] = two_tables(1);
    let (client, other) = (ip("203.0.113.77"), ip("203.0.113.78"));
    let key = one.key(client);
    assert_eq!(key, two.key(client));
    assert_ne!(key, two.key(other));
    assert!(!key.to_string().contains("cb00714d"));
    assert_eq!(key.to_string().parse(), Ok(key));
    for text in ["", "203.0.113.77", "0123456789ABCDEF0123456789ABCDEF", "+123456789abcdef0123456789abcdef"] {
        assert_eq!(text.parse::<ClientKey>(), Err(NoClientKey), "{text}");
    }
    let stranger = BanTable::shared(&numbers(1, 60, 600), RandomState::new(), &Secret::new(vec![8; 32]));
    assert_ne!(key, stranger.key(client));
}

#[test]
fn a_block_that_is_learned_by_hash_holds_for_the_client() {
    let [table, _] = two_tables(10);
    let (client, key) = (ip("192.0.2.1"), table.key(ip("192.0.2.1")));
    let ban = table.learn(key, Client::Hash(key), &block(60, 540), NOW, NOW + 5).unwrap();
    assert_eq!((ban.client, ban.code, ban.since), (Client::Hash(key), CODE, NOW - 60 * SECOND));
    assert_eq!(table.active(client, ban.until - 1), Some(ban));
    assert_eq!(ban.until, NOW + 5 + 540 * SECOND);
    assert_eq!(table.active(client, ban.until), None);
    assert_eq!(table.active(ip("192.0.2.2"), NOW), None);
    assert_eq!(table.strike(client, CODE, NOW), None, "nothing is counted during a block");
    assert_eq!(table.list(NOW), [ban]);
}

#[test]
fn a_block_is_news_once_and_is_only_ever_made_longer() {
    let [table, _] = two_tables(1);
    let (client, key) = (ip("192.0.2.1"), table.key(ip("192.0.2.1")));
    let own = table.record(client, CODE, NOW).unwrap();
    assert_eq!(table.learn(key, Client::Hash(key), &block(9, 9), NOW, NOW), None);
    assert_eq!(table.active(client, NOW), Some(own), "a known block stays to its end");
    assert_eq!(table.learn(key, Client::Hash(key), &block(9, 700), NOW, NOW), None);
    let longer = table.active(client, NOW).unwrap();
    assert_eq!((longer.until, longer.client), (NOW + 700 * SECOND, own.client), "the address is still known");
}

#[test]
fn a_code_of_another_version_blocks_all_the_same() {
    let [table, _] = two_tables(10);
    let key = table.key(ip("192.0.2.1"));
    let newer = Block { code: "waf.newer".to_owned(), ..block(0, 600) };
    assert_eq!(table.learn(key, Client::Hash(key), &newer, NOW, NOW).unwrap().code, "unknown");
    assert!(table.active(ip("192.0.2.1"), NOW).is_some());
}

#[test]
fn a_lift_elsewhere_ends_what_is_older_and_nothing_that_is_younger() {
    let [table, _] = two_tables(2);
    let (client, key) = (ip("192.0.2.1"), table.key(ip("192.0.2.1")));
    table.record(client, CODE, NOW);
    assert!(!table.lift_before(key, NOW + 1), "violations alone are no block");
    assert_eq!(table.record(client, CODE, NOW + 1), None, "they are forgotten");
    let ban = table.record(client, CODE, NOW + 2).unwrap();
    assert!(!table.lift_before(key, ban.since));
    assert_eq!(table.active(client, NOW + 2), Some(ban));
    assert!(table.lift_before(key, ban.since + 1));
    assert_eq!(table.active(client, NOW + 2), None);
    assert_eq!(entries(&table), 0);
}

#[test]
fn more_violations_than_can_be_remembered_are_an_issue() {
    let compile = |max| {
        let mut issues = Issues::default();
        let needs = Needs { table: Arc::new(table(1, 1, 1)), clock: HandClock::new() };
        (Bans::compile(&numbers(max, 60, 600), &needs, &mut issues).is_some(), issues.as_slice().len())
    };
    assert_eq!(compile(256), (true, 0));
    assert_eq!(compile(257), (false, 1));
}

#[test]
fn a_blocked_client_gets_403_and_the_seconds_that_are_left() {
    let clock = HandClock::new();
    let needs = Needs { table: Arc::new(table(1, 60, 600)), clock: clock.clone() };
    let bans = Bans::compile(&numbers(1, 60, 600), &needs, &mut Issues::default()).unwrap();
    let settle = |peer: &str| Topology::Direct.settle(peer.parse().unwrap(), None, &HeaderMap::new()).unwrap();
    let ask = |peer| now_or_never(bans.check(Sees { client: settle(peer) })).unwrap();
    assert!(matches!(ask("[2001:db8::1]:1"), Verdict::Pass(_)));
    needs.table.record(settle("[2001:db8::1]:1").counted(), "burst.exceeded", clock.now());
    clock.advance(SECOND / 2);
    // Its neighbour in the /64 is the same client.
    let Verdict::Deny(deny) = ask("[2001:db8::2]:1") else { panic!("blocked") };
    let mut headers = HeaderMap::new();
    deny.headers(&mut headers);
    assert_eq!((deny.code().name, deny.code().status), ("bans.active", 403));
    assert_eq!(headers.get(RETRY_AFTER).unwrap(), "600");
    assert_eq!(deny.detail().unwrap(), "blocked after repeated burst.exceeded");
}

#[test]
fn only_burst_and_content_count_as_violations() {
    let code = |name| Code { name, status: 400, title: "" };
    for name in VIOLATION_CODES {
        assert!(is_violation(&code(name)));
    }
    for name in ["rate_limit.exceeded", "waf.body_too_large", "ip_allowlist.denied", "bans.active"] {
        assert!(!is_violation(&code(name)), "{name}");
    }
}

proptest! {
    #[test]
    fn the_window_slides_exactly_as_a_plain_list_of_times_does(
        max in 1..8u32,
        steps in vec((0..40u64, 0..4u8), 1..200),
    ) {
        let table = table(max, 60, 90);
        let (mut now, mut plain) = (NOW, HashMap::<u8, (Vec<Micros>, Micros)>::new());
        for (wait_s, n) in steps {
            now += wait_s * SECOND;
            let (times, blocked_until) = plain.entry(n).or_default();
            let expected = if now < *blocked_until {
                false
            } else {
                times.push(now);
                let full = times.iter().filter(|&&at| now - at < 60 * SECOND).count() >= usize::try_from(max).unwrap();
                if full {
                    times.clear();
                    *blocked_until = now + 90 * SECOND;
                }
                full
            };
            let client = IpAddr::from([192, 0, 2, n]);
            prop_assert_eq!(table.record(client, CODE, now).is_some(), expected);
            prop_assert_eq!(table.active(client, now).is_some(), now < plain[&n].1);
        }
    }
}
