//! What locks, for whom, and for how long.

use super::*;
use crate::{
    bans::{Asking, Block, Changes, Cursor},
    rate_limit::StoreFault,
};

const HOME: &str = "192.0.2.1";
const AWAY: &str = "198.51.100.7";

fn scope(deny: &Deny) -> Scope {
    match deny {
        Deny::Locked { lock, .. } => lock.scope,
        Deny::AtOnce { scope, .. } => *scope,
        Deny::BodyTooLarge => panic!("{deny:?}"),
    }
}

#[test]
fn five_failures_lock_for_a_minute_ten_for_five_and_twenty_for_an_hour() {
    let gate = Gate::new("");
    for (failures, lock_s) in [(5, 60), (5, 300), (10, 3_600), (1, 3_600)] {
        gate.fail("ann", HOME, failures);
        assert_eq!(gate.log_in("ann", ip(HOME), 200), Err(lock_s), "the right password is not even asked for");
        gate.advance_s(lock_s - 1);
        assert_eq!(gate.log_in("ann", ip(HOME), 200), Err(1));
        gate.advance_s(1);
    }
}

#[test]
fn five_in_a_quarter_of_an_hour_lock_for_one() {
    let gate = Gate::new("[login]\npreset = \"five_in_15m\"");
    gate.fail("ann", HOME, 1);
    gate.advance_s(899);
    gate.fail("ann", HOME, 3);
    gate.advance_s(1);
    gate.fail("ann", HOME, 1); // the first one counts no more
    gate.fail("ann", HOME, 1);
    assert_eq!(gate.log_in("ann", ip(HOME), 401), Err(900));
}

#[test]
fn a_success_forgets_the_failures_of_the_account_and_not_those_of_the_network() {
    let gate = Gate::new("");
    gate.fail("ann", HOME, 3);
    assert_eq!(gate.log_in("ANN ", ip(HOME), 302), Ok(()), "a redirect says nothing");
    assert_eq!(gate.log_in("ANN ", ip(HOME), 204), Ok(()));
    gate.fail("ann", HOME, 4);
    assert_eq!(gate.log_in("ann", ip(HOME), 200), Ok(()));
    // Three failures of a network that was not known. Who logs in to an account of his own in between wins nothing.
    gate.fail("bob", HOME, 1);
    assert_eq!(gate.log_in("mallory", ip(HOME), 200), Ok(()));
    gate.fail("cid", HOME, 1);
    assert_eq!(gate.ask("dan", ip(HOME)).map_err(|deny| scope(&deny)).unwrap_err(), Scope::Network);
    assert_eq!(gate.log_in("ann", ip(HOME), 200), Ok(()), "who is known from there gets in");
}

#[test]
fn lockout_as_a_weapon_an_attacker_with_many_networks_does_not_lock_the_victims_own_out() {
    let gate = Gate::new("");
    assert_eq!(gate.log_in("victim", ip(HOME), 200), Ok(()));
    for n in 0..200 {
        let attacker = IpAddr::from([203, 0, 113, n]);
        match gate.ask("victim", attacker) {
            Ok(unlocked) => gate.settle(unlocked, StatusCode::UNAUTHORIZED),
            Err(deny) => assert_eq!(scope(&deny), Scope::Account),
        }
    }
    assert_eq!(gate.log_in("victim", ip(AWAY), 200), Err(60), "all networks together had five tries");
    assert_eq!(gate.log_in("victim", ip(HOME), 401), Ok(()));
    assert_eq!(gate.log_in("victim", ip(HOME), 200), Ok(()));
    gate.advance_s(60);
    assert_eq!(gate.log_in("victim", ip(AWAY), 200), Ok(()));
    assert_eq!(gate.log_in("victim", ip(AWAY), 401), Ok(()), "from here on it is known too");
}

