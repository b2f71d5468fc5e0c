//! What a slow, silent or oversized client meets.

use std::{num::NonZeroU32, time::Instant};

use pingora_core::{apps::ServerApp, services::Service as _};
use portcullis_api::{Millis, Size};
use portcullis_config::document::TlsVersion::V1_3;
use tokio::io::AsyncWriteExt;

use super::{
    super::{watch::HEAD_SLACK_BYTES, *},
    harness::{Edge, GET, Pki, Recorder, answer, drip, exchange, prepared, refusal, rest, settings},
};

/// Short enough for a test, long enough for a busy machine to get the first byte through.
const SHORT: Millis = Millis::new(400);
const PACE: Duration = Duration::from_millis(20);

#[tokio::test]
async fn a_handshake_that_does_not_come_is_cut_at_the_deadline() {
    let pki = Pki::new();
    let bounds = Bounds { handshake_timeout: SHORT, ..Bounds::default() };
    let mut edge = Edge::tls(pki.table(&["a.test"], V1_3), bounds).await;
    for start in [b"".as_slice(), b"\x16\x03\x01\x02\x00\x01\x00"] {
        let began = Instant::now();
        let mut stream = edge.connect().await;
        stream.write_all(start).await.unwrap();
        assert_eq!(rest(&mut stream).await, "");
        assert!(began.elapsed() >= SHORT.duration());
        edge.log.until("handshake none none timeout").await;
    }
}

#[tokio::test]
async fn a_handshake_that_stops_after_the_hello_frees_its_turn_at_the_deadline() {
    let pki = Pki::new();
    let bounds = Bounds { handshake_timeout: SHORT, handshakes_max: NonZeroU32::MIN, ..Bounds::default() };
    let mut edge = Edge::tls(pki.table(&["a.test"], V1_3), bounds).await;
    let mut hello = Vec::new();
    let mut client = rustls::ClientConnection::new(Arc::new(pki.browser(&[]).0), "a.test".try_into().unwrap()).unwrap();
    client.write_tls(&mut hello).unwrap();
    let mut stalled = edge.connect().await;
    stalled.write_all(&hello).await.unwrap();
    rest(&mut stalled).await;
    edge.log.until("handshake none none timeout").await;
    edge.connect_tls(&pki.browser(&[]), "a.test").await.unwrap();
}

#[tokio::test]
async fn a_head_that_drips_is_cut_at_the_deadline_also_the_second_on_a_connection() {
    let pki = Pki::new();
    let bounds = Bounds { head_timeout: SHORT, ..Bounds::default() };
    let mut edge = Edge::tls(pki.table(&["a.test"], V1_3), bounds).await;
    for requests in 0..2 {
        let mut stream = edge.connect_tls(&pki.browser(&[]), "a.test").await.unwrap();
        for _ in 0..requests {
            exchange(&mut stream, GET).await;
        }
        let began = Instant::now();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nX: ").await.unwrap();
        let page = drip(stream, "a", PACE).await;
        assert!(began.elapsed() >= SHORT.duration());
        edge.log.until("head timeout").await;
        edge.log.until(&refusal(&page, "408 Request Timeout", "request.head_timeout")).await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_cut_before_and_after_a_request() {
    let bounds = Bounds { idle_timeout: SHORT, ..Bounds::default() };
    let mut edge = Edge::plain(Topology::Direct, bounds).await;
    for requests in 0..2 {
        let began = Instant::now();
        let mut stream = edge.connect().await;
        for _ in 0..requests {
            exchange(&mut stream, GET).await;
        }
        assert_eq!(rest(&mut stream).await, "");
        assert!(began.elapsed() >= SHORT.duration());
        assert_eq!(edge.log.until("closed").await, ["opened", "closed"], "no head was begun");
    }
}

fn request_of(head_bytes: usize, body: &str) -> String {
    let frame = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\nX: \r\n\r\n", body.len());
    let filler = "a".repeat(head_bytes.checked_sub(frame.len()).unwrap());
    format!("{}{body}", frame.replace("X: ", &format!("X: {filler}")))
}

#[tokio::test]
async fn a_head_one_byte_over_the_bound_is_the_filters_to_answer_and_one_over_the_slack_is_cut() {
    let bounds = Bounds { head_bytes_max: Size::new(5_000), ..Bounds::default() };
    let mut edge = Edge::plain(Topology::Direct, bounds).await;
    let body = "b".repeat(20_000);
    let mut stream = edge.connect().await;
    for head in [5_000, 5_001, 5_000 + HEAD_SLACK_BYTES] {
        assert!(exchange(&mut stream, &request_of(head, "")).await.contains("body=0"), "{head}");
        assert!(exchange(&mut stream, &request_of(head, &body)).await.contains("body=20000"), "a body is no head");
    }
    stream.write_all(request_of(5_001 + HEAD_SLACK_BYTES, "").as_bytes()).await.unwrap();
    let page = rest(&mut stream).await;
    edge.log.until("head too_large").await;
    edge.log.until(&refusal(&page, "431 Request Header Fields Too Large", "request.head_too_large")).await;
}

#[tokio::test]
async fn a_body_that_stops_is_cut_after_the_gap_and_the_client_is_told() {
    let bounds = Bounds { body_timeout: SHORT, ..Bounds::default() };
    let mut edge = Edge::plain(Topology::Direct, bounds).await;
    let mut stream = edge.connect().await;
    let began = Instant::now();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nabc").await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 408"));
    assert!(began.elapsed() >= SHORT.duration());
    edge.log.until("cut body_stalled").await;
}

