//! THREATS B: paths, hosts and routing.

use portcullis_tests::{Dial, H1, Protocol, Request, tokens::main_token};

use crate::world;

#[track_caller]
fn ambiguous(targets: &[&[u8]]) {
    for target in targets {
        world().refuses_both(400, &Request::get(target));
        world().refuses_both(400, &Request::get(target).bearer(main_token("acme")));
    }
}

#[test]
fn pth_01_dot_segments_are_refused() {
    ambiguous(&[
        b"/public/../v1/orders",
        b"/public/..",
        b"/public/.",
        b"/./public",
        b"/../public",
        b"/public/./x",
        b"/..",
        b"/.",
        b"/public/../../etc/passwd",
    ]);
    // Dots that are no dot segment are a name.
    for target in ["/public/...", "/public/.hidden", "/public/a..b", "/public/..a"] {
        for protocol in Protocol::BOTH {
            assert_eq!(world().admits(protocol, &Request::get(target)).target(), target);
        }
    }
}

#[test]
fn pth_02_encoded_dots_slashes_and_backslashes_are_refused() {
    ambiguous(&[
        b"/public/%2e%2e/v1/orders",
        b"/public/%2E%2E",
        b"/public/.%2e",
        b"/public/%2e",
        b"/public/a%2fb",
        b"/public/a%2Fb",
        b"/public%2f..%2fv1",
        b"/public/a%5cb",
        b"/public/a%5Cb",
        b"/%2e%2e/public",
    ]);
}

#[test]
fn pth_03_double_encoding_is_refused() {
    ambiguous(&[
        b"/public/%252e%252e/v1",
        b"/public/a%252fb",
        b"/public/a%255cb",
        b"/public/a%2500",
        b"/public/a%253bb",
        b"/public/a%2523",
        b"/public/a%252525",
    ]);
}

#[test]
fn pth_03_a_triplet_that_is_none_is_refused() {
    ambiguous(&[b"/public/%", b"/public/%2", b"/public/%zz", b"/public/%2g", b"/public/%%20"]);
}

#[test]
fn pth_04_empty_segments_are_refused() {
    ambiguous(&[b"//v1/orders", b"/public//x", b"//public", b"/public//", b"///", b"//api.example.test/public"]);
}

#[test]
fn pth_05_path_parameters_are_refused() {
    ambiguous(&[b"/public/..;/v1/orders", b"/public;a=b", b"/public/x;", b"/;/public", b"/public/x%3ba"]);
}

#[test]
fn pth_06_a_backslash_is_refused() {
    ambiguous(&[br"/public\..\v1", br"/public\x", br"\public"]);
}

#[test]
fn pth_07_an_encoded_fragment_is_refused() {
    ambiguous(&[b"/public%23/x", b"/public/%23"]);
}

#[test]
fn pth_07_of_a_raw_fragment_policy_and_upstream_see_the_same() {
    for target in ["/public#/../v1/orders", "/public#x"] {
        let request = Request::get(target);
        match world().gateway.status(Protocol::H1, &request) {
            Some(200) => assert_eq!(world().upstream.seen(&request.mark).target(), "/public"),
            other => assert_eq!(other, Some(400)),
        }
    }
    for target in ["/v1/orders#/public", "/v1/orders#"] {
        let request = Request::get(target);
        let status = world().gateway.status(Protocol::H1, &request);
        assert!(matches!(status, Some(400 | 401)), "{target} {status:?}");
        assert!(world().upstream.saw(&request.mark).is_none());
    }
}

#[test]
fn pth_08_letter_case_matters() {
    for target in ["/PUBLIC", "/Public/x", "/V1/orders"] {
        world().refuses_both(404, &Request::get(target).bearer(main_token("acme")));
    }
}

#[test]
fn pth_09_what_is_no_utf8_is_refused() {
    ambiguous(&[
        b"/public/\xff",
        b"/public/%ff",
        b"/public/%c0%ae",
        b"/public/%c0%af",
        b"/public/%ed%a0%80",
        b"/public/%e4%b8",
    ]);
    for protocol in Protocol::BOTH {
        let seen = world().admits(protocol, &Request::get("/public/%e8%b5%b5"));
        assert_eq!(seen.target(), "/public/%e8%b5%b5");
    }
}