#[test]
fn g7_another_spelling_of_an_account_is_the_same_account() {
    let gate = Gate::new("");
    for (n, name) in ["John", "john", "JOHN", " john", "jo\u{200b}hn"].iter().enumerate() {
        assert_eq!(gate.log_in(name, IpAddr::from([203, 0, 113, u8::try_from(n).unwrap()]), 401), Ok(()));
    }
    assert_eq!(gate.ask("john", ip(AWAY)).map_err(|deny| scope(&deny)).unwrap_err(), Scope::Account);
}

#[test]
fn whoever_names_no_account_shares_one_and_no_success_makes_it_known() {
    let gate = Gate::new("");
    for n in 0..5 {
        assert_eq!(gate.log_in("", ip(HOME), 200), Ok(()), "a success of it forgets nothing");
        assert_eq!(gate.log_in("", IpAddr::from([203, 0, 113, n]), 401), Ok(()));
    }
    assert_eq!(gate.ask("", ip(HOME)).map_err(|deny| scope(&deny)).unwrap_err(), Scope::Account);
    assert_eq!(gate.log_in("ann", ip(HOME), 401), Ok(()));
}

#[test]
fn a_race_of_many_logins_at_once_gets_no_more_tries_than_one_after_the_other() {
    let gate = Gate::new("");
    let mut under_way: Vec<_> = (0..1_000).map_while(|_| gate.ask("ann", ip(AWAY)).ok()).collect();
    assert_eq!(under_way.len(), 5);
    let sixth = gate.ask("ann", ip(AWAY)).unwrap_err();
    assert_eq!((sixth.code().name, wait_s(&sixth)), ("login.locked", 1));
    // What ends without an answer gives its place back; what fails does not.
    drop(under_way.pop());
    under_way.push(gate.ask("ann", ip(AWAY)).unwrap());
    for unlocked in under_way.drain(..3) {
        gate.settle(unlocked, StatusCode::FORBIDDEN);
    }
    assert!(matches!(gate.ask("ann", ip(AWAY)), Err(Deny::AtOnce { under_way: 2, .. })));
    for unlocked in under_way {
        gate.settle(unlocked, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(gate.log_in("ann", ip(AWAY), 200), Err(60));
    assert_eq!(gate.needs.locks.slots.keys(), 0, "nothing is left behind");
}

#[test]
fn an_ipv6_client_is_its_64_and_another_one_is_another_network() {
    let gate = Gate::new("");
    for n in 0..5 {
        assert_eq!(gate.log_in(&format!("user{n}"), ip(&format!("2001:db8::{n}")), 401), Ok(()));
    }
    assert_eq!(gate.ask("ann", ip("2001:db8::ffff")).map_err(|deny| scope(&deny)).unwrap_err(), Scope::Network);
    assert_eq!(gate.log_in("ann", ip("2001:db8:0:1::1"), 401), Ok(()));
}

#[test]
fn what_is_neither_success_nor_failure_counts_as_neither() {
    let gate = Gate::new("");
    gate.fail("ann", HOME, 4);
    for status in [400, 404, 422, 429, 500, 503] {
        assert_eq!(gate.log_in("ann", ip(HOME), status), Ok(()), "{status}");
    }
    gate.fail("ann", HOME, 1);
    assert_eq!(gate.log_in("ann", ip(HOME), 200), Err(60));
}

#[test]
fn an_answer_tells_nothing_of_the_account_and_the_log_nothing_of_its_name() {
    let gate = Gate::new("");
    let seen = |account: &str, network: &str| {
        gate.fail(account, network, 5);
        let deny = gate.ask(account, ip(network)).unwrap_err();
        let mut headers = HeaderMap::new();
        deny.headers(&mut headers);
        let detail = deny.detail().unwrap().into_owned();
        assert!(!detail.contains(account) && !detail.contains(network), "{detail}");
        (deny.code(), headers, deny.members())
    };
    assert_eq!(seen("somebody", HOME), seen("nobody-at-all", AWAY));
}

#[test]
fn a_lock_is_listed_and_lifted_by_its_key_and_by_its_account() {
    let gate = Gate::new("");
    let locks = &gate.needs.locks;
    gate.fail("ann", HOME, 5);
    let listed = locks.list(gate.clock.now());
    assert_eq!(listed.iter().map(|lock| lock.failures).collect::<Vec<_>>(), [5, 5, 5]);
    let account = locks.account_key("host:host", &named(" ANN"));
    let of_account = locks.of_account(account, gate.clock.now());
    assert_eq!(of_account.len(), 2, "its own and that of the pair");
    assert!(of_account.iter().all(|key| locks.lift(*key, gate.clock.now())));
    assert_eq!(gate.ask("ann", ip(HOME)).map_err(|deny| scope(&deny)).unwrap_err(), Scope::Network);
    assert!(locks.lift(locks.network_key(ip(HOME)), gate.clock.now()));
    assert!(!locks.lift(locks.network_key(ip(HOME)), gate.clock.now()), "there is nothing left to lift");
    gate.fail("ann", HOME, 4);
    assert!(listed.iter().all(|lock| lock.key.to_string().parse() == Ok(lock.key)));
}

#[test]
fn an_account_is_known_from_the_last_eight_networks_and_no_other_account_loses_one() {
    let gate = Gate::new("");
    assert_eq!(gate.log_in("ann", ip(HOME), 200), Ok(()));
    for n in 0..200 {
        assert_eq!(gate.log_in("mallory", IpAddr::from([203, 0, 113, n]), 200), Ok(()));
    }
    gate.fail("ann", AWAY, 5);
    assert_eq!(gate.log_in("ann", ip(HOME), 200), Ok(()));
    let known = |n: u8| {
        let keys = gate.needs.locks.keys("host:host", &named("mallory"), IpAddr::from([203, 0, 113, n]));
        gate.needs.locks.knows(&keys, &gate.login.numbers, gate.clock.now())
    };
    assert_eq!((known(191), known(192), known(199)), (false, true, true));
    gate.advance_s(30 * 86_400);
    assert!(!known(199), "not for ever");
}

fn named(name: &str) -> Account {
    Account::Named(AccountName::parse(name).unwrap())
}

#[test]
fn other_methods_and_other_routes_are_no_logins() {
    let gate = Gate::new("");
    gate.fail("ann", HOME, 5);
    let mut headers = HeaderMap::new();
    headers.insert("x-account", HeaderValue::from_static("ann"));
    for (method, route) in [(Method::GET, 0), (Method::POST, 1)] {
        let sees =
            Sees { facts: facts(&method, &headers), client: address(ip(HOME)), route: RouteId::new(route), body: b"" };
        let Ok(Verdict::Pass(mut unlocked)) = now_or_never(gate.login.check(sees)) else { panic!("{method} {route}") };
        assert!(unlocked.attempt().is_none());
    }
    let sees =
        Sees { facts: facts(&Method::POST, &headers), client: address(ip(HOME)), route: RouteId::new(9), body: b"" };
    assert!(now_or_never(gate.login.check(sees)).is_err(), "a route of another snapshot is a fault and no pass");
}

/// A store that knows every account from everywhere, or does not answer.
struct Asked {
    answer: Result<bool, StoreFault>,
    asked: std::sync::atomic::AtomicUsize,
}

impl SharedLogins for Asked {
    fn fail(&self, _: Failure) -> Asking<'_, Failed> {
        panic!("the gateway tells failures, not the control")
    }
    fn succeed(&self, _: Keys, _: Micros, _: Micros) -> Asking<'_, ()> {
        panic!("the gateway tells successes, not the control")
    }
    fn knows(&self, _: Keys, _: Micros) -> Asking<'_, bool> {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Box::pin(std::future::ready(self.answer.clone()))
    }
    fn lift(&self, _: LockKey, _: Micros) -> Asking<'_, bool> {
        panic!("nothing is lifted")
    }
    fn changes<'a>(&'a self, _: Option<&'a Cursor>) -> Asking<'a, Changes<LockKey>> {
        panic!("nothing is read")
    }
}

