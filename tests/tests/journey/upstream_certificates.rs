//! The certificate that the gateway shows to an upstream, so that the upstream need not serve anybody else.

use portcullis_tests::{
    Gateway, Protocol, Request, Setup, Upstream,
    agents::{Agent, Wanted},
    ca::{Ca, ca},
    grpc::GrpcUpstream,
    wait_for,
};

const NAME: &str = "orders.internal.test";

/// Who signs the gateway's certificate here.
fn authority() -> Ca {
    Ca::new("the authority of gateways")
}

fn asking(clients: &Ca) -> Upstream {
    Upstream::tls(ca().leaf(&[NAME]).asking(clients, &[b"http/1.1"]))
}

/// With this certificate for the upstream, in files of this name.
fn showing(setup: Setup, file: &str, own: &Agent) -> Setup {
    let (chain, key) = own.pem();
    setup.file(&format!("own/{file}.pem"), chain).file(&format!("own/{file}-key.pem"), key)
}

fn tls(file: &str) -> String {
    format!(
        "{{ sni = \"{NAME}\", ca = {{ file = \"tls/ca.pem\" }}, \
         client_certificate = {{ chain = \"file:own/{file}.pem\", key = \"file:own/{file}-key.pem\" }} }}"
    )
}

fn status(gateway: &Gateway, protocol: Protocol) -> u16 {
    gateway.ask(protocol, &Request::get("/public")).status
}

#[test]
fn an_upstream_that_asks_for_a_certificate_is_shown_the_configured_one() {
    let clients = authority();
    let own = clients.agent(&Wanted::nameless().dns("gateway.test"));
    let upstream = asking(&clients);
    let gateway = showing(Setup::new(&upstream), "own", &own).set("upstreams.app.tls", &tls("own")).start();
    for protocol in Protocol::BOTH {
        let request = Request::post("/public", "a body").header("Content-Type", "text/plain");
        assert_eq!(gateway.ask(protocol, &request).status, 200);
        let seen = upstream.seen_whole(&request.mark);
        assert_eq!(seen.certificate.as_deref(), Some(own.leaf().as_ref()));
        assert_eq!(seen.body, b"a body");
    }
    let expiry = gateway.metric("portcullis_upstream_cert_not_after_timestamp_seconds", &["upstream=\"app\""]);
    assert!(expiry.is_some_and(|expiry| expiry > 1_700_000_000.0), "{expiry:?}");
}

#[test]
fn a_gateway_without_a_certificate_or_with_a_strangers_is_answered_by_nobody() {
    let (clients, strangers) = (authority(), authority());
    let upstream = asking(&clients);
    let without = format!("{{ sni = \"{NAME}\", ca = {{ file = \"tls/ca.pem\" }} }}");
    let stranger = strangers.agent(&Wanted::nameless());
    for tls in [without, tls("own")] {
        let gateway = showing(Setup::new(&upstream), "own", &stranger).set("upstreams.app.tls", &tls).start();
        for protocol in Protocol::BOTH {
            let answer = gateway.ask(protocol, &Request::get("/public"));
            assert_eq!(answer.status, 502, "{answer:?}");
            assert!(answer.code().starts_with("upstream."), "{answer:?}");
        }
    }
    assert!(upstream.all().is_empty());
}

#[test]
fn a_check_does_not_note_an_upstream_elsewhere_that_is_shown_one() {
    let upstream = Upstream::start();
    let elsewhere = |tls: &str| {
        let own = authority().agent(&Wanted::nameless());
        let setup = showing(Setup::new(&upstream), "own", &own).set("upstreams.app.servers", "[\"app.internal:443\"]");
        let output = setup.set("upstreams.app.tls", tls).check();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).contains("no `client_certificate`")
    };
    assert!(!elsewhere(&tls("own")));
    assert!(elsewhere(&format!("{{ sni = \"{NAME}\", ca = \"system\" }}")));
}

