//! Issuers' keys: found, fetched, rotated, kept, shown.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use portcullis_tests::{
    Gateway, Key, Reply, Request, Setup, Token,
    jwks::JwksServer,
    tokens::{MAIN_ISSUER, key_set, now},
    wait_for,
};
use serde_json::{Value, json};

use crate::world;

fn setup() -> Setup {
    Setup::new(&world().upstream)
}

/// The status of a request with a token that this key signed, which no request had before.
fn status(gateway: &Gateway, key: &Key) -> u16 {
    gateway.send(&Request::get("/v1/orders").bearer(Token::main("acme").sign(key))).status
}

/// How the keys of `main` stand.
fn main_keys(gateway: &Gateway) -> Value {
    let answer: Value = serde_json::from_str(&gateway.admin("GET", "/admin/v1/issuers").text()).expect("it is JSON");
    let issuers = answer["issuers"].as_array().expect("a list").clone();
    issuers.into_iter().find(|issuer| issuer["issuer"] == "main").expect("it is listed")
}

#[test]
fn a_rotation_with_overlap_under_load_gives_not_one_false_401() {
    let (old, new) = (Key::es256("old"), Key::es256("new"));
    let both = key_set(&[&old, &new]);
    let (first, asked) = (key_set(&[&old]), AtomicUsize::new(0));
    let server = JwksServer::scripted(move |_| {
        let set = match asked.fetch_add(1, Ordering::Relaxed) {
            0 => &first,
            _ => {
                // As over a network: requests come while it is under way.
                thread::sleep(Duration::from_millis(100));
                &both
            }
        };
        Reply::with(200, &[("Content-Type", "application/json"), ("Cache-Control", "max-age=3600")], set)
    });
    let gateway = server.of_main(setup()).start();
    let (rotated, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let statuses: Vec<u16> = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = gateway.h1();
                    let mut statuses = Vec::new();
                    for _ in 0..150 {
                        let key = if rotated.load(Ordering::Relaxed) { &new } else { &old };
                        client.send(Request::get("/v1/orders").bearer(Token::main("acme").sign(key)).h1());
                        statuses.push(client.answer().expect("an answer").status);
                        if done.fetch_add(1, Ordering::Relaxed) == 200 {
                            rotated.store(true, Ordering::Relaxed);
                        }
                    }
                    statuses
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().expect("no client fails")).collect()
    });
    assert_eq!((statuses.len(), statuses.iter().filter(|status| **status != 200).count()), (600, 0));
    assert!(rotated.load(Ordering::Relaxed));
    assert_eq!(server.asked(), 2, "once at the start and once for the new key");
    assert_eq!((status(&gateway, &old), status(&gateway, &new)), (200, 200));
}

