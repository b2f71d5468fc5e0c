//! Exchanges that go on are ended when whoever made them would not be let in any more: revoked, expired, no longer known,
//! or not to be told from the revoked.

use std::{
    sync::{Mutex, mpsc},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use portcullis_tests::{
    Gateway, H1, Reply, Request, Setup, Token, Upstream,
    grpc::GrpcUpstream,
    redis::Redis,
    tokens::{main_key, now},
    wait_for,
};
use serde_json::{Value, json};

use crate::{
    streams::{frame, grpc_route, handshake, socket},
    world,
};

const JOURNAL: &str = "[revocations]\njournal = \"revocations.journal\"";
/// What a revocation may take to end a stream.
const SECOND: Duration = Duration::from_secs(1);
/// The close frames of `authentication.invalid` and `authentication.stale`.
pub(crate) const NO_LONGER_LET_IN: [u8; 4] = [0x88, 2, 0x03, 0xf0];
const TRY_AGAIN_LATER: [u8; 4] = [0x88, 2, 0x03, 0xf5];

fn gateway() -> Gateway {
    Setup::new(&world().upstream).with(JOURNAL).start()
}

fn token(name: &str) -> String {
    Token::main("acme").claim("jti", name).sign(main_key())
}

fn revoke(gateway: &Gateway, name: &str) -> Instant {
    let asked = json!({"kind": "jti", "value": name, "issuer": "main", "tenant": "acme", "reason": "a test"});
    assert_eq!(gateway.admin_post("/admin/v1/revocations", &asked).status, 200);
    Instant::now()
}

/// The access line of the only request of this token's stream.
fn line(gateway: &Gateway, request: &Request) -> Value {
    let id = world().upstream.saw(&request.mark).and_then(|seen| seen.header("x-request-id"));
    gateway.line(&id.expect("the upstream was told"))
}

#[track_caller]
fn ends_with(client: &mut H1, goodbye: [u8; 4]) {
    assert_eq!(client.bytes(4), goodbye);
    assert!(client.closes_within(SECOND));
}

#[track_caller]
fn echoes(client: &mut H1, text: &str) {
    client.send(frame(text));
    assert_eq!(client.bytes(frame(text).len()), frame(text));
}

#[test]
fn prt_08_a_websocket_ends_when_it_is_revoked_and_the_record_says_why() {
    let gateway = gateway();
    let request = handshake().bearer(token("ends"));
    let (mut ends, mut stays) = (socket(&gateway, &request), socket(&gateway, &handshake().bearer(token("stays"))));
    echoes(&mut ends, "before");
    let revoked = revoke(&gateway, "ends");
    ends_with(&mut ends, NO_LONGER_LET_IN);
    assert!(revoked.elapsed() < SECOND, "{:?}", revoked.elapsed());
    echoes(&mut stays, "another one goes on");
    let line = line(&gateway, &request);
    assert_eq!((&line["status"], &line["code"]), (&json!(101), &json!("authentication.invalid")), "{line}");
    assert_eq!(line["bytes_out"], json!(frame("before").len()), "{line}");
    let last = line["trail"].as_array().and_then(|trail| trail.last()).expect("a trail");
    assert_eq!((&last["control"], &last["detail"]), (&json!("authentication"), &json!("token revoked")), "{line}");
    let explained = gateway.cli(&["explain", line["request_id"].as_str().expect("an id")]);
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains("code authentication.invalid  rule main  because token revoked"), "{explained}");
    let ended = gateway.metric("portcullis_streams_ended_total", &["code=\"authentication.invalid\""]);
    assert_eq!(ended, Some(1.0));
    drop(stays);
    wait_for("nothing to be under way", || gateway.metric("portcullis_requests_in_flight", &[]).filter(|n| *n == 0.0));
}

#[test]
fn a_websocket_in_the_middle_of_a_frame_is_closed_without_a_word() {
    let gateway = gateway();
    let mut client = socket(&gateway, &handshake().bearer(token("half")));
    // Half a frame, which the upstream sends back as it is.
    let whole = frame("halfway");
    let (half, _) = whole.split_at(8);
    client.send(half);
    assert_eq!(client.bytes(half.len()), half);
    revoke(&gateway, "half");
    assert!(client.closes_within(SECOND), "a frame of ours would stand in one of the upstream's");
}

#[test]
fn a_websocket_ends_when_its_token_expires() {
    let gateway = &world().gateway;
    let expires = now() + 3;
    let mut client = socket(gateway, &handshake().bearer(Token::main("acme").claim("exp", expires).sign(main_key())));
    echoes(&mut client, "before");
    ends_with(&mut client, NO_LONGER_LET_IN);
    let late = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(expires)).expect("not before");
    assert!(late < SECOND, "{late:?}");
}

