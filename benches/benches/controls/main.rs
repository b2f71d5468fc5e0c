//! Each control by itself: `cargo bench -p portcullis-benches --bench controls [-- NAME] [--quick] [--check]`.
//!
//! One function per control, in the order of the journey; a promise made in writing stands beside it as a budget.

mod assertion;
mod content;
mod floods;
mod heads;
mod scope;
mod world;

use std::net::IpAddr;

use anyhow::{Context, ensure};
use http::Method;
use portcullis_api::{Clock, Control};
use portcullis_benches::Suite;
use portcullis_plugins::{
    authentication::{self, Authenticated},
    authorization, bans, burst, csrf, ip_allowlist, quota, rate_limit,
};

use world::{COOKIE, NETWORKS, ROUTE, Request, World, client, passed};

/// What was promised of 10,000 networks.
const IP_ALLOWLIST_NS: f64 = 1_000.0;
/// What a token that was verified before may cost.
const REPEATED_TOKEN_NS: f64 = 2_000.0;

fn main() -> anyhow::Result<()> {
    let mut suite = Suite::start(std::env::args().skip(1))?;
    heads::heads(&mut suite)?;
    heads::router(&mut suite)?;
    heads::reserved(&mut suite)?;
    let world = World::usual()?;
    ip_allowlist(&mut suite, &world)?;
    bans(&mut suite, &world)?;
    burst(&mut suite, &world)?;
    rate_limit(&mut suite, &world)?;
    let caller = authentication(&mut suite, &world)?;
    csrf(&mut suite, &world, &caller)?;
    authorization(&mut suite, &world, &caller)?;
    quota(&mut suite, &world, &caller)?;
    content::waf(&mut suite, &world)?;
    scope::scope(&mut suite)?;
    assertion::assertion(&mut suite, &world)?;
    floods::live_keys(&mut suite)?;
    if suite.wants("flood") {
        floods::strangers()?;
    }
    suite.finish()?;
    Ok(())
}

/// A request with a token, as the load sends it.
fn with_token(world: &World) -> anyhow::Result<Request> {
    Request::new(
        Method::GET,
        "state=open&page=2",
        &[
            ("accept", "application/json"),
            ("user-agent", "bench/1"),
            ("authorization", &format!("Bearer {}", world.token)),
        ],
    )
}

/// `ip_allowlist`: the site's list, which is long.
fn ip_allowlist(suite: &mut Suite, world: &World) -> anyhow::Result<()> {
    let control = world.controls.ip_allowlist.control().context("ip_allowlist")?;
    for (name, ip, allowed) in [
        ("IPv4 inside", "10.0.200.7", true),
        ("IPv4 outside", "203.0.113.7", false),
        ("IPv6 inside", "2001:db8:201::7", true),
        ("IPv6 outside", "2001:db9::7", false),
    ] {
        let sees = ip_allowlist::Sees { client: client(ip)?, route: ROUTE };
        ensure!(passed(control.check(sees)).is_some() == allowed, "ip_allowlist: {name}");
        suite.bench(&format!("ip_allowlist: {NETWORKS} networks, {name}"), Some(IP_ALLOWLIST_NS), || {
            passed(control.check(sees))
        })?;
    }
    Ok(())
}

/// `bans`: a client without a block, among none and among many.
fn bans(suite: &mut Suite, world: &World) -> anyhow::Result<()> {
    let control = world.controls.bans.control().context("bans")?;
    let sees = bans::Sees { client: client("198.51.100.7")? };
    ensure!(passed(control.check(sees)).is_some(), "bans");
    suite.bench("bans: nobody blocked", None, || passed(control.check(sees)))?;
    for n in 0..BLOCKED {
        let ip = IpAddr::V4((0x0a00_0000_u32 | n).into());
        while world.bans.record(ip, "waf.urls", world.clock.now()).is_none() {}
    }
    ensure!(passed(control.check(sees)).is_some(), "bans");
    suite.bench(&format!("bans: {BLOCKED} blocked"), None, || passed(control.check(sees)))?;
    Ok(())
}

/// Clients that are blocked while another one is asked about.
const BLOCKED: u32 = 10_000;

/// `burst`: one bucket.
fn burst(suite: &mut Suite, world: &World) -> anyhow::Result<()> {
    let control = world.controls.burst.control().context("burst")?;
    let sees = burst::Sees { client: client("198.51.100.7")? };
    ensure!(passed(control.check(sees)).is_some(), "burst");
    suite.bench("burst", None, || passed(control.check(sees)))?;
    Ok(())
}