#[test]
fn a_key_that_leaves_the_set_is_refused_as_soon_as_the_operator_has_it_fetched() {
    let (old, new) = (Key::es256("old"), Key::es256("new"));
    let server = JwksServer::start(Some(key_set(&[&old, &new])));
    let gateway = server.of_main(setup()).start();
    assert_eq!((status(&gateway, &old), status(&gateway, &new)), (200, 200));
    server.serve(Some(key_set(&[&new])));
    assert_eq!(status(&gateway, &old), 200, "nobody has asked yet");
    let output = gateway.cli(&["keys", "refresh", "main"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((status(&gateway, &old), status(&gateway, &new)), (401, 200));
    let refresh = |name: &str| gateway.admin("POST", &format!("/admin/v1/issuers/{name}/refresh"));
    server.serve(None);
    let answer = refresh("main");
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(answer.text().contains("503"), "{}", answer.text());
    assert_eq!(status(&gateway, &new), 200, "the last good set goes on");
    assert_eq!((refresh("local").status, refresh("nobody").status, refresh("").status), (502, 404, 404));
    assert_eq!(gateway.admin("GET", "/admin/v1/issuers/main/refresh").status, 405);
    assert_eq!(gateway.admin_with("POST", "/admin/v1/issuers/main/refresh", "").status, 401);
}

#[test]
fn the_operator_sees_how_keys_stand() {
    let (one, other) = (Key::es256("one"), Key::eddsa("other"));
    let server = JwksServer::start(Some(key_set(&[&one, &other])));
    let gateway = server.of_main(setup()).start();
    let keys = main_keys(&gateway);
    assert_eq!(keys["source"], "jwks_url");
    assert_eq!(keys["at"], server.url());
    assert_eq!(keys["from"], "source");
    assert_eq!(keys["keys"], json!([{ "kid": "one", "algorithm": "ES256" }]));
    assert!(keys["dropped"][0].as_str().is_some_and(|why| why.contains("other")), "{keys}");
    assert!(keys["age_s"].as_u64().is_some_and(|age| age < 20), "{keys}");
    assert!(keys["next_fetch_s"].as_u64().is_some_and(|wait| (240..=330).contains(&wait)), "{keys}");
    assert_eq!((&keys["last_error"], &keys["missing"]), (&Value::Null, &Value::Null));
    let shown = || String::from_utf8(gateway.cli(&["keys", "status"]).stdout).expect("text");
    let said = shown();
    for words in
        ["main  jwks_url https://localhost", "s old", "key one ES256", "not used: ", "next fetch in ", "local  secret"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("last error"), "{said}");
    server.serve(None);
    assert!(!gateway.cli(&["keys", "refresh", "main"]).status.success());
    let said = shown();
    assert!(said.contains("last error ") && said.contains("was answered with 503"), "{said}");
    assert!(said.contains("key one ES256"), "{said}");
    let secret = String::from_utf8_lossy(portcullis_tests::tokens::LOCAL_SECRET).into_owned();
    assert!(!said.contains(&secret) && !gateway.admin("GET", "/admin/v1/issuers").text().contains(&secret));
}

#[test]
fn an_issuer_says_itself_where_its_keys_are() {
    let key = Key::es256("only");
    let set = key_set(&[&key]);
    let server = JwksServer::scripted(move |seen| {
        let port = seen.header("host").and_then(|host| host.rsplit(':').next().map(str::to_owned)).unwrap_or_default();
        let document = |issuer: &str| {
            let keys = format!("https://localhost:{port}/keys");
            json!({ "issuer": issuer, "jwks_uri": keys, "id_token_signing_alg_values_supported": ["ES256"] })
                .to_string()
        };
        let json = |body: String| Reply::with(200, &[("Content-Type", "application/json; charset=utf-8")], body);
        match seen.target().as_str() {
            "/.well-known/openid-configuration" => json(document(MAIN_ISSUER)),
            "/other/.well-known/openid-configuration" => json(document(&format!("{MAIN_ISSUER}/"))),
            "/keys" => json(set.clone()),
            _ => Reply::with(404, &[], ""),
        }
    });
    let at = |path: &str| format!("{{ discovery = \"{}\" }}", server.page(path));
    let gateway = server.of_main_at(setup(), &at("/.well-known/openid-configuration")).start();
    assert_eq!(status(&gateway, &key), 200);
    assert_eq!(main_keys(&gateway)["source"], "discovery");
    let gateway = server.of_main_at(setup(), &at("/other/.well-known/openid-configuration")).start();
    assert_eq!(status(&gateway, &key), 503, "a document of another issuer says nothing");
    let why = main_keys(&gateway)["last_error"]["why"].to_string();
    assert!(why.contains("byte for byte"), "{why}");
}

/// A setup that keeps key sets in `kept`.
fn keeping(setup: Setup) -> Setup {
    let folder = setup.path("kept");
    fs::create_dir(&folder).expect("a folder is made");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("its mode is set");
    setup.with("[key_sets]\nfolder = \"kept\"")
}

#[test]
fn a_gateway_that_starts_while_the_issuer_is_away_has_the_keys_that_were_kept() {
    let key = Key::es256("only");
    let server = JwksServer::start(Some(key_set(&[&key])));
    let gateway = keeping(server.of_main(setup())).start();
    assert_eq!(status(&gateway, &key), 200);
    let copy = gateway.setup().path("kept/main.json");
    assert_eq!(fs::metadata(&copy).expect("it is kept").permissions().mode() & 0o7777, 0o600);
    server.serve(None);
    let gateway = gateway.crash_and_start();
    assert_eq!(status(&gateway, &key), 200);
    assert_eq!(main_keys(&gateway)["from"], "copy");
    // As old as it was, also after another start.
    let age = |seconds: u64| {
        let mut kept: Value = serde_json::from_slice(&fs::read(&copy).expect("it is kept")).expect("it is JSON");
        kept["fetched"] = (now() - seconds).into();
        portcullis_tests::document::write_private(&copy, kept.to_string().as_bytes());
    };
    age(6 * 3600 - 600);
    let gateway = gateway.crash_and_start();
    assert_eq!(status(&gateway, &key), 200);
    assert!(main_keys(&gateway)["age_s"].as_u64().is_some_and(|age| age >= 6 * 3600 - 600));
    age(6 * 3600 + 60);
    let gateway = gateway.crash_and_start();
    assert_eq!(status(&gateway, &key), 503, "it is older than max_stale");
    // Others could have written it.
    age(0);
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o620)).expect("its mode is set");
    let gateway = gateway.crash_and_start();
    assert_eq!(status(&gateway, &key), 503);
    assert!(gateway.said(|line| line.contains("keys.copy_refused")).is_some());
    // The issuer is back.
    server.serve(Some(key_set(&[&key])));
    let gateway = gateway.crash_and_start();
    assert_eq!(status(&gateway, &key), 200);
    assert_eq!(main_keys(&gateway)["from"], "source");
}

