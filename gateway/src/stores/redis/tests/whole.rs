//! The control over the store, whole: what a request meets, and what stands in Redis of it.

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc, time::Instant};

use http::{HeaderMap, Method};
use portcullis_api::{
    At, Clock, Control, Facts, Issues, Micros, Protocol, RouteId, RouteRef, Secret, Topology, UnixSeconds, Verdict,
};
use portcullis_plugins::rate_limit::{
    ApiKeyCallers, Input, Limit, Needs, RateLimit, RouteLimits, Rules, Sees, SharedCounters, Table,
};

use super::server::{Server, connected, healthy, options, until};
use crate::stores::redis::Health;

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
    let routes = [RouteLimits { route: &route, names: &names, class: None, api_keys: ApiKeyCallers::Refused }];
    let mut issues = Issues::default();
    let input = Input { limits: &limits, routes: &routes, tenants: &[] };
    let rules = Rules::compile(input, &mut issues).unwrap();
    let (clock, table) = (Arc::new(Monotonic(Instant::now())), Arc::new(Table::default()));
    let two = NonZeroU32::new(2).unwrap();
    let needs = Needs::shared(clock, table, counters, two, &Secret::new(vec![7; 32]));
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
    let stores = [connected(options(server.url())).await, connected(options(server.url())).await].map(Arc::new);
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
