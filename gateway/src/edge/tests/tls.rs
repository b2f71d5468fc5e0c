//! TLS by name.

use portcullis_config::document::TlsVersion::{V1_2, V1_3};
use rustls::{AlertDescription, HandshakeKind, version::TLS12, version::TLS13};
use tokio::io::AsyncWriteExt;

use super::{
    super::*,
    harness::{Edge, GET, Pki, exchange, rest},
};

fn alert(result: std::io::Result<impl Sized>) -> AlertDescription {
    let error = result.err().expect("the handshake must fail");
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        other => panic!("no alert: {other:?} ({error})"),
    }
}

#[tokio::test]
async fn a_client_of_today_gets_tls13_with_x25519mlkem768_and_every_filter_sees_it() {
    let pki = Pki::new();
    let mut edge = Edge::tls(pki.table(&["a.test"], V1_3), Bounds::default()).await;
    let mut stream = edge.connect_tls(&pki.browser(&["http/1.1"]), "a.test").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let client = stream.get_ref().0.local_addr().unwrap();
    let seen = exchange(&mut stream, GET).await;
    let ends = format!("client={client} peer={client} local={} listener=0", edge.address);
    assert_eq!(seen, format!("proxied= {ends} sni=a.test TLSv1_3 X25519MLKEM768 body=0 uses=0"));
    assert!(exchange(&mut stream, GET).await.ends_with("uses=1"), "the connection's slot lives as long as it");
    drop(stream);
    let all = edge.log.until("closed").await;
    assert_eq!(all, ["opened", "handshake TLSv1_3 X25519MLKEM768 ok", "closed"]);
}

#[tokio::test]
async fn a_client_without_post_quantum_groups_gets_x25519() {
    let pki = Pki::new();
    let mut edge = Edge::tls(pki.table(&["a.test"], V1_3), Bounds::default()).await;
    let mut client = pki.browser(&[]);
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .kx_groups
        .retain(|group| matches!(group.name(), rustls::NamedGroup::X25519 | rustls::NamedGroup::secp256r1));
    client.0 = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(pki.roots.clone())
        .with_no_client_auth();
    edge.connect_tls(&client, "a.test").await.unwrap();
    edge.log.until("handshake TLSv1_3 X25519 ok").await;
}

#[tokio::test]
async fn a_tls12_client_gets_alert_70_unless_the_listener_says_otherwise() {
    let pki = Pki::new();
    let old = pki.client(&[&TLS12], &[]);
    let mut edge = Edge::tls(pki.table(&["a.test"], V1_3), Bounds::default()).await;
    assert_eq!(alert(edge.connect_tls(&old, "a.test").await), AlertDescription::ProtocolVersion);
    edge.log.until("handshake none none incompatible").await;

    let mut edge = Edge::tls(pki.table(&["a.test"], V1_2), Bounds::default()).await;
    let mut stream = edge.connect_tls(&old, "a.test").await.unwrap();
    let seen = exchange(&mut stream, GET).await;
    assert!(seen.contains("sni=a.test TLSv1_2 X25519 "), "{seen}");
    edge.connect_tls(&pki.browser(&[]), "a.test").await.unwrap();
    edge.log.until("handshake TLSv1_3 X25519MLKEM768 ok").await;
}

#[tokio::test]
async fn an_unknown_or_missing_name_gets_unrecognized_name() {
    let pki = Pki::new();
    let client = pki.browser(&[]);
    let mut edge = Edge::tls(pki.table(&["a.test"], V1_3), Bounds::default()).await;
    for (name, result) in [("b.test", "unknown_name"), ("sub.a.test", "unknown_name"), ("127.0.0.1", "no_name")] {
        assert_eq!(alert(edge.connect_tls(&client, name).await), AlertDescription::UnrecognisedName, "{name}");
        edge.log.until(&format!("handshake none none {result}")).await;
    }
}

#[tokio::test]
async fn a_name_is_found_whatever_its_case() {
    let pki = Pki::new();
    let edge = Edge::tls(pki.table(&["a.test"], V1_3), Bounds::default()).await;
    let mut stream = edge.connect_tls(&pki.browser(&[]), "A.Test").await.unwrap();
    assert!(exchange(&mut stream, GET).await.contains("sni=a.test "));
}