#[test]
fn a_websocket_ends_with_its_api_key() {
    let gateway = Setup::new(&world().upstream)
        .with(JOURNAL)
        .set("hosts.\"api.example.test\".routes.ws.auth", "{ accept = [\"api_key\"] }")
        .start();
    let key = gateway.key("acme").to_owned();
    let id = key.split('_').nth(2).expect("an id");
    let mut client = socket(&gateway, &handshake().header("X-Api-Key", &key));
    echoes(&mut client, "before");
    let mut command = gateway.command();
    let output = command
        .args(["keys", "revoke", "--file", "keys.json", "--pepper", "file:secrets/pepper", id])
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
    // The file is looked at every second.
    ends_with(&mut client, NO_LONGER_LET_IN);
}

#[test]
fn a_websocket_ends_with_a_reload_that_knows_its_issuer_no_more() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).start();
    let mut client = socket(&gateway, &handshake().bearer(token("reload")));
    let (gateway, taken) = gateway.reload(|setup| setup.with("[tenants.later]"));
    assert!(taken);
    echoes(&mut client, "a reload that knows it");
    let (_gateway, taken) = gateway.reload(|setup| setup.set("issuers.main.issuer", "\"https://id2.example.test\""));
    assert!(taken);
    ends_with(&mut client, NO_LONGER_LET_IN);
}

#[test]
fn streams_on_other_gateways_end_within_a_second_and_at_the_bound_when_nobody_can_tell() {
    let mut redis = Redis::start();
    let [one, other] = [0, 1].map(|_| {
        let stores =
            format!("[stores]\ncounters = \"{}\"\nkey = \"file:secrets/store\"\ndeadline = \"2s\"", redis.url());
        Setup::new(&world().upstream)
            .with(&stores)
            .with("revocations.max_stale = { strict = \"1s\" }")
            .set("hosts.\"api.example.test\".routes.ws.revocation", "\"strict\"")
            .start()
    });
    let mut ends = socket(&other, &handshake().bearer(token("elsewhere")));
    let request = handshake().bearer(token("cut off"));
    let mut cut_off = socket(&other, &request);
    let revoked = revoke(&one, "elsewhere");
    ends_with(&mut ends, NO_LONGER_LET_IN);
    assert!(revoked.elapsed() < SECOND, "{:?}", revoked.elapsed());
    echoes(&mut cut_off, "goes on");
    redis.kill();
    ends_with(&mut cut_off, TRY_AGAIN_LATER);
    let line = line(&other, &request);
    assert_eq!((&line["status"], &line["code"]), (&json!(101), &json!("authentication.stale")), "{line}");
}

/// An upstream whose `/events` and `/v1/orders` go on as long as the test has something to send.
fn streaming(receive: mpsc::Receiver<Vec<u8>>) -> Upstream {
    let receive = Mutex::new(Some(receive));
    Upstream::scripted(move |_| {
        let receive = receive.lock().expect("no panic").take();
        receive.map_or(Reply::Close, |receive| Reply::Stream("text/event-stream", receive))
    })
}

#[test]
fn events_end_over_http_1_without_their_end_and_over_http_2_with_a_reset_of_their_stream_alone() {
    let (send, receive) = mpsc::channel();
    let upstream = streaming(receive);
    let gateway = Setup::new(&upstream).with(JOURNAL).start();
    let mut client = gateway.h1();
    client.send(Request::get("/events").bearer(token("h1")).h1());
    assert_eq!(client.head().expect("a head").status, 200);
    send.send(b"data: 1\n\n".to_vec()).expect("the upstream listens");
    assert_eq!(client.chunk(), Some(b"data: 1\n\n".to_vec()));
    revoke(&gateway, "h1");
    assert!(client.closes_within(SECOND), "and no last chunk says that this was all");

    let (_send, receive) = mpsc::channel();
    let upstream = streaming(receive);
    let gateway = Setup::new(&upstream).with(JOURNAL).start();
    let mut connection = gateway.h2();
    let request = Request::get("/events").bearer(token("h2"));
    let open = connection.begin(&request).expect("it is sent");
    let id = upstream.seen(&request.mark).header("x-request-id").expect("an id");
    revoke(&gateway, "h2");
    let reset = open.answer().expect_err("it has no end");
    assert_eq!(reset.reason().map(|reason| format!("{reason:?}")), Some("CANCEL".to_owned()), "{reset:?}");
    assert_eq!(connection.send(&Request::get("/v1/orders")).expect("the connection goes on").status, 401);
    assert_eq!(gateway.line(&id)["code"], json!("authentication.invalid"));
}

