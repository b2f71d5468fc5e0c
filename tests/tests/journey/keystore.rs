//! API keys in a store: issued, listed, rotated, restricted and revoked while the gateway runs, and nothing in the store
//! that anybody could use.

use std::{fs, process::Output};

use portcullis_tests::{Dial, Gateway, H1, Request, Setup, wait_for};
use serde_json::{Value, json};

use crate::world;

const SQLITE: &str = "[api_keys]\nstore = \"sqlite:keys.db\"";

fn setup() -> Setup {
    Setup::new(&world().upstream).remove("api_keys.file").with(SQLITE)
}

fn words(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text").trim().to_owned()
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn issue(gateway: &Gateway, name: &str, more: &[&str]) -> String {
    let base = ["keys", "issue", "--tenant", "acme", "--scope", "orders", "--role", "developer", "--name", name];
    words(gateway.cli(&[&base[..], more].concat()))
}

fn id(key: &str) -> &str {
    key.split('_').nth(2).expect("a key has an id")
}

fn request(key: &str) -> Request {
    Request::get("/v1/orders").header("X-Api-Key", key)
}

fn status(gateway: &Gateway, key: &str) -> u16 {
    gateway.send(&request(key)).status
}

fn becomes(gateway: &Gateway, key: &str, wanted: u16) {
    wait_for("the gateway to hear of the key", || (status(gateway, key) == wanted).then_some(()));
}

fn show(gateway: &Gateway, key: &str) -> Value {
    serde_json::from_str(&words(gateway.cli(&["keys", "show", id(key)]))).expect("a key is shown as JSON")
}

#[test]
fn a_key_is_issued_used_and_revoked_and_the_store_holds_nothing_of_it() {
    let gateway = setup().start();
    let key = issue(&gateway, "till 7", &[]);
    becomes(&gateway, &key, 200);
    let shown = show(&gateway, &key);
    assert_eq!(
        (&shown["name"], &shown["state"], &shown["tenant"]),
        (&json!("till 7"), &json!("active"), &json!("acme"))
    );
    let lifetime =
        |shown: &Value| shown["expires"].as_u64().zip(shown["created"].as_u64()).map(|(end, start)| end - start);
    assert_eq!(lifetime(&shown), Some(90 * 86_400));
    assert!(shown.get("hash").is_none() && shown.get("mac").is_none(), "{shown}");
    let listed = words(gateway.cli(&["keys", "list", "--tenant", "acme"]));
    assert!(listed.contains(id(&key)) && listed.contains("till 7") && listed.contains("pepper="), "{listed}");
    assert!(!words(gateway.cli(&["keys", "list", "--tenant", "globex"])).contains(id(&key)));

    assert!(words(gateway.cli(&["keys", "revoke", id(&key)])).contains("is revoked"));
    becomes(&gateway, &key, 401);
    assert_eq!(show(&gateway, &key)["state"], "revoked");

    let store = fs::read(gateway.setup().path("keys.db")).expect("the store is a file");
    let secret = key.split('_').nth(3).expect("a key has a secret");
    let holds = |text: &str| store.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds(id(&key)), "the record is there");
    assert!(!holds(secret) && !holds(&key), "the secret is not");
    let plain = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
    let secret_plain = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes());
    for digest in [plain, secret_plain] {
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!holds(&hex) && !store.windows(32).any(|window| window == digest.as_ref()), "no plain hash either");
    }
    assert!(!gateway.output().contains(secret), "nor any log");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(gateway.setup().path("keys.db")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_rotated_key_goes_on_for_the_overlap_and_its_successor_has_its_rights() {
    let gateway = setup().start();
    let old = issue(&gateway, "till", &["--cidr", "127.0.0.0/8", "--route", "api.example.test/orders"]);
    becomes(&gateway, &old, 200);
    let new = words(gateway.cli(&["keys", "rotate", "--overlap", "4s", id(&old)]));
    becomes(&gateway, &new, 200);
    let (before, after) = (show(&gateway, &old), show(&gateway, &new));
    for name in ["name", "tenant", "role", "scopes", "cidrs", "routes", "env"] {
        assert_eq!(before[name], after[name], "{name}");
    }
    assert_eq!(before["successor"], json!(id(&new)));
    assert!(refused(&gateway.cli(&["keys", "rotate", id(&old)])).contains("only an active key is rotated"));
    // Under traffic: the new key is never refused, the old one from some moment on always.
    let mut ended = false;
    wait_for("the overlap to end", || {
        assert_eq!(status(&gateway, &new), 200);
        let now = status(&gateway, &old);
        assert!(!ended || now == 401, "it came back");
        ended |= now == 401;
        ended.then_some(())
    });
    assert_eq!((status(&gateway, &old), status(&gateway, &new)), (401, 200));
    assert!(refused(&gateway.cli(&["keys", "rotate", "--overlap", "31d", id(&new)])).contains("30 days"));
}

#[test]
fn a_key_opens_its_routes_from_its_networks_and_says_which_it_was() {
    let gateway = setup().start();
    let far = issue(&gateway, "far", &["--cidr", "203.0.113.0/24"]);
    let here = issue(&gateway, "here", &["--cidr", "127.0.0.0/8", "--cidr", "2001:db8::/32"]);
    let narrow = issue(&gateway, "narrow", &["--route", "api.example.test/scoped"]);
    becomes(&gateway, &here, 200);
    let code = |key: &str, path: &str| {
        let answer = gateway.send(&Request::get(path).header("X-Api-Key", key));
        (answer.status, answer.code())
    };
    wait_for("the last key to be heard of", || (status(&gateway, &narrow) == 403).then_some(()));
    assert_eq!(code(&far, "/v1/orders"), (403, "authentication.key_address".to_owned()));
    assert_eq!(code(&far, "/public"), (403, "authentication.key_address".to_owned()), "also where nobody needs one");
    assert_eq!(code(&narrow, "/v1/orders"), (403, "authentication.key_route".to_owned()));
    // Its own route, for which it lacks the scope.
    assert_eq!(code(&narrow, "/v1/scoped").1, "authorization.scope");
    let refusal = gateway.send(&request(&far));
    let explained = words(gateway.cli(&["explain", &refusal.request_id()]));
    assert!(explained.contains("none of the key's cidrs"), "{explained}");
    // What has ended is 401 wherever it comes from.
    words(gateway.cli(&["keys", "revoke", id(&far)]));
    becomes(&gateway, &far, 401);
    for (arguments, why) in [(["--route", "api.example.test/no"], "no route"), (["--cidr", "127.0.0.1/8"], "host bits")]
    {
        let base = ["keys", "issue", "--tenant", "acme", "--name", "x"];
        assert!(refused(&gateway.cli(&[&base[..], &arguments].concat())).contains(why));
    }
}

#[test]
fn a_name_is_a_tenants_own_and_a_tenant_has_so_many_keys() {
    let gateway = setup().with("[api_keys]\nkeys_max = 2").start();
    let first = issue(&gateway, "one", &[]);
    let again = |name: &str, tenant: &str| gateway.cli(&["keys", "issue", "--tenant", tenant, "--name", name]);
    assert!(refused(&again("one", "acme")).contains("has an active key"));
    words(again("one", "globex"));
    words(again("two", "acme"));
    assert!(refused(&again("three", "acme")).contains("2 active keys"));
    assert!(refused(&gateway.cli(&["keys", "issue", "--tenant", "acme"])).contains("name is missing"));
    words(gateway.cli(&["keys", "revoke", id(&first)]));
    words(again("one", "acme"));
}

#[test]
fn a_record_that_was_changed_opens_nothing_and_signs_nobody_else_out() {
    let gateway = setup().start();
    let (good, bad) = (issue(&gateway, "good", &[]), issue(&gateway, "bad", &[]));
    becomes(&gateway, &bad, 200);
    let store = rusqlite::Connection::open(gateway.setup().path("keys.db")).expect("the store opens");
    let change = "UPDATE portcullis_api_keys SET record = replace(record, 'developer', 'owner') WHERE id = ?1";
    assert_eq!(store.execute(change, [id(&bad)]).expect("it is written"), 1);
    store.execute("UPDATE portcullis_api_keys_state SET changes = changes + 1", []).expect("it is written");
    becomes(&gateway, &bad, 401);
    assert_eq!(status(&gateway, &good), 200);
    let said = gateway.said(|line| line.contains("api_keys.unusable")).expect("it is told");
    assert!(said.contains(id(&bad)) && said.contains("mac"), "{said}");
    assert_eq!(gateway.metric("portcullis_api_keys_unusable", &[]), Some(1.0));
    assert_eq!(show(&gateway, &bad)["state"], "unusable");
    assert!(refused(&gateway.cli(&["keys", "rotate", id(&bad)])).contains("mac"), "it gets no good MAC");
}

#[test]
fn a_row_that_is_no_text_keeps_no_revocation_from_being_heard() {
    let gateway = setup().start();
    let (good, bad) = (issue(&gateway, "good", &[]), issue(&gateway, "bad", &[]));
    becomes(&gateway, &bad, 200);
    let store = rusqlite::Connection::open(gateway.setup().path("keys.db")).expect("the store opens");
    let change = "UPDATE portcullis_api_keys SET record = CAST(x'ff' AS TEXT) WHERE id = ?1";
    assert_eq!(store.execute(change, [id(&bad)]).expect("it is written"), 1);
    // A table without types, as somebody may have made it, may hold anything.
    let foreign = "CREATE TABLE moved AS SELECT * FROM portcullis_api_keys;
        DROP TABLE portcullis_api_keys;
        CREATE TABLE portcullis_api_keys (id PRIMARY KEY, tenant, record, last_used);
        INSERT INTO portcullis_api_keys SELECT * FROM moved;
        INSERT INTO portcullis_api_keys VALUES (x'fe', 'acme', '{}', NULL), ('b', 7, '{}', NULL), ('c', 'acme', NULL, 'x');
        UPDATE portcullis_api_keys_state SET changes = changes + 1;";
    store.execute_batch(foreign).expect("it is written");
    becomes(&gateway, &bad, 401);
    assert_eq!(gateway.metric("portcullis_api_keys_unusable", &[]), Some(4.0));
    let (code, done) = ask_admin(&gateway, &format!("/{}/revoke", id(&good)), &json!({ "by": "kim" }));
    assert_eq!((code, status(&gateway, &good)), (200, 401), "{done}");
    assert_eq!(show(&gateway, &bad)["state"], "unusable");
    assert!(refused(&gateway.cli(&["keys", "revoke", id(&bad)])).contains("its record is no text"));
    assert!(words(gateway.cli(&["keys", "list"])).contains("unusable"));
}

#[test]
fn a_revocation_that_is_written_and_not_in_force_is_not_answered_for() {
    let gateway = setup().start();
    let (first, second) = (issue(&gateway, "first", &[]), issue(&gateway, "second", &[]));
    becomes(&gateway, &second, 200);
    let store = rusqlite::Connection::open(gateway.setup().path("keys.db")).expect("the store opens");
    // It can be written to, and not be read: which state it is in is no text.
    let spoil = "UPDATE portcullis_api_keys_state SET epoch = CAST(x'ff' AS TEXT)";
    store.execute(spoil, []).expect("it is written");
    let (code, answer) = ask_admin(&gateway, &format!("/{}/revoke", id(&first)), &json!({ "by": "kim" }));
    assert_eq!((code, status(&gateway, &first)), (503, 200), "{answer}");
    assert!(answer["error"].as_str().is_some_and(|why| why.contains("it is written, and not in force")), "{answer}");
    let said = refused(&gateway.cli(&["keys", "revoke", id(&second)]));
    assert!(said.contains("written, and not in force"), "{said}");
    let order = json!({ "tenant": "acme", "name": "third", "created_by": "kim" });
    let (code, made) = ask_admin(&gateway, "", &order);
    assert!(code == 503 && made["key"].is_string(), "what was made is told all the same: {made}");
    store.execute("UPDATE portcullis_api_keys_state SET epoch = 'mended'", []).expect("it is written");
    becomes(&gateway, &first, 401);
    becomes(&gateway, &second, 401);
}

#[test]
fn a_revocation_is_heard_while_a_reload_waits_for_an_issuer() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let slow = portcullis_tests::jwks::JwksServer::scripted(move |_| {
        // Until the test has seen it, or is over.
        let _over = held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
        portcullis_tests::Reply::with(503, &[], "")
    });
    let ca = |setup: Setup| {
        let bundle = setup.path("tls/ca.pem").display().to_string();
        setup.environment("SSL_CERT_FILE", &bundle)
    };
    let gateway = ca(setup()).start();
    let key = issue(&gateway, "one", &[]);
    becomes(&gateway, &key, 200);
    let reloads = || gateway.metric("portcullis_config_reloads_total", &[]).unwrap_or(0.0);
    let before = reloads();
    let text = fs::read_to_string(gateway.setup().path("portcullis.toml")).expect("it is there");
    let mut document: toml::Table = toml::from_str(&text).expect("TOML");
    let main = document["issuers"]["main"].as_table_mut().expect("a table");
    let keys = toml::Table::from_iter([("jwks_url".to_owned(), slow.url().into())]);
    main.insert("keys".to_owned(), keys.into());
    main.insert("private_networks".to_owned(), vec!["127.0.0.0/8", "::1"].into());
    fs::write(gateway.setup().path("portcullis.toml"), toml::to_string(&document).expect("TOML"))
        .expect("it is written");
    gateway.signal("HUP");
    wait_for("the reload to ask the issuer", || (slow.asked() > 0).then_some(()));
    words(gateway.cli(&["keys", "revoke", id(&key)]));
    becomes(&gateway, &key, 401);
    assert_eq!(reloads(), before, "and the reload is still on");
    drop(release);
    wait_for("the reload to end", || (reloads() > before).then_some(()));
    assert_eq!(status(&gateway, &key), 401);
}

