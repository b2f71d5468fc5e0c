//! Counts URLs in plain text.
//!
//! A scheme is evidence by itself; a bare name needs an ending that is no word, a `www.`, or something behind it that
//! only follows a host (see [`bare`]). Each byte is looked at a bounded number of times: the scanner jumps from one
//! `.` or `:` to the next, and what was read as part of one link is never read as part of another.

mod bare;
mod scheme;
mod tail;
mod tld;

use std::ops::Range;

use memchr::memchr2;

pub(super) use tld::{is_core_tld, is_known_tld, is_second_level, warm_up};

use super::text::byte;

/// What kind of text is scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Text.
    Plain,
    /// XML or HTML: the values of `xmlns` attributes are names, not links.
    Markup,
}

/// What a `.` or a `:` turned out to be.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// A link with this host, read up to `end`.
    Link { host: Range<usize>, end: usize },
    /// None; everything up to `end` is settled.
    Nothing { end: usize },
    /// None; what surrounds it is not settled yet.
    Unsettled,
}

/// The number of URLs in `text`, at most `stop_at`. Links to `own_host` are not counted.
pub(super) fn count(text: &str, own_host: &str, style: Style, stop_at: u32) -> u32 {
    let bytes = text.as_bytes();
    let mut counted: u32 = 0;
    let mut from = 0;
    let mut settled = 0;
    while counted < stop_at
        && let Some(offset) = bytes.get(from..).and_then(|rest| memchr2(b'.', b':', rest))
    {
        let at = from.saturating_add(offset);
        from = at.saturating_add(1);
        let found = if byte(bytes, at) == b':' {
            scheme::read(text, at, settled, style)
        } else {
            bare::read(text, at, settled)
        };
        match found {
            Found::Link { host, end } => {
                counted = counted.saturating_add(u32::from(!is_own(text, host, own_host)));
                from = end.max(from);
                settled = end;
            }
            Found::Nothing { end } => {
                from = end.max(from);
                settled = end;
            }
            Found::Unsettled => {}
        }
    }
    counted
}

/// Whether the host is the one that the request was sent to. A backslash behind it makes that a matter of taste
/// (`http://own.host\@other.host`), so then it is not.
fn is_own(text: &str, host: Range<usize>, own_host: &str) -> bool {
    !own_host.is_empty()
        && byte(text.as_bytes(), host.end) != b'\\'
        && text.get(host).is_some_and(|host| host.trim_end_matches('.').eq_ignore_ascii_case(own_host))
}
