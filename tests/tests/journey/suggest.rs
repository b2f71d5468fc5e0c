//! Limits suggested from the access log of a gateway that runs, and taken into its configuration.

use std::{
    fs::File,
    process::{Output, Stdio},
};

use portcullis_tests::{Gateway, Request, Setup, Token, Upstream, document::write_private, tokens::main_key, wait_for};

/// Runs `limits suggest` beside the gateway's configuration.
fn suggest(gateway: &Gateway, arguments: &[&str]) -> Output {
    gateway.command().args(["limits", "suggest"]).args(arguments).output().expect("it runs")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("the output is text")
}

/// The table's row of a route and key, cell by cell.
fn row<'t>(table: &'t str, route: &str, key: &str) -> Vec<&'t str> {
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut found = rows.filter(|cells| cells.starts_with(&[route, key]));
    let row = found.next().unwrap_or_else(|| panic!("no row of {route} by {key} in\n{table}"));
    assert!(found.next().is_none(), "two rows of {route} by {key} in\n{table}");
    row
}

/// Six people behind one address and one with a key behind another; what is refused besides.
fn ask(gateway: &Gateway) -> usize {
    let mut sent = 0;
    let mut send = |address: &str, request: &Request, status: u16| {
        let answer = gateway.send_from(&gateway.dial().from(address), request);
        assert_eq!(answer.status, status, "{answer:?}");
        sent += 1;
    };
    for person in ["ann", "ben", "cid", "dan", "eve", "fay"] {
        for _ in 0..3 {
            let token = Token::main("acme").claim("sub", person).sign(main_key());
            send("127.0.0.7", &Request::get("/v1/orders").bearer(token), 200);
        }
    }
    for _ in 0..4 {
        send("127.0.0.8", &Request::get("/v1/orders").header("X-Api-Key", gateway.key("acme")), 200);
    }
    for _ in 0..20 {
        send("127.0.0.8", &Request::get("/v1/orders"), 401);
    }
    send("127.0.0.8", &Request::get("/public"), 200);
    send("127.0.0.8", &Request::get("/nowhere"), 404);
    sent
}

#[test]
fn limits_are_suggested_from_the_access_log_and_load() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).set("log.access", r#"{ file = "access.jsonl" }"#).start();
    let sent = ask(&gateway);
    let log = gateway.setup().path("access.jsonl");
    let text = || std::fs::read_to_string(&log).expect("the log is there");
    wait_for("every line", || (text().lines().count() == sent && text().ends_with('\n')).then_some(()));

    let table = stdout(&suggest(&gateway, &["--log", "access.jsonl", "--window", "1h"]));
    assert!(table.starts_with("44 access lines: 23 requests that passed are counted; 21 "), "{table}");
    let orders = "api.example.test/orders";
    // Window, keys, requests; p50, p90, p99, maximum; the limit.
    assert_eq!(row(&table, orders, "client")[2..10], ["1h", "2", "22", "4", "18", "18*", "18", "50/1h"], "{table}");
    assert_eq!(row(&table, orders, "caller")[2..10], ["1h", "7", "22", "3", "4", "4*", "4", "10/1h"], "{table}");
    assert_eq!(row(&table, orders, "tenant")[2..10], ["1h", "1", "22", "22", "22", "22*", "22", "50/1h"], "{table}");
    assert_eq!(row(&table, orders, "caller")[10..], ["0", "(0.00%)", "0", "(0.00%)"], "{table}");
    // 18 people without a key would share its bucket of ten.
    assert_eq!(row(&table, orders, "api_key")[10..], ["8", "(36.36%)", "0", "(0.00%)"], "{table}");
    assert!(table.contains(&format!("{orders}: 18 of 22 requests have no `api_key`")), "{table}");
    assert!(table.contains(&format!("{orders}: 1 of 2 addresses have 5 callers or more")), "{table}");
    assert!(!table.contains("api.example.test/public: 1 of"), "{table}");
    for told in ["127.0.0.", "ann", "acme", gateway.key("acme").split('_').nth(2).expect("a key has an id")] {
        assert!(!table.contains(told), "{told} is in\n{table}");
    }

    let piped = gateway
        .command()
        .args(["limits", "suggest", "--log", "-", "--window", "1h"])
        .stdin(Stdio::from(File::open(&log).expect("the log opens")))
        .output()
        .expect("it runs");
    assert_eq!(stdout(&piped), table);

    let blocks = stdout(&suggest(&gateway, &["--log", "access.jsonl", "--window", "1m", "--window", "1h", "--toml"]));
    let (gateway, taken) = gateway.reload(|setup| {
        setup
            .with(&blocks)
            .with(r#"hosts."api.example.test".routes.orders.limits = ["api_example_test_orders_caller_1h"]"#)
    });
    assert!(taken, "{blocks}\n{}", gateway.output());
    let answer = gateway.send(&Request::get("/v1/orders").header("X-Api-Key", gateway.key("acme")));
    assert!(answer.all("ratelimit-policy").join(",").contains("api_example_test_orders_caller_1h"), "{answer:?}");
}

#[test]
fn a_log_that_cannot_be_read_as_one_is_an_error_that_says_where() {
    let gateway = &crate::world().gateway;
    for (name, content, said) in [
        ("empty.jsonl", "", "empty.jsonl is empty"),
        ("torn.jsonl", "{}\n{\"v\":1,", "torn.jsonl:2: the line is no JSON"),
        ("other.jsonl", "{\"event\":\"config.loaded\"}\n", "other.jsonl has no access line"),
    ] {
        write_private(&gateway.setup().path(name), content.as_bytes());
        let output = suggest(gateway, &["--log", name]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{output:?}");
    }
    for wrong in [
        &["--log", "nowhere.jsonl"] as &[&str],
        &["--log", "empty.jsonl", "--log", "empty.jsonl"],
        &["--log", "empty.jsonl", "--window", "60"],
        &["--log", "empty.jsonl", "--window", "32d"],
        &["--log", "empty.jsonl", "--window", "1m", "--window", "60s"],
        &[],
    ] {
        let output = suggest(gateway, wrong);
        assert!(!output.status.success() && output.stdout.is_empty(), "{wrong:?}: {output:?}");
    }
}
