//! What a client reads whose head became no request.

use portcullis_api::{Millis, Size};
use portcullis_config::document::TlsVersion::V1_3;
use tokio::io::AsyncWriteExt;

use super::{
    super::*,
    harness::{Edge, GET, Pki, answer, exchange, refusal, rest},
};

const UNREADABLE: (&str, &str) = ("400 Bad Request", "request.unreadable");
const BAD: &str = "GET / HTTP/1.1\r\nHost : a.test\r\n\r\n";

#[tokio::test]
async fn what_the_parser_refuses_is_answered_by_the_edge_once_and_said_under_the_same_id() {
    let mut edge = Edge::plain(Topology::Direct, Bounds::default()).await;
    for bad in ["GARBAGE\r\n\r\n", "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n", BAD] {
        let mut stream = edge.connect().await;
        stream.write_all(bad.as_bytes()).await.unwrap();
        let page = rest(&mut stream).await;
        let answered = refusal(&page, UNREADABLE.0, UNREADABLE.1);
        assert!(!page.contains("Strict-Transport-Security"), "there is no TLS here");
        drop(stream);
        assert_eq!(edge.log.until("closed").await, ["opened", "head refused", &*answered, "closed"], "{bad}");
    }
}

#[tokio::test]
async fn it_is_answered_over_tls_too_also_after_a_request() {
    let pki = Pki::new();
    let mut edge = Edge::tls(pki.table(&["a.test"], V1_3), Bounds::default()).await;
    let mut stream = edge.connect_tls(&pki.browser(&[]), "a.test").await.unwrap();
    exchange(&mut stream, GET).await;
    stream.write_all(BAD.as_bytes()).await.unwrap();
    let page = rest(&mut stream).await;
    assert!(page.contains("\r\nStrict-Transport-Security: max-age=31536000\r\n"), "{page}");
    edge.log.until(&refusal(&page, UNREADABLE.0, UNREADABLE.1)).await;
}

#[tokio::test]
async fn two_refusals_have_two_ids() {
    let edge = Edge::plain(Topology::Direct, Bounds::default()).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut stream = edge.connect().await;
        stream.write_all(BAD.as_bytes()).await.unwrap();
        ids.push(refusal(&rest(&mut stream).await, UNREADABLE.0, UNREADABLE.1));
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_request_is_answered_by_its_filters_whatever_it_was_before() {
    let edge = Edge::plain(Topology::Direct, Bounds::default()).await;
    let mut stream = edge.connect().await;
    // In pieces, so that the head phase is read more than once.
    stream.write_all(&GET.as_bytes()[..9]).await.unwrap();
    tokio::task::yield_now().await;
    stream.write_all(&GET.as_bytes()[9..]).await.unwrap();
    assert!(answer(&mut stream).await.contains("body=0"));
    assert!(exchange(&mut stream, GET).await.contains("body=0"));
}

#[tokio::test]
async fn the_answer_reaches_a_client_that_is_still_sending() {
    let bounds = Bounds { head_bytes_max: Size::new(5_000), ..Bounds::default() };
    let edge = Edge::plain(Topology::Direct, bounds).await;
    for (start, (status, code)) in [
        (BAD, UNREADABLE),
        ("GET / HTTP/1.1\r\nX: ", ("431 Request Header Fields Too Large", "request.head_too_large")),
    ] {
        let mut stream = edge.connect().await;
        let more = "a".repeat(100_000);
        stream.write_all(format!("{start}{more}").as_bytes()).await.unwrap();
        refusal(&rest(&mut stream).await, status, code);
        // A connection that is closed with bytes unread is reset, and some clients then lose what they had not read.
        stream.write_all(more.as_bytes()).await.expect("no reset");
    }
}

#[tokio::test]
async fn a_client_that_does_not_leave_after_the_answer_is_left() {
    let mut edge = Edge::plain(Topology::Direct, Bounds::default()).await;
    let mut stream = edge.connect().await;
    stream.write_all(BAD.as_bytes()).await.unwrap();
    edge.log.until("closed").await;
    refusal(&rest(&mut stream).await, UNREADABLE.0, UNREADABLE.1);
}

#[tokio::test]
async fn silence_is_not_answered() {
    let bounds = Bounds { idle_timeout: Millis::new(100), ..Bounds::default() };
    let edge = Edge::plain(Topology::Direct, bounds).await;
    assert_eq!(rest(&mut edge.connect().await).await, "");
}

#[tokio::test]
async fn connect_is_the_filters_to_refuse() {
    let edge = Edge::plain(Topology::Direct, Bounds::default()).await;
    let connect = "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n";
    assert!(
        exchange(&mut edge.connect().await, connect).await.contains("uses=0"),
        "the filter of this test refuses none"
    );
}
