//! Requests under way at once: who is refused, and everything that ends a request gives its slot back.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, mpsc},
};

use portcullis_tests::{
    Answer, Gateway, H1, PATIENCE, Protocol, Reply, Request, Setup, Token, Upstream,
    grpc::GrpcUpstream,
    redis::Redis,
    tokens::{main_key, main_token},
};

use crate::streams::{frame, handshake, handshake_at};

/// What the upstream is to do with a request that it holds.
#[derive(Clone, Copy)]
enum Then {
    Answer,
    Die,
}

/// Requests to `/v1/orders/held`, which wait in the upstream until the test says what becomes of them.
#[derive(Clone, Default)]
struct Held(Arc<(Mutex<HashMap<String, Then>>, Condvar)>);

impl Held {
    fn upstream() -> (Upstream, Self) {
        let held = Self::default();
        let theirs = held.clone();
        let upstream = Upstream::scripted(move |seen| {
            if seen.header("upgrade").is_some() {
                Reply::Echo
            } else if seen.target() == "/v1/orders/held" {
                theirs.wait(&seen.header("x-mark").unwrap_or_default())
            } else if seen.target() == "/v1/orders/empty" {
                Reply::with(204, &[], "")
            } else {
                Reply::ok()
            }
        });
        (upstream, held)
    }

    fn wait(&self, mark: &str) -> Reply {
        let (told, more) = &*self.0;
        let told = told.lock().expect("no panic");
        let (mut told, _) = more.wait_timeout_while(told, PATIENCE, |told| !told.contains_key(mark)).expect("no panic");
        match told.remove(mark) {
            Some(Then::Answer) => Reply::ok(),
            Some(Then::Die) | None => Reply::Close,
        }
    }

    fn tell(&self, request: &Request, then: Then) {
        self.0.0.lock().expect("no panic").insert(request.mark.clone(), then);
        self.0.1.notify_all();
    }
}

/// Two at once for each tenant.
const TWO: &str = r#"
    hosts."api.example.test".routes.orders.in_flight = ["busy"]
    [in_flight.busy]
    key = ["tenant"]
    requests = 2
"#;

fn orders(tenant: &str) -> Request {
    Request::get("/v1/orders").bearer(main_token(tenant))
}

fn to_hold(tenant: &str) -> Request {
    Request::get("/v1/orders/held").bearer(main_token(tenant))
}

/// Sends a request that the upstream holds; it is under way when this returns.
fn hold(gateway: &Gateway, upstream: &Upstream, request: &Request) -> H1 {
    let mut client = gateway.h1();
    client.send(request.h1());
    upstream.seen(&request.mark);
    client
}

#[track_caller]
fn full(answer: &Answer, rule: &str, most: u32) {
    assert_eq!((answer.status, answer.code().as_str()), (429, "in_flight.exceeded"), "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let policy = format!("\"{rule}\";q={most};qu=\"concurrent-requests\"");
    assert_eq!(answer.header("ratelimit-policy"), Some(policy.as_str()));
    assert_eq!(answer.header("ratelimit"), Some(format!("\"{rule}\";r=0").as_str()));
    let problem = answer.problem();
    assert_eq!(problem["violated-policies"], serde_json::json!([rule]));
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
}

#[test]
fn no_more_are_under_way_than_may_be_and_the_next_passes_when_one_has_ended() {
    for protocol in Protocol::BOTH {
        let (upstream, held) = Held::upstream();
        let gateway = Setup::new(&upstream).with(TWO).start();
        let (first, second) = (to_hold("acme"), to_hold("acme"));
        let one = hold(&gateway, &upstream, &second);
        let answer = match protocol {
            Protocol::H1 => {
                let mut two = hold(&gateway, &upstream, &first);
                full(&gateway.send(&orders("acme")), "busy", 2);
                held.tell(&first, Then::Answer);
                two.answer().expect("an answer")
            }
            Protocol::H2 => {
                let two = gateway.h2().begin(&first).expect("the stream opens");
                upstream.seen(&first.mark);
                full(&gateway.send_h2(&orders("acme")), "busy", 2);
                held.tell(&first, Then::Answer);
                two.answer().expect("an answer")
            }
        };
        assert_eq!(answer.status, 200);
        // At once: whoever has its answer has its slot back.
        assert_eq!(gateway.ask(protocol, &orders("acme")).status, 200);
        drop(one);
    }
}

