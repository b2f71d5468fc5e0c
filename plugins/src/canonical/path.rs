//! Paths that mean the same before and after one decode, and to readers that fold `\`, cut at `;` or decode twice.
//!
//! Nothing is normalised: the path that routes and controls read is the path on the wire.

use super::{Ambiguity, ByteKind, Piece};

/// Judges a path that starts with `/`, segment by segment.
pub(super) fn check(path: &str) -> Result<&str, Ambiguity> {
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').zip(1..).peekable();
    while let Some((segment, at)) = segments.next() {
        // An empty last segment is a trailing slash.
        if segment.is_empty() && segments.peek().is_some() {
            return Err(Ambiguity::EmptySegment);
        }
        if !segment.bytes().all(is_plain) || segment == "." || segment == ".." {
            check_segment(segment, Piece::Nth { at, bytes: segment.len() })?;
        }
    }
    Ok(path)
}

/// Judges a query: visible ASCII without `#`, otherwise opaque. What is in it is for controls that decode it.
pub(super) fn check_query(query: &str) -> Result<&str, Ambiguity> {
    match query.bytes().find(|byte| !byte.is_ascii_graphic() || *byte == b'#') {
        None => Ok(query),
        Some(b'#') => Err(Ambiguity::Fragment),
        Some(byte) => Err(Ambiguity::QueryByte { byte: ByteKind::of(byte) }),
    }
}

/// Bytes that stand for themselves in a segment: those of RFC 3986 `pchar` but `;` and `%`, and `[ ] | ^`, which
/// browsers send as they are.
const fn is_plain(byte: u8) -> bool {
    matches!(byte,
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~'
        | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@'
        | b'[' | b']' | b'|' | b'^')
}

const fn is_unreserved(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~')
}

/// A segment that has something else than plain bytes in it, or is nothing but dots.
fn check_segment(text: &str, segment: Piece) -> Result<(), Ambiguity> {
    let mut rest = text.as_bytes();
    let (mut decoded, mut dots, mut hidden) = (0_usize, 0_usize, false);
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        decoded = decoded.saturating_add(1);
        match byte {
            b'%' => {
                let (octet, after) = triplet(rest).ok_or(Ambiguity::PercentEncoding { segment })?;
                rest = after;
                dots = dots.saturating_add(usize::from(octet == b'.'));
                hidden |= is_unreserved(octet);
                if octet.is_ascii() {
                    check_octet(octet, rest, segment)?;
                } else {
                    rest = check_utf8(octet, rest, segment)?;
                }
            }
            b'.' => dots = dots.saturating_add(1),
            b'\\' => return Err(Ambiguity::Backslash { segment }),
            b';' => return Err(Ambiguity::PathParameter { segment }),
            b'#' => return Err(Ambiguity::Fragment),
            byte if is_plain(byte) => {}
            byte => return Err(Ambiguity::PathByte { byte: ByteKind::of(byte) }),
        }
    }
    if dots == decoded && decoded <= 2 {
        return Err(Ambiguity::DotSegment { segment });
    }
    if hidden { Err(Ambiguity::EncodedUnreserved { segment }) } else { Ok(()) }
}

/// The octet of a triplet whose `%` was taken off, and what follows it.
fn triplet(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (&[high, low], rest) = bytes.split_first_chunk()?;
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some((digit(high)?.checked_mul(16)?.checked_add(digit(low)?)?, rest))
}

/// An ASCII octet that was encoded; `rest` is what follows its triplet.
fn check_octet(octet: u8, rest: &[u8], segment: Piece) -> Result<(), Ambiguity> {
    match octet {
        b'\\' => Err(Ambiguity::Backslash { segment }),
        b'/' | b'?' | b'#' | b';' => Err(Ambiguity::EncodedDelimiter { segment }),
        // `%25` is a percent sign, unless what follows makes it a triplet for whoever decodes once more.
        b'%' if triplet(rest).is_some() => Err(Ambiguity::DoubleEncoding { segment }),
        octet if octet.is_ascii_control() => Err(Ambiguity::EncodedControl { segment }),
        _ => Ok(()),
    }
}

/// A character of more than one octet, each in a triplet; gives back what follows it.
fn check_utf8(lead: u8, rest: &[u8], segment: Piece) -> Result<&[u8], Ambiguity> {
    let refuse = || Ambiguity::PathUtf8 { segment };
    let len = match lead {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Err(refuse()),
    };
    let mut octets = [lead, 0, 0, 0];
    let mut rest = rest;
    for slot in octets.iter_mut().take(len).skip(1) {
        (*slot, rest) = rest.strip_prefix(b"%").and_then(triplet).ok_or_else(refuse)?;
    }
    // The library knows overlong forms and surrogates.
    let text = octets.get(..len).and_then(|octets| std::str::from_utf8(octets).ok()).ok_or_else(refuse)?;
    if text.chars().any(char::is_control) {
        return Err(Ambiguity::EncodedControl { segment });
    }
    Ok(rest)
}
