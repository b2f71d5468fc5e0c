//! Where a client comes from: allowlists of site, route and tenant, PROXY protocol, trusted forwarders.

use portcullis_tests::{Dial, Gateway, Request, Setup, Upstream, tokens::main_token};

fn from(gateway: &Gateway, address: &str, request: &Request) -> (u16, String) {
    let answer = gateway.send_from(&gateway.dial().from(address), request);
    let code = if answer.status == 200 { String::new() } else { answer.code() };
    (answer.status, code)
}

fn denied() -> (u16, String) {
    (403, "ip_allowlist.denied".to_owned())
}

fn passed() -> (u16, String) {
    (200, String::new())
}

#[test]
fn the_lists_of_site_route_and_tenant_are_intersected() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream)
        .set("controls.ip_allowlist.allow", r#"["127.0.0.0/28", "2001:db8::/32"]"#)
        .with(
            r#"[hosts."api.example.test".routes.public.ip_allowlist]
                 allow = ["127.0.0.2", "127.0.0.77"]
                 [tenants.acme.own.ip_allowlist]
                 allow = ["127.0.0.3"]
                 [tenants.acme.grant.ip_allowlist]
                 allow = ["127.0.0.0/29"]"#,
        )
        .start();
    // The site's list, for everybody.
    assert_eq!(from(&gateway, "127.0.0.16", &Request::get("/v1/orders")), denied());
    assert_eq!(from(&gateway, "127.0.0.15", &Request::get("/v1/orders").bearer(main_token("globex"))), passed());
    // The route's list, within it: the last one is in the route's list only.
    assert_eq!(from(&gateway, "127.0.0.2", &Request::get("/public")), passed());
    assert_eq!(from(&gateway, "127.0.0.1", &Request::get("/public")), denied());
    assert_eq!(from(&gateway, "127.0.0.77", &Request::get("/public")), denied());
    // The tenant's, once it is known who that is.
    let acme = || Request::get("/v1/orders").bearer(main_token("acme"));
    assert_eq!(from(&gateway, "127.0.0.3", &acme()), passed());
    assert_eq!(from(&gateway, "127.0.0.2", &acme()), denied());
    assert_eq!(from(&gateway, "127.0.0.2", &Request::get("/v1/orders").bearer(main_token("globex"))), passed());
}

#[test]
fn an_address_outside_is_refused_before_a_credential_is_looked_at() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).set("controls.ip_allowlist.allow", r#"["127.0.0.2"]"#).start();
    assert_eq!(from(&gateway, "127.0.0.3", &Request::get("/v1/orders")), denied());
    assert_eq!(from(&gateway, "127.0.0.3", &Request::get("/v1/orders").bearer("x")), denied());
    assert_eq!(from(&gateway, "127.0.0.2", &Request::get("/v1/orders").bearer(main_token("acme"))), passed());
}

#[test]
fn an_empty_list_denies_everybody() {
    let upstream = Upstream::start();
    let setup = Setup::new(&upstream).set("controls.ip_allowlist.allow", "[]");
    let checked = setup.check();
    if checked.status.success() {
        let gateway = setup.start();
        assert_eq!(from(&gateway, "127.0.0.1", &Request::get("/public")), denied());
    }
    let gateway = Setup::new(&upstream).with("[tenants.acme.own.ip_allowlist]\nallow = []").start();
    assert_eq!(from(&gateway, "127.0.0.1", &Request::get("/v1/orders").bearer(main_token("acme"))), denied());
    assert_eq!(from(&gateway, "127.0.0.1", &Request::get("/v1/orders").bearer(main_token("globex"))), passed());
}

fn proxied(trusted: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream)
        .set("listeners.public.client_ip", &format!("{{ proxy_protocol = [\"{trusted}\"] }}"))
        .set("controls.ip_allowlist.allow", r#"["203.0.113.0/24", "2001:db8::/32"]"#)
        // Tests of readiness come from nowhere in particular; this listener takes no others.
        .start();
    (upstream, gateway)
}

/// A PROXY protocol v2 header for a TCP connection over IPv4 or IPv6.
fn v2(source: &str) -> Vec<u8> {
    let mut out = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    match source.parse().expect("an address") {
        std::net::IpAddr::V4(ip) => {
            out.extend_from_slice(&[0x11, 0, 12]);
            out.extend_from_slice(&ip.octets());
            out.extend_from_slice(&[192, 0, 2, 1]);
        }
        std::net::IpAddr::V6(ip) => {
            out.extend_from_slice(&[0x21, 0, 36]);
            out.extend_from_slice(&ip.octets());
            out.extend_from_slice(&[0; 16]);
        }
    }
    out.extend_from_slice(&[0x30, 0x39, 0x01, 0xbb]);
    out
}

fn prelude(gateway: &Gateway, bytes: &[u8]) -> Option<(u16, Option<String>)> {
    let request = Request::get("/public");
    let wire = gateway.dial().prelude(bytes).connect().ok()?;
    let mut client = portcullis_tests::H1::over(wire);
    client.send(request.h1());
    let answer = client.answer()?;
    Some((answer.status, Some(request.mark)))
}