#[test]
fn an_upstream_of_http_2_is_shown_it_too() {
    let (clients, strangers) = (authority(), authority());
    let upstream = GrpcUpstream::tls(ca().leaf(&[NAME]).asking(&clients, &[b"h2"]));
    let start = |own: &Agent| {
        showing(Setup::with_upstream(upstream.address()), "own", own)
            .set("upstreams.app.tls", &tls("own"))
            .with("upstreams.app.protocol = \"h2\"")
            .start()
    };
    let gateway = start(&clients.agent(&Wanted::nameless()));
    let strange = start(&strangers.agent(&Wanted::nameless()));
    for protocol in Protocol::BOTH {
        let request = Request::post("/public", "a body").header("Content-Type", "application/grpc");
        assert_eq!(gateway.ask(protocol, &request).status, 200);
        assert_eq!(upstream.seen(&request.mark).body, b"a body");
        assert_eq!(strange.ask(protocol, &request.clone().header("X-Mark-2", "strange")).status, 502);
    }
}

#[test]
fn a_connection_that_was_made_with_one_certificate_serves_no_upstream_with_another() {
    // Pingora's pool knows a client certificate by its serial number alone: here both have the same.
    let (clients, strangers) = (authority(), authority());
    let [own, stranger] = [&clients, &strangers].map(|ca| ca.agent(&Wanted::nameless().serial(7)));
    let upstream = asking(&clients);
    let setup = showing(showing(Setup::new(&upstream), "own", &own), "stranger", &stranger);
    let gateway = setup
        .with(&format!(
            r#"
            upstreams.app.tls = {own}
            [upstreams.strange]
            servers = ["{address}"]
            tls = {stranger}
            [hosts."api.example.test".routes.strange]
            path = "/strange"
            methods = ["GET"]
            auth = {{ public = "a route of a test" }}
            upstream = "strange"
            "#,
            own = tls("own"),
            stranger = tls("stranger"),
            address = upstream.address(),
        ))
        .start();
    for _ in 0..3 {
        assert_eq!(status(&gateway, Protocol::H1), 200);
        assert_eq!(gateway.send(&Request::get("/strange")).status, 502);
    }
    assert!(upstream.all().iter().all(|seen| seen.target() == "/public"));
    let first = upstream.all().first().map(|seen| seen.connection);
    assert!(upstream.all().iter().all(|seen| Some(seen.connection) == first), "the right one is kept and used again");
}

#[test]
fn a_health_check_shows_it_and_a_reload_takes_a_new_one() {
    let clients = authority();
    let [old, new] = [1, 2].map(|serial| clients.agent(&Wanted::nameless().serial(serial)));
    let upstream = asking(&clients);
    let gateway = showing(Setup::new(&upstream), "own", &old)
        .set("upstreams.app.tls", &tls("own"))
        .with("upstreams.app.health = { path = \"/healthz\", interval = \"50ms\", timeout = \"2s\" }")
        .start();
    assert_eq!(status(&gateway, Protocol::H1), 200);
    let checked = |own: &Agent| {
        let checks = |seen: &&portcullis_tests::Seen| seen.target() == "/healthz";
        upstream.all().iter().rfind(checks).is_some_and(|seen| seen.certificate.as_deref() == Some(own.leaf().as_ref()))
    };
    wait_for("a health check", || checked(&old).then_some(()));
    let (gateway, taken) = gateway.reload(|setup| showing(setup, "own", &new));
    assert!(taken);
    let request = Request::get("/public");
    assert_eq!(gateway.send(&request).status, 200);
    assert_eq!(upstream.seen(&request.mark).certificate.as_deref(), Some(new.leaf().as_ref()));
    wait_for("a health check with the new one", || checked(&new).then_some(()));
    // One that does not fit is refused, and the one in force stays.
    let (_, other_key) = clients.agent(&Wanted::nameless()).pem();
    let (gateway, taken) = gateway.reload(|setup| setup.file("own/own-key.pem", other_key));
    assert!(!taken);
    assert!(gateway.said(|line| line.contains("certificate.other_key") && line.contains("upstream `app`")).is_some());
    assert_eq!(status(&gateway, Protocol::H1), 200);
}
