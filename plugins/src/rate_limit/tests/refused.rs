//! Limits that do not compile, each with its reason.

use super::site::compile;

const LIMIT: &str = "key = [\"client\"]\nrequests = 10\nwindow = \"1s\"\n";

/// The codes of all issues, and the text of the first.
fn refused(text: &str) -> (Vec<&'static str>, String) {
    let issues = compile(text).expect_err(text);
    let first = &issues[0];
    let said = format!("{} / {}", first.message, first.help.as_deref().unwrap_or_default());
    (issues.iter().map(|issue| issue.code).collect(), said)
}

#[test]
fn a_name_that_does_not_exist_is_refused_with_the_one_that_was_meant() {
    let (codes, said) = refused("[routes.a]\nlimits = [\"per_kye\"]");
    assert_eq!(codes, ["limits.unknown"]);
    assert_eq!(said, "route `host/a` names a limit `per_kye` that does not exist / did you mean `per_key`?");
    let (_, said) = refused("[routes.a]\nlimits = [\"zebra\"]");
    assert!(said.ends_with("known are `class_auth`, `class_evaluation`, `class_management`, `per_key`"), "{said}");
}

#[test]
fn an_issue_points_at_what_was_written() {
    let text = "[routes.a]\nlimits = [\"per_key\", \"per_kye\"]";
    let issues = compile(text).unwrap_err();
    assert_eq!(text.get(issues[0].span.clone()), Some("\"per_kye\""));
}

#[test]
fn a_limit_that_stands_twice_is_refused() {
    assert_eq!(refused("[routes.a]\nlimits = [\"per_key\", \"per_key\"]").0, ["limits.duplicate"]);
    assert_eq!(refused("[routes.a]\nclass = \"auth\"\nlimits = [\"class_auth\"]").0, ["limits.duplicate"]);
    assert!(compile("[routes.a]\nclass = \"auth\"\nlimits = [\"class_management\"]").is_ok());
}

#[test]
fn a_request_that_could_never_pass_is_refused() {
    let limit = |rest: &str| format!("[limits.t]\nkey = [\"tenant\"]\nrequests = 10\nwindow = \"1s\"\n{rest}");
    assert!(compile(&limit("cost = 10")).is_ok());
    let (codes, said) = refused(&limit("cost = 11"));
    assert_eq!(codes, ["limits.numbers"]);
    let why = "a request costs 11, more than the 10 that may come at once: it would never pass";
    assert_eq!(said, format!("`t`: {why} / "));
    assert_eq!(refused(&limit("burst = 4\ncost = 5")).0, ["limits.numbers"]);
    // A tenant that tightens its burst below the cost would refuse everything of its own.
    let (codes, said) = refused(&limit("cost = 5\n[tenants.acme]\nown.t = { burst = 4 }"));
    assert_eq!(codes, ["limits.numbers"]);
    assert!(said.starts_with("`t` of tenant `acme`: a request costs 5, more than the 4"), "{said}");
    let issues = compile(&limit("cost = 11")).unwrap_err();
    assert_eq!(limit("cost = 11").get(issues[0].span.clone()), Some("11"));
}

#[test]
fn what_is_done_without_the_store_is_refused_in_the_words_of_the_document() {
    let wrong = |written: &str| {
        let text = format!("{LIMIT}on_store_failure = {written}");
        toml::from_str::<crate::rate_limit::Limit>(&text).expect_err(written).message().to_owned()
    };
    assert!(wrong("\"alow\"").ends_with("did you mean `allow`?"), "{}", wrong("\"alow\""));
    for written in ["\"allow\"", "{}", "{ alow = \"x\" }", "{ allow = \"x\", deny = \"y\" }"] {
        assert!(wrong(written).contains("write { allow = \"why requests may pass uncounted\" }"), "{}", wrong(written));
    }
    assert!(wrong("3").contains("expected \"local_share\", \"deny\" or { allow = \"a reason\" }"), "{}", wrong("3"));
}

