//! THREATS A: spoofed headers, and every spelling of them.

use portcullis_tests::{Protocol, Request, tokens::main_token};

use crate::{EVIL, clean, world};

/// A name of each family that the gateway strips, IDENTITY 2.12.
pub(crate) const RESERVED: &[&str] = &[
    "X-Portcullis-Tenant",
    "X-Portcullis-Subject",
    "X-Portcullis-Kind",
    "X-Portcullis-Role",
    "X-Portcullis-Env",
    "X-Portcullis-Scopes",
    "X-Portcullis-Assertion",
    "X-Portcullis-Anything",
    "X-Tenant",
    "X-Tenant-Id",
    "X-Org-Id",
    "X-User",
    "X-User-Id",
    "X-Role",
    "X-Roles",
    "X-Scope",
    "X-Scopes",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Uri",
    "X-Forwarded-User",
    "X-Forwarded-Groups",
    "X-Forwarded-Client-Cert",
    "Forwarded",
    "X-Real-IP",
    "True-Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "CF-Connecting-IP",
    "Fastly-Client-IP",
    "X-Original-URL",
    "X-Original-URI",
    "X-Rewrite-URL",
    "X-Envoy-Original-Path",
    "X-HTTP-Method",
    "X-HTTP-Method-Override",
    "X-Method-Override",
    "X-Middleware-Subrequest",
    "Proxy",
    "Early-Data",
    "Client-Cert",
    "Client-Cert-Chain",
    "X-SSL-Client-S-DN",
    "SSL-Client-Cert",
    "X-Client-Cert",
    "X-ARR-ClientCert",
    "Remote-User",
    "X-Remote-User",
    "X-WEBAUTH-USER",
    "X-Auth-Request-Email",
    "X-Authentik-Username",
    "X-Pomerium-Claim-Email",
    "CF-Access-Jwt-Assertion",
    "X-Goog-Authenticated-User-Email",
    "X-Amzn-Oidc-Data",
    "X-MS-Client-Principal",
    "X-Consumer-Username",
    "X-Credential-Identifier",
    "X-Anonymous-Consumer",
    "X-Userinfo",
    "X-Id-Token",
    "X-Access-Token",
    "X-Jwt-Payload",
    "Txn-Token",
    "X-Internal-Secret",
];

fn planted(request: Request) -> Request {
    RESERVED.iter().fold(request, |request, name| request.header(name, EVIL))
}

#[test]
fn hdr_01_no_reserved_header_of_a_client_reaches_the_upstream() {
    for protocol in Protocol::BOTH {
        let seen = world().admits(protocol, &planted(Request::get("/v1/orders").bearer(main_token("acme"))));
        clean(&seen);
        assert_eq!(seen.header("x-portcullis-tenant").as_deref(), Some("acme"));
        let seen = world().admits(protocol, &planted(Request::get("/public")));
        clean(&seen);
        assert_eq!(seen.header("x-portcullis-tenant"), None);
        assert_eq!(seen.header("x-portcullis-kind").as_deref(), Some("anonymous"));
    }
}

#[test]
fn hdr_01_not_even_through_a_websocket_handshake() {
    let request = planted(handshake("/ws").bearer(main_token("acme")));
    let mut client = world().gateway.h1();
    client.send(request.h1());
    assert_eq!(client.answer().map(|a| a.status), Some(101));
    let seen = world().upstream.seen(&request.mark);
    clean(&seen);
    assert_eq!(seen.header("x-portcullis-tenant").as_deref(), Some("acme"));
}

/// A WebSocket handshake (RFC 6455 4.1).
pub(crate) fn handshake(path: &str) -> Request {
    Request::get(path)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
}

#[test]
fn hdr_02_an_underscore_in_a_name_is_refused() {
    for name in ["X_Portcullis_Tenant", "X-Portcullis_Tenant", "x_forwarded_for", "Remote_User", "My_Header"] {
        world().refuses_both(400, &Request::get("/public").header(name, EVIL));
        world().refuses_both(400, &Request::get("/v1/orders").bearer(main_token("acme")).header(name, EVIL));
    }
}