#[test]
fn a_store_that_is_away_is_believed_for_a_while_and_then_nobody_is() {
    let gateway = setup().with("[api_keys]\nmax_stale = \"2s\"").start();
    let key = issue(&gateway, "one", &[]);
    becomes(&gateway, &key, 200);
    let (path, aside) = (gateway.setup().path("keys.db"), gateway.setup().path("aside.db"));
    fs::rename(&path, &aside).expect("it is moved");
    gateway.said(|line| line.contains("api_keys.store_away")).expect("it is told");
    assert_eq!(gateway.metric("portcullis_api_keys_last_load_success", &[]), Some(0.0));
    assert!(gateway.admin("GET", "/readyz").text().contains("away for"));
    assert_eq!(status(&gateway, &key), 200, "known keys go on");
    let answer = wait_for("the bound", || {
        let answer = gateway.send(&request(&key));
        (answer.status == 503).then_some(answer)
    });
    assert_eq!(answer.code(), "gateway.unavailable");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(status(&gateway, "pck_live_x"), 503, "nobody can say that it is none");
    let token = portcullis_tests::tokens::main_token("acme");
    assert_eq!(
        gateway.send(&Request::get("/v1/orders").bearer(token)).status,
        200,
        "others have nothing to do with it"
    );
    fs::rename(&aside, &path).expect("it is moved back");
    becomes(&gateway, &key, 200);
    gateway.said(|line| line.contains("api_keys.store_back")).expect("it is told");
}