#[test]
fn a_rule_that_never_asks_the_store_says_nothing_of_its_absence() {
    for what in ["\"deny\"", "{ allow = \"because\" }"] {
        let text = format!("[limits.t]\n{LIMIT}consistency = \"local\"\non_store_failure = {what}");
        assert_eq!(refused(&text).0, ["limits.never_asked"]);
    }
    assert!(compile(&format!("[limits.t]\n{LIMIT}consistency = \"local\"")).is_ok());
}

#[test]
fn a_limit_that_is_too_small_to_be_taken_ahead_does_not_say_that_it_is() {
    let leased = |more: &str| format!("[limits.t]\n{LIMIT}consistency = \"leased\"\n{more}");
    for more in ["burst = 7", "burst = 80\ncost = 11"] {
        assert_eq!(refused(&leased(more)).0, ["limits.never_leased"], "{more}");
    }
    for more in ["burst = 8", "burst = 80\ncost = 10"] {
        assert!(compile(&leased(more)).is_ok(), "{more}");
    }
}

#[test]
fn a_limit_that_is_too_small_for_the_gateways_there_are_is_noted() {
    let text = format!("[limits.t]\n{LIMIT}consistency = \"leased\"\nburst = 24");
    let rules = compile(&text).unwrap();
    let gateways = |n| std::num::NonZeroU32::new(n).unwrap();
    assert_eq!(rules.never_leased(gateways(3)).count(), 0);
    assert_eq!(rules.never_leased(gateways(4)).collect::<Vec<_>>(), ["t"]);
    assert_eq!(rules.counted_elsewhere().collect::<Vec<_>>(), ["t"]);
}

#[test]
fn a_header_is_named_in_whatever_case() {
    let text = format!("[limits.t]\n{}", LIMIT.replace("client", "header:X-Cust"));
    assert!(compile(&text).is_ok());
}

#[test]
fn a_limit_that_is_counted_by_shares_reads_no_costs() {
    let text =
        format!("[limits.t]\n{LIMIT}consistency = \"local\"\ncost_from = {{ header = \"x-cost\", at_most = 5 }}");
    assert_eq!(refused(&text).0, ["limits.cost_local"]);
}

#[test]
fn a_tenant_may_not_raise_its_limit() {
    let own = |site: &str, grant: &str, own: &str| {
        format!(
            "[limits.t]\nkey = [\"tenant\"]\nwindow = \"1s\"\n{site}\n[tenants.acme]\ngrant.t = {grant}\nown.t = {own}"
        )
    };
    let (codes, said) = refused(&own("requests = 10", "{ requests = 50 }", "{ requests = 51 }"));
    assert_eq!(codes, ["limits.tenant_raises"]);
    assert!(said.starts_with("tenant `acme` sets requests of `t` to 51, above the 50 it has / "), "{said}");
    assert!(compile(&own("requests = 10", "{ requests = 50 }", "{ requests = 50 }")).is_ok());
    // The grant may lower, and then the lower number is the ceiling.
    assert_eq!(refused(&own("requests = 10", "{ requests = 5 }", "{ requests = 6 }")).0, ["limits.tenant_raises"]);
    let (_, said) = refused(&own("requests = 10\nburst = 4", "{}", "{ burst = 5 }"));
    assert!(said.starts_with("tenant `acme` sets burst of `t` to 5, above the 4 it has"), "{said}");
    // A burst that nobody wrote is as large as the requests.
    assert_eq!(refused(&own("requests = 10", "{}", "{ burst = 11 }")).0, ["limits.tenant_raises"]);
    assert!(compile(&own("requests = 10", "{}", "{ burst = 10, requests = 5 }")).is_ok());
    assert_eq!(refused(&own("requests = 10", "{}", "{ burst = 11, requests = 11 }")).0.len(), 2);
}

#[test]
fn a_tenant_that_names_a_limit_that_does_not_exist_is_refused() {
    let (codes, said) = refused("[tenants.acme.own]\nper_keys = { requests = 1 }");
    assert_eq!(codes, ["limits.unknown"]);
    assert_eq!(said, "tenant `acme` names a limit `per_keys` that does not exist / did you mean `per_key`?");
    assert_eq!(refused("[tenants.acme.grant]\nzebra = {}").0, ["limits.unknown"]);
}