#[test]
fn hdr_03_every_other_mark_in_a_name_is_refused_and_runs_of_dashes_are_one() {
    for name in
        ["X.Portcullis.Tenant", "X~Portcullis-Tenant", "X-Portcullis!Tenant", "X'Portcullis", "X|Y", "X`Y", "X^Y"]
    {
        world().refuses_both(400, &Request::get("/public").header(name, EVIL));
    }
    for name in ["x-portcullis--tenant", "X--Portcullis-Tenant", "-X-Portcullis-Tenant", "X-Portcullis-Tenant-"] {
        for protocol in Protocol::BOTH {
            let request = Request::get("/v1/orders").bearer(main_token("acme")).header(name, EVIL);
            match world().gateway.status(protocol, &request) {
                Some(200) => clean(&world().upstream.seen(&request.mark)),
                other => assert_eq!(other, Some(400), "{name}"),
            }
        }
    }
}

#[test]
fn hdr_04_a_field_that_may_be_there_once_is_refused_twice() {
    let token = main_token("acme");
    let post = || Request::post("/v1/orders", "{}").bearer(&token);
    world().refuses_both(400, &post().bearer(&token));
    world().refuses_both(400, &post().header("Content-Type", "text/plain").header("Content-Type", "application/json"));
    let key = world().gateway.key("acme");
    world().refuses_both(400, &Request::get("/v1/orders").header("X-Api-Key", key).header("X-Api-Key", key));
    world().refuses(Protocol::H1, 400, &post().header("Host", "api.example.test"));
    world().refuses(Protocol::H1, 400, &post().header("Content-Length", "2"));
}

#[test]
fn hdr_04_a_role_in_a_header_decides_nothing() {
    for value in ["admin", "user,admin"] {
        let request =
            Request::get("/v1/admin").bearer(main_token("acme")).header("X-Role", "user").header("X-Role", value);
        world().refuses_both(403, &request);
    }
}

#[test]
fn hdr_05_connection_cannot_delete_what_we_inject() {
    for nominated in [
        "X-Portcullis-Tenant",
        "x-portcullis-subject",
        "X_Portcullis_Tenant",
        "Authorization",
        "Cookie",
        "X-Real-IP",
        "Forwarded",
        "X-Forwarded-For",
        "X-Request-Id",
    ] {
        let request =
            Request::get("/v1/orders").bearer(main_token("acme")).header("Connection", format!("close, {nominated}"));
        world().refuses(Protocol::H1, 400, &request);
    }
    let request = Request::get("/v1/orders")
        .bearer(main_token("acme"))
        .header("X-Harmless", "1")
        .header("Connection", "close, X-Harmless");
    let seen = world().admits(Protocol::H1, &request);
    assert_eq!(seen.header("x-harmless"), None);
    assert_eq!(seen.header("x-portcullis-tenant").as_deref(), Some("acme"));
}

#[test]
fn hdr_06_the_clients_address_is_the_sockets() {
    for protocol in Protocol::BOTH {
        let request = Request::get("/public")
            .header("X-Forwarded-For", "203.0.113.66")
            .header("X-Forwarded-For", "203.0.113.67")
            .header("Forwarded", "for=203.0.113.68")
            .header("X-Real-IP", "203.0.113.69");
        let seen = world().admits(protocol, &request);
        assert_eq!(seen.header("x-forwarded-for").as_deref(), Some("127.0.0.1"));
        assert!(!String::from_utf8_lossy(&seen.head).contains("203.0.113."), "{seen:?}");
    }
}

#[test]
fn hdr_07_a_forwarded_path_decides_nothing() {
    for name in ["X-Forwarded-Uri", "X-Original-URI", "X-Forwarded-Path"] {
        world().refuses_both(401, &Request::get("/v1/orders").header(name, "/public"));
    }
}

