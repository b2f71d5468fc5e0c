//! THREATS G, as far as this gateway has them: cookies, cross-site requests, CORS.

use portcullis_tests::{Protocol, Request, tokens::local_token};

use crate::world;

fn session() -> String {
    format!("__Host-session={}", local_token("acme"))
}

#[test]
fn ses_02_our_cookie_twice_is_refused() {
    let cookie = session();
    world().refuses_both(400, &Request::get("/app").header("Cookie", format!("{cookie}; {cookie}")));
    world().refuses_both(400, &Request::get("/app").header("Cookie", format!("__Host-session=x; a=b; {cookie}")));
    world().refuses(Protocol::H2, 400, &Request::get("/app").header("Cookie", &cookie).header("Cookie", &cookie));
}

#[test]
fn ses_02_a_name_that_an_app_could_read_as_ours_is_refused() {
    let cookie = session();
    for name in [
        "\u{2000}__Host-session",
        "__Host-session\u{2000}",
        "\u{a0}__Host-session",
        "__host-session",
        "__HOST-SESSION",
        "\"__Host-session\"",
        "__Host-Session",
    ] {
        world().refuses_both(400, &Request::get("/app").header("Cookie", format!("{name}=evil; {cookie}")));
    }
}

#[test]
fn ses_02_dollar_names_are_dropped_and_others_pass_byte_for_byte() {
    let request =
        Request::get("/app").header("Cookie", format!("$Version=1; theme=\"dark\"; {}; lang=en%20GB", session()));
    for protocol in Protocol::BOTH {
        match world().gateway.status(protocol, &request) {
            Some(200) => {
                let cookie = world().upstream.seen(&request.mark).header("cookie").expect("other cookies pass");
                assert_eq!(cookie, "theme=\"dark\"; lang=en%20GB");
            }
            other => assert_eq!(other, Some(400)),
        }
    }
}

#[test]
fn ses_05_another_site_cannot_write_with_a_cookie() {
    let post = || {
        Request::post("/app", "a=b")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Cookie", session())
    };
    for site in ["cross-site", "same-site", "none", "", "SAME-ORIGIN", "evil"] {
        world().refuses_both(403, &post().header("Sec-Fetch-Site", site));
        world().refuses_both(403, &post().header("Sec-Fetch-Site", site).header("Origin", "https://evil.example.test"));
    }
    for origin in [
        "https://evil.example.test",
        "null",
        "",
        "http://api.example.test",
        "https://api.example.test:8443",
        "https://api.example.test.evil.test",
    ] {
        world().refuses_both(403, &post().header("Origin", origin));
    }
    world().refuses_both(403, &post());
    for protocol in Protocol::BOTH {
        world().admits(protocol, &post().header("Sec-Fetch-Site", "same-origin"));
        world().admits(protocol, &post().header("Origin", "https://api.example.test"));
        world()
            .admits(protocol, &Request::get("/app").header("Cookie", session()).header("Sec-Fetch-Site", "cross-site"));
    }
}

#[test]
fn ses_05_a_listed_origin_may_write_with_a_cookie() {
    let post = |origin: &str| {
        Request::post("/api", "{}")
            .host("cors.example.test")
            .header("Content-Type", "application/json")
            .header("Cookie", session())
            .header("Origin", origin)
    };
    for protocol in Protocol::BOTH {
        let answer = world().gateway.ask(protocol, &post("https://app.example.test"));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.test"));
    }
    world().refuses_both(403, &post("https://evil.example.test"));
}

#[test]
fn ses_06_an_origin_is_never_reflected() {
    for origin in [
        "null",
        "https://evil.example.test",
        "https://app.example.test.evil.test",
        "http://app.example.test",
        "https://app.example.test:8443",
        "https://APP.example.test",
        "https://evil-app.example.test",
        "*",
        "",
    ] {
        for protocol in Protocol::BOTH {
            let request =
                Request::get("/api").host("cors.example.test").header("Cookie", session()).header("Origin", origin);
            let answer = world().gateway.ask(protocol, &request);
            assert_eq!(answer.header("access-control-allow-origin"), None, "{origin}: {answer:?}");
            assert_eq!(answer.header("access-control-allow-credentials"), None, "{origin}");
            assert!(
                answer.all("vary").iter().any(|v| v.to_ascii_lowercase().contains("origin")),
                "{origin}: {answer:?}"
            );
            let preflight = Request::new("OPTIONS", "/api")
                .host("cors.example.test")
                .header("Origin", origin)
                .header("Access-Control-Request-Method", "GET");
            let answer = world().gateway.ask(protocol, &preflight);
            assert_eq!(answer.header("access-control-allow-origin"), None, "{origin}: {answer:?}");
            assert!(world().upstream.saw(&preflight.mark).is_none());
        }
    }
}

#[test]
fn ses_05_another_site_cannot_open_a_websocket_with_a_cookie() {
    let handshake = || crate::headers::handshake("/ws").header("Cookie", session());
    world().refuses(Protocol::H1, 403, &handshake());
    for origin in ["https://evil.example.test", "null", "http://api.example.test", "https://cors.example.test"] {
        world().refuses(Protocol::H1, 403, &handshake().header("Origin", origin));
    }
    for site in ["cross-site", "same-site", "none"] {
        world().refuses(Protocol::H1, 403, &handshake().header("Sec-Fetch-Site", site));
    }
    let own = handshake().header("Origin", "https://api.example.test");
    assert_eq!(world().gateway.status(Protocol::H1, &own), Some(101));
}