#[test]
fn a_tenant_cannot_have_numbers_of_a_limit_that_is_asked_before_it_is_known() {
    let (codes, said) = refused(&format!("[limits.t]\n{LIMIT}[tenants.acme.grant]\nt = {{ requests = 1 }}"));
    assert_eq!(codes, ["limits.tenant_unknown_yet"]);
    assert!(said.contains("asked before the tenant is known"), "{said}");
}

#[test]
fn a_limit_that_counts_by_nothing_or_by_one_thing_twice_is_refused() {
    let key = |key: &str| format!("[limits.t]\nkey = {key}\nrequests = 10\nwindow = \"1s\"");
    assert_eq!(refused(&key("[]")).0, ["limits.key_empty"]);
    assert_eq!(refused(&key("[\"client\", \"route\", \"client\"]")).0, ["limits.key_duplicate"]);
    assert_eq!(refused(&key("[\"header:x-a\", \"header:x-a\"]")).0, ["limits.key_duplicate"]);
    assert!(compile(&key("[\"header:x-a\", \"header:x-b\"]")).is_ok());
}

#[test]
fn a_limit_by_a_header_that_is_stripped_or_secret_is_refused_by_its_name() {
    let key = |name: &str| format!("[limits.t]\nkey = [\"header:{name}\"]\nrequests = 10\nwindow = \"1s\"");
    for name in [
        "x-tenant-id",
        "x-forwarded-for",
        "x-real-ip",
        "x-request-id",
        "x-portcullis-tenant",
        "authorization",
        "cookie",
        "proxy-authorization",
        "x-api-key",
    ] {
        let (codes, said) = refused(&key(name));
        assert_eq!(codes, ["limits.key_header"], "{name}");
        assert!(said.starts_with(&format!("`t` counts by `{name}`, ")), "{said}");
    }
    assert!(compile(&key("x-plan")).is_ok());
}

#[test]
fn a_window_of_more_than_31_days_is_refused() {
    let window = |window: &str| format!("[limits.t]\nkey = [\"client\"]\nrequests = 10\nwindow = \"{window}\"");
    assert!(compile(&window("31d")).is_ok());
    let (codes, said) = refused(&window("2678401s"));
    assert_eq!(codes, ["limits.window_too_long"]);
    assert!(said.starts_with("the window of `t` is 2678401s, longer than 31d"), "{said}");
}

#[test]
fn passing_while_the_store_is_away_needs_a_reason() {
    for blank in ["", "  ", "\\t"] {
        let text = format!("[limits.t]\n{LIMIT}on_store_failure = {{ allow = \"{blank}\" }}");
        assert_eq!(refused(&text).0, ["limits.reason_missing"], "{blank:?}");
    }
    assert!(compile(&format!("[limits.t]\n{LIMIT}on_store_failure = {{ allow = \"a soft quota\" }}")).is_ok());
}

#[test]
fn a_name_that_would_break_a_header_or_a_key_is_refused() {
    for name in ["\"a b\"", "\"a\\\"b\"", "\"Per-Key\"", "\"a:b\"", "\"{a}\"", "\"\"", "\"\\r\\nx\""] {
        assert_eq!(refused(&format!("[limits.{name}]\n{LIMIT}")).0, ["limits.name"], "{name}");
    }
    let long = |n| format!("[limits.{}]\n{LIMIT}", "a".repeat(n));
    assert!(compile(&long(64)).is_ok());
    assert_eq!(refused(&long(65)).0, ["limits.name"]);
}

