//! Client certificates: who an agent is, by its certificate and nothing else, at every request for as long as it counts.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    sync::LazyLock,
};

use portcullis_tests::{
    Answer, Dial, Gateway, H1, PATIENCE, Reply, Request, Setup, Token, Upstream,
    agents::{Agent, Wanted, connect},
    assertion::{self, ISSUER, keys, p256, verified},
    ca::Ca,
    dial::alert,
    free_address,
    h2::H2,
    tokens::{main_key, main_token},
    wait_for,
};
use rustls::{AlertDescription, HandshakeKind};
use serde_json::{Value, json};

use crate::{
    revoked_streams::NO_LONGER_LET_IN,
    streams::{frame, handshake_at},
};

const HOST: &str = "agents.example.test";
const BILLING: &str = "spiffe://example.test/tenant/acme/agent/billing-7";
const ONE_CA: &str = "ca = \"agents/ca.pem\"";

/// A gateway with a second listener that asks for certificates.
struct Agents {
    gateway: Gateway,
    address: SocketAddr,
}

/// The default, and a listener for agents with these settings beside `uri`, role and scopes.
fn setup(upstream: &Upstream, address: SocketAddr, ca: &Ca, settings: &str) -> Setup {
    let certificate = "certificate = { chain = \"file:tls/chain.pem\", key = \"file:tls/key.pem\" }";
    let route = |name: &str, auth: &str| {
        format!(
            "[hosts.\"{HOST}\".routes.{name}]\npath = \"/{name}\"\nmethods = [\"GET\", \"POST\"]\nauth = {{ {auth} }}\nupstream = \"app\"\n"
        )
    };
    let routes = [
        route("agents", "accept = [\"certificate\"]"),
        route("scoped", "accept = [\"certificate\"], scopes = [\"ingest\"], role = \"developer\""),
        route("admin", "accept = [\"certificate\"], role = \"admin\""),
        route("either", "accept = [\"certificate\", \"jwt:main\"]"),
        route("tokens", "accept = [\"jwt:main\"]"),
        route("public", "public = \"open to everybody, for tests\""),
    ]
    .concat();
    Setup::new(upstream).file("agents/ca.pem", ca.pem()).with(&format!(
        r#"
[listeners.agents]
address = "{address}"
client_ip = "direct"
[listeners.agents.client_certificates]
uri = "spiffe://example.test/tenant/{{tenant}}/agent/{{agent}}"
role = "developer"
scopes = ["ingest"]
{settings}
[listeners.agents.client_certificates.agents."spiffe://example.test/legacy/db"]
tenant = "globex"
agent = "db"
[revocations]
journal = "revocations.journal"
[hosts."{HOST}"]
listeners = ["agents"]
tenant = "identity"
{certificate}
{routes}"#
    ))
}

impl Agents {
    fn start(upstream: &Upstream, ca: &Ca, settings: &str) -> Self {
        let address = free_address();
        Self::launch(setup(upstream, address, ca, settings), address)
    }

    fn launch(setup: Setup, address: SocketAddr) -> Self {
        let gateway = setup.start();
        wait_for("the agents' listener", || Dial::plain(address).tcp().ok());
        Self { gateway, address }
    }

    fn dial(&self) -> Dial {
        Dial::tls(self.address, HOST)
    }

    fn h1(&self, agent: &Agent) -> H1 {
        agent.connect(&self.dial()).expect("the listener accepts a connection")
    }

    fn ask(&self, agent: &Agent, request: &Request) -> Answer {
        self.over(&mut self.h1(agent), request)
    }

    fn over(&self, client: &mut H1, request: &Request) -> Answer {
        client.send(request.h1());
        client.answer_to(&request.method).expect("an answer")
    }

    fn status(&self, agent: &Agent, path: &str) -> u16 {
        self.ask(agent, &get(path)).status
    }

    /// What TLS said to a certificate, or that it took it.
    fn refused(&self, agent: &Agent) -> Option<AlertDescription> {
        let mut wire = match connect(&self.dial(), &agent.client("http/1.1")) {
            Ok(wire) => wire,
            Err(error) => return alert(&error),
        };
        // TLS 1.3: the server's word on the certificate comes after the client's handshake.
        let sent = wire.write_all(&get("/agents").h1());
        match sent.and_then(|()| wire.read(&mut [0; 64])) {
            Ok(read) => {
                assert!(read > 0, "closed without a word");
                None
            }
            Err(error) => Some(alert(&error).unwrap_or_else(|| panic!("{error} instead of an alert"))),
        }
    }

