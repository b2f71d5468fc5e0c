//! Ways in that were found by attacking the real binary, each as the test that it must not come back.
//!
//! Named after what an attacker (or a bad upstream, or a bad file) gains, most severe first.

use std::{
    io::Write as _,
    sync::Mutex,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use portcullis_tests::{
    Gateway, Key, PATIENCE, Protocol, Reply, Request, Setup, Token, Upstream,
    h2::{H2, Open},
    runtime,
    tokens::{key_set, main_key, main_token},
    wait_for,
};

use crate::{EVIL, headers::handshake, shown};

const SECRET: &str = "planted-secret-7f3a";

fn public(path: &str) -> Request {
    Request::get(format!("/public{path}"))
}

/// Bounds of the default listener, so short that a test can wait for them.
const SHORT: &str = r#"listeners.public.bounds = { body_timeout = "500ms", idle_timeout = "30s" }"#;

// ---------------------------------------------------------------------------------------------------------- secrets

/// LOG-05. Pingora puts the bytes it could not parse into its error, and the system log prints the error: cookies,
/// tokens and the start of the body of an upstream's answer.
#[test]
fn log_05_an_upstreams_malformed_answer_is_not_copied_into_the_log() {
    let upstream = Upstream::scripted(|seen| {
        let bad = if seen.target().ends_with("many") { "a: b\r\n".repeat(300) } else { "x: a\rb\r\n".to_owned() };
        Reply::Raw(format!("HTTP/1.1 200 OK\r\nSet-Cookie: app={SECRET}\r\n{bad}\r\n{SECRET}").into_bytes())
    });
    let gateway = Setup::new(&upstream).start();
    for path in ["/many", "/cr"] {
        let answer = gateway.send(&public(path));
        assert_eq!(answer.status, 502, "{path}");
        gateway.line(&answer.request_id());
        assert!(gateway.said(|line| line.contains(&answer.request_id())).is_some());
    }
    assert!(!gateway.output().contains(SECRET), "the log has the upstream's cookie and body");
}

/// ARCHITECTURE, invariants: "No ... path value is in any log; the path is logged as its template."
#[test]
fn log_05_no_piece_of_a_refused_path_host_or_target_is_logged() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).start();
    let requests = [
        public(&format!("/jane.doe;ssn={SECRET}")),
        public(&format!("/{SECRET}%2fx")),
        public(&format!("/{SECRET}%5cx")),
        Request::get(format!("public/{SECRET}")),
        public("").host(format!("{SECRET}_x")),
        public("").host("203.0.113.77:99999"),
    ];
    for request in &requests {
        let answer = gateway.send(request);
        assert_eq!(answer.status, 400, "{}", shown(request));
        gateway.line(&answer.request_id());
    }
    let output = gateway.output();
    for value in [SECRET, "203.0.113.77"] {
        let line = output.lines().find(|line| line.contains(value));
        assert!(line.is_none(), "{line:?}");
    }
}

// ---------------------------------------------------------------------------------------------------------- memory

/// 100 streams of one connection may each have `body_max` held, and nothing bounds the sum over connections: 2,000
/// connections of one network are 200 GiB, kept for ten body timeouts, without a credential on a public route.
#[test]
fn the_bodies_that_are_held_at_once_are_bounded() {
    const BODY: usize = 1_000_000;
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).start();
    let before = resident(&gateway);
    let mut held: Vec<(H2, Vec<Open>)> = Vec::new();
    'all: for _ in 0..3 {
        let mut client = gateway.h2();
        let mut streams = Vec::new();
        for _ in 0..80 {
            let request = Request::new("POST", "/public").header("Content-Type", "image/png");
            let Ok(mut open) = client.open(&request) else { break 'all };
            // A gateway that has had enough may refuse the stream.
            if open.data(&vec![b'x'; BODY]).is_err() {
                break 'all;
            }
            streams.push(open);
        }
        held.push((client, streams));
    }
    // All of it has been read but for a window's worth: a piece is sent only into the window that the gateway opened.
    let grown = resident(&gateway).saturating_sub(before);
    assert!(grown < 128 << 20, "three clients make the gateway hold {} MiB", grown >> 20);
}

