//! What ends an agent's certificate, or the connection that showed it: on the connection that is open, and for what goes on.

use portcullis_tests::{
    Dial, H1, PATIENCE, Reply, Upstream,
    agents::{Wanted, connect},
    ca::Ca,
    document::write_private,
    free_address,
    h2::H2,
    tokens::main_token,
    wait_for,
};
use rustls::{AlertDescription, HandshakeKind};

use crate::{
    mtls::{Agents, BILLING, HOST, ONE_CA, SHARED, Shared, get, setup},
    revoked_streams::NO_LONGER_LET_IN,
    streams::{frame, handshake_at},
};

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
    let write = |text: &str| write_private(&crl, text.as_bytes());
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
    write_private(&path("agents/crl.pem"), ca.revoking(&[1, 9], 3600).as_bytes());
    assert_eq!(listed.bytes(4), NO_LONGER_LET_IN);
    assert!(listed.closes_within(PATIENCE));
    other.send(frame("still here"));
    assert_eq!(other.bytes(frame("still here").len()), frame("still here"));
    let next = Ca::new("another");
    write_private(&path("agents/ca.pem"), next.pem().as_bytes());
    write_private(&path("agents/crl.pem"), next.revoking(&[], 3600).as_bytes());
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
    write_private(&agents.gateway.setup().path("agents/ca.pem"), format!("{}{}", old.pem(), new.pem()).as_bytes());
    assert!(agents.gateway.hang_up());
    assert_eq!((agents.over(&mut open, &get("/agents")).status, agents.status(&ours, "/agents")), (200, 200));
    write_private(&agents.gateway.setup().path("agents/ca.pem"), new.pem().as_bytes());
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