    /// The reason that stands in the log for a request that was refused.
    fn why(&self, answer: &Answer) -> String {
        let line = self.gateway.line(&answer.request_id());
        let steps = line["trail"].as_array().cloned().unwrap_or_default();
        let detail = steps.iter().find_map(|step| step["detail"].as_str().map(str::to_owned));
        detail.unwrap_or_else(|| panic!("no reason in {line}"))
    }
}

/// Runs `portcullis agents` in the gateway's directory.
fn authority(setup: &Setup, arguments: &[&str]) -> Result<String, String> {
    let output = setup.command().arg("agents").args(arguments).output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn the_authority_of_agents_is_made_and_signs_for_a_day() {
    let upstream = Upstream::start();
    let address = free_address();
    let setup = setup(&upstream, address, &Ca::new("unused"), "ca = \"issuing/root.pem\"");
    authority(&setup, &["init", "--root", "away", "--issuing", "issuing", "--name", "example"]).expect("it is made");
    for key in ["away/root.key", "issuing/issuing.key"] {
        assert_eq!(mode(&setup.path(key)), 0o600, "{key}");
    }
    assert!(!setup.path("issuing/root.key").exists(), "the root's key is apart");
    let again =
        authority(&setup, &["init", "--root", "away", "--issuing", "other"]).expect_err("no key is overwritten");
    assert!(again.contains("cannot be made") && !setup.path("other").exists(), "{again}");
    let agents = Agents::launch(setup, address);
    let setup = agents.gateway.setup();
    let (key, request) = Agent::request();
    portcullis_tests::document::write_private(&setup.path("agent.csr"), request.as_bytes());
    let sign = |name: &str, request: &str| {
        let arguments = ["sign", "--issuing", "issuing", "--tenant", "acme", "--agent", name, "--request", request];
        authority(setup, &[&arguments[..], &["--config", "portcullis.toml"]].concat())
    };
    // The root goes away, and is not needed.
    std::fs::remove_dir_all(setup.path("away")).expect("it is put away");
    let chain = sign("billing-7", "agent.csr").expect("it is signed");
    let request = get("/agents");
    assert_eq!(agents.ask(&Agent::of_pem(&chain, &key), &request).status, 200);
    let seen = upstream.seen_whole(&request.mark);
    assert_eq!(seen.header("x-portcullis-subject").as_deref(), Some("agent:acme:billing-7"), "the name is ours");
    for (name, request) in [("Billing", "agent.csr"), ("billing-7", "portcullis.toml"), ("billing-7", "missing.csr")] {
        assert!(sign(name, request).is_err(), "{name} {request}");
    }
}

fn get(path: &str) -> Request {
    Request::get(path).host(HOST)
}

/// One authority, one gateway, for all tests that change nothing.
struct Shared {
    ca: Ca,
    upstream: Upstream,
    agents: Agents,
}

static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    let (ca, upstream) = (Ca::new("the agents' authority"), Upstream::start());
    let address = free_address();
    let setup = setup(&upstream, address, &ca, ONE_CA).file("a.pem", p256()).with(&format!(
        "[assertion]\nissuer = \"{ISSUER}\"\nes256 = [\"file:a.pem\"]\n[upstreams.app]\nassertion = \"ES256\"\n"
    ));
    let agents = Agents::launch(setup, address);
    Shared { ca, upstream, agents }
});

