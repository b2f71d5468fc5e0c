//! API keys in PostgreSQL, a real server: two gateways, one store, and what happens when it goes.

use portcullis_tests::{Gateway, Request, Setup, postgres::Postgres, wait_for};

use crate::world;

fn setup(postgres: &Postgres) -> Setup {
    let store = format!("[api_keys]\nstore = \"{}\"", postgres.url());
    Setup::new(&world().upstream).remove("api_keys.file").with(&store)
}

fn words(gateway: &Gateway, arguments: &[&str]) -> String {
    let output = gateway.cli(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text").trim().to_owned()
}

fn issue(gateway: &Gateway, name: &str) -> String {
    let order = ["keys", "issue", "--tenant", "acme", "--scope", "orders", "--role", "developer", "--name", name];
    words(gateway, &order)
}

fn id(key: &str) -> &str {
    key.split('_').nth(2).expect("a key has an id")
}

fn status(gateway: &Gateway, key: &str) -> u16 {
    gateway.send(&Request::get("/v1/orders").header("X-Api-Key", key)).status
}

fn becomes(gateway: &Gateway, key: &str, wanted: u16) {
    wait_for("the gateway to hear of the key", || (status(gateway, key) == wanted).then_some(()));
}

#[test]
fn two_gateways_hear_of_one_store_and_a_dump_of_it_opens_nothing() {
    let postgres = Postgres::start();
    let (one, two) = (setup(&postgres).start(), setup(&postgres).start());
    let key = issue(&one, "till");
    becomes(&one, &key, 200);
    becomes(&two, &key, 200);
    let successor = words(&two, &["keys", "rotate", id(&key)]);
    becomes(&one, &successor, 200);
    let made = one.admin_post(&format!("/admin/v1/api-keys/{}/revoke", id(&key)), &serde_json::json!({ "by": "kim" }));
    assert_eq!((made.status, status(&one, &key)), (200, 401));
    becomes(&two, &key, 401);
    assert_eq!(status(&two, &successor), 200);

    let dump = postgres.dump();
    for key in [&key, &successor] {
        let secret = key.split('_').nth(3).expect("a key has a secret");
        assert!(dump.contains(id(key)), "the record is there");
        for text in [key.as_str(), secret] {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
            let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(!dump.contains(text) && !dump.contains(&hex), "{dump}");
        }
    }
    // Nothing in it is a key itself.
    let good = status(&one, &successor);
    for piece in dump.split(['"', '$', '\t', '\n']).filter(|piece| piece.len() >= 16 && piece.is_ascii()) {
        if !piece.contains(' ') {
            assert_ne!(status(&one, piece), good, "{piece}");
        }
    }
}

#[test]
fn a_record_that_was_changed_in_the_database_opens_nothing() {
    let postgres = Postgres::start();
    let gateway = setup(&postgres).start();
    let (good, bad) = (issue(&gateway, "good"), issue(&gateway, "bad"));
    becomes(&gateway, &bad, 200);
    let change = format!(
        "UPDATE portcullis_api_keys SET record = replace(record, 'developer', 'owner') WHERE id = '{}';
         UPDATE portcullis_api_keys_state SET changes = changes + 1",
        id(&bad)
    );
    postgres.run(&change).expect("it is written");
    becomes(&gateway, &bad, 401);
    assert_eq!(status(&gateway, &good), 200);
    gateway.said(|line| line.contains("api_keys.unusable") && line.contains(id(&bad))).expect("it is told");
    wait_for("the use to be written", || {
        let used = postgres.run("SELECT last_used FROM portcullis_api_keys WHERE last_used IS NOT NULL").ok()?;
        (!used.is_empty()).then_some(())
    });
}

#[test]
fn a_database_that_goes_and_comes_back_signs_nobody_out() {
    let mut postgres = Postgres::start();
    let gateway = setup(&postgres).with("[api_keys]\nmax_stale = \"3s\"").start();
    let key = issue(&gateway, "one");
    becomes(&gateway, &key, 200);
    postgres.kill();
    gateway.said(|line| line.contains("api_keys.store_away")).expect("it is told");
    assert_eq!(status(&gateway, &key), 200, "known keys go on");
    becomes(&gateway, &key, 503);
    assert_eq!(gateway.metric("portcullis_api_keys_last_load_success", &[]), Some(0.0));
    postgres.restart();
    becomes(&gateway, &key, 200);
}

#[test]
fn a_gateway_that_never_reached_its_database_is_not_ready() {
    let mut postgres = Postgres::start();
    postgres.kill();
    let gateway = setup(&postgres).launch();
    gateway.said(|line| line.contains("api_keys.store_away")).expect("it is told");
    let answer =
        wait_for("the listener", || Some(gateway.admin("GET", "/readyz")).filter(|answer| answer.status == 503));
    assert!(answer.text().contains("\"ready\":false"), "{}", answer.text());
    assert_eq!(status(&gateway, "pck_live_x"), 503);
    postgres.restart();
    wait_for("the gateway to be ready", || (gateway.admin("GET", "/readyz").status == 200).then_some(()));
    let key = issue(&gateway, "one");
    becomes(&gateway, &key, 200);
}
