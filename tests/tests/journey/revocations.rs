//! Revocations: what an operator revokes is refused from then on, also after a restart; what is not on the disk is not
//! answered for.

use std::{
    io::Write as _,
    process::{Output, Stdio},
};

use portcullis_tests::{
    Answer, Gateway, Protocol, Request, Setup, Token, Upstream,
    tokens::{main_key, main_token},
};
use serde_json::{Value, json};

use crate::world;

const JOURNAL: &str = "[revocations]\njournal = \"revocations.journal\"";

fn gateway() -> Gateway {
    Setup::new(&world().upstream).with(JOURNAL).start()
}

fn token(name: &str) -> String {
    Token::main("acme")
        .claim("jti", name)
        .claim("sid", format!("sid-{name}"))
        .claim("sub", format!("sub-{name}"))
        .sign(main_key())
}

fn ask(gateway: &Gateway, token: &str) -> Answer {
    gateway.send(&Request::get("/v1/orders").bearer(token))
}

fn status(gateway: &Gateway, token: &str) -> u16 {
    ask(gateway, token).status
}

/// Revokes with the command line.
fn revoke(gateway: &Gateway, arguments: &[&str]) -> Output {
    gateway.cli(&[&["revoke"], arguments, &["--reason", "a test of it"]].concat())
}

