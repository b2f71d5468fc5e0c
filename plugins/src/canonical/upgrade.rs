//! `Upgrade`: a WebSocket handshake (RFC 6455 4.2.1), or nothing. A protocol that we do not read could carry anything.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, Method, header};

use super::{
    Ambiguity, Head, fields,
    raw::{Version, Wire},
};

/// Whether the client asks for another protocol on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// It does not.
    None,
    /// A complete WebSocket handshake. Whether the route admits one is the route's word.
    WebSocket,
}

/// Classifies the request; whatever asks for an upgrade and is no whole WebSocket handshake is refused.
pub(super) fn classify(head: &Head<'_>, wire: Option<&Wire<'_>>) -> Result<Upgrade, Ambiguity> {
    let refuse = |why| Err(Ambiguity::Upgrade { why });
    // `Connection: upgrade` alone asks for nothing; some proxies in front always send it.
    let Some(upgrade) = head.headers.get(header::UPGRADE) else {
        return Ok(Upgrade::None);
    };
    if !upgrade.as_bytes().eq_ignore_ascii_case(b"websocket") {
        return refuse("upgrade to something else than websocket");
    }
    if wire.is_none_or(|wire| wire.version != Version::Http11) {
        return refuse("upgrade on something else than HTTP/1.1");
    }
    if *head.method != Method::GET {
        return refuse("websocket handshake that is no GET");
    }
    if !fields::has_option(head.headers, b"upgrade") {
        return refuse("upgrade without the connection option");
    }
    if only(head.headers, &header::SEC_WEBSOCKET_VERSION) != Some(b"13") {
        return refuse("websocket version other than 13");
    }
    if !only(head.headers, &header::SEC_WEBSOCKET_KEY).is_some_and(is_key) {
        return refuse("websocket key that is not 16 bytes in base64");
    }
    Ok(Upgrade::WebSocket)
}

/// The value of a field that is there exactly once.
fn only<'r>(headers: &'r HeaderMap, name: &HeaderName) -> Option<&'r [u8]> {
    let mut values = headers.get_all(name).into_iter();
    values.next().filter(|_| values.next().is_none()).map(http::HeaderValue::as_bytes)
}

fn is_key(value: &[u8]) -> bool {
    // 24 characters decode to 18 bytes at most; padding and trailing bits are checked by the engine.
    let mut key = [0_u8; 18];
    value.len() == 24 && STANDARD.decode_slice(value, &mut key).is_ok_and(|len| len == 16)
}
