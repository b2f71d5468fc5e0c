//! What an operator sees: checks, reloads, logs, metrics, probes, the record of a decision, a clean end.

use portcullis_tests::{
    H1, Key, Protocol, Request, Setup, Token, Upstream,
    jwks::JwksServer,
    tokens::{key_set, main_token},
    wait_for,
};

use crate::world;

#[test]
fn a_good_configuration_checks_and_a_bad_one_says_everything_at_once() {
    let good = Setup::new(&world().upstream).check();
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let bad = Setup::new(&world().upstream)
        .with(r#"hosts."api.example.test".routes.orders.upstream = "ap""#)
        .with(r#"hosts."api.example.test".routes.admin.limits = ["per_kee"]"#)
        .with(r#"hosts."api.example.test".routes.app.auth = { accept = ["cookie:locale"] }"#)
        .check();
    assert_eq!(bad.status.code(), Some(1));
    let said = String::from_utf8_lossy(&bad.stderr);
    for word in ["ap", "app", "per_kee", "per_key", "locale", "local"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
}

#[test]
fn a_misspelt_setting_is_refused_with_its_place() {
    let output = Setup::new(&world().upstream).with("controls.wfa = \"off\"").check();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("wfa") && said.contains("waf"), "{said}");
    let missing = Setup::new(&world().upstream).remove("controls.waf").check();
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("waf"));
}

#[test]
fn a_gateway_with_a_bad_configuration_does_not_start() {
    let setup = Setup::new(&world().upstream).with("controls.wfa = \"off\"");
    drop(setup.check()); // writes it
    let output = world()
        .gateway
        .command()
        .args(["run", "--config"])
        .arg(setup.path("portcullis.toml"))
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("wfa"));
}

#[test]
fn a_bad_reload_keeps_the_old_configuration_and_says_why() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).start();
    let (gateway, taken) = gateway.reload(|setup| setup.with("controls.wfa = \"off\""));
    assert!(!taken);
    assert!(gateway.said(|line| line.contains("wfa")).is_some(), "it does not say why");
    assert_eq!(gateway.send(&Request::get("/v1/orders").bearer(main_token("acme"))).status, 200);
    assert_eq!(gateway.metric("portcullis_config_last_reload_success", &[]), Some(0.0));
    let (gateway, taken) = gateway.reload(|setup| setup.remove("controls.wfa"));
    assert!(taken);
    assert_eq!(gateway.metric("portcullis_config_last_reload_success", &[]), Some(1.0));
}