#[tokio::test]
async fn a_body_that_drips_is_cut_at_ten_times_the_gap() {
    // So long that no pause of a busy machine between two bytes is taken for a gap.
    let gap = Millis::new(1_000);
    let bounds = Bounds { body_timeout: gap, ..Bounds::default() };
    let mut edge = Edge::plain(Topology::Direct, bounds).await;
    let mut stream = edge.connect().await;
    let began = Instant::now();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 999999\r\n\r\n").await.unwrap();
    drip(stream, "a", PACE).await;
    assert!(began.elapsed() >= gap.duration().saturating_mul(10));
    edge.log.until("cut body_timeout").await;
}

#[tokio::test]
async fn a_head_that_was_left_is_counted_and_a_port_scan_is_no_head() {
    let mut edge = Edge::plain(Topology::Direct, Bounds::default()).await;
    let mut stream = edge.connect().await;
    stream.write_all(b"GET / HT").await.unwrap();
    drop(stream);
    assert_eq!(edge.log.until("closed").await, ["opened", "head closed", "closed"]);
    drop(edge.connect().await);
    assert_eq!(edge.log.until("closed").await, ["opened", "closed"], "a port scan is no head");
}

#[tokio::test]
async fn a_client_that_closes_its_half_still_gets_its_answer() {
    let pki = Pki::new();
    let edge = Edge::tls(pki.table(&["a.test"], V1_3), Bounds::default()).await;
    let mut stream = edge.connect_tls(&pki.browser(&[]), "a.test").await.unwrap();
    stream.write_all(GET.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(answer(&mut stream).await.contains("body=0"));
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn a_shutdown_wakes_idle_connections() {
    let mut edge = Edge::plain(Topology::Direct, Bounds::default()).await;
    let mut stream = edge.connect().await;
    exchange(&mut stream, GET).await;
    edge.terminator.cleanup().await;
    assert_eq!(rest(&mut stream).await, "");
    edge.log.until("closed").await;
}

#[tokio::test]
async fn the_service_of_a_listener_serves_and_ends_with_its_connections() {
    let pki = Pki::new();
    // Pingora wants an address: take a free one.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (recorder, mut log) = Recorder::new();
    let table = Arc::new(ArcSwap::from_pointee(pki.table(&["a.test"], V1_3)));
    let settings = ListenerSettings { address, tls: Some(table), ..settings(Bounds::default()) };
    let listener = ListenerRuntime::new(settings, recorder.clone());
    let mut service = service(&listener, &prepared(&listener, recorder).await);
    let (shutdown, watch) = tokio::sync::watch::channel(false);
    let running = tokio::spawn(async move { service.start_service(None, watch, 1).await });
    let socket = loop {
        match tokio::net::TcpStream::connect(address).await {
            Ok(socket) => break socket,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let connector = tokio_rustls::TlsConnector::from(Arc::new(pki.browser(&[]).0));
    let mut stream = connector.connect("a.test".try_into().unwrap(), socket).await.unwrap();
    exchange(&mut stream, GET).await;
    shutdown.send(true).unwrap();
    assert_eq!(rest(&mut stream).await, "");
    running.await.unwrap();
    log.until("closed").await;
}