/// Resident bytes of the gateway's process, found by its configuration's path.
fn resident(gateway: &Gateway) -> usize {
    let config = gateway.setup().path("portcullis.toml").display().to_string();
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let process = std::fs::read_dir("/proc")
        .expect("there is /proc")
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            let line = read(path.join("cmdline"));
            line.contains("portcullis\0run\0") && line.contains(&config)
        })
        .expect("the gateway runs");
    let status = read(process.join("status"));
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has a size");
    let kib: usize = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    kib << 10
}

// ---------------------------------------------------------------------------------------------------- WebSocket, hangs

/// The read timeout that is meant for request bodies stays on the tunnel, so an idle WebSocket dies after
/// `body_timeout`; and as 101 counts as "no answer was written yet", the problem document goes into the tunnel, where
/// the client reads it as frames.
#[test]
fn a_websocket_outlives_the_body_timeout_and_nothing_of_ours_is_written_into_it() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).with(SHORT).start();
    let mut client = gateway.h1();
    client.send(handshake("/ws").bearer(main_token("acme")).h1());
    assert_eq!(client.answer().map(|answer| answer.status), Some(101));
    // The timeout passes three times over, as a body that does not come shows.
    for _ in 0..3 {
        let mut late = gateway.h1();
        late.send(Request::new("POST", "/public").header("Content-Length", "10").h1_head());
        assert_eq!(late.answer().map(|answer| answer.status), Some(408));
    }
    client.send(b"still here");
    let back = client.bytes(10);
    assert_eq!(String::from_utf8_lossy(&back), "still here");
}

/// With `waf = "off"` (and in shadow past `body_max`) nobody says that a body is wanted, so neither the gap nor the
/// total of `body_timeout` is kept: one byte now and then holds a stream and an upstream connection for ever.
#[test]
fn a_body_has_an_end_also_where_the_waf_is_off() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).with(SHORT).set("controls.waf", "\"off\"").start();
    let start = Instant::now();
    let mut client = gateway.h1();
    client.send(Request::new("POST", "/public").header("Content-Length", "100000").h1_head());
    // The bound is ten times 500 ms; the connection ends, with or without an answer.
    client.drip(Duration::from_millis(200), |wire| {
        assert!(start.elapsed() < PATIENCE, "a body of one byte each 200 ms still comes in");
        wire.write_all(b"x").is_ok()
    });
    assert!(client.answer().is_none_or(|answer| answer.status == 408));
}

/// A plain GET to a route of kind `websocket` waits for its upstream without any timeout.
#[test]
fn a_request_without_an_upgrade_has_the_response_timeout_also_on_a_websocket_route() {
    let upstream = Upstream::scripted(|_| Reply::Silence(Duration::from_secs(30)));
    let gateway = Setup::new(&upstream).with(r#"upstreams.app.response_timeout = "500ms""#).start();
    let mut client = gateway.h1();
    client.wire().set_patience(Duration::from_secs(5));
    client.send(Request::get("/ws").bearer(main_token("acme")).h1());
    let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.answer()));
    assert_eq!(answer.ok().flatten().map(|answer| answer.status), Some(504));
}

/// `request.body_timeout` is documented as 408; the edge's cut (`ConnInfo::cut`) is asked by nobody.
#[test]
fn a_body_that_stops_coming_is_408() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).with(SHORT).start();
    let mut client = gateway.h1();
    client.send(Request::new("POST", "/public").header("Content-Length", "100").h1_head());
    client.send(b"abc");
    assert_eq!(client.answer().map(|answer| answer.status), Some(408));
}

// ------------------------------------------------------------------------------------------ what an upstream gets back