#[test]
fn another_key_is_free_and_the_operator_is_told_who_was_full() {
    let (upstream, _held) = Held::upstream();
    let gateway = Setup::new(&upstream).with(TWO).start();
    let _holding = [(); 2].map(|()| hold(&gateway, &upstream, &to_hold("acme")));
    let answer = gateway.send(&orders("acme"));
    full(&answer, "busy", 2);
    assert_eq!(gateway.send(&orders("globex")).status, 200);
    let line = gateway.line(&answer.request_id());
    let step = line["trail"].as_array().and_then(|trail| trail.last()).expect("a trail").clone();
    assert_eq!((&step["control"], &step["rule"]), (&"in_flight".into(), &"busy".into()), "{line}");
    assert_eq!(step["detail"], "busy has 2 of 2 under way");
    let explained = gateway.cli(&["explain", &answer.request_id()]);
    assert!(String::from_utf8_lossy(&explained.stdout).contains("busy has 2 of 2 under way"), "{explained:?}");
    let refused = gateway.metric("portcullis_decisions_total", &["code=\"in_flight.exceeded\""]);
    assert_eq!(refused, Some(1.0));
}

#[test]
fn the_operator_is_shown_how_many_are_under_way() {
    let (upstream, held) = Held::upstream();
    let gateway = Setup::new(&upstream).with(TWO).start();
    let show = |more: &[&str]| {
        let output = gateway.cli(&[&["limits", "show", "busy"], more].concat());
        String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr }).into_owned()
    };
    assert_eq!(show(&["--tenant", "acme"]), "busy: 0 of 2 under way\n");
    let request = to_hold("acme");
    let mut client = hold(&gateway, &upstream, &request);
    assert_eq!(show(&["--tenant", "acme"]), "busy: 1 of 2 under way\n");
    assert_eq!(show(&["--tenant", "globex"]), "busy: 0 of 2 under way\n");
    for (wrong, why) in [
        (&[][..], "counts by tenant, which is not named"),
        (&["--tenant", "acme", "--client", "192.0.2.1"], "does not count by client"),
    ] {
        assert!(show(wrong).contains(why), "{}", show(wrong));
    }
    let reset = gateway.cli(&["limits", "reset", "busy", "--tenant", "acme"]);
    assert!(String::from_utf8_lossy(&reset.stderr).contains("nothing to reset"), "{reset:?}");
    held.tell(&request, Then::Answer);
    assert_eq!(client.answer().expect("an answer").status, 200);
    assert_eq!(show(&["--tenant", "acme"]), "busy: 0 of 2 under way\n");
}

#[test]
fn whoever_asks_one_after_the_other_is_never_refused() {
    let (upstream, grpc) = (Held::upstream().0, GrpcUpstream::start());
    let gateway = Setup::new(&upstream)
        .with(TWO)
        .with(&format!(
            r#"
            in_flight.busy.requests = 1
            [upstreams.grpc]
            servers = ["{}"]
            protocol = "h2"
            [hosts."api.example.test".routes.grpc]
            path = "/echo.Echo"
            methods = ["POST"]
            auth = {{ accept = ["jwt:main"] }}
            kind = "stream"
            in_flight = ["busy"]
            upstream = "grpc"
            "#,
            grpc.address()
        ))
        .start();
    let mut client = gateway.h2();
    let call = || Request::post("/echo.Echo/Say", b"\0\0\0\0\x05hello").header("Content-Type", "application/grpc");
    let head = || Request::new("HEAD", "/v1/orders").bearer(main_token("acme"));
    let empty = || Request::get("/v1/orders/empty").bearer(main_token("acme"));
    for round in 0..100 {
        for (request, status) in
            [(orders("acme"), 200), (head(), 200), (empty(), 204), (call().bearer(main_token("acme")), 200)]
        {
            let answer = client.send(&request).expect("an answer");
            assert_eq!(answer.status, status, "round {round}: {} {answer:?}", request.method);
        }
    }
}

