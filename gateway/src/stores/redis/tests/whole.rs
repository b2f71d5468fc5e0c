//! The control over the store, whole: what a request meets, and what stands in Redis of it.

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc, time::Instant};

use http::{HeaderMap, Method};
use portcullis_api::{
    At, Clock, Control, Facts, Issues, Micros, Protocol, RouteId, RouteRef, Secret, Topology, UnixSeconds, Verdict,
};
use portcullis_plugins::{
    bans::{SharedBans, Strike, Struck},
    login::SharedLogins,
    rate_limit::{
        Answer, ApiKeyCallers, Input, Limit, Needs, RateLimit, RouteLimits, Rules, Sees, SharedCounters, StoreFault,
        Tables,
    },
    revocations::{Kind, Reason, Record, Target},
};

use super::{
    logins,
    server::{Server, bucket, connected, healthy, options, start, take, until, why},
};
use crate::stores::redis::{Health, Options, logins::RedisLogins};

struct Monotonic(Instant);

impl Clock for Monotonic {
    fn now(&self) -> Micros {
        u64::try_from(self.0.elapsed().as_micros()).unwrap()
    }

    fn unix(&self) -> UnixSeconds {
        0
    }
}

/// A site with one route under ten requests an hour and client, shared by two gateways.
fn control(counters: Arc<dyn SharedCounters>) -> RateLimit {
    let text = "[ten]\nkey = [\"client\", \"header:x-plan\"]\nrequests = 10\nwindow = \"1h\"";
    let limits: BTreeMap<String, Limit> = toml::from_str(text).unwrap();
    let route = RouteRef { id: RouteId::new(0), name: "host/route".into() };
    let names = [At::nowhere("ten".to_owned())];
    let routes =
        [RouteLimits { route: &route, names: &names, methods: &[], class: None, api_keys: ApiKeyCallers::Refused }];
    let mut issues = Issues::default();
    let input = Input { limits: &limits, routes: &routes, tenants: &[], in_flight: &[] };
    let rules = Rules::compile(input, &mut issues).unwrap();
    let (clock, tables) = (Arc::new(Monotonic(Instant::now())), Arc::new(Tables::new(1 << 10)));
    let needs = Needs::shared(clock, tables, counters, &Secret::new(vec![7; 32]));
    RateLimit::compile(rules, &needs, &mut issues).unwrap()
}

/// How many of twenty requests of one client pass.
async fn passes(control: &RateLimit, ip: &str) -> usize {
    let mut headers = HeaderMap::new();
    headers.insert("x-plan", "gold-plan".parse().unwrap());
    let client = Topology::Direct.settle(format!("{ip}:1").parse().unwrap(), None, &headers).unwrap();
    let facts = Facts {
        method: &Method::GET,
        host: "host",
        path: "/",
        query: "",
        headers: &headers,
        protocol: Protocol::Http1,
    };
    let mut verdicts = Vec::new();
    for _ in 0..20 {
        verdicts.push(control.check(Sees { facts, client, route: RouteId::new(0) }).await.unwrap());
    }
    verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Pass(_))).count()
}

#[tokio::test]
async fn two_gateways_admit_ten_together_and_half_of_it_each_while_redis_is_away() {
    let mut server = Server::start();
    let options = || Options { instances: NonZeroU32::new(2).unwrap(), ..options(server.url()) };
    let stores = [connected(options()).await, connected(options()).await].map(Arc::new);
    let [one, two] = stores.clone().map(|store| control(store));
    assert_eq!((passes(&one, "203.0.113.77").await, passes(&two, "203.0.113.77").await), (10, 0));
    server.kill();
    for store in &stores {
        until("the loss is noticed", async || store.health() != Health::Healthy).await;
    }
    assert_eq!((passes(&one, "203.0.113.78").await, passes(&two, "203.0.113.78").await), (5, 5));
    server.restart();
    for store in &stores {
        healthy(store).await;
    }
    // What each admitted by itself is charged to the bucket of both.
    assert_eq!((passes(&one, "203.0.113.78").await, passes(&two, "203.0.113.78").await), (0, 0));
    assert_eq!((passes(&one, "203.0.113.79").await, passes(&two, "203.0.113.79").await), (10, 0));
}

