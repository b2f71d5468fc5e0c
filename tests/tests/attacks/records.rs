//! THREATS I7, I8, I11: what is logged, and what a refusal tells.

use portcullis_tests::{
    H1, Request, Setup, Token,
    tokens::{LOCAL_SECRET, b64, local_token, main_key, main_token, now},
    wait_for,
};

use crate::world;

#[test]
fn log_01_nothing_of_a_client_can_start_or_colour_a_line() {
    let gateway = &world().gateway;
    let answers = [
        gateway.send(&Request::get("/public/%E2%80%AEx%0a").header("User-Agent", "a\u{1b}[31m\u{85}b")),
        gateway.send(&Request::get("/public").header("User-Agent", "\u{2028}{\"request_id\":\"forged\"}\u{202e}")),
        gateway.send(
            &Request::get("/v1/orders")
                .bearer(Token::main("acme").header("kid", "a\n{\"level\":\"forged\"}").sign(main_key())),
        ),
        gateway.send(
            &Request::get("/v1/orders").bearer(Token::main("acme").claim("sub", "a\r\nb\u{1b}[0m").sign(main_key())),
        ),
        gateway.send(&Request::get("/public?x=%0a%1b[31m").header("Referer", "https://x.test/\u{9b}31m")),
    ];
    for answer in &answers {
        // What was no request has no access line; the system log names its id.
        if answer.text().contains("request.unreadable") {
            wait_for("the refusal to be logged", || gateway.output().contains(&answer.request_id()).then_some(()));
        } else {
            gateway.line(&answer.request_id());
        }
    }
    for line in gateway.output().lines() {
        let raw = |c: char| {
            c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert!(!line.contains(raw), "{}", line.escape_debug());
        assert!(!line.contains("\"level\":\"forged\"") && !line.contains("\"request_id\":\"forged\""), "{line}");
    }
}

#[test]
fn log_02_a_refusal_of_a_credential_does_not_say_why() {
    let gateway = &world().gateway;
    let now = now();
    let tokens = [
        Token::main("acme").claim("iat", now - 100).claim("exp", now - 1).sign(main_key()),
        Token::main("acme").claim("aud", "other").sign(main_key()),
        Token::main("acme").header("kid", "unknown").sign(main_key()),
        Token::main("acme").sign(&portcullis_tests::Key::es256("main-1")),
        Token::main("acme").claim("iss", "https://other.example.test").sign(main_key()),
        Token::main("__system__").sign(main_key()),
        "x".to_owned(),
        "a.b.c".to_owned(),
        "pck_live_AAAAAAAAAAAA_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA_AAAAAA".to_owned(),
    ];
    let told: Vec<_> = tokens
        .iter()
        .map(|token| {
            let answer = gateway.send(&Request::get("/v1/orders").bearer(token));
            assert_eq!(answer.status, 401);
            assert!(answer.header("www-authenticate").is_some_and(|v| v.contains("invalid_token")), "{answer:?}");
            (answer.text().replace(&answer.request_id(), "ID"), answer.header("www-authenticate").map(str::to_owned))
        })
        .collect();
    assert!(told.windows(2).all(|pair| pair[0] == pair[1]), "{told:#?}");
    // The log does say it.
    let expired = gateway.send(&Request::get("/v1/orders").bearer(&tokens[0]));
    let line = gateway.line(&expired.request_id()).to_string();
    assert!(line.contains("expired"), "{line}");
}

#[test]
fn log_02_without_a_credential_there_is_no_error_in_the_challenge() {
    let answer = world().gateway.send(&Request::get("/v1/orders"));
    assert_eq!(answer.status, 401);
    let challenge = answer.header("www-authenticate").expect("401 has a challenge");
    assert!(challenge.starts_with("Bearer") && !challenge.contains("error"), "{challenge}");
}

#[test]
fn log_05_no_secret_is_ever_printed() {
    let gateway = Setup::new(&world().upstream).start();
    let (token, cookie, key) = (main_token("acme"), local_token("acme"), gateway.key("acme").to_owned());
    let dial = gateway.dial().from("127.0.0.77");
    let requests = [
        Request::get("/v1/orders?secret=planted-query-value").bearer(&token),
        Request::get("/v1/orders?planted-bare-query").header("X-Api-Key", &key),
        Request::get("/app").header("Cookie", format!("__Host-session={cookie}; other=planted-cookie")),
        Request::post("/v1/orders", "planted-body").bearer(&token).header("Content-Type", "text/plain"),
        Request::get("/v1/orders").bearer(format!("{token}x")),
        Request::get("/v1/orders").header("X-Api-Key", format!("{key}x")),
        Request::get("/v1/orders").header("Authorization", "Basic planted-basic"),
        Request::get(format!("/v1/orders?access_token={token}")),
        Request::get("/public").header("X-Custom", "planted-header"),
        Request::get("/public/..").header("X-Custom", "planted-header"),
        Request::get("/nowhere?planted-query-value"),
        Request::get("/public").host("planted\u{ff}host"),
    ];
    for request in &requests {
        let answer = gateway.send_from(&dial, request);
        gateway.line(&answer.request_id());
    }
    let mut broken = H1::over(dial.connect().expect("it connects"));
    broken.send(format!("GET /public HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer {token}\r\n\r\n"));
    broken.answer();
    gateway.signal("HUP");
    gateway.signal("TERM");
    gateway.end();
    let output = gateway.output();
    let signature = |token: &str| token.rsplit('.').next().unwrap_or_default().to_owned();
    let hidden = [
        signature(&token),
        signature(&cookie),
        key.split('_').nth(3).unwrap_or_default().to_owned(),
        String::from_utf8_lossy(LOCAL_SECRET).into_owned(),
        b64(LOCAL_SECRET),
        "planted-".to_owned(),
        "127.0.0.77".to_owned(),
        "Bearer ey".to_owned(),
    ];
    for secret in hidden {
        let shown: Vec<&str> = output.lines().filter(|line| line.contains(&secret)).collect();
        assert!(shown.is_empty(), "{secret} in {shown:#?}");
    }
}
