//! THREATS E1 and E5: floods of unknown keys, and key servers that lead elsewhere.

use std::{
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use portcullis_tests::{
    Gateway, Key, Reply, Request, Setup, Token, Upstream,
    jwks::JwksServer,
    tokens::{key_set, main_key},
    wait_for,
};

use crate::world;

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn setup() -> Setup {
    Setup::new(&world().upstream)
}

fn orders(token: String) -> Request {
    Request::get("/v1/orders").bearer(token)
}

/// Why the keys of `main` could not be had, once that is known.
fn last_error(gateway: &Gateway) -> String {
    wait_for("the fetch to fail", || {
        let answer: serde_json::Value = serde_json::from_str(&gateway.admin("GET", "/admin/v1/issuers").text()).ok()?;
        let issuers = answer["issuers"].as_array()?.clone();
        let main = issuers.into_iter().find(|issuer| issuer["issuer"] == "main")?;
        main["last_error"]["why"].as_str().map(str::to_owned)
    })
}

/// Asserts that a gateway with this setup has no keys, answers 503 for want of them, and says why.
#[track_caller]
fn has_no_keys(setup: Setup, words: &str) {
    let gateway = setup.launch();
    let why = last_error(&gateway);
    assert!(why.contains(words), "{why}");
    assert_eq!(gateway.send(&orders(Token::main("acme").sign(main_key()))).status, 503);
}

#[test]
fn key_01_a_flood_of_unknown_keys_makes_one_fetch() {
    let key = Key::es256("known");
    let server = JwksServer::start(Some(key_set(&[&key])));
    let gateway = server.of_main(setup()).start();
    let statuses: Vec<u16> = thread::scope(|scope| {
        let attackers: Vec<_> = (0..8)
            .map(|nth| {
                let (gateway, key) = (&gateway, &key);
                scope.spawn(move || {
                    let mut client = gateway.h1();
                    let ask = |client: &mut portcullis_tests::H1, token: String| {
                        client.send(orders(token).h1());
                        client.answer().expect("an answer").status
                    };
                    (0..50)
                        .map(|n| {
                            let kid = format!("{nth}-{n}");
                            ask(&mut client, Token::main("acme").header("kid", kid).sign(key))
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        attackers.into_iter().flat_map(|attacker| attacker.join().expect("no attacker fails")).collect()
    });
    assert_eq!(statuses.len(), 400);
    assert!(statuses.iter().all(|status| *status == 401), "{statuses:?}");
    assert_eq!(server.asked(), 2, "one at the start, one for all of them");
    assert_eq!(gateway.send(&orders(Token::main("acme").sign(&key))).status, 200);
}

#[test]
fn key_01_few_wait_for_a_fetch_and_nobody_with_a_known_key_does() {
    let key = Key::es256("known");
    let set = key_set(&[&key]);
    let (go, held) = mpsc::channel::<()>();
    let held = Mutex::new((0, held));
    let server = JwksServer::scripted(move |_| {
        let mut held = held.lock().expect("no test fails while it holds this");
        held.0 += 1;
        if held.0 == 2 {
            // Until the test lets go.
            let _let_go = held.1.recv();
        }
        Reply::with(200, &[JSON], &set)
    });
    let gateway = server.of_main(setup()).start();
    let mut waiting: Vec<_> = (0..70)
        .map(|n| {
            let mut client = gateway.h1();
            client.send(orders(Token::main("acme").header("kid", format!("x{n}")).sign(&key)).h1());
            client
        })
        .collect();
    assert_eq!(gateway.send(&orders(Token::main("acme").sign(&key))).status, 200);
    let statuses: Vec<u16> = waiting.iter_mut().map(|client| client.answer().expect("an answer").status).collect();
    assert!(statuses.iter().all(|status| *status == 503), "the issuer has not said no to any of them: {statuses:?}");
    assert_eq!(server.asked(), 2);
    go.send(()).expect("the server waits");
}

#[test]
fn key_05_an_address_inside_is_not_asked_unless_it_is_named() {
    let server = JwksServer::start(Some(key_set(&[main_key()])));
    // A name that leads to loopback.
    let setup = server.of_main(setup()).remove("issuers.main.private_networks");
    has_no_keys(setup, "has no address that is public or in private_networks");
    let setup = server.of_main(self::setup()).set("issuers.main.private_networks", r#"["10.0.0.0/8"]"#);
    has_no_keys(setup, "has no address that is public or in private_networks");
    // Addresses that no name is looked up for: the plain spelling is a load error, others are refused when it comes to it.
    let at = |host: &str| {
        let keys = format!("{{ jwks_url = \"{}\" }}", server.url().replace("localhost", host));
        server.of_main_at(self::setup(), &keys).remove("issuers.main.private_networks")
    };
    for host in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"] {
        let output = at(host).check();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains("not public"), "{host}: {said}");
    }
    for host in ["127.1", "2130706433", "0x7f.0.0.1"] {
        has_no_keys(at(host), "has no address that is public or in private_networks");
    }
    assert_eq!(server.asked(), 0);
}

#[test]
fn key_05_a_discovery_document_leads_nowhere_else() {
    let inside = Upstream::start();
    let target = format!("https://127.0.0.2:{}/keys", inside.address().port());
    let server = JwksServer::scripted(move |seen| {
        let uri = if seen.target() == "/plain" { "http://127.0.0.1/keys" } else { &target };
        let document = serde_json::json!({ "issuer": portcullis_tests::tokens::MAIN_ISSUER, "jwks_uri": uri });
        Reply::with(200, &[JSON], document.to_string())
    });
    let at = |path: &str| {
        let keys = format!("{{ discovery = \"{}\" }}", server.page(path));
        server.of_main_at(setup(), &keys).set("issuers.main.private_networks", r#"["127.0.0.1", "::1"]"#)
    };
    has_no_keys(at("/plain"), "must start with https://");
    has_no_keys(at("/inside"), "127.0.0.2 has no address that is public");
}

#[test]
fn key_05_what_is_no_key_set_in_time_and_size_is_none() {
    let set = key_set(&[main_key()]);
    let good = set.clone();
    let server = JwksServer::scripted(move |seen| match seen.target().as_str() {
        "/redirect" => Reply::with(302, &[("Location", "/good"), JSON], ""),
        "/good" => Reply::with(200, &[JSON], &good),
        // Blanks are JSON: only the size is wrong.
        "/large" => Reply::with(200, &[JSON], format!("{}{good}", " ".repeat(256 * 1024))),
        "/html" => Reply::with(200, &[("Content-Type", "text/html")], &good),
        "/missing" => Reply::with(404, &[JSON], &good),
        "/slow" => Reply::Silence(Duration::from_secs(20)),
        _ => Reply::Close,
    });
    let at = |path: &str| server.of_main_at(setup(), &format!("{{ jwks_url = \"{}\" }}", server.page(path)));
    has_no_keys(at("/redirect"), "302, and redirects are not followed");
    has_no_keys(at("/large"), "larger than 262144 bytes");
    has_no_keys(at("/html"), "`text/html`");
    has_no_keys(at("/missing"), "404");
    has_no_keys(at("/closed"), "");
    has_no_keys(at("/slow"), "time");
    let gateway = at("/good").start();
    assert_eq!(gateway.send(&orders(Token::main("acme").sign(main_key()))).status, 200);
}

#[test]
fn key_05_no_proxy_of_the_environment_is_asked_for_keys() {
    let proxy = Upstream::start();
    let server = JwksServer::start(Some(key_set(&[main_key()])));
    let address = format!("http://{}", proxy.address());
    let gateway = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY"]
        .iter()
        .fold(server.of_main(setup()), |setup, name| setup.environment(name, &address))
        .start();
    assert_eq!(gateway.send(&orders(Token::main("acme").sign(main_key()))).status, 200);
    assert_eq!((proxy.all().len(), server.asked()), (0, 1));
}
