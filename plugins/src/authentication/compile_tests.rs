//! Tests of `compile`: everything that is wrong with a document, told at once and where it stands.

use std::sync::{Arc, atomic::AtomicU64};

use portcullis_api::{Issue, Issues};

use crate::authentication::tests::rig;

/// The issues of `rig::DOC` with one text replaced by another.
fn issues_of(from: &str, to: &str) -> Vec<Issue> {
    assert!(rig::DOC.contains(from), "{from}");
    issues_in(&rig::DOC.replacen(from, to, 1))
}
fn issues_in(text: &str) -> Vec<Issue> {
    let clock = Arc::new(rig::StillClock(AtomicU64::new(rig::NOW)));
    let (needs, _) = rig::needs(&["main", "local", "third"], clock);
    let mut issues = Issues::default();
    let compiled = rig::compile(text, &needs, &mut issues);
    assert_eq!(compiled.is_none(), !issues.is_empty(), "an issue and a control exclude each other");
    for issue in issues.as_slice() {
        assert!(!issue.message.ends_with('.'), "{}", issue.message);
        assert_ne!(issue.span, 0..0, "{} points nowhere", issue.code);
        assert!(text.get(issue.span.clone()).is_some());
    }
    issues.into_vec()
}
fn codes_of(from: &str, to: &str) -> Vec<&'static str> {
    issues_of(from, to).iter().map(|issue| issue.code).collect()
}

#[test]
fn the_document_of_the_tests_is_in_order() {
    assert_eq!(issues_in(rig::DOC), []);
    assert_eq!(issues_in(""), []);
}

#[test]
fn each_mistake_has_its_code() {
    let main = "issuer = \"https://id.example.com\"";
    let claims = "claims = { tenant = \"tenant_id\", roles = \"roles\", scopes = \"scope\" }";
    let cookie = "cookie = \"__Host-sid\"";
    let algorithms = "algorithms = [\"ES256\", \"EdDSA\"]";
    let accept = "accept = [\"jwt:main\"]";
    let public = "public = \"nothing here is secret\"";
    for (from, to, code) in [
        ("[issuers.main]", "[issuers.\"Main X\"]", "issuers.name"),
        ("[issuers.main]", "[issuers.apikey]", "issuers.name"),
        (main, "issuer = \"\"", "issuers.issuer"),
        (main, "issuer = \" https://id.example.com\"", "issuers.issuer"),
        (main, "issuer = \"https://local.example.com\"", "issuers.twin"),
        (main, "issuer = \"https://local.example.com/\"", "issuers.twin"),
        (main, "issuer = \"https://LOCAL.example.com\"", "issuers.twin"),
        ("audiences = [\"orders\"]", "audiences = []", "issuers.audiences_empty"),
        ("audiences = [\"orders\"]", "audiences = [\"\"]", "issuers.audiences"),
        (algorithms, "algorithms = []", "issuers.algorithms_empty"),
        (algorithms, "algorithms = [\"ES256\", \"ES256\"]", "issuers.algorithms_twice"),
        (algorithms, "algorithms = [\"ES256\", \"HS256\"]", "issuers.algorithms_mixed"),
        (algorithms, "algorithms = [\"HS256\"]", "issuers.keys_family"),
        ("algorithms = [\"HS256\"]", "algorithms = [\"RS256\"]", "issuers.keys_family"),
        (claims, "claims = { tenant = \"\" }", "issuers.claim_path"),
        (claims, "claims = { tenant = \"a..b\" }", "issuers.claim_path"),
        (claims, "claims = { tenant = \"email\" }", "issuers.claim_tenant"),
        (claims, "claims = { tenant = \"t\" }\nroles = { x = \"admin\" }", "issuers.roles"),
        (claims, "claims = { tenant = \"t\", roles = \"r\" }\nroles = {}", "issuers.roles"),
        ("typ = \"session+jwt\"", "typ = \"\"", "issuers.typ"),
        (claims, "claims = { tenant = \"t\" }\nclock_skew = \"31s\"", "issuers.clock_skew"),
        (claims, "claims = { tenant = \"t\" }\nmax_lifetime = \"169h\"", "issuers.max_lifetime"),
        (cookie, "cookie = \"sid\"", "issuers.cookie_prefix"),
        (cookie, "cookie = \"__Secure-sid\"", "issuers.cookie_prefix"),
        (cookie, "cookie = \"__Host-\"", "issuers.cookie_name"),
        (cookie, "cookie = \"__Host-a;b\"", "issuers.cookie_name"),
        (claims, "claims = { tenant = \"t\" }\ncookie = \"__Host-sid\"", "issuers.cookie_twin"),
        (claims, "claims = { tenant = \"t\" }\ncookie = \"__Host-SID\"", "issuers.cookie_twin"),
        (accept, "accept = []", "auth.accept_empty"),
        (accept, "accept = [\"jwt:mian\"]", "auth.unknown_issuer"),
        (accept, "accept = [\"cookie:main\"]", "auth.no_cookie"),
        (accept, "accept = [\"jwt:main\", \"jwt:main\"]", "auth.accept_twice"),
        (accept, "accept = [\"jwt:main\"]\npublic = \"a reason that is long\"", "auth.both"),
        (accept, "credentials = \"strip\"", "auth.neither"),
        (accept, "accept = [\"jwt:main\"]\nenvironment = \"live\"", "auth.environment"),
        (accept, "accept = [\"jwt:main\"]\nscopes = [\"a\", \"a\"]", "auth.scope_twice"),
        (claims, "claims = { tenant = \"t\", roles = \"r\", environments = \"\" }", "issuers.claim_path"),
        (public, "public = \"\"", "auth.public_reason"),
        (public, "public = \"          x\"", "auth.public_reason"),
        (public, "public = \"123456789\"", "auth.public_reason"),
        (public, "public = \"nothing here is secret\"\nscopes = [\"a\"]", "auth.public_with_rights"),
        (public, "public = \"nothing here is secret\"\nrole = \"viewer\"", "auth.public_with_rights"),
        (public, "public = \"nothing here is secret\"\nenvironment = \"live\"", "auth.environment"),
    ] {
        let codes = codes_of(from, to);
        assert!(codes.contains(&code), "{to}: {codes:?}");
    }
    let without_keys = rig::DOC.replace("[api_keys]\nfile = \"keys.json\"\npepper = \"file:pepper\"\n", "");
    assert!(issues_in(&without_keys).iter().any(|issue| issue.code == "auth.no_api_keys"));
}