#[test]
fn a_use_is_written_down_once_a_minute() {
    let gateway = setup().start();
    let key = issue(&gateway, "one", &[]);
    assert_eq!(show(&gateway, &key)["last_used"], Value::Null);
    becomes(&gateway, &key, 200);
    let first = wait_for("the use to be written", || show(&gateway, &key)["last_used"].as_u64());
    assert!(first <= portcullis_tests::tokens::now());
    for _ in 0..20 {
        assert_eq!(status(&gateway, &key), 200);
    }
    // Another key's use is written after those would have been.
    let other = issue(&gateway, "two", &[]);
    becomes(&gateway, &other, 200);
    wait_for("the other use to be written", || show(&gateway, &other)["last_used"].as_u64());
    assert_eq!(show(&gateway, &key)["last_used"].as_u64(), Some(first));
    assert_eq!(gateway.metric("portcullis_api_keys_uses_lost_total", &[]), Some(0.0));
}

#[test]
fn guesses_are_slowed_down_and_a_good_key_beside_them_is_not() {
    let gateway = setup().set("api_keys.failures", "{ attempts = 5, window = \"1h\" }").start();
    let key = issue(&gateway, "one", &[]);
    becomes(&gateway, &key, 200);
    let revoked = issue(&gateway, "gone", &[]);
    words(gateway.cli(&["keys", "revoke", id(&revoked)]));
    let guesser = gateway.dial().from("127.0.0.9");
    let ask = |dial: &Dial, key: &str| gateway.send_from(dial, &request(key));
    let guesses = [format!("{key}x"), "pck_live_a_b_c".to_owned(), key.replace("pck_live_", "pck_test_")];
    for guess in guesses.iter().cycle().take(5) {
        assert_eq!(ask(&guesser, guess).status, 401, "{guess}");
    }
    for guess in &guesses {
        let answer = ask(&guesser, guess);
        assert_eq!((answer.status, answer.code().as_str()), (429, "authentication.key_failures"));
        let seconds: u64 = answer.header("retry-after").and_then(|text| text.parse().ok()).expect("it says when");
        assert!((1..=720).contains(&seconds), "{seconds}");
    }
    assert_eq!(ask(&guesser, &key).status, 200, "a good key is good from there too");
    assert_eq!(ask(&gateway.dial().from("127.0.0.10"), &guesses[0]).status, 401, "others start anew");
}

