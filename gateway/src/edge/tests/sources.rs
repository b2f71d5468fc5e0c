//! Who may connect, and whose address a connection has.

use std::num::NonZeroU32;

use portcullis_api::{Cidrs, Millis};
use portcullis_config::document::TlsVersion::V1_3;
use tokio::io::AsyncWriteExt;

use super::{
    super::*,
    harness::{Edge, GET, Pki, answer, exchange, read_head, rest},
};

fn balancers(net: &str) -> Topology {
    Topology::ProxyProtocol(Cidrs::new(vec![net.parse().unwrap()]))
}

const V1: &str = "PROXY TCP4 203.0.113.7 10.0.0.1 8080 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\x0a\0\0\x01\x1f\x90\x01\xbb";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

#[tokio::test]
async fn a_declared_balancer_tells_the_clients_address() {
    let edge = Edge::plain(balancers("127.0.0.0/8"), Bounds::default()).await;
    for header in [V1.as_bytes(), V2] {
        let mut stream = edge.connect().await;
        // Header and request in one segment: nothing may be lost between them.
        stream.write_all(&[header, GET.as_bytes()].concat()).await.unwrap();
        let seen = answer(&mut stream).await;
        assert!(seen.starts_with("proxied=203.0.113.7:8080 client=203.0.113.7:8080 "), "{seen}");
        exchange(&mut stream, GET).await;
    }
}

