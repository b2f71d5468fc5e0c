//! Links with a scheme: `https://host…`, also `hxxps://`, also glued to the word before it.

use std::ops::Range;

use super::{
    super::text::{before, byte, char_at},
    Found, Style,
    tail::{self, is_host_char},
};

/// Schemes that count. Those that `glued` names also count behind a letter, as in `clickhttp://…`; the others are the
/// ends of ordinary schemes (`news://`).
const SCHEMES: &[(&str, bool)] = &[
    ("https", true),
    ("hxxps", true),
    ("h**ps", true),
    ("htxps", true),
    ("http", true),
    ("hxxp", true),
    ("h**p", true),
    ("htxp", true),
    ("ftps", false),
    ("sftp", false),
    ("ftp", false),
    ("wss", false),
    ("ws", false),
];

/// Where the scheme begins that ends at the `:` at `colon`, not before `settled`.
pub(super) fn start_of(text: &str, colon: usize, settled: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    SCHEMES.iter().find_map(|(name, glued)| {
        let start = colon.checked_sub(name.len())?;
        let same = start >= settled && bytes.get(start..colon)?.eq_ignore_ascii_case(name.as_bytes());
        (same && (*glued || !before(bytes, start).is_ascii_alphanumeric())).then_some(start)
    })
}

/// Whether two slashes follow the `:` at `colon`, in either direction: browsers read `http:\\host`.
pub(super) fn has_slashes(bytes: &[u8], colon: usize) -> bool {
    let slash = |at| matches!(byte(bytes, at), b'/' | b'\\');
    slash(colon.saturating_add(1)) && slash(colon.saturating_add(2))
}

/// Reads the link whose scheme ends at `colon`.
pub(super) fn read(text: &str, colon: usize, settled: usize, style: Style) -> Found {
    let bytes = text.as_bytes();
    if !has_slashes(bytes, colon) {
        return Found::Unsettled;
    }
    let Some(start) = start_of(text, colon, settled) else { return Found::Unsettled };
    let mut at = colon.saturating_add(1);
    while matches!(byte(bytes, at), b'/' | b'\\') {
        at = at.saturating_add(1);
    }
    let (host, authority_end) = authority(text, at);
    let names_a_host = byte(bytes, host.start) == b'[' || char_at(text, host.start).is_some_and(char::is_alphanumeric);
    if host.is_empty() || !names_a_host {
        return Found::Unsettled;
    }
    let end = tail::end(text, authority_end);
    if style == Style::Markup && is_namespace(text, start) {
        return Found::Nothing { end };
    }
    Found::Link { host, end }
}

/// The host of an authority that begins at `start`, and where the authority ends.
fn authority(text: &str, start: usize) -> (Range<usize>, usize) {
    let bytes = text.as_bytes();
    let mut host_start = start;
    let mut at = start;
    loop {
        match byte(bytes, at) {
            b'@' => host_start = at.saturating_add(1),
            // `http://a.comhttp://b.com`: the second link begins inside what looks like the first one's host.
            b':' if has_slashes(bytes, at) => {
                at = start_of(text, at, start).unwrap_or(at);
                break;
            }
            b'[' if at != host_start => break,
            b'[' | b']' | b':' | b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'*' | b'+' | b'=' => {}
            c if c.is_ascii_alphanumeric() => {}
            _ => match char_at(text, at) {
                Some(c) if is_host_char(c) => {
                    at = at.saturating_add(c.len_utf8());
                    continue;
                }
                Some(_) | None => break,
            },
        }
        at = at.saturating_add(1);
    }
    let host_start = host_start.min(at);
    let length = host_length(bytes.get(host_start..at).unwrap_or_default());
    let host_end = host_start.saturating_add(length);
    // A `]` that closes no IPv6 literal closes the text around the link.
    let port = bytes.get(host_end..at).unwrap_or_default();
    let closed = port.iter().position(|&c| c == b']').map_or(at, |close| host_end.saturating_add(close));
    (host_start..host_end, closed)
}

fn host_length(authority: &[u8]) -> usize {
    if authority.first() == Some(&b'[') {
        return authority.iter().position(|&c| c == b']').map_or(0, |close| close.saturating_add(1));
    }
    let host = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_') || !c.is_ascii();
    authority.iter().position(|&c| !host(c)).unwrap_or(authority.len())
}

/// Whether the link is the value of an `xmlns` or `xmlns:prefix` attribute.
fn is_namespace(text: &str, start: usize) -> bool {
    let Some(head) = text.get(..start).and_then(|head| head.strip_suffix(['"', '\''])) else { return false };
    let Some(head) = head.trim_end_matches(' ').strip_suffix('=') else { return false };
    let head = head.trim_end_matches(' ');
    let name_bytes =
        head.bytes().rev().take_while(|&c| c.is_ascii_alphanumeric() || matches!(c, b':' | b'-' | b'_' | b'.'));
    let name = head.get(head.len().saturating_sub(name_bytes.take(64).count())..).unwrap_or_default();
    name == "xmlns" || name.starts_with("xmlns:")
}
