//! The PROXY protocol header, v1 and v2, from a balancer that the listener declared. `ppp` parses; this room
//! decides what counts and puts back what was read past the header.

use std::{io, net::SocketAddr};

use pingora_core::protocols::l4::stream::Stream as L4Stream;
use ppp::{PartialResult, v1, v2};
use tokio::io::AsyncReadExt;

/// Far above any header in use (a v1 line has at most 107 bytes); the bound keeps a hostile one cheap.
const HEADER_BYTES_MAX: usize = 2048;

/// How a v1 line begins.
const V1_START: &[u8] = b"PROXY ";
/// The longest v1 line with its CRLF.
const V1_BYTES_MAX: usize = 107;

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    /// The peer left before its header was complete, as a balancer's TCP probe does.
    #[error("the peer left before its PROXY header was complete")]
    Closed(#[source] io::Error),
    /// What the peer sent is no header, or one that has no place on a TCP connection.
    #[error("no PROXY header, or a malformed one")]
    Malformed,
}

/// Reads the header and nothing more. None: the balancer speaks for itself (`LOCAL`, `UNKNOWN`).
///
/// # Errors
/// [`ProxyError`]: the connection must be closed, a required header is never guessed at.
pub(super) async fn read(stream: &mut L4Stream) -> Result<Option<SocketAddr>, ProxyError> {
    let mut buffer = [0_u8; HEADER_BYTES_MAX];
    let mut have = 0_usize;
    loop {
        let free = buffer.get_mut(have..).filter(|free| !free.is_empty()).ok_or(ProxyError::Malformed)?;
        let more = stream.read(free).await.map_err(ProxyError::Closed)?;
        if more == 0 {
            return Err(ProxyError::Closed(io::ErrorKind::UnexpectedEof.into()));
        }
        have = have.saturating_add(more);
        let bytes = buffer.get(..have).unwrap_or_default();
        match parse(bytes) {
            Parsed::More => {}
            Parsed::Malformed => return Err(ProxyError::Malformed),
            Parsed::Header { length, source } => {
                stream.rewind(bytes.get(length..).unwrap_or_default());
                return Ok(source);
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// Not enough bytes to tell.
    More,
    /// A header of `length` bytes.
    Header { length: usize, source: Option<SocketAddr> },
    /// No header, whatever follows.
    Malformed,
}

fn parse(bytes: &[u8]) -> Parsed {
    if bytes.starts_with(V1_START) || V1_START.starts_with(bytes) { parse_v1(bytes) } else { parse_v2(bytes) }
}

/// `ppp` takes some parts of a line for malformed (one that ends before a port), and some whole malformed lines for
/// parts (one that lacks a field): so it sees whole lines only, and its word on them is final.
fn parse_v1(bytes: &[u8]) -> Parsed {
    if !bytes.contains(&b'\n') {
        return if bytes.len() < V1_BYTES_MAX { Parsed::More } else { Parsed::Malformed };
    }
    match v1::Header::try_from(bytes) {
        Ok(header) => Parsed::Header { length: header.header.len(), source: source_v1(header.addresses) },
        Err(_) => Parsed::Malformed,
    }
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    let result = v2::Header::try_from(bytes);
    if result.is_incomplete() {
        return Parsed::More;
    }
    match result.ok().and_then(|header| Some((header.len(), source_v2(&header)?))) {
        Some((length, source)) => Parsed::Header { length, source },
        None => Parsed::Malformed,
    }
}

fn source_v1(addresses: v1::Addresses) -> Option<SocketAddr> {
    match addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(ip) => Some(SocketAddr::new(ip.source_address.into(), ip.source_port)),
        v1::Addresses::Tcp6(ip) => Some(SocketAddr::new(ip.source_address.into(), ip.source_port)),
    }
}

/// The outer None: the header has no place here.
fn source_v2(header: &v2::Header<'_>) -> Option<Option<SocketAddr>> {
    match header.command {
        v2::Command::Local => return Some(None),
        v2::Command::Proxy => {}
    }
    match (header.protocol, header.addresses) {
        // Unspecified: the balancer could not tell, as v1's UNKNOWN.
        (v2::Protocol::Stream | v2::Protocol::Unspecified, v2::Addresses::Unspecified) => Some(None),
        (v2::Protocol::Stream, v2::Addresses::IPv4(ip)) => {
            Some(Some(SocketAddr::new(ip.source_address.into(), ip.source_port)))
        }
        (v2::Protocol::Stream, v2::Addresses::IPv6(ip)) => {
            Some(Some(SocketAddr::new(ip.source_address.into(), ip.source_port)))
        }
        // A datagram or a Unix socket is not how a client reaches a TCP listener through a balancer.
        (v2::Protocol::Datagram | v2::Protocol::Unspecified | v2::Protocol::Stream, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut bytes = V2.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend(u16::try_from(addresses.len()).unwrap().to_be_bytes());
        bytes.extend(addresses);
        bytes
    }

    const FOUR: [u8; 12] = [203, 0, 113, 7, 10, 0, 0, 1, 0x1f, 0x90, 1, 187];

    fn good() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let mut six = [0_u8; 36];
        six[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
        six[15] = 9;
        six[33] = 80;
        let mut with_tlv = FOUR.to_vec();
        with_tlv.extend([0x04, 0, 3, 1, 2, 3]);
        vec![
            (b"PROXY TCP4 203.0.113.7 10.0.0.1 8080 443\r\n".to_vec(), Some("203.0.113.7:8080")),
            (b"PROXY TCP6 2001:db8::9 2001:db8::1 80 443\r\n".to_vec(), Some("[2001:db8::9]:80")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(1, 0x11, &FOUR), Some("203.0.113.7:8080")),
            (v2(1, 0x21, &six), Some("[2001:db8::9]:80")),
            (v2(1, 0x11, &with_tlv), Some("203.0.113.7:8080")),
            (v2(0, 0x00, &[]), None),
            (v2(0, 0x11, &FOUR), None),
            (v2(1, 0x00, &[]), None),
        ]
    }

    #[test]
    fn a_good_header_is_read_to_its_end_and_never_past_it() {
        for (bytes, source) in good() {
            let source = source.map(|text| text.parse().unwrap());
            let whole = Parsed::Header { length: bytes.len(), source };
            assert_eq!(parse(&bytes), whole, "{}", bytes.escape_ascii());
            let mut followed = bytes.clone();
            followed.extend(b"\x16\x03\x01 more");
            assert_eq!(parse(&followed), whole, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn every_part_of_a_good_header_asks_for_more() {
        for (bytes, _) in good() {
            for length in 1..bytes.len() {
                assert_eq!(parse(&bytes[..length]), Parsed::More, "{}", bytes[..length].escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_no_header_is_told_at_once() {
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 100]].concat();
        let bad: [&[u8]; 16] = [
            b"GET / HTTP/1.1\r\n",
            b"\x16\x03\x01\x02\x00",
            b"PROXY\r\n",
            b"PROXY TCP4\r\n",
            b"PROXY TCP4 203.0.113.7\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.1 8080\r\n",
            b"PROXY TCP4 203.0.113.999 10.0.0.1 8080 443\r\n",
            b"PROXY TCP4 2001:db8::9 2001:db8::1 80 443\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.1 8080 65536\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.1 08080 443\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.1 8080 443\n",
            b"PROXY TCP5 203.0.113.7 10.0.0.1 8080 443\r\n",
            b"proxy TCP4 203.0.113.7 10.0.0.1 8080 443\r\n",
            b"PROXY  TCP4 203.0.113.7 10.0.0.1 8080 443\r\n",
            b"\r\n\r\n\0\r\nQUIT\r",
            &long,
        ];
        for bytes in bad {
            assert_eq!(parse(bytes), Parsed::Malformed, "{}", bytes.escape_ascii());
        }
        for (command, family, addresses) in [
            (2, 0x11, &FOUR[..]),
            (1, 0x12, &FOUR),
            (1, 0x10, &FOUR),
            (1, 0x11, &FOUR[..11]),
            (1, 0x31, &[0; 216]),
            (1, 0x41, &FOUR),
        ] {
            assert_eq!(parse(&v2(command, family, addresses)), Parsed::Malformed, "{command} {family:x}");
        }
        let mut version = v2(1, 0x11, &FOUR);
        version[12] = 0x31;
        assert_eq!(parse(&version), Parsed::Malformed);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(prefix in 0usize..4, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let prefix: &[u8] = [&b""[..], b"PROXY ", b"PROXY TCP4 ", V2][prefix];
            let bytes = [prefix, &bytes].concat();
            if let Parsed::Header { length, .. } = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