fn ask_admin(gateway: &Gateway, path: &str, body: &Value) -> (u16, Value) {
    let answer = gateway.admin_post(&format!("/admin/v1/api-keys{path}"), body);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    (answer.status, serde_json::from_str(&answer.text()).expect("it answers with JSON"))
}

#[test]
fn the_admin_listener_issues_shows_rotates_and_revokes() {
    let gateway = setup().start();
    let order = json!({ "tenant": "acme", "name": "till", "scopes": ["orders"], "role": "developer",
        "routes": ["api.example.test/orders"], "expires": "30d", "created_by": "kim" });
    let (code, made) = ask_admin(&gateway, "", &order);
    assert_eq!(code, 200, "{made}");
    let key = made["key"].as_str().expect("the secret is told once").to_owned();
    assert_eq!(status(&gateway, &key), 200, "from the answer on");
    let get = |target: &str| {
        let answer = gateway.admin("GET", &format!("/admin/v1/api-keys{target}"));
        (answer.status, answer.text())
    };
    let (code, one) = get(&format!("/{}", id(&key)));
    let one: Value = serde_json::from_str(&one).expect("JSON");
    assert_eq!((code, &one["created_by"], &one["state"]), (200, &json!("kim"), &json!("active")));
    let secret = key.split('_').nth(3).expect("a secret");
    for target in ["", "?tenant=acme"] {
        let (code, list) = get(target);
        assert!(code == 200 && list.contains(id(&key)) && !list.contains(secret), "{list}");
    }
    assert!(!get("?tenant=globex").1.contains(id(&key)));
    assert_eq!(get(&format!("/{}?tenant=globex", id(&key))).0, 404);
    assert_eq!(get("/AAAAAAAAAAAA").0, 404);
    assert_eq!(get("?user=kim").0, 400);

    let (code, successor) = ask_admin(&gateway, &format!("/{}/rotate", id(&key)), &json!({ "created_by": "kim" }));
    assert_eq!(code, 200, "{successor}");
    let new = successor["key"].as_str().expect("the secret is told once").to_owned();
    assert_eq!((status(&gateway, &key), status(&gateway, &new)), (200, 200));
    let (code, done) = ask_admin(&gateway, &format!("/{}/revoke", id(&key)), &json!({ "by": "kim" }));
    assert_eq!((code, status(&gateway, &key), status(&gateway, &new)), (200, 401, 200), "{done}");
    for event in ["api_keys.issued", "api_keys.rotated", "api_keys.revoked"] {
        let line = gateway.said(|line| line.contains(event)).expect("it is audited");
        assert!(line.contains("kim") && !line.contains(secret), "{line}");
    }
    for (path, body, wanted) in [
        ("", json!({ "tenant": "acme", "name": "x" }), 400),
        ("", json!({ "tenant": "acme", "name": "x", "created_by": "kim", "role": "god" }), 400),
        ("", json!({ "tenant": "acme", "name": "x", "created_by": "kim", "routes": ["a/b"] }), 400),
        ("", json!({ "tenant": "acme", "name": "x", "created_by": "kim", "expires": "366d" }), 409),
        ("", json!({ "tenant": "acme", "name": "till", "created_by": "kim" }), 409),
        ("/AAAAAAAAAAAA/revoke", json!({ "by": "kim" }), 404),
        ("/AAAAAAAAAAAA/burn", json!({ "by": "kim" }), 405),
    ] {
        assert_eq!(ask_admin(&gateway, path, &body).0, wanted, "{path} {body}");
    }
    let without = "Content-Length: 0\r\n";
    assert_eq!(gateway.admin_with("GET", "/admin/v1/api-keys", without).status, 401);
    assert_eq!(world().gateway.admin("GET", "/admin/v1/api-keys").status, 404, "a file has no such page");
}