#[test]
fn pth_10_encoded_controls_are_refused() {
    ambiguous(&[
        b"/public/%00.css",
        b"/public/%0a",
        b"/public/%0d%0aX:y",
        b"/public/%7f",
        b"/public/%1b",
        b"/public/%09",
    ]);
}

#[test]
fn pth_11_the_query_decides_nothing() {
    for target in ["/v1/orders?x=/public", "/v1/orders?/public", "/v1/orders?/../public"] {
        world().refuses_both(401, &Request::get(target));
    }
    for protocol in Protocol::BOTH {
        let target = "/public?next=/v1/orders/../x&a=%2e%2e";
        assert_eq!(world().admits(protocol, &Request::get(target)).target(), target);
    }
}

#[test]
fn pth_12_a_prefix_ends_at_a_segment() {
    for target in ["/publicx", "/public-admin", "/v1/orderss", "/public.html", "/.well-knownprivate"] {
        world().refuses_both(404, &Request::get(target).bearer(main_token("acme")));
    }
    for protocol in Protocol::BOTH {
        world().admits(protocol, &Request::get("/public/below/it"));
        world().admits(protocol, &Request::get("/public/"));
    }
}

#[test]
fn pth_13_nothing_is_exempt_for_its_suffix() {
    for target in ["/v1/orders/x.css", "/v1/orders/pve1.internal/notes", "/v1/orders/favicon.ico", "/v1/orders/health"]
    {
        world().refuses_both(401, &Request::get(target));
    }
}

#[test]
fn pth_14_an_automation_path_is_a_path_like_any_other() {
    for target in
        ["/.well-known/acme-challenge/anything", "/.well-known/security.txt", "/healthz", "/metrics", "/livez"]
    {
        world().refuses_both(404, &Request::get(target));
    }
}

#[test]
fn pth_16_only_origin_form_goes_upstream() {
    let same = Request::get("https://api.example.test/public/a?b=c");
    if world().gateway.status(Protocol::H1, &same) == Some(200) {
        assert_eq!(world().upstream.seen(&same.mark).target(), "/public/a?b=c");
    } else {
        world().refuses(Protocol::H1, 400, &same);
    }
    for target in [
        "foo://api.example.test/public",
        "ftp://api.example.test/public",
        "https://evil.example.test/public",
        "https://api.example.test@evil.example.test/public",
        "https:///public",
        "https:/public",
    ] {
        world().refuses(Protocol::H1, 400, &Request::get(target));
    }
}

#[test]
fn pth_17_a_host_has_one_canonical_form() {
    for host in ["API.Example.Test", "api.example.test.", "api.example.test:443", "API.EXAMPLE.TEST.:443"] {
        for protocol in Protocol::BOTH {
            world().admits(protocol, &Request::get("/public").host(host));
        }
    }
    for host in ["unknown.example.test", "xapi.example.test", "api.example.test.evil.test", "127.0.0.1", "[::1]"] {
        for protocol in Protocol::BOTH {
            let dial = world().gateway.dial();
            let request = Request::get("/public").host(host);
            let status = match protocol {
                Protocol::H1 => world().gateway.try_send(&dial, &request).map(|a| a.status),
                Protocol::H2 => {
                    let wire = dial.alpn(&["h2"]).connect().expect("it connects");
                    match portcullis_tests::h2_raw::send(wire, &request) {
                        portcullis_tests::h2_raw::Verdict::Status(status) => Some(status),
                        other => panic!("{other:?}"),
                    }
                }
            };
            assert_eq!(status, Some(421), "{protocol:?} {host}");
            assert!(world().upstream.saw(&request.mark).is_none());
        }
    }
}

