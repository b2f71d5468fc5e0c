//! Limits of requests under way, as an operator writes them. Who calls is handed in as the parts that limits read of an
//! identity.

use std::collections::BTreeMap;

use http::Method;
use portcullis_api::{At, Issue, Layers, RouteRef, Topology};
use serde::Deserialize;

use super::*;
use crate::testing::facts;

/// The parts of a document that these limits are made of.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Site {
    in_flight: BTreeMap<String, Settings>,
    routes: BTreeMap<String, Route>,
    tenants: BTreeMap<TenantId, Layer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Route {
    in_flight: Vec<At<String>>,
    methods: Vec<At<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Layer {
    grant: BTreeMap<String, Tenant>,
    own: BTreeMap<String, Tenant>,
}

/// Routes get their ids in the order of their names.
fn compile(text: &str, needs: &Needs) -> Result<InFlight, Vec<Issue>> {
    let site: Site = toml::from_str(text).unwrap_or_else(|error| panic!("{error}"));
    let named = |((name, route), id): ((&String, _), u32)| {
        (RouteRef { id: RouteId::new(id), name: format!("host/{name}").into() }, route)
    };
    let named: Vec<(RouteRef, &Route)> = site.routes.iter().zip(0..).map(named).collect();
    let routes: Vec<_> = named
        .iter()
        .map(|(name, route)| RouteInFlight { route: name, names: &route.in_flight, methods: &route.methods })
        .collect();
    let tenants: Vec<_> = site
        .tenants
        .iter()
        .map(|(id, Layer { grant, own })| (id.clone(), Layers { grant: Some(grant), own: Some(own) }))
        .collect();
    let input = Input { settings: &site.in_flight, routes: &routes, tenants: &tenants, limits: &["daily"] };
    let mut issues = Issues::default();
    let compiled = InFlight::compile(input, needs, &mut issues);
    assert_eq!(compiled.is_some(), issues.is_empty(), "{:?}", issues.as_slice());
    compiled.ok_or_else(|| issues.into_vec())
}

fn in_flight(text: &str) -> InFlight {
    compile(text, &Needs::alone()).unwrap()
}

const NOBODY: Who<'static> = Who { key_id: None, subject: None, tenant: None };

fn user(subject: &'static str) -> Who<'static> {
    Who { subject: Some(("main", subject)), ..NOBODY }
}

fn client(ip: &str) -> ClientIp {
    Topology::Direct.settle(format!("{ip}:1").parse().unwrap(), None, &HeaderMap::new()).unwrap()
}

fn send(control: &InFlight, method: &Method, ip: &str, route: u32, who: Who<'_>) -> Result<UnderWay, Deny> {
    let headers = HeaderMap::new();
    match control.judge(facts(method, &headers), client(ip), RouteId::new(route), who).unwrap() {
        Verdict::Pass(under_way) => Ok(under_way),
        Verdict::Deny(deny) => Err(deny),
    }
}

fn ask(control: &InFlight, who: Who<'_>) -> Result<UnderWay, Deny> {
    send(control, &Method::GET, "192.0.2.1", 0, who)
}

const TWO: &str = r#"
    [in_flight.each]
    key = ["subject"]
    requests = 2
    [in_flight.site]
    key = ["route"]
    requests = 3
    [routes.a]
    in_flight = ["each", "site"]
    [routes.b]
    in_flight = ["each"]
    [routes.free]
"#;

#[test]
fn as_many_as_may_be_are_under_way_and_one_more_when_one_is_over() {
    let control = in_flight(TWO);
    let (one, _two) = (ask(&control, user("ann")).unwrap(), ask(&control, user("ann")).unwrap());
    assert!((0..9).all(|_| ask(&control, user("ann")).is_err()));
    drop(one);
    let _three = ask(&control, user("ann")).unwrap();
    assert!(ask(&control, user("ann")).is_err());
}

#[test]
fn a_request_takes_a_slot_of_all_of_its_limits_or_of_none() {
    let control = in_flight(TWO);
    let held = [user("ann"), user("ann"), user("ben")].map(|who| ask(&control, who).unwrap());
    // `site` is full: no slot of `each` is taken by those that it refuses, on whichever route.
    assert!((0..9).all(|_| ask(&control, user("eve")).is_err()));
    let elsewhere = |who| send(&control, &Method::GET, "192.0.2.1", 1, who);
    let _eve = [elsewhere(user("eve")).unwrap(), elsewhere(user("eve")).unwrap()];
    assert!(elsewhere(user("eve")).is_err() && elsewhere(user("ann")).is_err());
    assert!(send(&control, &Method::GET, "192.0.2.1", 2, user("ann")).is_ok(), "a route without limits");
    drop(held);
    assert!(ask(&control, user("ann")).is_ok());
}

#[test]
fn what_is_over_leaves_nothing_behind() {
    let control = in_flight(TWO);
    let held: Vec<_> = ["ann", "ben", "eve"].map(|who| ask(&control, user(who)).unwrap()).into();
    assert_eq!(control.needs.slots.keys(), 4, "three subjects and the route");
    drop(held);
    assert_eq!(control.needs.slots.keys(), 0);
}

#[test]
fn a_refusal_says_which_and_how_many() {
    let control = in_flight(TWO);
    let _held = [ask(&control, user("ann")).unwrap(), ask(&control, user("ann")).unwrap()];
    let deny = ask(&control, user("ann")).unwrap_err();
    assert_eq!((deny.code().name, deny.code().status), ("in_flight.exceeded", 429));
    assert_eq!(deny.rule().unwrap(), "each");
    assert_eq!(deny.detail().unwrap(), "each has 2 of 2 under way");
    assert_eq!(deny.members(), [("violated-policies", vec!["each".to_owned()])]);
    let mut headers = HeaderMap::new();
    deny.headers(&mut headers);
    assert_eq!(headers.get(RETRY_AFTER).unwrap(), "1");
    assert_eq!(headers.get("ratelimit-policy").unwrap(), "\"each\";q=2;qu=\"concurrent-requests\"");
    assert_eq!(headers.get("ratelimit").unwrap(), "\"each\";r=0");
    let _more = ask(&control, user("ben")).unwrap();
    assert_eq!(
        ask(&control, user("ann")).unwrap_err().detail().unwrap(),
        "each has 2 of 2 under way, site has 3 of 3 under way"
    );
}

#[test]
fn requests_that_lack_a_part_are_counted_together() {
    let control = in_flight(TWO);
    let _held = [ask(&control, NOBODY).unwrap(), ask(&control, NOBODY).unwrap()];
    assert!(send(&control, &Method::GET, "192.0.2.2", 0, NOBODY).is_err());
    assert!(ask(&control, user("ann")).is_ok());
}

#[test]
fn a_limit_of_some_methods_counts_no_other() {
    let control = in_flight(
        "[in_flight.uploads]\nkey = [\"client\"]\nmethods = [\"PUT\"]\nrequests = 1\n[routes.a]\nin_flight = [\"uploads\"]",
    );
    let _held = send(&control, &Method::PUT, "192.0.2.1", 0, NOBODY).unwrap();
    assert!(send(&control, &Method::PUT, "192.0.2.1", 0, NOBODY).is_err());
    assert!((0..9).all(|_| send(&control, &Method::GET, "192.0.2.1", 0, NOBODY).is_ok()));
    assert!(send(&control, &Method::PUT, "192.0.2.2", 0, NOBODY).is_ok());
}

#[test]
fn a_limit_in_shadow_refuses_nobody_and_notes_what_it_would_have_refused() {
    let shadow = TWO.replace("requests = 2", "requests = 2\nmode = \"shadow\"").replace("requests = 3", "requests = 9");
    let control = in_flight(&shadow);
    let _held = [ask(&control, user("ann")).unwrap(), ask(&control, user("ann")).unwrap()];
    for _ in 0..3 {
        let under_way = ask(&control, user("ann")).unwrap();
        let mut trail = Trail::default();
        under_way.record(&mut trail);
        let step = &trail.steps()[0];
        assert_eq!((step.control, step.outcome, step.mode), (NAME, Outcome::Deny, Mode::Shadow));
        assert_eq!(step.detail.as_deref(), Some("would have answered 429: each has 2 of 2 under way"));
        // In force it would not have let this one in: no slot of it is taken.
        assert_eq!(control.needs.slots.keys(), 2);
    }
    let mut trail = Trail::default();
    ask(&control, user("ben")).unwrap().record(&mut trail);
    assert!(trail.steps().is_empty());
}

struct Seven;

impl Fleet for Seven {
    fn instances(&self) -> NonZeroU32 {
        NonZeroU32::new(7).unwrap()
    }
}

#[test]
fn each_gateway_enforces_its_share_and_at_least_one() {
    let text = TWO.replace("requests = 2", "requests = 20");
    let control = compile(&text, &Needs::among(Arc::new(Seven))).unwrap();
    let elsewhere = || send(&control, &Method::GET, "192.0.2.1", 1, user("ann"));
    let held = [elsewhere().unwrap(), elsewhere().unwrap()];
    assert_eq!(elsewhere().unwrap_err().detail().unwrap(), "each has 2 of 2 under way, this instance's share of 20");
    drop(held);
    let _one = ask(&control, user("ann")).unwrap();
    let deny = ask(&control, user("ben")).unwrap_err();
    assert_eq!(deny.detail().unwrap(), "site has 1 of 1 under way, this instance's share of 3");
}

#[test]
fn a_reload_forgets_nobody_and_another_number_holds_for_who_is_under_way() {
    let needs = Needs::alone();
    let first = compile(TWO, &needs).unwrap();
    let mut held = vec![ask(&first, user("ann")).unwrap(), ask(&first, user("ann")).unwrap()];
    drop(first);
    // The same limits, the route with another index.
    let moved = compile(&format!("[routes.Earlier]\n{TWO}"), &needs).unwrap();
    let again = |control: &InFlight| send(control, &Method::GET, "192.0.2.1", 1, user("ann"));
    assert!(again(&moved).is_err());
    let raised = compile(&format!("[routes.Earlier]\n{TWO}").replace("requests = 2", "requests = 3"), &needs).unwrap();
    held.push(again(&raised).unwrap());
    assert!(again(&raised).is_err() && again(&moved).is_err());
    held.truncate(1);
    assert!(again(&moved).is_ok());
    held.clear();
    assert_eq!(needs.slots.keys(), 0);
}

#[test]
fn a_grant_raises_or_lowers_and_the_tenants_own_word_lowers() {
    let text = r#"
        [in_flight.t]
        key = ["tenant"]
        requests = 4
        [routes.a]
        in_flight = ["t"]
        [tenants.acme]
        grant.t = { requests = 6 }
        own.t = { requests = 5 }
        [tenants.globex]
        own.t = { requests = 1 }
        [tenants.initech]
        grant.t = { requests = 9 }
    "#;
    let control = in_flight(text);
    for (tenant, expected) in [("acme", 5), ("globex", 1), ("initech", 9), ("hooli", 4)] {
        let tenant = TenantId::parse(tenant).unwrap();
        let who = Who { tenant: Some(&tenant), ..NOBODY };
        let held: Vec<_> = (0..20).map_while(|_| ask(&control, who).ok()).collect();
        assert_eq!(held.len(), expected, "{tenant}");
    }
}

#[test]
fn a_route_of_another_snapshot_is_a_fault_and_no_pass() {
    let headers = HeaderMap::new();
    let control = in_flight("[routes.a]");
    assert!(control.judge(facts(&Method::GET, &headers), client("192.0.2.1"), RouteId::new(1), NOBODY).is_err());
}

/// The codes of all issues, and the text of the first.
fn refused(text: &str) -> (Vec<&'static str>, String) {
    let issues = compile(text, &Needs::alone()).err().unwrap_or_else(|| panic!("accepted: {text}"));
    let first = &issues[0];
    let said = format!("{} / {}", first.message, first.help.as_deref().unwrap_or_default());
    (issues.iter().map(|issue| issue.code).collect(), said)
}

#[test]
fn a_name_of_the_other_table_and_a_misspelt_one_are_refused_with_what_was_meant() {
    let text = |name: &str| format!("{TWO}\n[routes.z]\nin_flight = [\"{name}\"]");
    let (codes, said) = refused(&text("daily"));
    assert_eq!(codes, ["in_flight.unknown"]);
    assert_eq!(
        said,
        "route `host/z` names an in-flight limit `daily` that does not exist / it is one of `limits`: name it there"
    );
    assert!(refused(&text("eech")).1.ends_with("did you mean `each`?"));
    assert!(refused(&text("zebra")).1.ends_with("known are `each`, `site`"));
    let (codes, said) = refused("[tenants.acme]\nown.uploads = { requests = 1 }");
    assert_eq!(codes, ["in_flight.unknown"]);
    assert!(said.ends_with("write `[in_flight.uploads]`"), "{said}");
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = r#"
        [in_flight.a]
        key = []
        requests = 1
        [in_flight.b]
        key = ["client", "client", "header:cookie"]
        methods = []
        requests = 1
        [in_flight."c d"]
        key = ["client"]
        requests = 1
        [in_flight.e]
        key = ["client"]
        methods = ["PUT"]
        requests = 1
        [routes.r]
        methods = ["GET"]
        in_flight = ["e", "e", "a"]
        [tenants.acme.own]
        a = { requests = 2 }
    "#;
    let mut codes = refused(text).0;
    codes.sort_unstable();
    let expected = [
        "in_flight.duplicate",
        "in_flight.key_duplicate",
        "in_flight.key_empty",
        "in_flight.key_header",
        "in_flight.methods",
        "in_flight.name",
        "in_flight.never_counts",
        "in_flight.tenant_raises",
    ];
    assert_eq!(codes, expected);
}

#[test]
fn what_belongs_to_a_rate_is_no_field_here() {
    for rate in ["window = \"1s\"", "burst = 2", "cost = 2", "consistency = \"local\"", "on_store_failure = \"deny\""] {
        let text = format!("key = [\"client\"]\nrequests = 1\n{rate}");
        assert!(toml::from_str::<Settings>(&text).unwrap_err().message().starts_with("unknown field"), "{rate}");
    }
}

#[test]
fn the_lint_learns_of_limits_that_no_route_is_under() {
    let lonely = format!("{TWO}\n[in_flight.lonely]\nkey = [\"client\"]\nrequests = 1");
    assert_eq!(in_flight(&lonely).unused().collect::<Vec<_>>(), ["lonely"]);
}