/// HDR-20 in an interim answer: every 1xx but 101 is passed on as it came, also to an HTTP/1.0 client.
#[test]
fn hdr_20_an_interim_answer_carries_nothing_of_ours() {
    let upstream = Upstream::scripted(|_| {
        Reply::Raw(
            format!(
                "HTTP/1.1 103 Early Hints\r\nX-Portcullis-Tenant: {EVIL}\r\nX-Request-Id: {EVIL}\r\n\
                 Set-Cookie: __Host-session={EVIL}; Path=/; Secure\r\nServer: {EVIL}\r\n\
                 Access-Control-Allow-Origin: {EVIL}\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            )
            .into_bytes(),
        )
    });
    let gateway = Setup::new(&upstream).start();
    let mut client = gateway.h1();
    client.send(public("").h1());
    loop {
        let head = client.head().expect("an answer");
        assert!(!String::from_utf8_lossy(&head.head).contains(EVIL), "{head:?}");
        if head.status == 200 {
            break;
        }
    }
}

/// HDR-20 in the trailers of an HTTP/2 upstream: Pingora hands them on as they came.
#[test]
fn hdr_20_the_trailers_of_an_http2_upstream_carry_nothing_of_ours() {
    let upstream = LyingH2::start();
    let gateway = Setup::with_upstream(upstream.address).with("[upstreams.app]\nprotocol = \"h2\"").start();
    let answer = gateway.send_h2(&public(""));
    assert_eq!(answer.status, 200, "{answer:?}");
    let forged: Vec<_> = answer.trailers.iter().filter(|(_, value)| value.contains(EVIL)).collect();
    assert!(forged.is_empty(), "the trailers carry {forged:?}");
}

/// B17: from HTTP/2 to HTTP/2 there is no `Host` field to make canonical, and the client's own spelling of
/// `:authority` goes on.
#[test]
fn pth_17_an_http2_upstream_sees_the_canonical_host() {
    let upstream = LyingH2::start();
    let gateway = Setup::with_upstream(upstream.address).with("[upstreams.app]\nprotocol = \"h2\"").start();
    let answer = gateway.send_h2(&public("").host("API.Example.Test.:4433"));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(*upstream.authority.lock().expect("no panic"), "api.example.test");
}

struct LyingH2 {
    address: std::net::SocketAddr,
    authority: &'static Mutex<String>,
}

impl LyingH2 {
    fn start() -> Self {
        let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let authority: &'static Mutex<String> = Box::leak(Box::default());
        runtime().spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(tcp).await else { return };
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        *authority.lock().expect("no panic") =
                            request.uri().authority().map(ToString::to_string).unwrap_or_default();
                        let Ok(mut out) = respond.send_response(Response::new(()), false) else { return };
                        let mut trailers = HeaderMap::new();
                        for name in ["x-portcullis-tenant", "x-request-id", "server", "access-control-allow-origin"] {
                            trailers.insert(name, HeaderValue::from_static(EVIL));
                        }
                        trailers.insert(
                            "set-cookie",
                            HeaderValue::from_static("__Host-session=planted-evil; Path=/; Secure"),
                        );
                        // A stream that the gateway gave up is seen by the test.
                        drop(
                            out.send_data(Bytes::from_static(b"hello"), false)
                                .and_then(|()| out.send_trailers(trailers)),
                        );
                    }
                });
            }
        });
        Self { address, authority }
    }
}

/// SES-02 backwards: what a browser sends back as our cookie may be set under no spelling (RFC 6265bis: a nameless
/// cookie is sent as its value).
#[test]
fn ses_02_an_upstream_sets_our_cookie_under_no_spelling() {
    let upstream = Upstream::scripted(|_| {
        Reply::with(200, &[("Set-Cookie", "=__Host-session=planted-evil; Path=/; Secure")], "ok")
    });
    let gateway = Setup::new(&upstream).start();
    let answer = gateway.send(&public(""));
    assert!(answer.all("set-cookie").is_empty(), "{answer:?}");
}

// ------------------------------------------------------------------------------------------------- limits and bans