#[test]
fn an_agent_is_whoever_its_certificate_names() {
    let Shared { ca, upstream, agents } = &*SHARED;
    let billing = ca.agent(&Wanted::uri(BILLING).dns("billing.internal").common_name("root"));
    let request = get("/scoped");
    assert_eq!(agents.ask(&billing, &request).status, 200);
    let seen = upstream.seen_whole(&request.mark);
    let told = |name: &str| seen.header(name);
    assert_eq!(told("x-portcullis-tenant").as_deref(), Some("acme"));
    assert_eq!(told("x-portcullis-subject").as_deref(), Some("agent:acme:billing-7"));
    assert_eq!(told("x-portcullis-kind").as_deref(), Some("agent"));
    assert_eq!(told("x-portcullis-role").as_deref(), Some("developer"));
    assert_eq!(told("x-portcullis-scopes").as_deref(), Some("ingest"));
    let thumbprint = billing.thumbprint();
    assert_eq!(told("x-portcullis-agent-cert"), Some(format!("sha256:{thumbprint}")));
    let set = keys(&agents.gateway.admin("GET", assertion::KEY_SET).text());
    let claims = verified(&seen, &set, "upstream:app").expect("a good assertion").1;
    assert_eq!(claims["cnf"], json!({ "x5t#S256": thumbprint }));
    assert_eq!((&claims["kind"], &claims["tid"]), (&json!("agent"), &json!("acme")));
    assert_eq!(claims["sub"], "agent:acme:billing-7");
    assert_eq!(agents.status(&billing, "/admin"), 403, "its role is the operator's word");
}

#[test]
fn an_agent_of_the_list_is_whom_the_list_says() {
    let Shared { ca, upstream, agents } = &*SHARED;
    let db = ca.agent(&Wanted::uri("spiffe://example.test/legacy/db"));
    let request = get("/agents");
    assert_eq!(agents.ask(&db, &request).status, 200);
    let seen = upstream.seen_whole(&request.mark);
    assert_eq!(seen.header("x-portcullis-subject").as_deref(), Some("agent:globex:db"));
    assert_eq!(seen.header("x-portcullis-role"), None);
    assert_eq!(agents.status(&db, "/scoped"), 403, "the role and scopes of the pattern are not the list's");
}

#[test]
fn over_http2_it_is_the_same_agent() {
    let Shared { ca, upstream, agents } = &*SHARED;
    let billing = ca.agent(&Wanted::uri(BILLING));
    let mut client = H2::of(agents.address, HOST, billing.client("h2")).expect("a connection");
    for path in ["/agents", "/scoped"] {
        let request = get(path);
        assert_eq!(client.send(&request).expect("an answer").status, 200);
        let seen = upstream.seen_whole(&request.mark);
        assert_eq!(seen.header("x-portcullis-subject").as_deref(), Some("agent:acme:billing-7"));
    }
}

#[test]
fn a_handshake_with_a_certificate_that_does_not_count_is_refused_with_its_reason() {
    let Shared { ca, agents, .. } = &*SHARED;
    let wanted = || Wanted::uri(BILLING);
    let cases = [
        ("expired", ca.agent(&wanted().valid(-7200, -3600)), AlertDescription::CertificateExpired),
        ("not yet valid", ca.agent(&wanted().valid(3600, 7200)), AlertDescription::CertificateExpired),
        ("of another authority", Ca::new("another").agent(&wanted()), AlertDescription::UnknownCA),
    ];
    for (name, agent, expected) in cases {
        assert_eq!(agents.refused(&agent), Some(expected), "{name}");
    }
    assert_eq!(agents.refused(&ca.agent(&wanted())), None);
    let without = agents.dial().connect().and_then(|mut wire| {
        wire.write_all(&get("/agents").h1())?;
        wire.read(&mut [0; 64])
    });
    assert_eq!(without.map_err(|error| alert(&error)), Err(Some(AlertDescription::CertificateRequired)));
    let failed = |result: &str| agents.gateway.metric("portcullis_tls_handshakes_total", &[result]);
    assert!(
        failed("result=\"client_certificate\"") >= Some(3.0) && failed("result=\"no_client_certificate\"") >= Some(1.0)
    );
}