#[test]
fn a_long_upload_ends_though_nothing_said_that_it_would_last() {
    let (upstream, grpc) = (Upstream::start(), GrpcUpstream::start());
    let gateway = grpc_route(&upstream, &grpc, JOURNAL);
    let mut connection = gateway.h2();
    let call =
        Request::new("POST", "/echo.Echo/Say").header("Content-Type", "application/grpc").bearer(token("upload"));
    let (mut open, began) = (connection.open(&call).expect("it is sent"), Instant::now());
    open.data(b"\0\0\0\0\x0ahello").expect("it is taken");
    wait_for("the call to have lasted", || (began.elapsed() > SECOND * 3 / 2).then_some(()));
    open.data(b"h").expect("it is taken");
    revoke(&gateway, "upload");
    let reset = open.answer().expect_err("it is no answer");
    assert_eq!(reset.reason().map(|reason| format!("{reason:?}")), Some("CANCEL".to_owned()), "{reset:?}");
    assert!(grpc.saw(&call.mark).is_none(), "the upstream's side was reset too");
}

#[test]
fn an_answer_that_took_long_is_not_given_to_whoever_was_revoked_meanwhile() {
    let (send, receive) = mpsc::channel::<()>();
    let receive = Mutex::new(receive);
    let upstream = Upstream::scripted(move |_| {
        receive.lock().expect("no panic").recv().expect("the test says when");
        Reply::with(200, &[], "a secret")
    });
    let gateway = Setup::new(&upstream).with(JOURNAL).start();
    let mut client = gateway.h1();
    let began = Instant::now();
    client.send(Request::get("/v1/orders").bearer(token("waits")).h1());
    revoke(&gateway, "waits");
    wait_for("the request to have lasted", || (began.elapsed() > SECOND * 3 / 2).then_some(()));
    send.send(()).expect("the upstream waits");
    let answer = client.answer().expect("an answer");
    assert_eq!((answer.status, answer.code().as_str()), (401, "authentication.invalid"), "{answer:?}");
    assert!(!answer.text().contains("secret"));
}

#[test]
fn what_comes_after_a_silence_is_not_given_to_whoever_was_revoked_meanwhile() {
    let (send, receive) = mpsc::channel();
    let receive = Mutex::new(Some(receive));
    // Nothing in its head says that it lasts, and it is silent before it has lasted.
    let upstream = Upstream::scripted(move |_| {
        let receive = receive.lock().expect("no panic").take();
        receive.map_or(Reply::Close, |receive| Reply::Stream("application/json", receive))
    });
    let gateway = Setup::new(&upstream).with(JOURNAL).start();
    let (request, began) = (Request::get("/v1/orders").bearer(token("silent")), Instant::now());
    let mut client = gateway.h1();
    client.send(request.h1());
    assert_eq!(client.head().expect("a head").status, 200);
    send.send(b"[1,".to_vec()).expect("the upstream listens");
    assert_eq!(client.chunk(), Some(b"[1,".to_vec()));
    revoke(&gateway, "silent");
    wait_for("the exchange to have lasted", || (began.elapsed() > SECOND * 3 / 2).then_some(()));
    send.send(b"\"a secret\"]".to_vec()).expect("the upstream listens");
    drop(send);
    assert!(client.closes_within(SECOND), "not a byte more, and no end");
    let id = upstream.seen(&request.mark).header("x-request-id").expect("an id");
    let line = gateway.line(&id);
    assert_eq!((&line["status"], &line["code"]), (&json!(200), &json!("authentication.invalid")), "{line}");
}

#[test]
fn a_request_whose_body_comes_after_the_revocation_does_not_reach_the_upstream() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).with(JOURNAL).start();
    let request = Request::new("POST", "/v1/orders")
        .bearer(token("late body"))
        .header("Content-Type", "text/plain")
        .header("Content-Length", "5")
        .header("Expect", "100-continue");
    let mut client = gateway.h1();
    client.send(request.h1());
    let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
    assert_eq!(client.bytes(go_on.len()), go_on, "it was let in");
    revoke(&gateway, "late body");
    client.send("WRITE");
    let answer = client.answer().expect("an answer");
    assert_eq!((answer.status, answer.code().as_str()), (401, "authentication.invalid"), "{answer:?}");
    assert!(upstream.saw(&request.mark).is_none());
}
