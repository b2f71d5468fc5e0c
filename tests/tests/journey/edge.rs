//! The listener: TLS versions, names, protocols, bounds on connections.

use portcullis_tests::{Dial, H1, Request, Setup, Upstream, dial::alert};
use rustls::{
    AlertDescription, NamedGroup,
    version::{TLS12, TLS13},
};

use crate::world;

#[test]
fn tls_1_3_with_a_hybrid_key_exchange_is_what_is_spoken() {
    let wire = world().gateway.dial().versions(&[&TLS13, &TLS12]).connect().expect("it connects");
    let session = wire.session().expect("there is TLS");
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let group = session.negotiated_key_exchange_group().expect("a handshake has a group").name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
}

#[test]
fn tls_1_2_is_refused_with_its_alert_unless_the_listener_says_otherwise() {
    let error = world().gateway.dial().versions(&[&TLS12]).connect().err().expect("it is refused");
    assert_eq!(alert(&error), Some(AlertDescription::ProtocolVersion), "{error}");
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).with("listeners.public.tls = { minimum = \"1.2\" }").start();
    for version in [&TLS12, &TLS13] {
        let dial = gateway.dial().versions(&[version]);
        assert_eq!(gateway.send_from(&dial, &Request::get("/public")).status, 200);
    }
}

#[test]
fn an_unknown_name_is_refused_with_its_alert() {
    for name in ["unknown.example.test", "example.test", "a.b.wild.example.test", "wild.example.test"] {
        let error = world().gateway.dial().sni(name).connect().err().expect("it is refused");
        assert_eq!(alert(&error), Some(AlertDescription::UnrecognisedName), "{name}: {error}");
    }
}

#[test]
fn a_connection_without_a_name_is_refused() {
    // An address is sent as no server name at all.
    assert!(world().gateway.dial().sni("127.0.0.1").connect().is_err());
}

#[test]
fn a_wildcard_stands_for_one_label() {
    for host in ["a.wild.example.test", "b-2.wild.example.test"] {
        assert_eq!(world().gateway.send(&Request::get("/w").host(host)).status, 200);
        assert_eq!(world().gateway.send(&Request::get("/public").host(host)).status, 404);
    }
    let dial = world().gateway.dial().sni("a.wild.example.test");
    for host in ["b.wild.example.test", "wild.example.test", "x.a.wild.example.test", "*.wild.example.test"] {
        let answer = world().gateway.send_from(&dial, &Request::get("/w").host(host));
        assert!(matches!(answer.status, 421 | 400), "{host} {answer:?}");
    }
}

#[test]
fn the_protocol_is_the_one_that_was_agreed_on() {
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&[], None),
    ] {
        let wire = world().gateway.dial().alpn(offered).connect().expect("it connects");
        assert_eq!(wire.session().and_then(|session| session.alpn_protocol()), agreed, "{offered:?}");
    }
    let error = world().gateway.dial().alpn(&["spdy/3"]).connect().err().expect("nothing in common");
    assert_eq!(alert(&error), Some(AlertDescription::NoApplicationProtocol), "{error}");
    // Without ALPN it is HTTP/1.1.
    let dial = world().gateway.dial().alpn(&[]);
    assert_eq!(world().gateway.send_from(&dial, &Request::get("/public")).status, 200);
}

#[test]
fn what_is_no_tls_is_closed() {
    for bytes in
        ["GET / HTTP/1.1\r\nHost: api.example.test\r\n\r\n", "\0\0\0\0\0\0\0\0", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let mut client = H1::over(Dial::plain(world().gateway.address()).connect().expect("TCP connects"));
        client.send(bytes);
        // An alert may come first; no answer does.
        client.drip(std::time::Duration::from_millis(50), |_| true);
        assert!(world().gateway.is_running());
    }
    assert_eq!(world().gateway.send(&Request::get("/public")).status, 200);
}

#[test]
fn one_network_cannot_take_every_connection() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).with("listeners.public.bounds.connections_per_network_max = 4").start();
    let held: Vec<_> = (0..4).map(|_| gateway.dial().from("127.7.0.1").connect().expect("within the bound")).collect();
    assert!(gateway.dial().from("127.7.0.9").connect().is_err(), "the same /24");
    assert_eq!(gateway.send_from(&gateway.dial().from("127.8.0.1"), &Request::get("/public")).status, 200);
    drop(held);
    portcullis_tests::wait_for("the places to be free again", || gateway.dial().from("127.7.0.9").connect().ok());
}

#[test]
fn a_handshake_that_is_not_finished_is_closed() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).with("listeners.public.bounds.handshake_timeout = \"300ms\"").start();
    let mut silent = H1::over(Dial::plain(gateway.address()).connect().expect("TCP connects"));
    assert!(silent.closes_within(std::time::Duration::from_secs(10)));
    let mut half = H1::over(Dial::plain(gateway.address()).connect().expect("TCP connects"));
    half.send([0x16, 3, 1, 2, 0, 1]);
    assert!(half.closes_within(std::time::Duration::from_secs(10)));
}