#[tokio::test]
async fn nothing_that_a_request_carries_stands_in_redis() {
    let server = Server::start();
    let control = control(Arc::new(connected(options(server.url())).await));
    assert_eq!(passes(&control, "203.0.113.77").await, 10);
    let keys: Vec<String> = server.run(&["KEYS", "*:ten:*"]).await;
    assert_eq!(keys.len(), 1);
    let value: String = server.run(&["GET", &keys[0]]).await;
    assert!(value.bytes().all(|byte| byte.is_ascii_digit()), "a time and nothing else: {value}");
    let hash = keys[0].strip_prefix("test:{test}:ten:").unwrap();
    assert!(hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
    // 203.0.113.77 in hexadecimal, the plan in hexadecimal.
    assert!(!hash.contains("cb00714d") && !hash.contains("676f6c64"));
}

/// Everything that is done with failed logins.
async fn lock_and_unlock(logins: &RedisLogins) {
    let failure = logins::failure(1, 1);
    for _ in 0..5 {
        SharedLogins::fail(logins, failure.clone()).await.unwrap();
    }
    assert_eq!(logins.changes(None).await.unwrap().clients.len(), 3);
    logins.succeed(failure.keys, 60_000_000, 60_000_000).await.unwrap();
    assert_eq!(logins.knows(failure.keys, 60_000_000).await, Ok(true));
    assert_eq!(logins.lift(failure.keys.network, 1_000_000).await, Ok(true));
}

/// `deploy/redis.acl` is all that a gateway needs of Redis: limits, an operator's look at them, violations and
/// blocks, failed logins and locks.
#[tokio::test]
async fn the_rights_of_the_shipped_user_are_enough() {
    let server = Server::start();
    let acl = include_str!("../../../../../deploy/redis.acl")
        .replace(">CHANGE-ME", ">secret")
        .replace("portcullis:", "test:");
    let words: Vec<&str> = acl.split_whitespace().skip(1).collect();
    let () = server.run(&[&["ACL", "SETUSER"], &words[..]].concat()).await;
    let url = format!("redis://portcullis:secret@127.0.0.1:{}/", server.port());
    let counters = connected(Options { fingerprint: Some(1), ..options(url) }).await;
    let one = bucket("r", 1, 1);
    for expected in [Answer::Charged, Answer::Short] {
        assert_eq!(take(&counters, &[one]).await.unwrap()[0].answer, expected);
    }
    assert_eq!(counters.peek(&one).await.unwrap().remaining, 0);
    counters.clear(&one).await.unwrap();
    assert_eq!(take(&counters, &[one]).await.unwrap()[0].answer, Answer::Charged);
    counters.charge(&one, NonZeroU32::MIN, Box::new(|| panic!("the store takes it")));
    until("it is charged", async || counters.peek(&one).await.unwrap().remaining == 0).await;
    let bans = counters.bans();
    let client = "0123456789abcdef0123456789abcdef".parse().unwrap();
    let strike = Strike { client, code: "waf.urls", max: 2, window: 60_000_000, block: 60_000_000 };
    assert_eq!(bans.strike(strike).await, Ok(Struck::Counted));
    assert!(matches!(bans.strike(strike).await, Ok(Struck::Began(_))));
    assert_eq!(bans.changes(None).await.unwrap().clients.len(), 1);
    assert_eq!(bans.lift(client, 1_000_000).await, Ok(true));
    lock_and_unlock(&counters.logins()).await;
    let target = Target::parse(Kind::Tenant, None, None, "acme").unwrap();
    let record = Record::new(&target, 1_800_000_000, Reason::try_from("a test".to_owned()).unwrap());
    let revocations = counters.revocations();
    let entry = revocations.add(&record).await.unwrap();
    let page = revocations.read(None).await.unwrap();
    assert_eq!((page.records, page.length, page.last.as_deref()), (vec![record], 1, Some(entry.as_str())));
    revocations.say("here", Some(&entry), std::time::Duration::from_secs(9)).await.unwrap();
    assert_eq!(revocations.gateways().await.unwrap().len(), 1);
    revocations.leave("here").await;
    assert_eq!(revocations.gateways().await.unwrap(), []);
    // And no more than that: what others keep there is out of reach.
    let () = server.run(&["SET", "other", "1"]).await;
    let client = ::redis::Client::open(format!("redis://portcullis:secret@127.0.0.1:{}/", server.port())).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    for words in [&["GET", "other"][..], &["FLUSHALL"], &["KEYS", "*"], &["CONFIG", "GET", "*"]] {
        let refused = ::redis::cmd(words[0]).arg(&words[1..]).query_async::<::redis::Value>(&mut connection).await;
        assert_eq!(refused.unwrap_err().code(), Some("NOPERM"), "{words:?}");
    }
}

/// Without this right checks could be counted, and every share would be too large.
#[tokio::test]
async fn a_store_in_which_a_gateway_cannot_say_that_it_is_there_is_not_used() {
    let server = Server::start();
    let acl = include_str!("../../../../../deploy/redis.acl")
        .replace(">CHANGE-ME", ">secret")
        .replace("portcullis:", "test:");
    let words: Vec<&str> = acl.split_whitespace().skip(1).filter(|word| *word != "+zcard").collect();
    let () = server.run(&[&["ACL", "SETUSER"], &words[..]].concat()).await;
    let counters = start(options(format!("redis://portcullis:secret@127.0.0.1:{}/", server.port())));
    // A script that may not run a command says the one or the other, by the version.
    until("the reason is told", async || ["ERR", "NOPERM"].contains(&why(&counters).as_str())).await;
    assert_eq!(take(&counters, &[bucket("r", 1, 1)]).await, Err(StoreFault::Away));
}
