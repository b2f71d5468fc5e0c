//! Several servers, health, retries of what is safe, TLS to the upstream, time-outs.

use std::{collections::BTreeSet, time::Duration};

use portcullis_tests::{
    Gateway, Protocol, Reply, Request, Setup, Upstream,
    ca::{Ca, ca},
    free_address,
    tokens::main_token,
    wait_for,
};

fn servers(list: &[std::net::SocketAddr]) -> String {
    let quoted: Vec<String> = list.iter().map(|address| format!("\"{address}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

#[test]
fn requests_go_to_the_servers_in_turn() {
    let upstreams: Vec<Upstream> = (0..3).map(|_| Upstream::start()).collect();
    let list = servers(&upstreams.iter().map(Upstream::address).collect::<Vec<_>>());
    let gateway = Setup::new(&upstreams[0]).set("upstreams.app.servers", &list).start();
    for _ in 0..12 {
        assert_eq!(gateway.send(&Request::get("/public")).status, 200);
    }
    let counts: Vec<usize> = upstreams.iter().map(|upstream| upstream.all().len()).collect();
    assert_eq!(counts, [4, 4, 4]);
}

#[test]
fn a_server_that_is_not_well_gets_nothing_until_it_is() {
    let ill = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let state = std::sync::Arc::clone(&ill);
    let first = Upstream::scripted(move |_| {
        if state.load(std::sync::atomic::Ordering::SeqCst) { Reply::with(503, &[], "") } else { Reply::ok() }
    });
    let second = Upstream::start();
    let gateway = Setup::new(&first)
        .set("upstreams.app.servers", &servers(&[first.address(), second.address()]))
        .with("upstreams.app.health = { path = \"/healthz\", interval = \"50ms\", timeout = \"500ms\" }")
        .start();
    let reached = |upstream: &Upstream| {
        (0..6).any(|_| {
            let request = Request::get("/public");
            gateway.send(&request);
            upstream.saw(&request.mark).is_some()
        })
    };
    assert!(reached(&first) && reached(&second));
    ill.store(true, std::sync::atomic::Ordering::SeqCst);
    wait_for("the ill server to be left out", || (!reached(&first)).then_some(()));
    assert!(gateway.metric("portcullis_upstream_up", &[]).is_some());
    ill.store(false, std::sync::atomic::Ordering::SeqCst);
    wait_for("the server to be taken again", || reached(&first).then_some(()));
}

#[test]
fn without_a_healthy_server_the_answer_is_503_and_the_gateway_says_so() {
    let dead = free_address();
    let gateway = Setup::with_upstream(dead).with("upstreams.app.health = { interval = \"50ms\" }").launch();
    wait_for("the server to be found dead", || {
        let answer = gateway.send(&Request::get("/public"));
        assert!(matches!(answer.status, 502 | 503), "{answer:?}");
        (answer.status == 503).then(|| {
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
            assert!(answer.code().starts_with("upstream."), "{answer:?}");
        })
    });
}

#[test]
fn a_connection_that_was_never_made_is_tried_again_elsewhere_for_every_method() {
    let live = Upstream::start();
    let gateway = Setup::new(&live).set("upstreams.app.servers", &servers(&[free_address(), live.address()])).start();
    for _ in 0..4 {
        let get = Request::get("/v1/orders").bearer(main_token("acme"));
        assert_eq!(gateway.send(&get).status, 200);
        let seen = live.seen(&get.mark);
        assert_eq!(seen.header("x-portcullis-tenant").as_deref(), Some("acme"));
        assert_eq!(seen.header("authorization"), None);
        let post = Request::post("/v1/orders", "once").bearer(main_token("acme")).header("Content-Type", "text/plain");
        assert_eq!(gateway.send(&post).status, 200);
        assert_eq!(live.every(&post.mark).len(), 1);
        assert_eq!(live.seen_whole(&post.mark).body, b"once");
    }
}

#[test]
fn a_write_that_was_sent_is_never_sent_twice() {
    let upstream = Upstream::scripted(|seen| if seen.target().contains("die") { Reply::Close } else { Reply::ok() });
    let gateway = Setup::new(&upstream).with("upstreams.app.retries_max = 3").start();
    for protocol in Protocol::BOTH {
        for _ in 0..3 {
            // Warm: the connection to the upstream is reused.
            assert_eq!(gateway.ask(protocol, &Request::get("/public")).status, 200);
            let post = Request::post("/public/die", "once").header("Content-Type", "text/plain");
            let answer = gateway.ask(protocol, &post);
            assert_eq!(answer.status, 502, "{answer:?}");
            assert!(answer.code().starts_with("upstream."), "{answer:?}");
            assert_eq!(upstream.every(&post.mark).len(), 1, "{protocol:?}");
        }
        let get = Request::get("/public/die");
        assert_eq!(gateway.ask(protocol, &get).status, 502);
        assert!(upstream.every(&get.mark).len() <= 4);
    }
}

#[test]
fn each_attempt_carries_one_identity() {
    let upstream = Upstream::scripted(|seen| if seen.target().contains("die") { Reply::Close } else { Reply::ok() });
    let gateway = Setup::new(&upstream).with("upstreams.app.retries_max = 2").start();
    assert_eq!(gateway.send(&Request::get("/public")).status, 200);
    let get = Request::get("/v1/orders/die").bearer(main_token("acme")).header("X-Portcullis-Tenant", "planted-evil");
    assert_eq!(gateway.send(&get).status, 502);
    for seen in upstream.every(&get.mark) {
        assert_eq!(seen.header("x-portcullis-tenant").as_deref(), Some("acme"));
        assert_eq!(seen.header("authorization"), None);
    }
}

#[test]
fn an_upstream_that_does_not_answer_is_504() {
    let upstream = Upstream::scripted(|seen| {
        if seen.target().contains("slow") { Reply::Silence(Duration::from_secs(30)) } else { Reply::ok() }
    });
    let gateway = Setup::new(&upstream).with("upstreams.app.response_timeout = \"300ms\"").start();
    for protocol in Protocol::BOTH {
        let answer = gateway.ask(protocol, &Request::post("/public/slow", "x").header("Content-Type", "text/plain"));
        assert_eq!(answer.status, 504, "{answer:?}");
        assert!(answer.code().starts_with("upstream."), "{answer:?}");
    }
    assert_eq!(gateway.send(&Request::get("/public")).status, 200);
}

#[test]
fn an_upstream_that_talks_nonsense_is_502_and_its_words_stay_behind() {
    let upstream = Upstream::scripted(|_| Reply::Raw(b"planted-nonsense 10.9.8.7\r\n\r\n".to_vec()));
    let gateway = Setup::new(&upstream).start();
    for protocol in Protocol::BOTH {
        let answer = gateway.ask(protocol, &Request::get("/public"));
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(!format!("{answer:?}").contains("planted-nonsense"), "{answer:?}");
    }
}

fn over_tls(upstream: &Upstream, authority: &Ca, sni: &str) -> Gateway {
    Setup::new(upstream)
        .file("tls/upstream-ca.pem", authority.pem())
        .with(&format!("upstreams.app.tls = {{ sni = \"{sni}\", ca = {{ file = \"tls/upstream-ca.pem\" }} }}"))
        .start()
}

fn tls_upstream(authority: &Ca, versions: &[&'static rustls::SupportedProtocolVersion]) -> Upstream {
    Upstream::tls(authority.leaf(&["orders.internal.test"]).server(versions, &[b"http/1.1"]))
}

#[test]
fn an_upstream_speaks_tls_1_3_or_1_2() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let upstream = tls_upstream(ca(), &[version]);
        let gateway = over_tls(&upstream, ca(), "orders.internal.test");
        let request = Request::get("/v1/orders").bearer(main_token("acme"));
        assert_eq!(gateway.send(&request).status, 200);
        let seen = upstream.seen(&request.mark);
        assert_eq!(seen.tls, Some(version.version));
        assert_eq!(seen.header("host").as_deref(), Some("api.example.test"));
    }
}

#[test]
fn an_upstream_of_another_authority_or_another_name_gets_nothing() {
    let upstream = tls_upstream(ca(), &[&rustls::version::TLS13]);
    for (authority, sni) in [(&Ca::new("somebody else"), "orders.internal.test"), (ca(), "other.internal.test")] {
        let gateway = over_tls(&upstream, authority, sni);
        for protocol in Protocol::BOTH {
            let answer = gateway.ask(protocol, &Request::get("/public"));
            assert_eq!(answer.status, 502, "{answer:?}");
        }
    }
    assert!(upstream.all().is_empty());
}

#[test]
fn a_connection_that_one_upstream_verified_serves_no_other() {
    // PINGORA 6: the pool of connections does not know about authorities.
    let server = tls_upstream(ca(), &[&rustls::version::TLS13]);
    let stranger = Ca::new("somebody else");
    let gateway = Setup::new(&server)
        .file("tls/right.pem", ca().pem())
        .file("tls/wrong.pem", stranger.pem())
        .with(&format!(
            r#"
            upstreams.app.tls = {{ sni = "orders.internal.test", ca = {{ file = "tls/right.pem" }} }}
            [upstreams.wrong]
            servers = ["{}"]
            tls = {{ sni = "orders.internal.test", ca = {{ file = "tls/wrong.pem" }} }}
            [hosts."api.example.test".routes.wrong]
            path = "/wrong"
            methods = ["GET"]
            auth = {{ public = "a route of a test" }}
            upstream = "wrong"
            "#,
            server.address()
        ))
        .start();
    for _ in 0..3 {
        assert_eq!(gateway.send(&Request::get("/wrong")).status, 502);
        assert_eq!(gateway.send(&Request::get("/public")).status, 200);
    }
    let targets: BTreeSet<String> = server.all().iter().map(portcullis_tests::Seen::target).collect();
    assert_eq!(targets, BTreeSet::from(["/public".to_owned()]));
}

#[test]
fn tls_04_an_upstream_with_tls_needs_a_name_and_an_authority() {
    let upstream = Upstream::start();
    for tls in [
        "{}",
        r#"{ sni = "a.test" }"#,
        r#"{ ca = { file = "tls/ca.pem" } }"#,
        r#"{ sni = "", ca = { file = "tls/ca.pem" } }"#,
    ] {
        let output = Setup::new(&upstream).with(&format!("upstreams.app.tls = {tls}")).check();
        assert_eq!(output.status.code(), Some(1), "{tls}: {output:?}");
    }
}