#[test]
fn a_certificate_that_names_nobody_is_401_whatever_else_it_says() {
    let Shared { ca, agents, .. } = &*SHARED;
    let uri = |uri: &str| Wanted::uri(uri);
    let good_cn = "spiffe://example.test/tenant/acme/agent/billing-7";
    let cases = [
        (Wanted::nameless().common_name(good_cn), "certificate without a URI"),
        (Wanted::nameless().common_name("billing-7").dns("billing-7.acme.example.test"), "certificate without a URI"),
        (uri(BILLING).and("spiffe://example.test/tenant/globex/agent/billing-7"), "certificate with several URIs"),
        (uri(BILLING).and("https://example.test/"), "certificate with several URIs"),
        (uri("spiffe://other.test/tenant/acme/agent/billing-7"), "certificate names nobody here"),
        (uri("spiffe://example.test/tenant/acme/agent/billing-7/x"), "certificate names nobody here"),
        (uri("spiffe://example.test/tenant/acme/agent"), "certificate names nobody here"),
        (uri("SPIFFE://example.test/tenant/acme/agent/billing-7"), "certificate names nobody here"),
        (uri("spiffe://example.test/tenant/*/agent/billing-7"), "certificate with a malformed name"),
        (uri("spiffe://example.test/tenant/acme/agent/*"), "certificate with a malformed name"),
        (uri("spiffe://example.test/tenant/acme/agent/"), "certificate with a malformed name"),
        (uri("spiffe://example.test/tenant/acme/agent/a%2fb"), "certificate with a malformed name"),
        (uri("spiffe://example.test/tenant/ACME/agent/billing-7"), "certificate with a malformed name"),
        (uri("spiffe://example.test/tenant/../agent/billing-7"), "certificate with a malformed name"),
        (uri("spiffe://example.test/tenant/admin/agent/billing-7"), "certificate with a malformed name"),
        (uri(BILLING).valid(-60, 366 * 86_400), "certificate valid for more than 365 days"),
    ];
    for (wanted, why) in cases {
        let answer = agents.ask(&ca.agent(&wanted), &get("/agents"));
        assert_eq!((answer.status, answer.code().as_str()), (401, "authentication.invalid"), "{wanted:?}");
        assert_eq!(agents.why(&answer), why, "{wanted:?}");
    }
}

#[test]
fn a_header_that_tells_of_a_certificate_is_nobody() {
    let Shared { ca, upstream, agents } = &*SHARED;
    let (globex, nobody) = ("spiffe://example.test/tenant/globex/agent/x", ca.agent(&Wanted::nameless()));
    let billing = ca.agent(&Wanted::uri(BILLING));
    let spoofs = [
        ("X-Forwarded-Client-Cert", format!("Hash=00;URI={globex}")),
        ("Client-Cert", ":MIIB:".to_owned()),
        ("Client-Cert-Chain", ":MIIB:".to_owned()),
        ("X-SSL-Client-S-DN", "CN=x".to_owned()),
        ("X_SSL_Client_Verify", "SUCCESS".to_owned()),
        ("X-ARR-ClientCert", "MIIB".to_owned()),
        ("X-Amzn-Mtls-Clientcert-Leaf", "MIIB".to_owned()),
        ("X-Portcullis-Agent-Cert", "sha256:AAAA".to_owned()),
        ("X-Portcullis-Subject", "agent:globex:x".to_owned()),
    ];
    for (name, value) in spoofs {
        let spoofed = |path: &str| get(path).header(name, &value);
        let status = agents.ask(&nobody, &spoofed("/agents")).status;
        assert!(status == 401 || (name.contains('_') && status == 400), "{name}: {status}");
        let request = spoofed("/agents");
        if agents.ask(&billing, &request).status == 200 {
            let seen = upstream.seen_whole(&request.mark);
            assert_eq!(seen.header("x-portcullis-tenant").as_deref(), Some("acme"), "{name}");
            assert!(!String::from_utf8_lossy(&seen.head).contains(&value), "{name} reached the app");
        } else {
            assert!(name.contains('_'), "{name}");
        }
    }
}

#[test]
fn beside_a_certificate_that_is_accepted_any_other_credential_is_one_too_many() {
    let Shared { ca, upstream, agents } = &*SHARED;
    let billing = ca.agent(&Wanted::uri(BILLING));
    let token = main_token("acme");
    for path in ["/agents", "/either", "/public"] {
        assert_eq!(agents.status(&billing, path), 200, "{path}");
        let both = agents.ask(&billing, &get(path).bearer(&token));
        assert_eq!((both.status, both.code().as_str()), (400, "authentication.malformed"), "{path}");
    }
    // Where certificates are not accepted, the certificate is the connection's and no credential.
    assert_eq!(agents.status(&billing, "/tokens"), 401);
    let request = get("/tokens").bearer(&token);
    assert_eq!(agents.ask(&billing, &request).status, 200);
    let seen = upstream.seen_whole(&request.mark);
    assert_eq!(seen.header("x-portcullis-kind").as_deref(), Some("user"));
    assert_eq!(seen.header("x-portcullis-agent-cert"), None);
}