fn revoked(gateway: &Gateway, arguments: &[&str]) -> String {
    let output = revoke(gateway, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_is_revoked_is_refused_from_the_answer_on_and_after_a_crash() {
    let gateway = gateway();
    let key = gateway.key("acme").to_owned();
    let id = key.split('_').nth(2).expect("a key has an id").to_owned();
    let by_key = |gateway: &Gateway| gateway.send(&Request::get("/v1/orders").header("X-Api-Key", &key)).status;
    let (jti, sid, sub, good) = (token("one"), token("two"), token("three"), token("four"));
    for token in [&jti, &sid, &sub, &good] {
        assert_eq!(status(&gateway, token), 200, "it is in the cache now");
    }
    assert_eq!(by_key(&gateway), 200);
    revoked(&gateway, &["jti", "one", "--issuer", "main", "--tenant", "acme"]);
    revoked(&gateway, &["sid", "sid-two", "--issuer", "main", "--tenant", "acme"]);
    revoked(&gateway, &["sub", "sub-three", "--issuer", "main"]);
    let said = revoked(&gateway, &["api_key", &id]);
    assert!(said.contains(&format!("api_key name={id} at 2")), "{said}");
    let all = |gateway: &Gateway| {
        let tokens = [&jti, &sid, &sub, &good].map(|token| status(gateway, token));
        (tokens, by_key(gateway))
    };
    assert_eq!(all(&gateway), ([401, 401, 401, 200], 401));
    assert_eq!(gateway.metric("portcullis_revocations", &[]), Some(4.0));
    let gateway = gateway.crash_and_start();
    assert_eq!(all(&gateway), ([401, 401, 401, 200], 401));
    let listed = gateway.cli(&["revocations", "list"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert_eq!(listed.lines().count(), 4, "{listed}");
    assert!(listed.contains(&id) && listed.contains("a test of it"), "{listed}");
    let kept = std::fs::read_to_string(gateway.setup().path("revocations.journal")).expect("a journal");
    for said in [&listed, &kept, &gateway.output()] {
        assert!(!said.contains("sub-three") && !said.contains("sid-two"), "names of people are kept nowhere: {said}");
    }
}

#[test]
fn the_client_is_told_what_any_bad_credential_is_told_and_the_operator_why() {
    let gateway = gateway();
    let token = token("told");
    let seen = |protocol: Protocol, token: &str| {
        let answer = gateway.ask(protocol, &Request::get("/v1/orders").bearer(token));
        let mut document: Value = serde_json::from_slice(&answer.body).expect("a problem document");
        document["request_id"] = Value::Null;
        let mut names: Vec<String> = answer.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
        names.sort();
        let challenge = answer.header("www-authenticate").map(str::to_owned);
        ((answer.status, document, names, challenge), answer.request_id().to_owned())
    };
    revoked(&gateway, &["jti", "told", "--issuer", "main", "--tenant", "acme"]);
    for protocol in Protocol::BOTH {
        let (refused, id) = seen(protocol, &token);
        assert_eq!(refused.0, 401);
        assert_eq!(refused, seen(protocol, &format!("{token}x")).0);
        let explained = gateway.cli(&["explain", &id]);
        let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
        assert!(explained.contains("rule main  because token revoked"), "{explained}");
    }
    let told = gateway.said(|line| line.contains("revocations.revoked")).expect("the log says it");
    assert!(told.contains("\"reason\":\"a test of it\"") && told.contains("\"kind\":\"jti\""), "{told}");
}

#[test]
fn without_a_place_to_keep_it_nothing_is_revoked_and_the_answer_says_what_to_write() {
    let gateway = &world().gateway;
    let output = revoke(gateway, &["sub", "user-1", "--issuer", "main"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("nothing was revoked: "), "{said}");
    assert!(said.contains("[revocations] journal = \"PATH\""), "{said}");
    let asked = json!({"kind": "sub", "issuer": "main", "value": "user-1", "reason": "r"});
    assert_eq!(gateway.admin_post("/admin/v1/revocations", &asked).status, 503);
    assert_eq!(status(gateway, &main_token("acme")), 200);
}

#[test]
fn a_revocation_that_would_revoke_nothing_is_refused() {
    let gateway = gateway();
    for (arguments, why) in [
        (&["jti", "j"][..], "`jti` needs an issuer"),
        (&["jti", "j", "--issuer", "main"], "`jti` needs a tenant"),
        (&["jti", "j", "--issuer", "mian", "--tenant", "acme"], "no issuer is called `mian`: known are local, main"),
        (&["jti", "", "--issuer", "main", "--tenant", "acme"], "no credential can have this `jti`"),
        (&["issuer", "mian"], "no issuer is called `mian`"),
        (&["tenant", "acme", "--issuer", "main"], "`tenant` is of no issuer"),
        (&["api_key", "short"], "no credential can have this `api_key`"),
        (&["cert", "00"], "that is no certificate"),
        (&["sub", "billing-7", "--issuer", "agent"], "an agent's `sub` is TENANT:AGENT"),
        (&["user", "u"], "`user` is nothing that can be revoked: write one of jti, token, sid"),
        (&["token", "abc"], "a token is read from standard input"),
    ] {
        let output = revoke(&gateway, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{arguments:?}: {said}");
    }
    let post = |body: &Value| gateway.admin_post("/admin/v1/revocations", body).status;
    let good = json!({"kind": "tenant", "value": "globex", "reason": "r"});
    for (name, value) in [("reason", json!("")), ("reason", json!("r".repeat(201))), ("extra", json!(1))] {
        let mut bad = good.clone();
        bad[name] = value;
        assert_eq!(post(&bad), 400, "{bad}");
    }
    assert_eq!(post(&json!({"reason": "r".repeat(9000)})), 413);
    assert_eq!(gateway.admin("DELETE", "/admin/v1/revocations").status, 405);
    assert_eq!(gateway.admin_with("POST", "/admin/v1/revocations", "").status, 401);
    assert_eq!(gateway.metric("portcullis_revocations", &[]), Some(0.0));
    let answer = gateway.admin_post("/admin/v1/revocations", &good);
    assert_eq!(answer.status, 200, "{answer:?}");
    let mark =
        serde_json::from_slice::<Value>(&answer.body).expect("a document")["mark"].as_str().expect("one").to_owned();
    assert_eq!(gateway.admin("GET", &format!("/admin/v1/revocations/{mark}")).status, 200);
    assert_eq!(gateway.admin("GET", &format!("/admin/v1/revocations/{}", "0".repeat(32))).status, 404);
    assert_eq!(status(&gateway, &main_token("globex")), 401);
    assert_eq!(status(&gateway, &main_token("acme")), 200);
}

#[test]
fn a_token_without_an_id_is_revoked_by_handing_it_in() {
    let gateway = Setup::new(&world().upstream).with(JOURNAL).set("issuers.main.jti", "\"optional\"").start();
    let token = Token::main("acme").without("jti").sign(main_key());
    assert_eq!(status(&gateway, &token), 200);
    let mut command = gateway.command();
    command.args(["revoke", "token", "-", "--reason", "found in a paste", "--config"]);
    let mut child = command
        .arg(gateway.setup().path("portcullis.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("a pipe").write_all(format!("{token}\n").as_bytes()).expect("it is read");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(status(&gateway, &token), 401);
}

#[test]
fn a_damaged_journal_stops_the_start_and_a_torn_last_line_is_told() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).with(JOURNAL).start();
    revoked(&gateway, &["jti", "one", "--issuer", "main", "--tenant", "acme"]);
    revoked(&gateway, &["jti", "two", "--issuer", "main", "--tenant", "acme"]);
    let journal = std::fs::read(gateway.setup().path("revocations.journal")).expect("a journal");
    let torn = Setup::new(&upstream).with(JOURNAL).file("revocations.journal", &journal[..journal.len() - 9]).start();
    assert!(torn.said(|line| line.contains("revocations.torn")).is_some());
    assert_eq!((status(&torn, &token("one")), status(&torn, &token("two"))), (401, 200));
    let mut changed = journal;
    let place = changed.len() / 2;
    changed[place] ^= 1;
    let damaged = Setup::new(&upstream).with(JOURNAL).file("revocations.journal", &changed);
    let output = damaged.check();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("is not as it was written"), "{said}");
    let run = damaged.command().args(["run", "--config", "portcullis.toml"]).output().expect("the binary runs");
    assert_eq!(run.status.code(), Some(1), "{run:?}");
}