#[test]
fn a_reload_changes_a_rule_and_the_generation_in_the_access_line() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).start();
    let generation = |id: &str, gateway: &portcullis_tests::Gateway| gateway.line(id)["generation"].clone();
    let before = gateway.send(&Request::get("/public"));
    let first = generation(&before.request_id(), &gateway);
    assert!(!first.is_null(), "{}", gateway.line(&before.request_id()));
    let (gateway, taken) = gateway.reload(|setup| setup.set("controls.ip_allowlist.allow", r#"["203.0.113.0/24"]"#));
    assert!(taken);
    let after = gateway.send(&Request::get("/public"));
    assert_eq!(after.code(), "ip_allowlist.denied");
    assert_ne!(generation(&after.request_id(), &gateway), first);
}

#[test]
fn an_access_line_says_who_what_and_why() {
    let gateway = &world().gateway;
    for protocol in Protocol::BOTH {
        let admitted = gateway.ask(protocol, &Request::get("/v1/orders/7?secret=1").bearer(main_token("acme")));
        let line = gateway.line(&admitted.request_id());
        for (field, value) in [
            ("tenant", "acme".into()),
            ("host", "api.example.test".into()),
            ("method", "GET".into()),
            ("status", 200.into()),
        ] as [(&str, serde_json::Value); 4]
        {
            assert_eq!(line[field], value, "{field} in {line}");
        }
        assert!(line["route"].as_str().is_some_and(|route| route.contains("orders")), "{line}");
        let time = line["ts"].as_str().expect("a line has its time");
        assert!(time.ends_with('Z') && time.as_bytes()[10] == b'T' && time.len() >= 20, "{time}");
        for field in ["dur_ms", "bytes_in", "bytes_out", "generation", "v"] {
            assert!(line[field].is_number() || line[field].is_string(), "{field} in {line}");
        }
        let all = line.to_string();
        assert!(all.contains("ip_pseudonym") && !all.contains("127.0.0.1\"") && !all.contains("secret=1"), "{line}");
        assert!(!all.contains("user-1"), "{line}");
        for control in ["ip_allowlist", "authentication", "authorization", "waf"] {
            assert!(all.contains(control), "{control} in {line}");
        }
        let refused = gateway.ask(protocol, &Request::get("/v1/admin").bearer(main_token("acme")));
        let line = gateway.line(&refused.request_id());
        assert_eq!(line["status"], 403);
        assert!(line.to_string().contains("authorization.role"), "{line}");
    }
}

#[test]
fn each_request_has_one_line_also_when_it_is_refused_early() {
    let gateway = &world().gateway;
    let requests = [
        Request::get("/public"),
        Request::get("/public/.."),
        Request::get("/nowhere"),
        Request::get("/v1/orders"),
        Request::new("TRACE", "/public"),
        Request::get("/public").host("nowhere.invalid"),
        Request::get("/public").header("X_Y", "z"),
    ];
    for request in &requests {
        let answer = gateway.send(request);
        let line = gateway.line(&answer.request_id());
        assert_eq!(line["status"], answer.status, "{line}");
        let same = gateway.access_log().iter().filter(|l| l.contains(&answer.request_id())).count();
        assert_eq!(same, 1);
    }
}

#[test]
fn what_is_refused_before_it_is_a_request_is_counted() {
    let count = || world().gateway.metric("portcullis_heads_refused_total", &[]).unwrap_or(0.0);
    let before = count();
    let mut client = world().gateway.h1();
    client.send("GARBAGE\r\n\r\n");
    client.answer();
    wait_for("the refusal to be counted", || (count() > before).then_some(()));
}

#[test]
fn metrics_have_their_names_and_no_label_of_a_client() {
    let gateway = &world().gateway;
    for request in [Request::get("/v1/orders").bearer(main_token("acme")), Request::get("/planted-path")] {
        // A request is counted once its line is written.
        gateway.line(&gateway.send(&request).request_id());
    }
    let text = gateway.admin("GET", "/metrics").text();
    for name in [
        "portcullis_build_info",
        "portcullis_config_generation",
        "portcullis_config_last_reload_success",
        "portcullis_requests_total",
        "portcullis_request_duration_seconds_bucket",
        "portcullis_overhead_seconds_bucket",
        "portcullis_requests_in_flight",
        "portcullis_decisions_total",
        "portcullis_tls_handshakes_total",
        "portcullis_connections_open",
        "portcullis_upstream_requests_total",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is missing in\n{text}");
    }
    assert!(
        gateway.metric("portcullis_requests_total", &["tenant=\"acme\"", "code=\"200\""]).is_some_and(|n| n >= 1.0),
        "{text}"
    );
    for word in ["planted-path", "127.0.0.1\"", "user-1"] {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(word) && !line.contains("listener")).collect();
        assert!(lines.is_empty(), "{lines:?}");
    }
}

#[test]
fn probes_answer_on_the_operators_listener_only() {
    let gateway = &world().gateway;
    assert_eq!(gateway.admin_with("GET", "/livez", "").status, 200);
    assert_eq!(gateway.admin_with("GET", "/readyz", "").status, 200);
    assert_eq!(gateway.admin_with("GET", "/nowhere", "").status, 404);
    assert_eq!(gateway.send(&Request::get("/livez")).status, 404);
    assert_eq!(gateway.send(&Request::get("/metrics")).status, 404);
}

#[test]
fn a_decision_is_explained_from_its_request_id() {
    let gateway = &world().gateway;
    let answer = gateway.send(&Request::get("/v1/scoped").bearer(main_token("acme")));
    let id = answer.request_id();
    gateway.line(&id);
    let decision = gateway.admin("GET", &format!("/admin/v1/decisions/{id}"));
    assert_eq!(decision.status, 200, "{decision:?}");
    assert!(decision.text().contains("authorization.scope"), "{decision:?}");
    assert_eq!(gateway.admin_with("GET", &format!("/admin/v1/decisions/{id}"), "").status, 401);
    assert_eq!(gateway.admin("GET", "/admin/v1/decisions/unknown").status, 404);
    let explained = gateway.cli(&["explain", &id]);
    assert!(explained.status.success(), "{explained:?}");
    let said = String::from_utf8_lossy(&explained.stdout);
    assert!(said.contains("authorization.scope") && said.contains("scoped"), "{said}");
    assert!(!gateway.cli(&["explain", "unknown"]).status.success());
}