#[test]
fn a_proxy_header_of_a_declared_source_settles_the_client() {
    let (upstream, gateway) = proxied("127.0.0.0/8");
    for (header, client) in [
        (b"PROXY TCP4 203.0.113.9 192.0.2.1 12345 443\r\n".to_vec(), "203.0.113.9"),
        (b"PROXY TCP6 2001:db8::9 2001:db8::1 12345 443\r\n".to_vec(), "2001:db8::9"),
        (b"PROXY TCP6 ::ffff:203.0.113.10 2001:db8::1 12345 443\r\n".to_vec(), "203.0.113.10"),
        (v2("203.0.113.11"), "203.0.113.11"),
        (v2("2001:db8::11"), "2001:db8::11"),
    ] {
        let (status, mark) = prelude(&gateway, &header).expect("an answer");
        assert_eq!(status, 200, "{client}");
        let seen = upstream.seen(&mark.unwrap_or_default());
        assert_eq!(seen.header("x-forwarded-for").as_deref(), Some(client));
    }
    for header in [b"PROXY TCP4 198.51.100.9 192.0.2.1 12345 443\r\n".to_vec(), v2("198.51.100.9"), v2("2001:db9::1")] {
        assert_eq!(prelude(&gateway, &header).map(|(status, _)| status), Some(403));
    }
}

#[test]
fn without_a_good_proxy_header_the_connection_is_closed() {
    let (_upstream, gateway) = proxied("127.0.0.0/8");
    for bad in [
        &b""[..],
        b"PROXY TCP4 999.0.113.9 192.0.2.1 12345 443\r\n",
        b"PROXY TCP5 203.0.113.9 192.0.2.1 12345 443\r\n",
        b"PROXY TCP4 203.0.113.9\r\n",
        b"PROXY \r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c000000000000",
        b"GET /public HTTP/1.1\r\nHost: api.example.test\r\n\r\n",
    ] {
        assert!(gateway.dial().prelude(bad).connect().is_err(), "{}", bad.escape_ascii());
    }
    let endless = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
    assert!(gateway.dial().prelude(&endless).connect().is_err());
}

#[test]
fn a_proxy_header_of_anybody_else_is_not_believed() {
    let (_upstream, gateway) = proxied("10.0.0.0/8");
    for header in [b"PROXY TCP4 203.0.113.9 192.0.2.1 12345 443\r\n".to_vec(), v2("203.0.113.9"), Vec::new()] {
        assert!(gateway.dial().prelude(&header).connect().is_err());
    }
    let upstream = Upstream::start();
    let direct = Setup::new(&upstream).start();
    assert!(direct.dial().prelude(b"PROXY TCP4 203.0.113.9 192.0.2.1 1 443\r\n").connect().is_err());
}

#[test]
fn forwarded_addresses_are_read_from_the_right_while_the_hop_is_trusted() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream)
        .set("listeners.public.client_ip", r#"{ forwarded = ["127.0.0.1", "10.0.0.0/8"] }"#)
        .start();
    let client = |address: &str, values: &[&str]| {
        let request = values.iter().fold(Request::get("/public"), |r, v| r.header("X-Forwarded-For", v));
        let answer = gateway.send_from(&gateway.dial().from(address), &request);
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = upstream.seen(&request.mark);
        let all = seen.header("x-forwarded-for").expect("it is rebuilt");
        all.split(',').next().unwrap_or_default().trim().to_owned()
    };
    assert_eq!(client("127.0.0.1", &["203.0.113.9"]), "203.0.113.9");
    assert_eq!(client("127.0.0.1", &["6.6.6.6, 203.0.113.9, 10.0.0.2"]), "203.0.113.9");
    assert_eq!(client("127.0.0.1", &["6.6.6.6", "203.0.113.9", "10.0.0.2"]), "203.0.113.9");
    assert_eq!(client("127.0.0.1", &[]), "127.0.0.1");
    assert_eq!(client("127.0.0.2", &["203.0.113.9"]), "127.0.0.2");
}

#[test]
fn a_trusted_hop_that_sends_no_address_is_refused() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).set("listeners.public.client_ip", r#"{ forwarded = ["127.0.0.1"] }"#).start();
    let many = ["203.0.113.9"; 1].join(", ");
    assert_eq!(gateway.send(&Request::get("/public").header("X-Forwarded-For", many)).status, 200);
    for bad in ["unknown", "1.2.3.4:80", "", "203.0.113.9,", "a"] {
        let answer = gateway.send(&Request::get("/public").header("X-Forwarded-For", bad));
        assert_eq!(answer.status, 400, "{bad:?} {answer:?}");
        assert!(answer.code().starts_with("request."), "{answer:?}");
    }
}

#[test]
fn a_plain_listener_serves_loopback_and_says_http() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).with("[listeners.public]\ntls = \"off\"").start();
    let request = Request::get("/public");
    let answer = gateway.send_from(&Dial::plain(gateway.address()), &request);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(upstream.seen(&request.mark).header("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(answer.header("strict-transport-security"), None);
    let refused = Setup::new(&upstream).with("[listeners.public]\ntls = \"off\"\naddress = \"0.0.0.0:18080\"").check();
    assert_eq!(refused.status.code(), Some(1));
}
