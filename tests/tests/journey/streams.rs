//! WebSocket, server-sent events and gRPC pass, and every control is applied to their handshake.

use std::sync::{Mutex, mpsc};

use portcullis_tests::{
    Gateway, H1, Reply, Request, Setup, Upstream,
    grpc::GrpcUpstream,
    tokens::{local_token, main_token},
};

use crate::world;

/// A WebSocket handshake (RFC 6455 4.1).
pub(crate) fn handshake() -> Request {
    handshake_at("/ws")
}

pub(crate) fn handshake_at(target: &str) -> Request {
    Request::get(target)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
}

/// A masked text frame.
pub(crate) fn frame(text: &str) -> Vec<u8> {
    let mut out = vec![0x81, 0x80 | u8::try_from(text.len()).expect("short"), 0, 0, 0, 0];
    out.extend_from_slice(text.as_bytes());
    out
}

pub(crate) fn socket(gateway: &Gateway, request: &Request) -> H1 {
    let mut client = gateway.h1();
    client.send(request.h1());
    let answer = client.answer().expect("an answer");
    assert_eq!(answer.status, 101, "{answer:?}");
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    client
}

#[track_caller]
fn echoes(client: &mut H1, text: &str) {
    client.send(frame(text));
    assert_eq!(client.bytes(frame(text).len()), frame(text));
}

#[test]
fn a_websocket_echoes_and_carries_the_identity_in_its_handshake() {
    let request = handshake().bearer(main_token("acme"));
    let mut client = socket(&world().gateway, &request);
    for text in ["hello", "again", "and again"] {
        echoes(&mut client, text);
    }
    let seen = world().upstream.seen(&request.mark);
    assert_eq!(seen.header("x-portcullis-tenant").as_deref(), Some("acme"));
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(seen.header("upgrade").map(|v| v.to_ascii_lowercase()).as_deref(), Some("websocket"));
}

#[test]
fn a_websocket_is_refused_like_any_other_request() {
    for (request, status) in [
        (handshake(), 401),
        (handshake().bearer("x"), 401),
        (handshake().bearer(main_token("acme")).host("fixed.example.test"), 404),
        (handshake().header("Cookie", format!("__Host-session={}", local_token("acme"))), 403),
    ] {
        let answer = world().gateway.send(&request);
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(world().upstream.saw(&request.mark).is_none());
    }
}

#[test]
fn content_rules_do_not_apply_to_what_goes_through_a_websocket() {
    let mut client = socket(&world().gateway, &handshake().bearer(main_token("acme")));
    for i in 0..12 {
        echoes(&mut client, &format!("https://a{i}.example.com +44 20 7946 0123"));
    }
}

#[test]
fn a_reload_keeps_a_websocket_open_and_a_limit_counted() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream)
        .with(
            r#"
            hosts."api.example.test".routes.orders.limits = ["few"]
            [limits.few]
            key = ["tenant"]
            requests = 3
            window = "1h"
            "#,
        )
        .start();
    let orders = |gateway: &Gateway| gateway.send(&Request::get("/v1/orders").bearer(main_token("acme"))).status;
    let mut client = socket(&gateway, &handshake().bearer(main_token("acme")));
    let mut kept = gateway.h1();
    kept.send(Request::get("/public").h1());
    assert_eq!(kept.answer().map(|a| a.status), Some(200));
    assert_eq!([orders(&gateway), orders(&gateway)], [200, 200]);
    echoes(&mut client, "before");
    let (gateway, taken) = gateway.reload(|setup| {
        setup.with("[hosts.\"api.example.test\".routes.new]\npath = \"/new\"\nmethods = [\"GET\"]\nauth = { public = \"a new route of a test\" }\nupstream = \"app\"")
    });
    assert!(taken);
    assert_eq!(gateway.send(&Request::get("/new")).status, 200);
    echoes(&mut client, "after");
    kept.send(Request::get("/new").h1());
    assert_eq!(kept.answer().map(|a| a.status), Some(200), "an open connection sees the new configuration");
    assert_eq!([orders(&gateway), orders(&gateway)], [200, 429]);
}