#[test]
fn pth_18_a_host_that_is_not_exactly_one_is_refused() {
    for host in [
        "",
        "api.example.test, evil.example.test",
        "api.example.test/x",
        "api example.test",
        "api.example.test:80:81",
        "user@api.example.test",
        "api.example.test:",
        "api.example.test:x",
        "api.example.test:99999",
        "api..example.test",
        ".api.example.test",
        "api.example.test..",
        "api_example.test",
        "api.example.test?x",
        "api.example.test#x",
        "[::1",
        "%61pi.example.test",
    ] {
        world().refuses_both(400, &Request::get("/public").host(host));
    }
    world().refuses(Protocol::H1, 400, &Request::get("/public").hostless());
    world().refuses(Protocol::H2, 400, &Request::get("/public").hostless());
    assert_eq!(world().raw("GET /public HTTP/1.0\r\n\r\n"), Some(400));
}

#[test]
fn pth_18_http2_with_a_host_that_is_not_its_authority_is_refused() {
    world().refuses(Protocol::H2, 400, &Request::get("/public").header("Host", "fixed.example.test"));
}

#[test]
fn pth_19_a_connection_serves_the_host_of_its_certificate_name() {
    for protocol in Protocol::BOTH {
        let request = Request::get("/v1/orders").host("fixed.example.test").bearer(main_token("globex"));
        let dial = world().gateway.dial(); // says api.example.test
        let status = match protocol {
            Protocol::H1 => world().gateway.try_send(&dial, &request).map(|a| a.status),
            Protocol::H2 => {
                match portcullis_tests::h2_raw::send(dial.alpn(&["h2"]).connect().expect("it connects"), &request) {
                    portcullis_tests::h2_raw::Verdict::Status(status) => Some(status),
                    other => panic!("{other:?}"),
                }
            }
        };
        assert_eq!(status, Some(421), "{protocol:?}");
        assert!(world().upstream.saw(&request.mark).is_none());
    }
}

#[test]
fn pth_19_a_second_request_cannot_change_the_host_either() {
    let mut client = H1::over(Dial::tls(world().gateway.address(), "api.example.test").connect().expect("it connects"));
    client.send(Request::get("/public").h1());
    assert_eq!(client.answer().map(|a| a.status), Some(200));
    let second = Request::get("/v1/orders").host("fixed.example.test").bearer(main_token("globex"));
    client.send(second.h1());
    assert_eq!(client.answer().map(|a| a.status), Some(421));
    assert!(world().upstream.saw(&second.mark).is_none());
}

#[test]
fn pth_20_what_no_route_matches_is_404() {
    for target in ["/", "/v1", "/v2/orders", "/t/acme", "/anything/at/all"] {
        world().refuses_both(404, &Request::get(target).bearer(main_token("acme")));
        world().refuses_both(404, &Request::get(target));
    }
}

#[test]
fn pth_21_a_target_that_is_no_path_is_refused() {
    for target in ["../v1/admin", "public", "?x=1", "*", "", ":", "#", "v1/orders", "%2fpublic"] {
        world().refuses(Protocol::H1, 400, &Request::get(target));
    }
    for line in ["GET\t/public HTTP/1.1", " GET /public HTTP/1.1", "GET /public\tHTTP/1.1"] {
        let status = world().raw(format!("{line}\r\nHost: api.example.test\r\n\r\n"));
        assert_eq!(status, Some(400), "{line:?}");
    }
    for target in ["../v1/admin", "public", "", "?x=1"] {
        world().refuses(Protocol::H2, 400, &Request::get(target));
    }
}

#[test]
fn pth_21_a_space_in_the_target_opens_nothing() {
    // Pingora writes `%20` for it before anybody can look (PINGORA 3): then it is part of a name, here and upstream.
    for target in [" /public", "/public ", "/pub lic", "/public /../v1/orders", "/v1/orders /public"] {
        let request = Request::get(target);
        let status = world().gateway.status(Protocol::H1, &request);
        assert!(matches!(status, Some(400 | 404)), "{target:?} {status:?}");
        assert!(world().upstream.saw(&request.mark).is_none());
    }
}