#[test]
fn hdr_08_a_forwarded_scheme_or_prefix_decides_nothing() {
    for protocol in Protocol::BOTH {
        let request = Request::get("/public").header("X-Forwarded-Proto", "http").header("X-Forwarded-Prefix", "/v1");
        let seen = world().admits(protocol, &request);
        assert_eq!(seen.header("x-forwarded-proto").as_deref(), Some("https"));
        assert_eq!(seen.header("x-forwarded-prefix"), None);
    }
}

#[test]
fn hdr_09_an_original_url_decides_nothing_and_is_not_passed_on() {
    for name in ["X-Original-URL", "X-Rewrite-URL", "X-Envoy-Original-Path"] {
        world().refuses_both(401, &Request::get("/v1/orders").header(name, "/public"));
        for protocol in Protocol::BOTH {
            let seen = world().admits(protocol, &Request::get("/public").header(name, "/v1/admin"));
            assert_eq!(seen.header(name), None);
        }
    }
}

#[test]
fn hdr_10_a_method_override_is_not_passed_on() {
    for name in ["X-HTTP-Method", "X-HTTP-Method-Override", "X-Method-Override"] {
        for protocol in Protocol::BOTH {
            let seen = world().admits(protocol, &Request::get("/public").header(name, "DELETE"));
            assert_eq!(seen.header(name), None);
            assert!(seen.request_line().starts_with("GET "));
        }
    }
}

#[test]
fn hdr_11_no_header_switches_a_control_off() {
    for (name, value) in [
        ("X-Middleware-Subrequest", "middleware:middleware"),
        ("X-PAN-AuthCheck", "off"),
        ("X-Portcullis-Bypass", "1"),
        ("X-Portcullis-Tenant", "acme"),
        ("X-Internal-Request", "true"),
    ] {
        world().refuses_both(401, &Request::get("/v1/orders").header(name, value));
    }
}

#[test]
fn hdr_12_identity_headers_of_other_proxies_are_not_passed_on() {
    for name in [
        "X-WEBAUTH-USER",
        "Remote-User",
        "X-Auth-Request-Email",
        "X-Goog-Authenticated-User-Email",
        "X-Consumer-Username",
    ] {
        for protocol in Protocol::BOTH {
            assert_eq!(world().admits(protocol, &Request::get("/public").header(name, EVIL)).header(name), None);
        }
    }
}

#[test]
fn hdr_13_client_certificate_headers_are_not_passed_on() {
    for name in ["Client-Cert", "X-Forwarded-Client-Cert", "X-SSL-Client-S-DN", "X-ARR-ClientCert"] {
        for protocol in Protocol::BOTH {
            assert_eq!(world().admits(protocol, &Request::get("/public").header(name, ":MIIC:")).header(name), None);
        }
    }
}

#[test]
fn hdr_14_httpoxy() {
    for protocol in Protocol::BOTH {
        let seen = world().admits(protocol, &Request::get("/public").header("Proxy", "http://evil.example.test"));
        assert_eq!(seen.header("proxy"), None);
    }
}

#[test]
fn hdr_20_an_upstream_cannot_speak_in_our_name() {
    for protocol in Protocol::BOTH {
        let answer =
            world().gateway.ask(protocol, &Request::get("/public/forge").header("Origin", "https://evil.example.test"));
        assert_eq!(answer.status, 200);
        let shown = format!("{answer:?}");
        assert!(!shown.contains(EVIL), "{shown}");
        for name in ["access-control-allow-origin", "access-control-allow-credentials", "server", "x-powered-by"] {
            assert_eq!(answer.header(name), None, "{shown}");
        }
        // What is the upstream's own stays.
        assert_eq!(answer.all("set-cookie"), ["theme=dark"]);
        assert_eq!(answer.header("x-total"), Some("7"));
    }
}

#[test]
fn hdr_21_a_probes_user_agent_opens_nothing() {
    for agent in ["GoogleHC/1.0", "kube-probe/1.30", "ELB-HealthChecker/2.0"] {
        world().refuses_both(401, &Request::get("/v1/orders").header("User-Agent", agent));
    }
}