/// `rate_limit`: three rules, charged together; in memory, and by this gateway's share of a limit of three.
fn rate_limit(suite: &mut Suite, world: &World) -> anyhow::Result<()> {
    let by_shares = World::by_shares()?;
    for (name, world) in [("3 rules", world), ("3 rules, local", &by_shares)] {
        let control = world.controls.rate_limit.control().context("rate_limit")?;
        let request = with_token(world)?;
        let sees = rate_limit::Sees { facts: request.facts(), client: client("198.51.100.7")?, route: ROUTE };
        ensure!(passed(control.check(sees)).is_some(), "rate_limit: {name}");
        suite.bench(&format!("rate_limit: {name}"), None, || passed(control.check(sees)))?;
    }
    Ok(())
}

/// `authentication`: an ES256 token that was verified before, and one that was not.
fn authentication(suite: &mut Suite, world: &World) -> anyhow::Result<Authenticated> {
    let control = world.controls.authentication.control().context("authentication")?;
    let request = with_token(world)?;
    let sees = authentication::Sees {
        facts: request.facts(),
        client: client("198.51.100.7")?,
        route: ROUTE,
        certificate: None,
    };
    let caller = passed(control.check(sees)).context("authentication: a token of ours")?;
    suite.bench("authentication: ES256, repeated", Some(REPEATED_TOKEN_NS), || passed(control.check(sees)))?;

    // Without memory for verified tokens every time is the first.
    let forgetful = World::new(0)?;
    let control = forgetful.controls.authentication.control().context("authentication")?;
    let request = with_token(&forgetful)?;
    let sees = authentication::Sees {
        facts: request.facts(),
        client: client("198.51.100.7")?,
        route: ROUTE,
        certificate: None,
    };
    ensure!(passed(control.check(sees)).is_some(), "authentication: first");
    suite.bench("authentication: ES256, first", None, || passed(control.check(sees)))?;
    Ok(caller)
}

/// `csrf`: a token in `Authorization` needs nothing; one in a cookie needs evidence.
fn csrf(suite: &mut Suite, world: &World, caller: &Authenticated) -> anyhow::Result<()> {
    let control = world.controls.csrf.control().context("csrf")?;
    let request = with_token(world)?;
    let sees = csrf::Sees { facts: request.facts(), route: ROUTE, caller: caller.caller() };
    ensure!(passed(control.check(sees)).is_some(), "csrf: bearer");
    suite.bench("csrf: bearer token", None, || passed(control.check(sees)))?;

    let request = Request::new(
        Method::POST,
        "",
        &[
            ("cookie", &format!("{COOKIE}={}", world.token)),
            ("sec-fetch-site", "same-origin"),
            ("origin", "https://api.example.com"),
        ],
    )?;
    let authentication = world.controls.authentication.control().context("authentication")?;
    let by_cookie = authentication::Sees {
        facts: request.facts(),
        client: client("198.51.100.7")?,
        route: ROUTE,
        certificate: None,
    };
    let caller = passed(authentication.check(by_cookie)).context("authentication: by cookie")?;
    let sees = csrf::Sees { facts: request.facts(), route: ROUTE, caller: caller.caller() };
    ensure!(passed(control.check(sees)).is_some(), "csrf: cookie");
    suite.bench("csrf: cookie, POST", None, || passed(control.check(sees)))?;
    Ok(())
}

/// `authorization`: tenant, role and one scope.
fn authorization(suite: &mut Suite, world: &World, caller: &Authenticated) -> anyhow::Result<()> {
    let control = world.controls.authorization.control().context("authorization")?;
    let request = with_token(world)?;
    let sees = authorization::Sees { facts: request.facts(), route: ROUTE, caller: caller.caller(), path_tenant: None };
    ensure!(passed(control.check(sees)).is_some(), "authorization");
    suite.bench("authorization: role and scope", None, || passed(control.check(sees)))?;
    Ok(())
}

/// `quota`: one rule that counts by tenant, caller and route.
fn quota(suite: &mut Suite, world: &World, caller: &Authenticated) -> anyhow::Result<()> {
    let control = world.controls.quota.control().context("quota")?;
    let request = with_token(world)?;
    let tenant = caller.caller().identity().map(authentication::Identity::tenant);
    let sees = quota::Sees {
        facts: request.facts(),
        client: client("198.51.100.7")?,
        route: ROUTE,
        caller: caller.caller(),
        tenant,
    };
    ensure!(passed(control.check(sees)).is_some(), "quota");
    suite.bench("quota: by tenant, caller and route", None, || passed(control.check(sees)))?;
    Ok(())
}