#[test]
fn a_websocket_counts_until_it_is_closed() {
    let (upstream, _held) = Held::upstream();
    let gateway =
        Setup::new(&upstream).with(TWO).with(r#"hosts."api.example.test".routes.ws.in_flight = ["busy"]"#).start();
    let mut open: Vec<(H1, String)> = [(); 2]
        .map(|()| {
            let mut client = gateway.h1();
            client.send(handshake().bearer(main_token("acme")).h1());
            let answer = client.answer().expect("an answer");
            assert_eq!(answer.status, 101, "{answer:?}");
            (client, answer.request_id())
        })
        .into();
    for (client, _) in &mut open {
        client.send(frame("hello"));
        assert_eq!(client.bytes(frame("hello").len()), frame("hello"));
    }
    full(&gateway.send(&handshake().bearer(main_token("acme"))), "busy", 2);
    full(&gateway.send(&orders("acme")), "busy", 2);
    let (client, request_id) = open.remove(0);
    drop(client);
    gateway.line(&request_id);
    assert_eq!(gateway.send(&orders("acme")).status, 200);
}

/// The answer to a handshake has no body, but it has not ended either.
#[test]
fn a_websocket_counts_though_its_answer_claims_an_empty_body() {
    let (upstream, _held) = Held::upstream();
    let gateway =
        Setup::new(&upstream).with(TWO).with(r#"hosts."api.example.test".routes.ws.in_flight = ["busy"]"#).start();
    let _open = [(); 2].map(|()| {
        let mut client = gateway.h1();
        client.send(handshake_at("/ws?length=0").bearer(main_token("acme")).h1());
        assert_eq!(client.answer().map(|answer| answer.status), Some(101));
        client
    });
    full(&gateway.send(&handshake().bearer(main_token("acme"))), "busy", 2);
}

#[test]
fn a_stream_counts_until_it_ends() {
    let (send, receive) = mpsc::channel();
    let receive = Mutex::new(Some(receive));
    let upstream = Upstream::scripted(move |seen| {
        let stream = || receive.lock().expect("no panic").take();
        match seen.target().starts_with("/events").then(stream).flatten() {
            Some(receive) => Reply::Stream("text/event-stream", receive),
            None => Reply::ok(),
        }
    });
    let more = r#"
        hosts."api.example.test".routes.events.in_flight = ["busy"]
        in_flight.busy.requests = 1
    "#;
    let gateway = Setup::new(&upstream).with(TWO).with(more).start();
    let mut client = gateway.h1();
    client.send(Request::get("/events").bearer(main_token("acme")).h1());
    assert_eq!(client.head().expect("a head").status, 200);
    send.send(b"data: 1\n\n".to_vec()).expect("the upstream listens");
    assert!(client.chunk().is_some());
    full(&gateway.send(&orders("acme")), "busy", 1);
    drop(send);
    assert_eq!(client.chunk(), None);
    assert_eq!(gateway.send(&orders("acme")).status, 200);
}

#[test]
fn a_client_that_goes_away_gives_its_slot_back() {
    let (upstream, _held) = Held::upstream();
    let gateway = Setup::new(&upstream).with(TWO).with("in_flight.busy.requests = 1").start();
    let gone = |line: &serde_json::Value, protocol: &str| line["status"] == 499 && line["protocol"] == protocol;
    drop(hold(&gateway, &upstream, &to_hold("acme")));
    assert!(gateway.line_where(|line| gone(line, "http/1.1")).is_some());
    assert_eq!(gateway.send(&orders("acme")).status, 200);
    // One stream of a connection that stays.
    let (mut client, request) = (gateway.h2(), to_hold("acme"));
    let open = client.begin(&request).expect("the stream opens");
    upstream.seen(&request.mark);
    full(&client.send(&orders("acme")).expect("an answer"), "busy", 1);
    drop(open);
    assert!(gateway.line_where(|line| gone(line, "h2")).is_some());
    assert_eq!(client.send(&orders("acme")).expect("an answer").status, 200);
}

#[test]
fn an_upstream_that_dies_or_is_not_there_gives_the_slot_back() {
    let (upstream, held) = Held::upstream();
    let gateway = Setup::new(&upstream).with(TWO).with("in_flight.busy.requests = 1").start();
    for protocol in Protocol::BOTH {
        for _ in 0..3 {
            let request = Request::post("/v1/orders/held", "x").bearer(main_token("acme"));
            held.tell(&request, Then::Die);
            assert_eq!(gateway.ask(protocol, &request).status, 502);
        }
        assert_eq!(gateway.ask(protocol, &orders("acme")).status, 200);
    }
    upstream.stop();
    for _ in 0..5 {
        assert_eq!(gateway.send(&orders("acme")).status, 502);
    }
}

#[test]
fn what_refuses_later_gives_the_slot_back() {
    let (upstream, _held) = Held::upstream();
    let more = r#"
        in_flight.busy.requests = 1
        hosts."api.example.test".routes.orders.limits = ["few"]
        hosts."api.example.test".routes.tenant.in_flight = ["busy"]
        [limits.few]
        key = ["subject"]
        requests = 3
        window = "1h"
    "#;
    let gateway = Setup::new(&upstream).with(TWO).with(more).start();
    let links: String = (0..6).map(|i| format!("https://a{i}.example.com/ ")).collect();
    let post = || Request::post("/v1/orders", &links).header("Content-Type", "text/plain").bearer(main_token("acme"));
    assert_eq!([(); 3].map(|()| gateway.send(&post()).code()), ["waf.urls"; 3]);
    assert_eq!([(); 5].map(|()| gateway.send(&orders("acme")).code()), ["quota.exceeded"; 5]);
    let other = Request::get("/t/acme/things").bearer(main_token("acme"));
    assert_eq!(gateway.send(&other).status, 200);
}

#[test]
fn what_is_refused_here_costs_no_quota() {
    let (upstream, held) = Held::upstream();
    let more = r#"
        in_flight.busy.requests = 1
        hosts."api.example.test".routes.orders.limits = ["few"]
        [limits.few]
        key = ["tenant"]
        requests = 2
        window = "1h"
    "#;
    let gateway = Setup::new(&upstream).with(TWO).with(more).start();
    let request = to_hold("acme");
    let mut client = hold(&gateway, &upstream, &request);
    assert_eq!([(); 5].map(|()| gateway.send(&orders("acme")).code()), ["in_flight.exceeded"; 5]);
    held.tell(&request, Then::Answer);
    assert_eq!(client.answer().map(|answer| answer.status), Some(200));
    assert_eq!([(); 2].map(|()| gateway.send(&orders("acme")).status), [200, 429]);
}

#[test]
fn a_reload_forgets_no_request_that_is_under_way() {
    let (upstream, held) = Held::upstream();
    let gateway = Setup::new(&upstream).with(TWO).start();
    let (first, second) = (to_hold("acme"), to_hold("acme"));
    let _one = hold(&gateway, &upstream, &first);
    let mut two = hold(&gateway, &upstream, &second);
    // Also where the reload changes the number: two stay under way, and of one more there is no slot.
    let (gateway, taken) = gateway.reload(|setup| setup.with("tenants.acme.own.in_flight.busy.requests = 1"));
    assert!(taken);
    full(&gateway.send(&orders("acme")), "busy", 1);
    let (gateway, taken) = gateway.reload(|setup| {
        setup.with("tenants.acme.grant.in_flight.busy.requests = 3\ntenants.acme.own.in_flight.busy.requests = 3")
    });
    assert!(taken);
    let third = to_hold("acme");
    let _three = hold(&gateway, &upstream, &third);
    full(&gateway.send(&orders("acme")), "busy", 3);
    held.tell(&second, Then::Answer);
    assert_eq!(two.answer().map(|answer| answer.status), Some(200));
    assert_eq!(gateway.send(&orders("acme")).status, 200);
}

#[test]
fn a_limit_in_shadow_refuses_nobody_and_is_recorded() {
    let (upstream, _held) = Held::upstream();
    let gateway = Setup::new(&upstream).with(TWO).with("in_flight.busy.mode = \"shadow\"").start();
    let _holding = [(); 3].map(|()| hold(&gateway, &upstream, &to_hold("acme")));
    let answer = gateway.send(&orders("acme"));
    assert_eq!((answer.status, answer.header("ratelimit-policy")), (200, None), "{answer:?}");
    let line = gateway.line(&answer.request_id()).to_string();
    assert!(line.contains("would have answered 429: busy has 2 of 2 under way"), "{line}");
    let labels = ["control=\"in_flight\"", "outcome=\"deny\"", "mode=\"shadow\""];
    assert_eq!(gateway.metric("portcullis_decisions_total", &labels), Some(1.0));
}

#[test]
fn whoever_lacks_what_is_counted_shares_one_count() {
    let (upstream, _held) = Held::upstream();
    let by_key = r#"in_flight.busy.key = ["api_key"]"#;
    let gateway = Setup::new(&upstream).with(TWO).with(by_key).start();
    let subject = |subject: &str| Token::main("globex").claim("sub", subject).sign(main_key());
    let _holding =
        ["one", "two"].map(|who| hold(&gateway, &upstream, &Request::get("/v1/orders/held").bearer(subject(who))));
    full(&gateway.send(&orders("acme")), "busy", 2);
    let keyed = Request::get("/v1/orders").header("X-Api-Key", gateway.key("acme"));
    assert_eq!(gateway.send(&keyed).status, 200);
}

#[test]
fn gateways_that_share_a_store_each_enforce_their_share_and_ask_it_nothing() {
    let (upstream, _held) = Held::upstream();
    let redis = Redis::start();
    let stores = format!(
        "[stores]\ncounters = \"{}\"\nkey = \"file:secrets/store\"\ninstances = 2\n[in_flight.busy]\nrequests = 5",
        redis.url()
    );
    let gateways = [(); 2].map(|()| Setup::new(&upstream).with(TWO).with(&stores).start());
    let _holding = gateways.each_ref().map(|gateway| [(); 2].map(|()| hold(gateway, &upstream, &to_hold("acme"))));
    for gateway in &gateways {
        let answer = gateway.send(&orders("acme"));
        full(&answer, "busy", 5);
        let line = gateway.line(&answer.request_id()).to_string();
        assert!(line.contains("busy has 2 of 2 under way, this instance's share of 5"), "{line}");
    }
    let counted: Vec<String> = redis.keys().into_iter().filter(|key| key.contains("busy")).collect();
    assert!(counted.is_empty(), "{counted:?}");
}