#[test]
fn each_mistake_about_keys_and_rights_has_its_code() {
    let jwks = "keys = { jwks_file = \"main.json\" }";
    let claims = "claims = { tenant = \"tenant_id\", roles = \"roles\", scopes = \"scope\" }";
    let cookie = "cookie = \"__Host-sid\"";
    let accept = "accept = [\"jwt:main\"]";
    let public = "public = \"nothing here is secret\"";
    for (from, to, code) in [
        (jwks, "keys = { jwks_file = \"\" }", "issuers.jwks_file"),
        (jwks, "keys = { jwks_url = \"http://id.example.com/jwks\" }", "issuers.jwks_url"),
        (jwks, "keys = { jwks_url = \"http://127.0.0.1.evil.example/jwks\" }", "issuers.jwks_url"),
        (jwks, "keys = { jwks_url = \"http://127.0.0.1@evil.example/jwks\" }", "issuers.jwks_url"),
        (jwks, "keys = { jwks_url = \"http://localhost:x@evil.example/jwks\" }", "issuers.jwks_url"),
        (jwks, "keys = { jwks_url = \"https://u:p@id.example.com/jwks\" }", "issuers.jwks_url"),
        (jwks, "keys = { jwks_url = \"https://\" }", "issuers.jwks_url"),
        (jwks, "keys = { jwks_url = \"https://a.example/#x\" }", "issuers.jwks_url"),
        (jwks, "keys = { jwks_url = \"id.example.com/jwks\" }", "issuers.jwks_url"),
        (jwks, "keys = { jwks_url = \"https://a.example/ b\" }", "issuers.jwks_url"),
        (jwks, "keys = { jwks_url = \"http://127.0.0.1:9000/jwks.json\" }", "issuers.jwks_url"),
        (jwks, "keys = { discovery = \"http://id.example.com/a\" }", "issuers.jwks_url"),
        (jwks, "keys = { discovery = \"https://id.example.com/a#b\" }", "issuers.jwks_url"),
        (jwks, "keys = { jwks_url = \"https://127.0.0.1:9000/jwks.json\" }", "issuers.private_address"),
        (jwks, "keys = { jwks_url = \"https://169.254.169.254/latest\" }", "issuers.private_address"),
        (jwks, "keys = { discovery = \"https://[::ffff:10.0.0.1]/a\" }", "issuers.private_address"),
        (
            jwks,
            "keys = { jwks_url = \"https://10.0.0.1/\" }\nprivate_networks = [\"10.1.0.0/16\"]",
            "issuers.private_address",
        ),
        (jwks, "keys = { jwks_file = \"main.json\" }\nprivate_networks = [\"10.0.0.0/8\"]", "issuers.private_networks"),
        (jwks, "keys = { jwks_file = \"main.json\" }\nmax_stale = \"25h\"", "issuers.max_stale"),
        (jwks, "keys = { jwks_file = \"main.json\" }\nmax_stale = \"599s\"", "issuers.max_stale"),
        (cookie, "cookie = \"__Host-sid\"\nmax_stale = \"1h\"", "issuers.max_stale"),
        (cookie, "cookie = \"__Host-sid\"\nprivate_networks = [\"10.0.0.0/8\"]", "issuers.private_networks"),
        (accept, "accept = [\"api_key\"]\nmax_auth_age = \"5m\"", "auth.max_auth_age"),
        (public, "public = \"nothing here is secret\"\nmax_auth_age = \"5m\"", "auth.public_with_rights"),
        (claims, "claims = { tenant = \"t\", roles = \"r\", environments = \"e\" }", "issuers.environments_unused"),
        (claims, "claims = { tenant = \"t\", environments = \"e\" }", "issuers.environments"),
    ] {
        let codes = codes_of(from, to);
        assert!(codes.contains(&code), "{to}: {codes:?}");
    }
}