#[tokio::test]
async fn a_header_that_comes_byte_by_byte_is_read() {
    let edge = Edge::plain(balancers("127.0.0.0/8"), Bounds::default()).await;
    let mut stream = edge.connect().await;
    for byte in V2 {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(exchange(&mut stream, GET).await.starts_with("proxied=203.0.113.7:8080 "));
}

#[tokio::test]
async fn a_balancer_may_speak_for_itself() {
    let edge = Edge::plain(balancers("127.0.0.0/8"), Bounds::default()).await;
    for header in [b"PROXY UNKNOWN\r\n".as_slice(), V2_LOCAL] {
        let mut stream = edge.connect().await;
        stream.write_all(header).await.unwrap();
        let own = stream.local_addr().unwrap();
        let seen = exchange(&mut stream, GET).await;
        assert!(seen.starts_with(&format!("proxied= client={own} ")), "{seen}");
    }
}

#[tokio::test]
async fn the_header_stands_before_tls() {
    let pki = Pki::new();
    let edge = Edge::start(
        ListenerSettings {
            index: 3,
            name: "balanced".into(),
            address: "127.0.0.1:0".parse().unwrap(),
            topology: balancers("127.0.0.0/8"),
            tls: None,
            clients: None,
            bounds: Bounds::default(),
        },
        pki.table(&["a.test"], V1_3),
    )
    .await;
    let mut stream = edge.connect().await;
    stream.write_all(V1.as_bytes()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(pki.browser(&[]).0));
    let mut stream = connector.connect("a.test".try_into().unwrap(), stream).await.unwrap();
    let peer = stream.get_ref().0.local_addr().unwrap();
    let seen = exchange(&mut stream, GET).await;
    let ends = format!("peer={peer} local={} listener=3", edge.address);
    let start = format!("proxied=203.0.113.7:8080 client=203.0.113.7:8080 {ends} sni=a.test TLSv1_3");
    assert!(seen.starts_with(&start), "{seen}");
}

#[tokio::test]
async fn a_missing_or_malformed_header_closes() {
    let mut edge = Edge::plain(balancers("127.0.0.0/8"), Bounds::default()).await;
    for bad in [
        GET.as_bytes(),
        b"PROXY TCP4 203.0.113.7\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\xcb\0\x71\x07\x0a\0\0\x01\x1f\x90\x01\xbb",
    ] {
        let mut stream = edge.connect().await;
        stream.write_all(bad).await.unwrap();
        assert_eq!(rest(&mut stream).await, "");
        assert_eq!(edge.log.until("refused proxy_header").await, ["opened", "closed", "refused proxy_header"]);
    }
}

#[tokio::test]
async fn a_header_may_have_2048_bytes_and_not_one_more() {
    let mut edge = Edge::plain(balancers("127.0.0.0/8"), Bounds::default()).await;
    for (bytes, passes) in [(2048_u16, true), (2049, false)] {
        let mut header = V2.to_vec();
        header[14..16].copy_from_slice(&bytes.checked_sub(16).unwrap().to_be_bytes());
        header.resize(bytes.into(), 0);
        let mut stream = edge.connect().await;
        stream.write_all(&header).await.unwrap();
        if passes {
            assert!(exchange(&mut stream, GET).await.starts_with("proxied=203.0.113.7:8080 "));
        } else {
            rest(&mut stream).await;
            edge.log.until("refused proxy_header").await;
        }
    }
}

#[tokio::test]
async fn a_balancer_that_only_looks_whether_we_listen_is_told_apart() {
    let mut edge = Edge::plain(balancers("127.0.0.0/8"), Bounds::default()).await;
    drop(edge.connect().await);
    edge.log.until("refused proxy_closed").await;
}

#[tokio::test]
async fn a_peer_that_is_no_declared_balancer_is_closed_even_with_a_good_header() {
    let mut edge = Edge::plain(balancers("10.0.0.0/8"), Bounds::default()).await;
    let mut stream = edge.connect().await;
    stream.write_all(V1.as_bytes()).await.unwrap();
    assert_eq!(rest(&mut stream).await, "");
    edge.log.until("refused proxy_source").await;
}

#[tokio::test]
async fn a_header_from_a_listener_that_expects_none_is_no_request() {
    let mut edge = Edge::plain(Topology::Direct, Bounds::default()).await;
    let mut stream = edge.connect().await;
    stream.write_all(&[V1.as_bytes(), GET.as_bytes()].concat()).await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 400"));
    edge.log.until("head refused").await;
}

#[tokio::test]
async fn a_header_that_does_not_come_is_cut_at_the_deadline() {
    let bounds = Bounds { handshake_timeout: Millis::new(200), ..Bounds::default() };
    let mut edge = Edge::plain(balancers("127.0.0.0/8"), bounds).await;
    let mut stream = edge.connect().await;
    stream.write_all(b"PROXY TCP4 ").await.unwrap();
    assert_eq!(rest(&mut stream).await, "");
    edge.log.until("refused proxy_timeout").await;
}

fn few(connections: u32, per_network: u32) -> Bounds {
    Bounds {
        connections_max: NonZeroU32::new(connections).unwrap(),
        connections_per_network_max: NonZeroU32::new(per_network).unwrap(),
        ..Bounds::default()
    }
}

#[tokio::test]
async fn one_connection_more_than_a_network_may_have_is_closed_and_others_are_not() {
    let mut edge = Edge::plain(balancers("127.0.0.0/8"), few(10, 1)).await;
    let first = format!("PROXY TCP4 203.0.113.7 10.0.0.1 1 443\r\n{GET}");
    let same = format!("PROXY TCP4 203.0.113.200 10.0.0.1 1 443\r\n{GET}");
    let other = format!("PROXY TCP4 203.0.114.7 10.0.0.1 1 443\r\n{GET}");
    let mut held = edge.connect().await;
    exchange(&mut held, &first).await;
    let mut refused = edge.connect().await;
    refused.write_all(same.as_bytes()).await.unwrap();
    assert_eq!(rest(&mut refused).await, "");
    edge.log.until("refused network").await;
    exchange(&mut edge.connect().await, &other).await;
    drop(held);
    edge.log.until("closed").await;
    edge.log.until("closed").await;
    exchange(&mut edge.connect().await, &same).await;
}

#[tokio::test]
async fn one_connection_more_than_the_listener_may_have_is_closed_until_one_leaves() {
    let mut edge = Edge::plain(Topology::Direct, few(1, 10)).await;
    let mut held = edge.connect().await;
    exchange(&mut held, GET).await;
    assert_eq!(rest(&mut edge.connect().await).await, "");
    edge.log.until("refused connections").await;
    drop(held);
    edge.log.until("closed").await;
    exchange(&mut edge.connect().await, GET).await;
}

#[tokio::test]
async fn an_upgraded_connection_keeps_its_permit_and_has_no_deadline() {
    let bounds = Bounds { idle_timeout: Millis::new(300), head_timeout: Millis::new(300), ..few(2, 10) };
    let mut edge = Edge::plain(Topology::Direct, bounds).await;
    let mut upgraded = edge.connect().await;
    let request = "GET /upgrade HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    upgraded.write_all(request.as_bytes()).await.unwrap();
    assert!(read_head(&mut upgraded).await.starts_with("HTTP/1.1 101"));
    // A neighbour that came later is cut for being idle: so the upgraded one has outlived both deadlines.
    let mut idle = edge.connect().await;
    edge.log.until("opened").await;
    edge.log.until("opened").await;
    assert_eq!(rest(&mut edge.connect().await).await, "");
    edge.log.until("refused connections").await;
    assert_eq!(rest(&mut idle).await, "");
    edge.log.until("closed").await;
    upgraded.write_all(b"still here").await.unwrap();
    let mut echo = [0; 10];
    tokio::io::AsyncReadExt::read_exact(&mut upgraded, &mut echo).await.unwrap();
    assert_eq!(&echo, b"still here");
    drop(upgraded);
    edge.log.until("closed").await;
}