#[tokio::test]
async fn a_wildcard_covers_one_label_and_an_exact_name_wins() {
    let pki = Pki::new();
    let table = pki.table(&["a.test", "*.wild.test", "a.wild.test"], V1_3);
    let found = |name: &str| table.find(name).map(Arc::as_ptr);
    assert_eq!(found("b.wild.test"), found("c.wild.test"));
    assert_ne!(found("a.wild.test"), found("b.wild.test"));
    for name in ["wild.test", "b.c.wild.test", ".wild.test", "*.test", "", "."] {
        assert_eq!(found(name), None, "{name}");
    }
    let edge = Edge::tls(table, Bounds::default()).await;
    let mut stream = edge.connect_tls(&pki.browser(&[]), "b.wild.test").await.unwrap();
    assert!(exchange(&mut stream, GET).await.contains("sni=b.wild.test "));
    assert_eq!(alert(edge.connect_tls(&pki.browser(&[]), "b.c.wild.test").await), AlertDescription::UnrecognisedName);
}

#[tokio::test]
async fn a_client_with_no_protocol_in_common_is_told_so() {
    let pki = Pki::new();
    let mut edge = Edge::tls(pki.table(&["a.test"], V1_3), Bounds::default()).await;
    let result = edge.connect_tls(&pki.browser(&["acme-tls/1"]), "a.test").await;
    assert_eq!(alert(result), AlertDescription::NoApplicationProtocol);
    edge.log.until("handshake none none no_alpn").await;
}

#[tokio::test]
async fn what_is_not_tls_is_refused_without_an_answer_in_clear() {
    let pki = Pki::new();
    let mut edge = Edge::tls(pki.table(&["a.test"], V1_3), Bounds::default()).await;
    let mut stream = edge.connect().await;
    stream.write_all(GET.as_bytes()).await.unwrap();
    assert!(!rest(&mut stream).await.contains("HTTP"));
    edge.log.until("handshake none none malformed").await;
    drop(edge.connect().await);
    edge.log.until("handshake none none closed").await;
}

#[tokio::test]
async fn a_reload_swaps_hosts_keeps_connections_and_honours_older_tickets() {
    let pki = Pki::new();
    let client = pki.browser(&[]);
    let edge = Edge::tls(pki.table(&["a.test"], V1_3), Bounds::default()).await;
    let mut before = edge.connect_tls(&client, "a.test").await.unwrap();
    exchange(&mut before, GET).await;
    edge.table.store(Arc::new(pki.table(&["a.test", "other.test"], V1_3)));
    let mut after = edge.connect_tls(&client, "a.test").await.unwrap();
    assert_eq!(after.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    exchange(&mut after, GET).await;
    exchange(&mut before, GET).await;
    edge.connect_tls(&client, "other.test").await.unwrap();
    edge.table.store(Arc::new(pki.table(&["other.test"], V1_3)));
    assert_eq!(alert(edge.connect_tls(&client, "a.test").await), AlertDescription::UnrecognisedName);
    exchange(&mut after, GET).await;
}

#[tokio::test]
async fn a_key_that_does_not_fit_its_certificate_is_an_error() {
    let (one, two) = (Pki::new(), Pki::new());
    let mixed = rustls::sign::CertifiedKey::new(one.key.cert.clone(), Arc::clone(&two.key.key));
    let result = server_config(Arc::new(mixed), V1_3, Clients::Unasked(Arc::clone(&one.ticketer)));
    assert!(matches!(result, Err(rustls::Error::InconsistentKeys(_))), "{result:?}");
}

#[test]
fn no_early_data_and_no_weak_suite() {
    let pki = Pki::new();
    for (minimum, suites) in [(V1_3, 3), (V1_2, 9)] {
        let table = pki.table(&["a.test"], minimum);
        let config = table.find("a.test").unwrap();
        assert_eq!(config.max_early_data_size, 0);
        let provider = config.crypto_provider();
        assert_eq!(provider.cipher_suites.len(), suites);
        let groups: Vec<_> = provider.kx_groups.iter().map(|group| group.name().as_str().unwrap()).collect();
        assert_eq!(groups, ["X25519MLKEM768", "X25519", "secp256r1", "secp384r1"]);
        for suite in &provider.cipher_suites {
            let name = suite.suite().as_str().unwrap();
            let aead = name.contains("GCM") || name.contains("CHACHA20");
            assert!(aead && (name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_")), "{name}");
        }
    }
}
