//! Spellings, tables and encodings: THREATS A.

use proptest::prelude::*;

use super::*;

const TABLES: [&[Pattern]; 3] = [INBOUND, END_TO_END, RESPONSE];

#[test]
fn tables_are_folded_sorted_short_and_free_of_prefixes() {
    for table in TABLES {
        for pattern in table {
            let text = pattern.text();
            assert!(text.len() < FOLDED_MAX && !text.is_empty());
            // A trailing `-` is part of a prefix and folds to itself.
            assert_eq!(fold(text).as_str(), text);
        }
        for pair in table.windows(2) {
            assert!(pair[0].text() < pair[1].text(), "{} < {}", pair[0].text(), pair[1].text());
            let covers = matches!(pair[0], Prefix(_)) && pair[1].text().starts_with(pair[0].text());
            assert!(!covers, "{}", pair[1].text());
        }
    }
}

#[test]
fn whatever_we_inject_is_reserved_and_may_not_be_nominated() {
    for name in INJECTED {
        assert!(is_reserved(name) && must_not_be_nominated(name), "{name}");
    }
    for name in &INJECTED[..8] {
        assert!(is_response_reserved(name), "{name}");
    }
}

#[test]
fn hdr_06_to_14_the_names_of_other_proxies_are_reserved() {
    for name in
        "Forwarded X-Forwarded-For X-Forwarded-Uri X-Forwarded-Proto X-Forwarded-Prefix X-Forwarded-Client-Cert \
         X-Real-IP True-Client-IP CF-Connecting-IP X-Client-IP X-Cluster-Client-IP Fastly-Client-IP \
         X-Original-URL X-Rewrite-URL X-Envoy-Original-Path X-HTTP-Method X-HTTP-Method-Override \
         X-Method-Override X-Middleware-Subrequest X-WEBAUTH-USER Remote-User X-Remote-User X-Auth-Request-Email \
         Cf-Access-Jwt-Assertion X-Goog-Authenticated-User-Email X-Amzn-Oidc-Data X-Consumer-Username \
         X-Ms-Client-Principal X-Ms-Client-Principal-Id X-Credential-Identifier X-Anonymous-Consumer X-Userinfo \
         X-Id-Token X-Access-Token X-Jwt-Payload Txn-Token X-Internal-Auth X-Authentik-Username \
         X-Pomerium-Claim-Email Client-Cert Client-Cert-Chain X-SSL-Client-S-DN SSL-Client-Cert \
         X-Client-Cert-Chain X-ARR-ClientCert Proxy Early-Data X-Request-Id X-Tenant-Id X-Organization X-User-Id \
         X-Role X-Roles X-Scope X-Portcullis-Anything X-Portcullis \
         X-Forwarded X-ForwardedFor Client-IP Fly-Client-IP X-Group X-Groups X-Groups-Id X-Email X-Auth-User \
         X-Auth-Username X-Auth-Groups X-Authenticated-User X-Authenticated-Userid X-PAN-User Impersonate-User \
         Impersonate-Extra-Scopes WL-Proxy-Client-IP WL-Proxy-SSL Proxy-Client-IP Front-End-Https X-Proxy-User \
         X-Proxy-Username X-ProxyUser-Ip X-SSO-User X-SAML-NameId X-Shib-Session Shib-Session-ID OIDC_CLAIM_sub \
         OIDC-Access-Token X-Amzn-Mtls-Clientcert SM_USER iv-user OAM_REMOTE_USER Tailscale-User-Login \
         X-Azure-FDID X-Appengine-User-Email X-Vouch-User X-Ms-Token-Aad-Id-Token X-Url-Scheme X-Sendfile-Type \
         X-Accel-Mapping X-ARR-SSL X-Impersonate-User Grpc-Metadata-X-Portcullis-Tenant"
            .split_whitespace()
    {
        assert!(is_reserved(name), "{name}");
    }
}

#[test]
fn the_page_for_upstreams_lists_what_is_removed_and_no_more() {
    let page = include_str!("../../../docs/upstreams.md");
    let (_, section) = page.split_once("### What is removed").unwrap();
    let listed = section.split("\n\n").find(|part| part.starts_with('|')).unwrap();
    let mut listed: Vec<String> = listed.split('`').skip(1).step_by(2).map(str::to_ascii_lowercase).collect();
    let mut table: Vec<String> = INBOUND
        .iter()
        .map(|pattern| match pattern {
            Name(text) => (*text).to_owned(),
            Prefix(text) => format!("{text}*"),
        })
        .collect();
    listed.sort_unstable();
    table.sort_unstable();
    assert_eq!(listed, table);
}

#[test]
fn ordinary_names_are_not_reserved() {
    for name in "Host Authorization Cookie Content-Type Accept User-Agent Origin X-Api-Key Proxy-Authorization \
         Forwarded-By X-Real-IP-2 X-Requested-With X-Origin Traceparent X-Trace-Id Clients - X Zzz A \
         X-Auth-Token X-Account-Id X-Amzn-Trace-Id X-Amz-Date X-Email-Id X-Csrf-Token X-Proxy-Cache Client-IP-2 \
         Client-Version Proxy-Client-IP-2 Proxying Grpc-Timeout Grpc-Metadata-Mine X-Author X-Ms-Version Smart"
        .split_whitespace()
    {
        assert!(!is_reserved(name), "{name}");
    }
}