#[test]
fn events_arrive_one_by_one_as_they_are_sent() {
    let (send, receive) = mpsc::channel();
    let receive = Mutex::new(Some(receive));
    let upstream = Upstream::scripted(move |seen| {
        if !seen.target().starts_with("/events") {
            return Reply::ok();
        }
        let receive = receive.lock().expect("no panic").take();
        receive.map_or(Reply::Close, |receive| Reply::Stream("text/event-stream", receive))
    });
    let gateway = Setup::new(&upstream).start();
    let request = Request::get("/events").bearer(main_token("acme")).header("Accept", "text/event-stream");
    let mut client = gateway.h1();
    client.send(request.h1());
    let head = client.head().expect("the head comes before any event");
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    for i in 0..5 {
        let event = format!("data: {i}\n\n").into_bytes();
        // The next one is sent only when this one was read: a buffer anywhere would hang here.
        send.send(event.clone()).expect("the upstream listens");
        assert_eq!(client.chunk(), Some(event));
    }
    drop(send);
    assert_eq!(client.chunk(), None);
    assert_eq!(gateway.send(&Request::get("/events")).status, 401);
}

pub(crate) fn grpc_route(upstream: &Upstream, grpc: &GrpcUpstream, more: &str) -> Gateway {
    Setup::new(upstream)
        .with(more)
        .with(&format!(
            r#"
            [upstreams.grpc]
            servers = ["{}"]
            protocol = "h2"
            [hosts."api.example.test".routes.grpc]
            path = "/echo.Echo"
            methods = ["POST"]
            auth = {{ accept = ["jwt:main"] }}
            kind = "stream"
            upstream = "grpc"
            "#,
            grpc.address()
        ))
        .start()
}

#[test]
fn grpc_passes_with_its_trailers() {
    let (upstream, grpc) = (Upstream::start(), GrpcUpstream::start());
    let gateway = grpc_route(&upstream, &grpc, "");
    let message = b"\0\0\0\0\x05hello";
    let call =
        || Request::new("POST", "/echo.Echo/Say").header("Content-Type", "application/grpc").header("TE", "trailers");
    let mut connection = gateway.h2();
    for _ in 0..3 {
        let mut request = call().bearer(main_token("acme"));
        request.body = message.to_vec();
        let answer = connection.send(&request).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body, message);
        assert_eq!(answer.trailers, [("grpc-status".to_owned(), "0".to_owned())]);
        let seen = grpc.seen(&request.mark);
        assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/echo.Echo/Say"));
        assert_eq!(seen.headers["x-portcullis-tenant"], "acme");
        assert_eq!(seen.headers["te"], "trailers");
        assert!(!seen.headers.contains_key("authorization"));
        assert_eq!(seen.body, message);
    }
    let refused = call();
    assert_eq!(connection.send(&refused).expect("an answer").status, 401);
    assert!(grpc.saw(&refused.mark).is_none());
}

#[test]
fn a_reserved_name_does_not_reach_an_http2_upstream_either() {
    let (upstream, grpc) = (Upstream::start(), GrpcUpstream::start());
    let gateway = grpc_route(&upstream, &grpc, "");
    let request = Request::new("POST", "/echo.Echo/Say")
        .bearer(main_token("acme"))
        .header("Content-Type", "application/grpc")
        .header("X-Portcullis-Tenant", "planted-evil")
        .header("X-Portcullis-Role", "planted-evil")
        .header("Remote-User", "planted-evil");
    let answer = gateway.send_h2(&request);
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = grpc.seen(&request.mark);
    assert!(!format!("{:?}", seen.headers).contains("planted-evil"), "{:?}", seen.headers);
    assert_eq!(seen.headers.get_all("x-portcullis-tenant").iter().collect::<Vec<_>>(), ["acme"]);
}