#[test]
fn a_pepper_is_changed_without_a_key_less() {
    let gateway = setup().start();
    let key = issue(&gateway, "one", &[]);
    becomes(&gateway, &key, 200);
    let version = show(&gateway, &key)["pepper"].clone();
    let (gateway, taken) = gateway.reload(|setup| {
        setup
            .file("secrets/pepper2", "another-planted-pepper-9876543210fedcba98765432")
            .set("api_keys.pepper", "\"file:secrets/pepper2\"")
    });
    assert!(!taken, "a pepper that reads no record is refused");
    assert_eq!(status(&gateway, &key), 200);
    let (gateway, taken) = gateway.reload(|setup| setup.with("[api_keys]\nolder_peppers = [\"file:secrets/pepper\"]"));
    assert!(taken);
    assert_eq!(status(&gateway, &key), 200);
    let new = words(gateway.cli(&["keys", "rotate", id(&key)]));
    becomes(&gateway, &new, 200);
    assert_eq!(show(&gateway, &key)["pepper"], version);
    assert_ne!(show(&gateway, &new)["pepper"], version);
    let (gateway, taken) = gateway.reload(|setup| setup.remove("api_keys.older_peppers"));
    assert!(taken);
    assert_eq!((status(&gateway, &key), status(&gateway, &new)), (401, 200), "what the old one made has ended");
    gateway.said(|line| line.contains("api_keys.unusable") && line.contains("pepper")).expect("and it is told");
}

#[test]
fn a_client_under_way_is_not_held_up_by_a_change() {
    let gateway = setup().start();
    let key = issue(&gateway, "one", &[]);
    becomes(&gateway, &key, 200);
    let mut client = H1::over(gateway.dial().connect().expect("it connects"));
    for round in 0..20 {
        words(gateway.cli(&["keys", "issue", "--tenant", "globex", "--name", &format!("key {round}")]));
        client.send(request(&key).h1());
        assert_eq!(client.answer().expect("it answers").status, 200);
    }
}
