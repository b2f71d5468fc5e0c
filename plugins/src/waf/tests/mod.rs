//! The control as a whole: what it counts, what it refuses, and what nothing can make it do.

mod bodies;
mod disguises;
mod edges;
mod numbers;
mod properties;
mod table;

use std::{
    num::NonZeroU32,
    pin::pin,
    task::{Context, Poll, Waker},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portcullis_api::{At, Control, Facts, Issues, Mode, Protocol, Refusal, RouteId, RouteRef, Size, TenantId, Verdict};

use super::{
    Body, Deny, Input, Inspected, Override, Rules, Sees, Settings, Violations, Waf,
    limits::Limits,
    phones::Plan,
    place::Place,
    tally::{Links, Tally},
    urls::Style,
};

/// The defaults of the configuration.
fn site() -> Settings {
    Settings {
        mode: Mode::Enforce,
        urls_max: At::nowhere(5),
        phones_max: At::nowhere(3),
        chars_max: At::nowhere(NonZeroU32::new(8192).unwrap()),
        body_max: At::nowhere(Size::new(1 << 20)),
        phone_regions: Vec::new(),
        violations: Violations::default(),
    }
}

fn compiled(site: &Settings) -> Waf {
    let routes = [(RouteRef { id: RouteId::new(0), name: "host/route".into() }, None)];
    let mut issues = Issues::default();
    let waf = Waf::compile(Input { site, routes: &routes, tenants: &[] }, &(), &mut issues);
    assert!(issues.is_empty(), "{issues:?}");
    waf.unwrap()
}

/// What the control says of a request to `own.example`.
fn ask(waf: &Waf, query: &str, headers: &[(&str, &str)], body: Body<'_>) -> Result<Inspected, Deny> {
    ask_as(waf, None, query, headers, body)
}

fn ask_as(
    waf: &Waf,
    tenant: Option<&TenantId>,
    query: &str,
    headers: &[(&str, &str)],
    body: Body<'_>,
) -> Result<Inspected, Deny> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let facts = Facts {
        method: &Method::POST,
        host: "own.example",
        path: "/",
        query,
        headers: &map,
        protocol: Protocol::Http1,
    };
    let sees = Sees { facts, route: RouteId::new(0), tenant, body };
    let mut check = pin!(waf.check(sees));
    match check.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(Verdict::Pass(proof))) => Ok(proof),
        Poll::Ready(Ok(Verdict::Deny(deny))) => Err(deny),
        Poll::Ready(Err(fault)) => panic!("{fault}"),
        Poll::Pending => panic!("the control waits for nothing"),
    }
}

fn json(waf: &Waf, body: &str) -> Result<Inspected, Deny> {
    ask(waf, "", &[("content-type", "application/json")], Body::Whole(body.as_bytes()))
}

fn code<T>(answer: Result<T, Deny>) -> &'static str {
    answer.err().map_or("pass", |deny| deny.code().name)
}

fn detail<T>(answer: Result<T, Deny>) -> String {
    answer.err().unwrap().detail().unwrap().into_owned()
}

fn rules(regions: &[&str]) -> Rules {
    let mut plan = Plan::default();
    for region in regions {
        assert!(plan.add(region));
    }
    Rules { plan }
}

const NO_LIMITS: Limits =
    Limits { urls_max: u32::MAX - 1, phones_max: u32::MAX - 1, chars_max: u32::MAX, body_max: u64::MAX };

/// URLs and phone numbers in one value.
fn counts(text: &str, rules: &Rules) -> (u32, u32) {
    let mut tally = Tally::new(NO_LIMITS, rules, "own.example");
    tally.value(text, &Place::Text, Links::Count(Style::Plain)).unwrap();
    tally.counts()
}

fn urls(text: &str) -> u32 {
    counts(text, &rules(&[])).0
}

fn phones(text: &str, regions: &[&str]) -> u32 {
    counts(text, &rules(regions)).1
}