#[test]
fn a_token_that_is_bound_to_a_certificate_is_that_connections_alone() {
    let Shared { ca, agents, .. } = &*SHARED;
    let (owner, thief) = (ca.agent(&Wanted::uri(BILLING)), ca.agent(&Wanted::uri(BILLING).serial(8)));
    let bound = |cnf: Value| Token::main("acme").claim("cnf", cnf).sign(main_key());
    let token = bound(json!({ "x5t#S256": owner.thumbprint() }));
    let asked = |agent: &Agent, token: &str| agents.ask(agent, &get("/tokens").bearer(token));
    // Twice: the second time it is remembered, and remembered for one connection's certificate only.
    for _ in 0..2 {
        assert_eq!(asked(&owner, &token).status, 200);
        let stolen = asked(&thief, &token);
        assert_eq!((stolen.status, stolen.code().as_str()), (401, "authentication.invalid"));
        assert_eq!(agents.why(&stolen), "cnf cannot be satisfied");
    }
    let public = agents.gateway.send(&Request::get("/v1/orders").bearer(&token));
    assert_eq!(public.status, 401, "a connection without a certificate");
    let others = [
        json!({}),
        json!({ "jkt": "AAAA" }),
        json!({ "x5t#S256": owner.thumbprint(), "jkt": "AAAA" }),
        json!({ "x5t#S256": format!("{}=", owner.thumbprint()) }),
        json!({ "x5t#S256": "AAAA" }),
        json!({ "x5t#S256": [owner.thumbprint()] }),
        json!({ "x5t": owner.thumbprint() }),
        json!(owner.thumbprint()),
    ];
    for cnf in others {
        assert_eq!(asked(&owner, &bound(cnf.clone())).status, 401, "{cnf}");
    }
}

#[test]
fn a_host_of_one_listener_is_unknown_on_the_others() {
    let Shared { ca, agents, .. } = &*SHARED;
    let elsewhere = Dial::tls(agents.gateway.address(), HOST).connect();
    let refused = elsewhere.map(|_| ()).map_err(|error| alert(&error));
    assert_eq!(refused, Err(Some(AlertDescription::UnrecognisedName)));
    let other = Request::get("/v1/orders").host("api.example.test").bearer(main_token("acme"));
    let mut client = ca.agent(&Wanted::uri(BILLING)).connect(&agents.dial()).expect("a connection");
    assert_eq!(agents.over(&mut client, &other).status, 421, "another host than the handshake's");
}

#[test]
fn no_session_is_resumed_so_a_revoked_certificate_does_not_come_back_with_one() {
    let (ca, upstream) = (Ca::new("authority"), Upstream::start());
    for (minimum, version) in [("1.3", &rustls::version::TLS13), ("1.2", &rustls::version::TLS12)] {
        let address = free_address();
        let setup =
            setup(&upstream, address, &ca, ONE_CA).with(&format!("[listeners.agents.tls]\nminimum = \"{minimum}\""));
        let agents = Agents::launch(setup, address);
        let agent = ca.agent(&Wanted::uri(BILLING));
        let client = agent.client_of(&[version], "http/1.1");
        for _ in 0..3 {
            let mut h1 = H1::over(connect(&agents.dial(), &client).expect("a connection"));
            assert_eq!(agents.over(&mut h1, &get("/agents")).status, 200);
            let kind = h1.wire().session().expect("TLS").handshake_kind();
            assert_eq!(kind, Some(HandshakeKind::Full), "{minimum}");
        }
        revoke(&agents, &["cert", &agent.openssl_fingerprint()]);
        let mut h1 = H1::over(connect(&agents.dial(), &client).expect("a connection"));
        assert_eq!(agents.over(&mut h1, &get("/agents")).status, 401, "{minimum}");
    }
}