#[test]
fn hdr_02_and_hdr_03_other_spellings_fold_to_the_reserved_name() {
    for name in "x_portcullis_tenant X.Portcullis.Tenant X-Portcullis_Tenant X~Portcullis-Tenant x-portcullis--tenant \
         X__PORTCULLIS-.-TENANT -x-portcullis-tenant _X_Portcullis_Tenant_"
        .split_whitespace()
    {
        assert!(is_reserved(name) && is_response_reserved(name), "{name}");
    }
    assert_eq!(fold("X~~Tenant..Id").as_str(), "x-tenant-id");
}

#[test]
fn a_name_longer_than_the_fold_keeps_is_still_caught_by_its_beginning() {
    assert!(is_reserved(format!("X-Portcullis-{}", "a".repeat(10_000))));
    assert!(!is_reserved("a".repeat(10_000)));
    let at_the_edge = format!("x-portcullis-{}", "a".repeat(FOLDED_MAX - 13));
    assert!(!fold(&at_the_edge).cut && fold(&(at_the_edge + "a")).cut);
}

#[test]
fn hdr_05_fields_that_somebody_reads_may_not_be_nominated_and_connection_options_may() {
    for name in "Authorization Cookie X-Real-IP Forwarded Host Content-Length Content-Type X-Api-Key Transfer-Encoding \
         Origin Expect Sec-Fetch-Site X_Tenant_Id Cache-Control User-Agent"
        .split_whitespace()
    {
        assert!(must_not_be_nominated(name), "{name}");
    }
    for name in "close keep-alive upgrade te trailers http2-settings x-mine".split_whitespace() {
        assert!(!must_not_be_nominated(name), "{name}");
    }
}

#[test]
fn hdr_20_an_upstream_may_not_answer_in_our_name_and_security_headers_are_listed_apart() {
    for name in "X-Portcullis-Assertion x_portcullis_tenant Access-Control-Allow-Origin Server X-Powered-By \
         X-Request-Id"
        .split_whitespace()
    {
        assert!(is_response_reserved(name), "{name}");
    }
    for name in SECURITY.iter().chain(&["Set-Cookie", "Content-Type", "Server-Timing", "Location", "X-Tenant", ""]) {
        assert!(!is_response_reserved(name), "{name}");
    }
}

#[test]
fn hdr_17_a_claim_can_split_neither_a_header_nor_a_list() {
    assert_eq!(percent_encode_value("main:alice@example.com"), "main:alice@example.com");
    assert_eq!(percent_encode_value("a\r\nX-Role: admin"), "a%0D%0AX-Role:%20admin");
    assert_eq!(percent_encode_value("users,admin"), "users%2Cadmin");
    assert_eq!(percent_encode_value("赵"), "%E8%B5%B5");
    assert_eq!(percent_encode_value("100%25+;"), "100%2525%2B%3B");
    assert!(matches!(percent_encode_value("main:alice"), Cow::Borrowed(_)));
    assert_eq!(percent_encode_value(""), "");
}

#[test]
fn scopes_are_joined_by_one_space_and_none_is_no_value() {
    let scopes = ["orders:read", "orders:write"].map(|text| Scope::parse(text).unwrap());
    assert_eq!(scopes_value(&scopes).as_deref(), Some("orders:read orders:write"));
    assert_eq!(scopes_value(&[]), None);
}

/// A spelling of a reserved name: other case, other separators, and a tail where the pattern is a prefix.
fn spelling() -> impl Strategy<Value = String> {
    let separator = proptest::sample::select(vec!["-", "_", ".", "--", "~", "_-_", "!", "-."]);
    let cases = proptest::collection::vec(any::<bool>(), FOLDED_MAX);
    (0..INBOUND.len(), separator, cases, "[a-zA-Z0-9_.-]{0,80}").prop_map(|(at, separator, upper, tail)| {
        let pattern = INBOUND[at];
        let mut name = String::new();
        for (c, upper) in pattern.text().chars().zip(upper) {
            match c {
                '-' => name.push_str(separator),
                c if upper => name.push(c.to_ascii_uppercase()),
                c => name.push(c),
            }
        }
        if matches!(pattern, Prefix(_)) {
            name.push_str(&tail);
        }
        name
    })
}

proptest! {
    #[test]
    fn every_spelling_of_a_reserved_name_is_reserved_and_not_nominable(name in spelling()) {
        prop_assert!(is_reserved(&name), "{}", name);
        prop_assert!(must_not_be_nominated(&name), "{}", name);
    }

    #[test]
    fn a_name_is_reserved_exactly_when_its_fold_matches_some_pattern(name in "(x[-_.]?)?[a-z._-]{0,24}|\\PC*") {
        let folded = fold(&name);
        prop_assert_eq!(is_reserved(&name), INBOUND.iter().any(|pattern| pattern.matches(&folded)));
    }

    #[test]
    fn folding_twice_is_folding_once(name in "\\PC*") {
        let once = fold(&name);
        let twice = fold(once.as_str());
        prop_assert_eq!(twice.as_str(), once.as_str());
    }

    #[test]
    fn an_encoded_value_is_visible_ascii_and_decodes_to_what_went_in(text in any::<String>()) {
        let encoded = percent_encode_value(&text).into_owned();
        prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic()), "{}", encoded);
        let decoded = percent_encoding::percent_decode_str(&encoded).decode_utf8().unwrap().into_owned();
        prop_assert_eq!(decoded, text);
    }
}