#[test]
fn numbers_that_cannot_be_counted_are_refused() {
    let numbers = |text: &str| format!("[limits.t]\nkey = [\"client\"]\n{text}");
    assert_eq!(refused(&numbers("requests = 1001\nwindow = \"1ms\"")).0, ["limits.numbers"]);
    assert_eq!(refused(&numbers("requests = 1\nburst = 367\nwindow = \"1d\"")).0, ["limits.numbers"]);
    assert!(compile(&numbers("requests = 1\nburst = 366\nwindow = \"1d\"")).is_ok());
    let tenant =
        "[limits.t]\nkey = [\"tenant\"]\nrequests = 1\nwindow = \"1d\"\n[tenants.acme.grant]\nt = { burst = 367 }";
    let (codes, said) = refused(tenant);
    assert_eq!(codes, ["limits.numbers"]);
    assert!(said.contains("tenant `acme`"), "{said}");
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = r#"
        [limits.a]
        key = []
        requests = 10
        window = "99d"
        [routes.r]
        limits = ["a", "b", "a"]
        [tenants.acme.own]
        per_key = { requests = 11 }
        c = {}
    "#;
    let mut codes = refused(text).0;
    codes.sort_unstable();
    let expected = [
        "limits.duplicate",
        "limits.key_empty",
        "limits.tenant_raises",
        "limits.unknown",
        "limits.unknown",
        "limits.window_too_long",
    ];
    assert_eq!(codes, expected);
}

#[test]
fn methods_are_listed_each_once_and_at_least_one() {
    let limit = |methods: &str| format!("[limits.t]\n{LIMIT}methods = {methods}\n[routes.a]\nlimits = [\"t\"]");
    assert!(compile(&limit("[\"POST\"]")).is_ok());
    assert_eq!(refused(&limit("[]")).0, ["limits.methods"]);
    let twice = limit("[\"POST\", \"PUT\", \"POST\"]");
    assert_eq!(
        refused(&twice),
        (vec!["limits.methods"], "`t`: method POST is written twice / write each method once".to_owned())
    );
    assert_eq!(compile(&twice).unwrap_err()[0].span.start, twice.rfind("\"POST\"").unwrap());
    let wrong = toml::from_str::<crate::rate_limit::Limit>(&format!("{LIMIT}methods = [\"PSOT\"]")).unwrap_err();
    assert_eq!(wrong.message(), "`PSOT` is no method: did you mean \"POST\"?");
}

#[test]
fn a_route_under_a_limit_that_counts_none_of_its_methods_is_refused() {
    let site = |limit: &str, route: &str| {
        format!(
            "[limits.class_auth]\n{LIMIT}methods = {limit}\n[limits.t]\n{LIMIT}methods = {limit}\n[routes.a]\n{route}"
        )
    };
    let named = site("[\"POST\", \"PUT\"]", "limits = [\"t\"]\nmethods = [\"GET\"]");
    let (codes, said) = refused(&named);
    assert_eq!(codes, ["limits.never_counts"]);
    assert!(said.starts_with("route `host/a` is under `t`, which counts none of its methods: GET, HEAD / "), "{said}");
    assert_eq!(named.get(compile(&named).unwrap_err()[0].span.clone()), Some("\"t\""));
    let class = site("[\"POST\", \"PUT\"]", "class = \"auth\"\nmethods = [\"GET\"]");
    let (codes, said) = refused(&class);
    assert_eq!(codes, ["limits.never_counts"]);
    assert!(said.starts_with("route `host/a` is under `class_auth`, which counts none"), "{said}");
    assert_eq!(class.get(compile(&class).unwrap_err()[0].span.clone()), Some("[\"POST\", \"PUT\"]"));
    // One method in common is enough, and the HEAD of a GET is one.
    assert!(compile(&site("[\"POST\", \"PUT\"]", "limits = [\"t\"]\nmethods = [\"GET\", \"PUT\"]")).is_ok());
    assert!(compile(&site("[\"HEAD\"]", "limits = [\"t\"]\nmethods = [\"GET\"]")).is_ok());
    // What is wrong with the route's own methods is said once, by the route.
    assert!(compile(&site("[\"POST\"]", "limits = [\"t\"]\nmethods = [\"PSOT\"]")).is_ok());
}

#[test]
fn an_in_flight_limit_among_the_limits_of_a_route_is_told_where_it_belongs() {
    let (codes, said) = refused("[routes.a]\nlimits = [\"uploads\"]");
    assert_eq!(codes, ["limits.unknown"]);
    assert!(said.ends_with("it is one of `in_flight`: name it there"), "{said}");
}