#[test]
fn the_store_is_asked_only_where_it_could_let_somebody_in_and_without_it_a_lock_stays() {
    for (answer, expected) in [(Ok(true), Ok(())), (Ok(false), Err(60)), (Err(StoreFault::Away), Err(60))] {
        let store = Arc::new(Asked { answer, asked: std::sync::atomic::AtomicUsize::new(0) });
        let gate = Gate::sharing("", Some(store.clone()));
        let asked = || store.asked.load(std::sync::atomic::Ordering::SeqCst);
        gate.fail("ann", AWAY, 5);
        assert_eq!(asked(), 0, "a login that nothing locks waits for nothing");
        assert_eq!(gate.log_in("ann", ip(HOME), 200), expected);
        assert_eq!(asked(), 1);
        assert_eq!(gate.log_in("ann", ip(AWAY), 200), Err(60), "its own failures lock it all the same");
        assert_eq!(asked(), 1);
    }
}

#[test]
fn logins_of_strangers_under_way_hold_nobody_up_whose_network_another_gateway_knows() {
    for (answer, is_held_up) in [(Ok(true), false), (Ok(false), true), (Err(StoreFault::Away), true)] {
        let store = Arc::new(Asked { answer, asked: std::sync::atomic::AtomicUsize::new(0) });
        let gate = Gate::sharing("", Some(store));
        let strangers: Vec<Unlocked> =
            (1..=5).map(|n| gate.ask("ann", IpAddr::from([203, 0, 113, n])).unwrap()).collect();
        let at_home = gate.ask("ann", ip(HOME));
        assert_eq!(matches!(at_home, Err(Deny::AtOnce { scope: Scope::Account, .. })), is_held_up, "{at_home:?}");
        assert_eq!(at_home.is_ok(), !is_held_up);
        drop(strangers);
        assert!(gate.ask("ann", ip(HOME)).is_ok());
    }
}