#[test]
fn a_kept_key_set_becomes_stale_while_the_gateway_runs() {
    let key = Key::es256("only");
    let server = JwksServer::start(Some(key_set(&[&key])));
    let gateway = keeping(server.of_main(setup())).start();
    assert_eq!(status(&gateway, &key), 200);
    server.serve(None);
    let copy = gateway.setup().path("kept/main.json");
    let mut kept: Value = serde_json::from_slice(&fs::read(&copy).expect("it is kept")).expect("it is JSON");
    kept["fetched"] = (now() - 6 * 3600 + 4).into();
    portcullis_tests::document::write_private(&copy, kept.to_string().as_bytes());
    let gateway = gateway.crash_and_start();
    wait_for("the keys to be too old", || (status(&gateway, &key) == 503).then_some(()));
    assert!(main_keys(&gateway)["missing"].as_str().is_some_and(|why| why.contains("older than 6h")));
    let request = Request::get("/local").bearer(portcullis_tests::tokens::local_token("acme"));
    assert_eq!(gateway.send(&request).status, 200, "it is no other issuer's problem");
}

#[test]
fn a_reload_keeps_keys_that_come_from_the_same_place() {
    let key = Key::es256("only");
    let server = JwksServer::start(Some(key_set(&[&key])));
    let gateway = server.of_main(setup()).start();
    server.serve(None);
    let (gateway, taken) = gateway.reload(|setup| setup.set("issuers.main.max_stale", "\"1h\""));
    assert!(taken);
    assert_eq!(status(&gateway, &key), 200);
    assert_eq!(main_keys(&gateway)["max_stale_s"], 3600);
    // From elsewhere they are fetched before the new configuration is in force.
    let elsewhere = JwksServer::start(Some(key_set(&[&key])));
    let (gateway, taken) = gateway.reload(|setup| elsewhere.of_main(setup));
    assert!(taken);
    assert_eq!((status(&gateway, &key), elsewhere.asked()), (200, 1));
}

#[test]
fn a_check_notes_an_issuer_without_a_type() {
    let said = |setup: Setup| {
        let output = setup.check();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let without = said(setup());
    for issuer in ["main", "local"] {
        assert!(without.contains(&format!("note: issuer `{issuer}` has no `typ`")), "{without}");
    }
    let with = said(setup().set("issuers.main.typ", "\"at+jwt\"").set("issuers.local.typ", "\"session+jwt\""));
    assert!(!with.contains("`typ`"), "{with}");
}
