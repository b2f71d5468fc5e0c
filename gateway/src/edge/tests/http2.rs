//! The same over HTTP/2, where one connection carries many requests.

use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::{Method, Request, StatusCode};
use portcullis_api::{Millis, Size};
use portcullis_config::document::TlsVersion::V1_3;
use tokio::{io::AsyncWriteExt, task::JoinHandle};

use super::{
    super::*,
    harness::{Edge, Pki, drip, rest},
};

const SHORT: Millis = Millis::new(400);

async fn edge(bounds: Bounds) -> (Edge, Pki) {
    let pki = Pki::new();
    let edge = Edge::tls(pki.table(&["a.test"], V1_3), bounds).await;
    (edge, pki)
}

async fn h2(edge: &Edge, pki: &Pki) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let stream = edge.connect_tls(&pki.browser(&["h2", "http/1.1"]), "a.test").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (requests, connection) = client::handshake(stream).await.unwrap();
    (requests, tokio::spawn(connection))
}

fn request(method: Method) -> Request<()> {
    Request::builder().method(method).uri("https://a.test/").body(()).unwrap()
}

async fn get(requests: &mut SendRequest<Bytes>) -> String {
    let (response, _) = requests.send_request(request(Method::GET), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let mut text = Vec::new();
    while let Some(part) = body.data().await {
        text.extend(part.unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn h2_is_chosen_by_alpn_and_all_streams_see_one_connection() {
    let (mut edge, pki) = edge(Bounds::default()).await;
    let (mut requests, driver) = h2(&edge, &pki).await;
    for uses in 0..3 {
        let seen = get(&mut requests).await;
        assert!(
            seen.contains("sni=a.test TLSv1_3 X25519MLKEM768") && seen.ends_with(&format!("uses={uses}")),
            "{seen}"
        );
    }
    drop(requests);
    let _ = driver.await;
    let all = edge.log.until("closed").await;
    assert_eq!(all, ["opened", "handshake TLSv1_3 X25519MLKEM768 ok", "closed"]);
}

#[tokio::test]
async fn a_preface_that_does_not_come_is_cut_at_the_heads_deadline() {
    let (mut edge, pki) = edge(Bounds { head_timeout: SHORT, ..Bounds::default() }).await;
    let client = pki.browser(&["h2"]);
    let mut silent = edge.connect_tls(&client, "a.test").await.unwrap();
    rest(&mut silent).await;
    assert!(!edge.log.until("closed").await.iter().any(|what| what.starts_with("head")), "nothing was begun");
    let mut partial = edge.connect_tls(&client, "a.test").await.unwrap();
    partial.write_all(b"PRI * HTTP/2.0").await.unwrap();
    rest(&mut partial).await;
    edge.log.until("head timeout").await;
}

#[tokio::test]
async fn a_header_block_that_drips_is_cut_at_the_heads_deadline() {
    let (mut edge, pki) = edge(Bounds { head_timeout: SHORT, ..Bounds::default() }).await;
    let mut stream = edge.connect_tls(&pki.browser(&["h2"]), "a.test").await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // HEADERS of 16,000 bytes on stream 1, without END_HEADERS.
    stream.write_all(&[0, 0x3e, 0x80, 1, 0, 0, 0, 0, 1]).await.unwrap();
    drip(stream, "\u{0}", Duration::from_millis(20)).await;
    edge.log.until("head timeout").await;
}

#[tokio::test]
async fn an_idle_h2_connection_is_cut_before_and_after_a_request() {
    let (mut edge, pki) = edge(Bounds { idle_timeout: SHORT, ..Bounds::default() }).await;
    for count in 0..2 {
        let (mut requests, driver) = h2(&edge, &pki).await;
        for _ in 0..count {
            get(&mut requests).await;
        }
        let _ = driver.await.unwrap();
        let all = edge.log.until("closed").await;
        assert!(!all.iter().any(|what| what.starts_with("head")), "{all:?}");
    }
}

#[tokio::test]
async fn an_h2_body_that_stops_ends_the_connection_after_the_gap() {
    let (mut edge, pki) = edge(Bounds { body_timeout: SHORT, ..Bounds::default() }).await;
    for start in ["", "some"] {
        let (mut requests, driver) = h2(&edge, &pki).await;
        // The connection is past its settings: nothing but the filter itself brings the deadline to its notice.
        get(&mut requests).await;
        let began = std::time::Instant::now();
        let (_response, mut body) = requests.send_request(request(Method::POST), false).unwrap();
        if !start.is_empty() {
            body.send_data(Bytes::from(start), false).unwrap();
        }
        assert!(driver.await.unwrap().is_err());
        assert!(began.elapsed() >= SHORT.duration());
        edge.log.until("cut body_stalled").await;
    }
}

#[tokio::test]
async fn an_h2_body_that_drips_ends_at_ten_times_the_gap_whatever_other_streams_do() {
    let gap = Millis::new(150);
    let (mut edge, pki) = edge(Bounds { body_timeout: gap, ..Bounds::default() }).await;
    let (mut requests, mut driver) = h2(&edge, &pki).await;
    let began = std::time::Instant::now();
    let (_response, mut body) = requests.send_request(request(Method::POST), false).unwrap();
    edge.log.until("waits for a body").await;
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    loop {
        tokio::select! {
            end = &mut driver => break assert!(end.unwrap().is_err()),
            _ = tick.tick() => {
                let _ = body.send_data(Bytes::from_static(b"a"), false);
                if let Ok((response, _)) = requests.send_request(request(Method::GET), true) {
                    drop(response);
                }
            }
        }
    }
    assert!(began.elapsed() >= gap.duration().saturating_mul(10));
    edge.log.until("cut body_timeout").await;
}

#[tokio::test]
async fn an_h2_upload_larger_than_every_window_passes() {
    let (edge, pki) = edge(Bounds { body_timeout: Millis::from_secs(5), ..Bounds::default() }).await;
    let (mut requests, _driver) = h2(&edge, &pki).await;
    let (response, mut body) = requests.send_request(request(Method::POST), false).unwrap();
    body.send_data(Bytes::from(vec![b'a'; 2 << 20]), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let text = response.into_body().data().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&text).contains("body=2097152"));
}

#[tokio::test]
async fn an_h2_client_whose_window_is_closed_is_not_cut_for_our_slowness() {
    let (mut edge, pki) = edge(Bounds { body_timeout: SHORT, ..Bounds::default() }).await;
    let (mut requests, _driver) = h2(&edge, &pki).await;
    let hold = Request::builder().method(Method::POST).uri("https://a.test/hold").body(()).unwrap();
    let (response, mut body) = requests.send_request(hold, false).unwrap();
    body.send_data(Bytes::from(vec![b'a'; 1 << 20]), true).unwrap();
    edge.log.until("waits for a body").await;
    // A client that came later and really stops is cut: so the first has outlived the gap.
    let (mut others, other) = h2(&edge, &pki).await;
    let (_response, _body) = others.send_request(request(Method::POST), false).unwrap();
    assert!(other.await.unwrap().is_err());
    edge.log.until("cut body_stalled").await;
    edge.log.release();
    let text = response.await.unwrap().into_body().data().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&text).contains("body=1048576"));
}

#[tokio::test]
async fn an_h2_request_that_reaches_no_filter_is_counted() {
    let (mut edge, pki) = edge(Bounds { head_bytes_max: Size::new(2_000), ..Bounds::default() }).await;
    let (mut requests, driver) = h2(&edge, &pki).await;
    get(&mut requests).await;
    let other_host = Request::builder().uri("https://a.test/").header("host", "b.test").body(()).unwrap();
    let large = Request::builder().uri("https://a.test/").header("x", "a".repeat(3_000)).body(()).unwrap();
    for (bad, status) in [(other_host, 400), (large, 431)] {
        let (response, _) = requests.send_request(bad, true).unwrap();
        assert_eq!(response.await.unwrap().status(), status);
    }
    get(&mut requests).await;
    drop(requests);
    let _ = driver.await;
    let all = edge.log.until("closed").await;
    assert_eq!(all.iter().filter(|what| *what == "head refused").count(), 2, "{all:?}");
}

#[tokio::test]
async fn an_h2_connect_is_answered_by_the_filters_and_names_nothing() {
    let (edge, pki) = edge(Bounds::default()).await;
    let (mut requests, _driver) = h2(&edge, &pki).await;
    let connect = Request::builder().method(Method::CONNECT).uri("a.test:443").body(()).unwrap();
    let (response, _) = requests.send_request(connect, true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.headers().get("server"), None, "{response:?}");
}