#[test]
fn what_the_store_says_is_taken_over_and_an_older_lift_ends_no_newer_lock() {
    let gate = Gate::new("");
    let (locks, now) = (&gate.needs.locks, gate.clock.now());
    let key = locks.account_key("host:host", &named("ann"));
    let block = Block { code: "account 10".to_owned(), age: SECOND, remaining: 300 * SECOND };
    let lock = locks.learn(key, &block, now, now).unwrap();
    assert_eq!((lock.scope, lock.failures, lock.remaining_s(now)), (Scope::Account, 10, 300));
    assert_eq!(locks.learn(key, &block, now, now), None, "it is no news twice");
    assert_eq!(gate.log_in("ann", ip(HOME), 200), Err(300));
    assert!(!locks.lift_before(key, now - 2 * SECOND, now));
    assert!(locks.lift_before(key, now, now));
    let other = Block { code: "of another version".to_owned(), ..block };
    assert_eq!(locks.learn(key, &other, now, now), None, "what is not known is not guessed at");
}

#[test]
fn a_flood_of_accounts_pushes_no_lock_out_that_is_on() {
    let gate = Gate::new("");
    gate.fail("ann", HOME, 5);
    let key = gate.needs.locks.account_key("host:host", &named("ann"));
    let numbers = gate.login.numbers.clone();
    for n in 0..20_000_u32 {
        let keys = gate.needs.locks.keys("host:host", &named(&format!("u{n}")), IpAddr::from(n.to_be_bytes()));
        gate.needs.locks.fail(&Failure { keys, numbers: numbers.clone() }, gate.clock.now());
    }
    assert!(gate.needs.locks.list(gate.clock.now()).iter().any(|lock| lock.key == key));
    assert_eq!(gate.needs.locks.lost(), 0);
}