#[test]
fn an_api_key_is_issued_listed_and_revoked_without_a_restart() {
    let gateway = Setup::new(&world().upstream)
        .key("soon", &["--tenant", "acme", "--env", "live", "--scope", "orders:write"])
        .start();
    let ask = |path: &str, key: &str| gateway.send(&Request::get(path).header("X-Api-Key", key)).status;
    let soon = gateway.key("soon").to_owned();
    assert_eq!((ask("/v1/orders", &soon), ask("/v1/scoped", &soon), ask("/v1/admin", &soon)), (200, 200, 403));
    let list = gateway.command().args(["keys", "list", "--file", "keys.json"]).output().expect("it runs");
    let listed = String::from_utf8_lossy(&list.stdout).into_owned();
    let id = soon.split('_').nth(2).expect("a key has an id");
    assert!(list.status.success() && listed.contains(id) && listed.contains("acme"), "{list:?}");
    assert!(!listed.contains(soon.split('_').nth(3).expect("a key has a secret")));
    let revoke = gateway
        .command()
        .args(["keys", "revoke", "--file", "keys.json", "--pepper", "file:secrets/pepper", id])
        .output()
        .expect("it runs");
    assert!(revoke.status.success(), "{revoke:?}");
    wait_for("the key to be refused", || (ask("/v1/orders", &soon) == 401).then_some(()));
    assert_eq!(ask("/v1/orders", gateway.key("acme")), 200);
}

#[test]
fn keys_under_another_pepper_are_neither_issued_nor_revoked_in_a_file() {
    let setup = Setup::new(&world().upstream)
        .file("secrets/other", "6f1d0c9b8a7e6d5c4b3a29181716151413121110f0e1d2c3b4a5968778695a4b");
    let file = setup.path("keys.json");
    let before = std::fs::read_to_string(&file).expect("keys were issued");
    let id = setup.api_key("acme").split('_').nth(2).expect("a key has an id").to_owned();
    for arguments in [&["issue", "--tenant", "acme"][..], &["revoke", &id]] {
        let mut command = setup.command();
        let output = command
            .args(["keys", arguments[0], "--file", "keys.json", "--pepper", "file:secrets/other"])
            .args(&arguments[1..])
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("pepper"), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "no key is shown: {output:?}");
        assert_eq!(std::fs::read_to_string(&file).expect("it is still there"), before);
    }
}

#[test]
fn keys_come_from_a_key_server_and_rotate_without_a_restart() {
    let (old, new) = (Key::es256("old"), Key::es256("new"));
    let server = JwksServer::start(Some(key_set(&[&old])));
    let gateway = server.of_main(Setup::new(&world().upstream)).start();
    let status = |key: &Key| gateway.send(&Request::get("/v1/orders").bearer(Token::main("acme").sign(key))).status;
    wait_for("the first key set", || (status(&old) == 200).then_some(()));
    assert_eq!(status(&new), 401);
    server.serve(None);
    assert_eq!(status(&old), 200, "the last good set goes on");
    assert!(server.asked() >= 1);
}

#[test]
fn a_key_server_that_is_not_believed_gives_no_keys() {
    let key = Key::es256("only");
    let server = JwksServer::start(Some(key_set(&[&key])));
    // Its authority is not among those that the gateway believes.
    let gateway = Setup::new(&world().upstream)
        .set("issuers.main.keys", &format!("{{ jwks_url = \"{}\" }}", server.url()))
        .set("issuers.main.private_networks", r#"["127.0.0.0/8", "::1"]"#)
        .launch();
    let answer = gateway.send(&Request::get("/v1/orders").bearer(Token::main("acme").sign(&key)));
    assert_eq!(answer.status, 503, "{answer:?}");
}

#[test]
fn a_gateway_that_is_told_to_end_finishes_what_it_has_begun() {
    let upstream = Upstream::scripted(|seen| {
        if seen.target().contains("slow") {
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        portcullis_tests::Reply::ok()
    });
    let gateway = Setup::new(&upstream).start();
    let request = Request::get("/public/slow");
    let mut client = H1::over(gateway.dial().connect().expect("it connects"));
    client.send(request.h1());
    upstream.seen(&request.mark);
    gateway.signal("TERM");
    assert_eq!(client.answer().map(|a| a.status), Some(200));
    assert_eq!(gateway.end(), Some(0));
    assert!(
        gateway.access_log().iter().any(|line| line.contains("/public") || line.contains("public")),
        "its line is written"
    );
}

#[test]
fn no_panic_was_logged() {
    // Last by name or not: whatever ran before it on the shared gateway counts.
    let output = world().gateway.output();
    assert!(!output.contains("panicked"), "{output}");
    assert!(world().gateway.is_running());
}