#[test]
fn the_edges_are_possible() {
    let claims = "claims = { tenant = \"tenant_id\", roles = \"roles\", scopes = \"scope\" }";
    let jwks = "keys = { jwks_file = \"main.json\" }";
    for (from, to) in [
        (claims, "claims = { tenant = \"https://example.com/tenant\" }\nclock_skew = \"30s\"\nmax_lifetime = \"7d\""),
        (
            claims,
            "claims = { tenant = \"t\", roles = \"a.b.c\" }\nroles = { boss = \"owner\" }\ncookie = \"__Host-other\"",
        ),
        (jwks, "keys = { jwks_url = \"https://id.example.com:8443/jwks.json?x=1\" }"),
        (
            jwks,
            "keys = { discovery = \"https://id.example.com/.well-known/openid-configuration\" }\nmax_stale = \"24h\"",
        ),
        (jwks, "keys = { jwks_url = \"https://1.1.1.1/jwks.json\" }\nmax_stale = \"10m\""),
        (jwks, "keys = { jwks_url = \"https://[::1]:9000/a\" }\nprivate_networks = [\"::1\"]"),
        (jwks, "keys = { jwks_file = \"main.json\" }\nmax_stale = \"1h\""),
        ("public = \"nothing here is secret\"", "public = \"1234567890\""),
    ] {
        assert_eq!(codes_of(from, to), Vec::<&str>::new(), "{to}");
    }
}

#[test]
fn a_misspelt_issuer_is_pointed_at_and_the_right_one_is_named() {
    let issues = issues_of("accept = [\"jwt:main\"]", "accept = [\"jwt:mian\"]");
    assert_eq!(issues.len(), 1);
    assert_eq!(issues[0].help.as_deref(), Some("did you mean `main`?"));
    let text = rig::DOC.replacen("accept = [\"jwt:main\"]", "accept = [\"jwt:mian\"]", 1);
    assert_eq!(text.get(issues[0].span.clone()).unwrap(), "\"jwt:mian\"");
    let far = issues_of("accept = [\"jwt:main\"]", "accept = [\"jwt:elsewhere\"]");
    assert_eq!(far[0].help, None);
}

#[test]
fn everything_is_told_at_once() {
    let text = rig::DOC
        .replacen("audiences = [\"orders\"]", "audiences = []", 1)
        .replacen("cookie = \"__Host-sid\"", "cookie = \"sid\"", 1)
        .replacen("accept = [\"jwt:main\"]", "accept = []", 1)
        .replacen("public = \"nothing here is secret\"", "public = \"x\"", 1);
    assert_eq!(issues_in(&text).len(), 4);
}

/// Every example of the operator's page is in order.
#[test]
fn the_examples_of_the_page_are_in_order() {
    let page = include_str!("../../../docs/controls/authentication.md");
    let mut examples = 0;
    for block in page.split("```toml").skip(1) {
        let text = block.split("```").next().unwrap();
        let mut table: toml::Table = text.parse().unwrap();
        let mut routes = toml::Table::new();
        if let Some(toml::Value::Table(hosts)) = table.remove("hosts") {
            for host in hosts.values() {
                for (name, route) in host["routes"].as_table().unwrap() {
                    routes.insert(name.clone(), route["auth"].clone());
                }
            }
        }
        table.insert("routes".to_owned(), toml::Value::Table(routes));
        let clock = Arc::new(rig::StillClock(AtomicU64::new(rig::NOW)));
        let (needs, _) = rig::needs(&["main", "session"], clock);
        let mut issues = Issues::default();
        assert!(rig::compile(&toml::to_string(&table).unwrap(), &needs, &mut issues).is_some(), "{issues:?}");
        examples += 1;
    }
    assert_eq!(examples, 1);
}
