//! The harness against itself: what records must record, what signs must sign, what raw clients send must arrive.

use std::sync::{Mutex, mpsc};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    Dial, H1, Key, Reply, Request, Token, Upstream,
    ca::ca,
    grpc::GrpcUpstream,
    h2_raw::{self, Verdict},
    redis::Redis,
};

fn client(upstream: &Upstream) -> H1 {
    H1::over(Dial::plain(upstream.address()).connect().expect("it connects"))
}

#[test]
fn an_upstream_records_the_exact_head_and_body() {
    let upstream = Upstream::start();
    let mut client = client(&upstream);
    for request in [
        Request::get("/a?b=c").header("X_Odd", "v"),
        Request::post("/b", "body"),
        Request::new("POST", "/c").chunked("a longer body", 4),
        Request::new("HEAD", "/d"),
    ] {
        client.send(request.h1());
        assert_eq!(client.answer_to(&request.method).map(|a| a.status), Some(200));
        let seen = upstream.seen_whole(&request.mark);
        assert_eq!(seen.head, request.h1_head());
        assert_eq!(seen.connection, 0);
    }
    let bodies: Vec<Vec<u8>> = upstream.all().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies, [&b""[..], b"body", b"a longer body", b""]);
}

#[test]
fn an_upstream_streams_echoes_and_closes_as_it_is_told() {
    let (send, receive) = mpsc::channel();
    let receive = Mutex::new(Some(receive));
    let upstream = Upstream::scripted(move |seen| match seen.target().as_str() {
        "/stream" => receive.lock().expect("no panic").take().map_or(Reply::Close, |r| Reply::Stream("text/plain", r)),
        "/echo" => Reply::Echo,
        "/raw" => Reply::Raw(b"HTTP/1.1 299 Odd\r\nX: y\r\n\r\nrest".to_vec()),
        _ => Reply::Close,
    });
    let mut stream = client(&upstream);
    stream.send(Request::get("/stream").h1());
    assert_eq!(stream.head().map(|a| a.status), Some(200));
    send.send(b"one".to_vec()).expect("it listens");
    assert_eq!(stream.chunk(), Some(b"one".to_vec()));
    drop(send);
    assert_eq!(stream.chunk(), None);
    let mut echo = client(&upstream);
    echo.send(Request::get("/echo").header("Upgrade", "websocket").h1());
    assert_eq!(echo.answer().map(|a| a.status), Some(101));
    echo.send("ping");
    assert_eq!(echo.bytes(4), b"ping");
    let mut raw = client(&upstream);
    raw.send(Request::get("/raw").h1());
    assert_eq!(raw.answer().map(|a| (a.status, a.text())), Some((299, "rest".to_owned())));
    let mut closed = client(&upstream);
    closed.send(Request::get("/close").h1());
    assert!(closed.answer().is_none());
    upstream.stop();
    // A process that another test starts holds every socket of ours until it is another program.
    crate::wait_for("the port to be closed", || Dial::plain(upstream.address()).tcp().err());
}

#[test]
fn tls_clients_and_upstreams_meet_in_the_version_that_both_speak() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let upstream = Upstream::tls(ca().leaf(&["a.test"]).server(&[version], &[b"http/1.1"]));
        let request = Request::get("/");
        let mut client = H1::over(Dial::tls(upstream.address(), "a.test").versions(&[version]).connect().expect("TLS"));
        client.send(request.h1());
        assert_eq!(client.answer().map(|a| a.status), Some(200));
        assert_eq!(upstream.seen(&request.mark).tls, Some(version.version));
    }
    let old = Upstream::tls(ca().leaf(&["a.test"]).server(&[&rustls::version::TLS13], &[]));
    let error = Dial::tls(old.address(), "a.test").versions(&[&rustls::version::TLS12]).connect().err();
    let alert = error.as_ref().and_then(crate::dial::alert);
    assert_eq!(alert, Some(rustls::AlertDescription::ProtocolVersion));
}

#[test]
fn raw_http2_arrives_as_it_was_written() {
    let upstream = GrpcUpstream::start();
    let wire = || Dial::plain(upstream.address()).connect().expect("it connects");
    let mut request = Request::new("POST", "/x").header("x_odd.name", "v");
    request.body = b"body".to_vec();
    assert_eq!(h2_raw::send(wire(), &request), Verdict::Status(200));
    let seen = upstream.seen(&request.mark);
    assert_eq!((seen.headers["x_odd.name"].as_bytes(), seen.body.as_slice()), (&b"v"[..], &b"body"[..]));
    let bad = Request::get("/x").header("connection", "close");
    assert!(matches!(h2_raw::send(wire(), &bad), Verdict::Reset(_) | Verdict::GoAway(_)));
}

#[test]
fn tokens_are_signed_by_the_keys_in_their_sets() {
    let key = Key::es256("k");
    let token = Token::main("acme").sign(&key);
    let (input, signature) = token.rsplit_once('.').expect("it has dots");
    let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_bytes());
    assert!(public.verify(input.as_bytes(), &signature).is_ok());
    let rsa = Key::rsa("r", "PS256").jwk();
    let modulus = URL_SAFE_NO_PAD.decode(rsa["n"].as_str().expect("text")).expect("base64url");
    assert_eq!((modulus.len(), rsa["e"].as_str()), (256, Some("AQAB")));
}

#[test]
fn a_redis_is_held_killed_and_started_again() {
    let mut redis = Redis::start();
    assert!(redis.keys().is_empty());
    redis.hold();
    redis.go_on();
    redis.restart();
    assert!(redis.keys().is_empty());
}