/// A limit that counts by a header which the gateway strips counts everybody in its one `unknown` bucket: each client
/// can then use it up for all others. It must not load.
#[test]
fn a_limit_by_a_header_that_is_stripped_does_not_load() {
    let upstream = Upstream::start();
    for header in ["x-tenant-id", "x-forwarded-for", "x-real-ip", "x-request-id"] {
        let setup = Setup::new(&upstream).with(&format!(
            "[limits.odd]\nkey = [\"header:{header}\"]\nrequests = 3\nwindow = \"60s\"\n\
             [hosts.\"api.example.test\".routes.public]\nlimits = [\"odd\"]"
        ));
        let output = setup.check();
        assert!(!output.status.success(), "a limit by {header} loads");
    }
}

/// A limit that no route names does nothing. `Rules::unused` knows; nobody asks it.
#[test]
fn a_limit_that_no_route_is_under_is_told() {
    let upstream = Upstream::start();
    let setup = Setup::new(&upstream).with("[limits.forgotten]\nkey = [\"client\"]\nrequests = 3\nwindow = \"60s\"");
    let output = setup.check();
    let text = [output.stdout, output.stderr].concat();
    assert!(String::from_utf8_lossy(&text).contains("forgotten"), "{}", String::from_utf8_lossy(&text));
}

/// Steps 3 to 5 refuse before steps 8 and 9, so who guesses paths is neither counted nor kept out.
#[test]
fn who_guesses_paths_is_limited_and_who_is_blocked_learns_no_routes() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream)
        .set("controls.burst", r#"{ requests = 5, window = "60s" }"#)
        .set("controls.waf.violations", "{ max = 3 }")
        .start();
    let unknown: Vec<_> = (0..20).map(|n| gateway.send(&Request::get(format!("/guess-{n}"))).status).collect();
    assert!(unknown.contains(&429), "twenty guesses: {unknown:?}");
    let known: Vec<_> = (0..12).map(|_| gateway.send(&public("")).status).collect();
    assert_eq!(known.last(), Some(&403), "{known:?}");
    assert_eq!(gateway.send(&Request::get("/guess")).status, 403, "a blocked client is told which routes exist");
}

// ------------------------------------------------------------------------------------------------------- content

/// A `Content-Type` outside its grammar is inspected as "unknown": one value of text, or nothing at all once a byte
/// is no UTF-8. PHP cuts the type at the comma or blank and parses the form.
#[test]
fn a_content_type_outside_its_grammar_is_no_way_past_the_inspection() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).start();
    let links: Vec<String> = (0..8).map(|n| format!("f{n}=http%3A%2F%2Fe{n}.example%2F")).collect();
    let form = [b"z=\xff&".to_vec(), links.join("&").into_bytes()].concat();
    for kind in [
        "application/x-www-form-urlencoded, x",
        "application/x-www-form-urlencoded x",
        "multipart/form-data, boundary=B",
        "application/json,",
        "x",
        "",
    ] {
        let request = Request::post("/public", &form).header("Content-Type", kind);
        for protocol in Protocol::BOTH {
            let answer = gateway.ask(protocol, &request);
            assert!(matches!(answer.status, 400 | 403 | 415), "{protocol:?} {kind:?}: {}", answer.status);
        }
        assert!(upstream.saw(&request.mark).is_none(), "{kind:?} reached the upstream");
    }
}

// ------------------------------------------------------------------------------------------------- keys and reloads

/// KEY-04: a key set whose file is gone or broken ages, and is given up after `max_stale`. The second look at a broken
/// file takes it for the one that was loaded, and starts its age anew each second.
#[test]
fn key_04_a_key_set_whose_file_is_broken_or_gone_ages() {
    for broken in [Some("{"), None] {
        let upstream = Upstream::start();
        let gateway = Setup::new(&upstream).start();
        let path = gateway.setup().path("jwks/main.json");
        match broken {
            Some(text) => std::fs::write(&path, text).expect("the file is ours"),
            None => std::fs::remove_file(&path).expect("the file is there"),
        }
        wait_for("the failure to be told", || gateway.said(|line| line.contains("keys.failed")));
        let age = || gateway.metric("portcullis_jwks_age_seconds", &["issuer=\"main\""]);
        wait_for(&format!("the set to age, broken {broken:?}"), || age().filter(|age| *age >= 3.0));
    }
}

