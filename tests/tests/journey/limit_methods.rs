//! Limits of some methods: who is counted, who is told, and what an operator sees.

use portcullis_tests::{Protocol, Request, Setup, Upstream, tokens::main_token};

use crate::limits::{items, limited};

const WRITES: &str = r#"
    hosts."api.example.test".routes.orders.limits = ["writes", "reads"]
    [limits.writes]
    key = ["tenant"]
    methods = ["POST", "PUT"]
    requests = 2
    window = "1h"
    [limits.reads]
    key = ["client"]
    methods = ["GET"]
    requests = 2
    window = "1h"
"#;

#[test]
fn a_limit_of_some_methods_counts_those_and_is_told_to_those() {
    let upstream = Upstream::start();
    for protocol in Protocol::BOTH {
        let gateway = Setup::new(&upstream).with(WRITES).start();
        let ask = |method: &str| gateway.ask(protocol, &Request::new(method, "/v1/orders").bearer(main_token("acme")));
        for (method, left) in [("POST", 1), ("PUT", 0)] {
            let answer = ask(method);
            assert_eq!((answer.status, items(&answer, "ratelimit", "r")), (200, vec![("writes".to_owned(), left)]));
        }
        limited(&ask("POST"), "quota.exceeded", "writes");
        // HEAD is counted where GET is.
        assert_eq!([ask("GET").status, ask("HEAD").status], [200, 200]);
        limited(&ask("GET"), "rate_limit.exceeded", "reads");
        assert_eq!(ask("HEAD").status, 429);
        // Neither counts a DELETE.
        for _ in 0..5 {
            let answer = ask("DELETE");
            assert_eq!((answer.status, answer.header("ratelimit-policy")), (200, None), "{answer:?}");
        }
    }
}

#[test]
fn an_operator_sees_and_fills_the_bucket_of_a_limit_of_some_methods() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).with(WRITES).start();
    let ask = |method: &str| gateway.send(&Request::new(method, "/v1/orders").bearer(main_token("acme"))).status;
    let limits = |verb: &str| {
        let output = gateway.cli(&["limits", verb, "writes", "--tenant", "acme"]);
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat()
    };
    assert_eq!([ask("POST"), ask("DELETE"), ask("GET")], [200, 200, 200]);
    assert!(limits("show").contains("writes: 1 of 2 left"), "{}", limits("show"));
    assert_eq!([ask("PUT"), ask("POST")], [200, 429]);
    assert!(limits("show").contains("writes: 0 of 2 left"), "{}", limits("show"));
    limits("reset");
    assert_eq!(ask("POST"), 200);
}
