//! Client certificates: who an agent is, by its certificate and nothing else, at every request for as long as it counts.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    sync::LazyLock,
};

use portcullis_tests::{
    Answer, Dial, Gateway, H1, Request, Setup, Token, Upstream,
    agents::{Agent, Wanted, connect},
    assertion::{self, ISSUER, keys, p256, verified},
    ca::Ca,
    dial::alert,
    free_address,
    h2::H2,
    tokens::{main_key, main_token},
    wait_for,
};
use rustls::AlertDescription;
use serde_json::{Value, json};

pub(crate) const HOST: &str = "agents.example.test";
pub(crate) const BILLING: &str = "spiffe://example.test/tenant/acme/agent/billing-7";
pub(crate) const ONE_CA: &str = "ca = \"agents/ca.pem\"";

/// A gateway with a second listener that asks for certificates.
pub(crate) struct Agents {
    pub(crate) gateway: Gateway,
    pub(crate) address: SocketAddr,
}

/// The default, and a listener for agents with these settings beside `uri`, role and scopes.
pub(crate) fn setup(upstream: &Upstream, address: SocketAddr, ca: &Ca, settings: &str) -> Setup {
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
    pub(crate) fn start(upstream: &Upstream, ca: &Ca, settings: &str) -> Self {
        let address = free_address();
        Self::launch(setup(upstream, address, ca, settings), address)
    }

    pub(crate) fn launch(setup: Setup, address: SocketAddr) -> Self {
        let gateway = setup.start();
        wait_for("the agents' listener", || Dial::plain(address).tcp().ok());
        Self { gateway, address }
    }

    pub(crate) fn dial(&self) -> Dial {
        Dial::tls(self.address, HOST)
    }

    pub(crate) fn h1(&self, agent: &Agent) -> H1 {
        agent.connect(&self.dial()).expect("the listener accepts a connection")
    }

    pub(crate) fn ask(&self, agent: &Agent, request: &Request) -> Answer {
        self.over(&mut self.h1(agent), request)
    }

    pub(crate) fn over(&self, client: &mut H1, request: &Request) -> Answer {
        client.send(request.h1());
        client.answer_to(&request.method).expect("an answer")
    }

    pub(crate) fn status(&self, agent: &Agent, path: &str) -> u16 {
        self.ask(agent, &get(path)).status
    }

    /// What TLS said to a certificate, or that it took it.
    pub(crate) fn refused(&self, agent: &Agent) -> Option<AlertDescription> {
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
    pub(crate) fn why(&self, answer: &Answer) -> String {
        let line = self.gateway.line(&answer.request_id());
        let steps = line["trail"].as_array().cloned().unwrap_or_default();
        let detail = steps.iter().find_map(|step| step["detail"].as_str().map(str::to_owned));
        detail.unwrap_or_else(|| panic!("no reason in {line}"))
    }
}

pub(crate) fn get(path: &str) -> Request {
    Request::get(path).host(HOST)
}

/// One authority, one gateway, for all tests that change nothing.
pub(crate) struct Shared {
    pub(crate) ca: Ca,
    pub(crate) upstream: Upstream,
    pub(crate) agents: Agents,
}

pub(crate) static SHARED: LazyLock<Shared> = LazyLock::new(|| {
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