/// "A set that was loaded once is only ever replaced by another set that loaded whole": a file that is away for a
/// moment (a backup, an unclean replacement) must not sign every API key off.
#[test]
fn a_key_file_that_is_gone_signs_nobody_off() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).start();
    let request = Request::get("/v1/orders").header("X-Api-Key", gateway.key("acme"));
    assert_eq!(gateway.send(&request).status, 200);
    std::fs::remove_file(gateway.setup().path("keys.json")).expect("the file is there");
    wait_for("the failure to be told", || gateway.said(|line| line.contains("api_keys.failed")));
    assert_eq!(gateway.metric("portcullis_api_keys_last_load_success", &[]), Some(0.0));
    assert_ne!(gateway.send(&request).status, 401, "a missing file is not the word that no key is valid");
}

/// A refused reload changes nothing. It does: the issuers are adopted before the API keys are read, so the snapshot
/// that stays in force keeps key sets that nobody refreshes any more, and a key that the issuer drops is trusted for
/// ever.
#[test]
fn key_02_a_refused_reload_leaves_no_key_set_behind_that_is_never_refreshed() {
    let upstream = Upstream::start();
    let old = Key::es256("old-1");
    let next = Key::es256("next-1");
    let gateway = Setup::new(&upstream).file("jwks/main.json", key_set(&[&old])).start();
    let token = Token::main("acme").sign(&old);
    let request = || Request::get("/v1/orders").bearer(&token);
    assert_eq!(gateway.send(&request()).status, 200);
    // Another source for the same issuer, and a file of API keys that is broken: refused.
    let (gateway, taken) = gateway.reload(|setup| {
        setup
            .file("jwks/other.json", key_set(&[main_key()]))
            .set("issuers.main.keys", r#"{ jwks_file = "jwks/other.json" }"#)
            .file("broken.json", "{")
            .set("api_keys.file", "\"broken.json\"")
    });
    assert!(!taken, "a broken file of API keys is refused");
    assert_eq!(gateway.send(&request()).status, 200, "the old configuration is in force");
    // The issuer drops the key from the set that is in force.
    std::fs::write(gateway.setup().path("jwks/main.json"), key_set(&[&next])).expect("the file is ours");
    wait_for("the removed key to be trusted no more", || (gateway.send(&request()).status == 401).then_some(()));
}

// ------------------------------------------------------------------------------------------------------ protocol

/// RFC 9110 10.1.1: an `Expect` of HTTP/1.0 is ignored; that client takes the 100 for its answer.
#[test]
fn http_1_0_is_never_told_to_continue() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).start();
    let mut client = gateway.h1();
    client.send(
        "POST /public HTTP/1.0\r\nHost: api.example.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    );
    assert_eq!(client.head().map(|head| head.status), Some(200));
}

/// "`Server` removed on every response, also on the gateway's own": what Pingora refuses before any filter says
/// `Server: Pingora`, and has none of the security headers.
#[test]
fn what_the_parser_refuses_names_no_software() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).start();
    for request in [
        "GET /public HTTP/9.9\r\n\r\n".to_owned(),
        "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /public HTTP/1.1\r\nHost : api.example.test\r\n\r\n".to_owned(),
        format!("GET /public HTTP/1.1\r\nHost: api.example.test\r\n{}\r\n", "A: b\r\n".repeat(300)),
    ] {
        let mut client = gateway.h1();
        client.send(&request);
        let answer = client.answer();
        let server = answer.as_ref().and_then(|answer| answer.header("server").map(str::to_owned));
        assert_eq!(server, None, "{:.40}", request.escape_debug());
    }
}