fn revoke(agents: &Agents, arguments: &[&str]) -> String {
    let output = agents.gateway.cli(&[&["revoke"], arguments, &["--reason", "a test of it"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_is_revoked_is_refused_on_the_connection_that_is_open_and_after_a_crash() {
    let (ca, upstream) = (Ca::new("authority"), Upstream::start());
    let agents = Agents::start(&upstream, &ca, ONE_CA);
    let agent = |name: &str, serial| {
        ca.agent(&Wanted::uri(&format!("spiffe://example.test/tenant/acme/agent/{name}")).serial(serial))
    };
    let (one, two, three) = (agent("one", 1), agent("two", 2), agent("three", 3));
    let mut open = [&one, &two, &three].map(|agent| agents.h1(agent));
    let mut all = |agents: &Agents| open.each_mut().map(|client| agents.over(client, &get("/agents")).status);
    assert_eq!(all(&agents), [200, 200, 200]);
    let said = revoke(&agents, &["cert", &one.openssl_fingerprint()]);
    let digits: String = one.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(said.contains(&format!("cert name={digits}")), "{said}");
    revoke(&agents, &["sub", "acme:two", "--issuer", "agent", "--tenant", "acme"]);
    assert_eq!(all(&agents), [401, 401, 200]);
    let refused = agents.ask(&one, &get("/tokens").bearer(main_token("acme")));
    assert_eq!(refused.status, 401, "whatever else rests on the connection");
    assert_eq!(agents.why(&refused), "certificate revoked");
    let Agents { gateway, address } = agents;
    let gateway = gateway.crash_and_start();
    wait_for("the agents' listener", || Dial::plain(address).tcp().ok());
    let agents = Agents { gateway, address };
    assert_eq!([&one, &two, &three].map(|agent| agents.status(agent, "/agents")), [401, 401, 200]);
    revoke(&agents, &["tenant", "acme"]);
    assert_eq!(agents.status(&three, "/agents"), 401);
    let wrong = agents.gateway.cli(&["revoke", "cert", "abcd", "--reason", "too short"]);
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("that is no certificate"));
}

#[test]
fn a_list_that_changes_refuses_on_the_connection_that_is_open_and_one_that_is_old_refuses_all() {
    let (ca, upstream) = (Ca::new("authority"), Upstream::start());
    let address = free_address();
    let settings = format!("{ONE_CA}\ncrl = [\"agents/crl.pem\"]");
    let setup = setup(&upstream, address, &ca, &settings).file("agents/crl.pem", ca.revoking(&[9], 3600));
    let agents = Agents::launch(setup, address);
    let crl = agents.gateway.setup().path("agents/crl.pem");
    let write = |text: &str| portcullis_tests::document::write_private(&crl, text.as_bytes());
    let heard = |event: &str| agents.gateway.said(|line| line.contains(event)).expect("it is told");
    let listed = ca.agent(&Wanted::uri(BILLING).serial(9));
    assert_eq!(agents.refused(&listed), Some(AlertDescription::CertificateRevoked));
    let (one, two) = (ca.agent(&Wanted::uri(BILLING).serial(1)), ca.agent(&Wanted::uri(BILLING).serial(2)));
    let (mut first, mut second) = (agents.h1(&one), agents.h1(&two));
    let ask = |client: &mut H1| agents.over(client, &get("/agents"));
    assert_eq!((ask(&mut first).status, ask(&mut second).status), (200, 200));
    write(&ca.revoking(&[1, 9], 3600));
    heard("client_certificates.crl_loaded");
    let refused = ask(&mut first);
    assert_eq!((refused.status, ask(&mut second).status), (401, 200));
    assert_eq!(agents.why(&refused), "certificate on a revocation list");
    let ok = || agents.gateway.metric("portcullis_client_crl_last_load_success", &["listener=\"agents\""]);
    assert_eq!(ok(), Some(1.0));
    write("no list");
    heard("client_certificates.crl_failed");
    wait_for("the metric to tell", || (ok() == Some(0.0)).then_some(()));
    assert_eq!((ask(&mut first).status, ask(&mut second).status), (401, 200), "the last good one stays");
    write(&ca.revoking(&[], -3600));
    heard("client_certificates.crl_expired");
    let refused = ask(&mut second);
    assert_eq!(
        (refused.status, agents.why(&refused).as_str()),
        (401, "no current revocation list of the certificate's authority")
    );
    write(&ca.revoking(&[], 3600));
    wait_for("the new list", || (ask(&mut second).status == 200).then_some(()));
    write(&Ca::new("another").revoking(&[], 3600));
    wait_for("the list of another authority", || (ask(&mut second).status == 401).then_some(()));
}

#[test]
fn what_goes_on_ends_with_the_certificate_of_its_connection() {
    let ca = Ca::new("authority");
    let upstream = Upstream::scripted(|seen| match seen.header("upgrade") {
        Some(_) => Reply::Echo,
        None => Reply::ok(),
    });
    let address = free_address();
    let settings = format!("{ONE_CA}\ncrl = [\"agents/crl.pem\"]");
    let live = format!(
        "[hosts.\"{HOST}\".routes.live]\npath = \"/live\"\nmethods = [\"GET\"]\nkind = \"websocket\"\nupstream = \"app\"\n\
         auth = {{ accept = [\"certificate\"] }}\n"
    );
    let setup = setup(&upstream, address, &ca, &settings).with(&live).file("agents/crl.pem", ca.revoking(&[9], 3600));
    let agents = Agents::launch(setup, address);
    let socket = |serial: u64| {
        let mut client = agents.h1(&ca.agent(&Wanted::uri(BILLING).serial(serial)));
        assert_eq!(agents.over(&mut client, &handshake_at("/live").host(HOST)).status, 101);
        client
    };
    let (mut listed, mut other) = (socket(1), socket(2));
    let path = |name: &str| agents.gateway.setup().path(name);
    portcullis_tests::document::write_private(&path("agents/crl.pem"), ca.revoking(&[1, 9], 3600).as_bytes());
    assert_eq!(listed.bytes(4), NO_LONGER_LET_IN);
    assert!(listed.closes_within(PATIENCE));
    other.send(frame("still here"));
    assert_eq!(other.bytes(frame("still here").len()), frame("still here"));
    let next = Ca::new("another");
    portcullis_tests::document::write_private(&path("agents/ca.pem"), next.pem().as_bytes());
    portcullis_tests::document::write_private(&path("agents/crl.pem"), next.revoking(&[], 3600).as_bytes());
    assert!(agents.gateway.hang_up());
    assert_eq!(other.bytes(4), NO_LONGER_LET_IN);
    assert!(other.closes_within(PATIENCE));
}

#[test]
fn a_reload_that_drops_the_authority_ends_its_connections() {
    let (old, new, upstream) = (Ca::new("old"), Ca::new("new"), Upstream::start());
    let agents = Agents::start(&upstream, &old, ONE_CA);
    let (theirs, ours) = (old.agent(&Wanted::uri(BILLING)), new.agent(&Wanted::uri(BILLING)));
    let mut open = agents.h1(&theirs);
    let mut h2 = H2::of(agents.address, HOST, theirs.client("h2")).expect("a connection");
    assert_eq!(agents.over(&mut open, &get("/agents")).status, 200);
    assert_eq!(h2.send(&get("/agents")).expect("an answer").status, 200);
    assert_eq!(agents.refused(&ours), Some(AlertDescription::UnknownCA));
    portcullis_tests::document::write_private(
        &agents.gateway.setup().path("agents/ca.pem"),
        format!("{}{}", old.pem(), new.pem()).as_bytes(),
    );
    assert!(agents.gateway.hang_up());
    assert_eq!((agents.over(&mut open, &get("/agents")).status, agents.status(&ours, "/agents")), (200, 200));
    portcullis_tests::document::write_private(&agents.gateway.setup().path("agents/ca.pem"), new.pem().as_bytes());
    assert!(agents.gateway.hang_up());
    let refused = agents.over(&mut open, &get("/agents"));
    assert_eq!((refused.status, refused.code().as_str()), (401, "authentication.invalid"));
    assert_eq!(agents.why(&refused), "certificate of no authority that is believed");
    assert_eq!(h2.send(&get("/agents")).expect("an answer").status, 401);
    assert_eq!(agents.refused(&theirs), Some(AlertDescription::UnknownCA));
    assert_eq!(agents.status(&ours, "/agents"), 200);
}

#[test]
fn a_certificate_that_ends_ends_on_the_connection_that_is_open() {
    let Shared { ca, agents, .. } = &*SHARED;
    let agent = ca.agent(&Wanted::uri(BILLING).valid(-60, 2));
    let mut open = agents.h1(&agent);
    assert_eq!(agents.over(&mut open, &get("/agents")).status, 200);
    let refused = wait_for("the certificate to end", || {
        let answer = agents.over(&mut open, &get("/agents"));
        (answer.status == 401).then_some(answer)
    });
    assert_eq!(agents.why(&refused), "certificate expired");
}

#[test]
fn a_connection_is_used_for_so_long_and_closed_with_the_next_answer() {
    let (ca, upstream) = (Ca::new("authority"), Upstream::start());
    let agents = Agents::start(&upstream, &ca, &format!("{ONE_CA}\nconnection_age_max = \"1s\""));
    let agent = ca.agent(&Wanted::uri(BILLING));
    let mut h2 = H2::of(agents.address, HOST, agent.client("h2")).expect("a connection");
    assert_eq!(h2.send(&get("/agents")).expect("an answer").status, 200);
    let mut open = agents.h1(&agent);
    wait_for("the connection to be too old", || {
        let answer = agents.over(&mut open, &get("/agents"));
        assert_eq!(answer.status, 200, "every request is answered");
        (answer.header("connection") == Some("close")).then_some(())
    });
    assert!(open.closes_within(std::time::Duration::from_secs(15)));
    wait_for("HTTP/2 to be told to go away", || h2.send(&get("/agents")).is_err().then_some(()));
}

#[test]
fn where_certificates_are_optional_one_that_is_shown_counts_and_none_is_401() {
    let (ca, upstream) = (Ca::new("authority"), Upstream::start());
    let agents = Agents::start(&upstream, &ca, &format!("{ONE_CA}\nmode = \"optional\""));
    let billing = ca.agent(&Wanted::uri(BILLING));
    assert_eq!(agents.status(&billing, "/agents"), 200);
    let without = |request: Request| agents.gateway.send_from(&agents.dial(), &request);
    let answer = without(get("/agents"));
    assert_eq!((answer.status, answer.code().as_str()), (401, "authentication.required"));
    assert_eq!(without(get("/either").bearer(main_token("acme"))).status, 200);
    assert_eq!(without(get("/public")).status, 200);
    assert_eq!(agents.refused(&Ca::new("another").agent(&Wanted::uri(BILLING))), Some(AlertDescription::UnknownCA));
}

#[test]
fn a_host_that_accepts_certificates_where_none_are_asked_for_is_not_loaded() {
    let (ca, upstream) = (Ca::new("authority"), Upstream::start());
    let base = || setup(&upstream, free_address(), &ca, ONE_CA);
    let second = |settings: &str| {
        format!("[listeners.more]\naddress = \"{}\"\nclient_ip = \"direct\"\n{settings}", free_address())
    };
    let host = format!("hosts.\"{HOST}\".listeners");
    let asked = "[listeners.more.client_certificates]\nca = \"agents/ca.pem\"\nuri = \"spiffe://example.test/{tenant}/{agent}\"";
    let nobody = "[listeners.more.client_certificates]\nca = \"agents/ca.pem\"";
    let cases = [
        (base().remove(&host), "client_certificates.not_asked_for"),
        (base().set(&host, "[\"agents\", \"public\"]"), "client_certificates.not_asked_for"),
        (base().with(&second(asked)).set(&host, "[\"agents\", \"more\"]"), "client_certificates.differ"),
        (base().with(&second(nobody)).set(&host, "[\"more\"]"), "client_certificates.names_nobody"),
        (base().set(&host, "[\"agent\"]"), "hosts.listeners"),
        (base().set(&host, "[]"), "hosts.listeners"),
        (base().file("agents/ca.pem", "nothing"), "client_certificates.ca"),
        (base().set("listeners.agents.tls", "\"off\""), "client_certificates.plain"),
    ];
    for (setup, code) in cases {
        let output = setup.check();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.contains(code), "{code}: {said}");
    }
    let good = base().check();
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
}
