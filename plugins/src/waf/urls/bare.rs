//! Names without a scheme: which are links, and which are prose, files, versions, addresses or code.

use std::ops::Range;

use super::{
    super::text::{before, byte, char_at, char_before, is_spaceless_script, part},
    Found,
    tail::{self, is_host_char},
    tld,
};

/// Reads the run of labels around the `.` at `dot`, not before `settled`.
pub(super) fn read(text: &str, dot: usize, settled: usize) -> Found {
    let start = run_start(text, dot, settled);
    let end = run_end(text, dot);
    match host(text, start..end) {
        Some(host) => {
            let end = tail::end(text, host.end);
            Found::Link { host, end }
        }
        None => Found::Nothing { end },
    }
}

/// Whether a link without a scheme begins at `start`.
pub(super) fn begins(text: &str, start: usize) -> bool {
    let end = run_end(text, start);
    host(text, start..end).is_some_and(|host| host.start == start)
}

fn run_start(text: &str, dot: usize, settled: usize) -> usize {
    let bytes = text.as_bytes();
    let mut at = dot;
    while at > settled {
        let byte = before(bytes, at);
        if byte.is_ascii() {
            if !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
                break;
            }
            at = at.saturating_sub(1);
        } else {
            match char_before(text, at) {
                Some(c) if is_host_char(c) => at = at.saturating_sub(c.len_utf8()),
                Some(_) | None => break,
            }
        }
    }
    at
}

/// The run ends where its characters do, and where text without spaces follows an ASCII label: `a.com` and then a
/// Chinese word.
fn run_end(text: &str, from: usize) -> usize {
    let bytes = text.as_bytes();
    let mut at = from;
    loop {
        let byte = byte(bytes, at);
        if byte.is_ascii() {
            if !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
                return at;
            }
            at = at.saturating_add(1);
        } else {
            match char_at(text, at) {
                Some(c) if !is_host_char(c) => return at,
                Some(c) if before(bytes, at).is_ascii_alphanumeric() && is_spaceless_script(c) => return at,
                Some(c) => at = at.saturating_add(c.len_utf8()),
                None => return at,
            }
        }
    }
}

/// The host in a run of labels, if the run is a link.
fn host(text: &str, run: Range<usize>) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let name = part(text, run.clone()).trim_end_matches(['.', '-', '_']);
    let end = run.start.saturating_add(name.len());
    // Behind an ellipsis a name may begin: `wait...example.com`.
    let name = name.rsplit("..").next()?.trim_start_matches(['.', '-']);
    let start = end.saturating_sub(name.len());
    if !surroundings_allow(bytes, run.start, start, end) {
        return None;
    }
    let (rest, last) = name.rsplit_once('.')?;
    let name_like = Name { text, first: rest.split('.').next()?, rest, last, end };
    if name_like.is_www() {
        return Some(start..end);
    }
    if name.bytes().all(|c| c.is_ascii_digit() || c == b'.') {
        return is_address_with_path(name, bytes, end).then_some(start..end);
    }
    let end = name_like.evidence()?;
    Some(start..end)
}

/// What stands around a name: `user@name`, `name@host`, a path before it.
fn surroundings_allow(bytes: &[u8], run_start: usize, start: usize, end: usize) -> bool {
    let previous = before(bytes, run_start);
    let in_path = matches!(previous, b'/' | b'\\') && {
        let earlier = before(bytes, run_start.saturating_sub(1));
        !matches!(earlier, b'/' | b'\\')
    };
    let mailbox = previous == b'@' || byte(bytes, end) == b'@';
    start < end && !mailbox && !in_path
}

/// `10.0.0.1/admin` is a link; `10.0.0.1`, `10.0.0.1:80` and `10.0.0.0/8` are an address, a socket and a network.
fn is_address_with_path(name: &str, bytes: &[u8], end: usize) -> bool {
    let octets = name.split('.').filter(|octet| octet.len() <= 3 && octet.parse::<u8>().is_ok()).count();
    let path = tail::port(bytes, end).map_or(end, |(end, _)| end);
    octets == 4
        && name.split('.').count() == 4
        && byte(bytes, path) == b'/'
        && byte(bytes, path.saturating_add(1)).is_ascii_alphabetic()
}

/// A name of two or more labels.
struct Name<'t> {
    text: &'t str,
    first: &'t str,
    /// Everything before the last label.
    rest: &'t str,
    last: &'t str,
    /// Where the last label ends in the text.
    end: usize,
}

impl Name<'_> {
    /// `www.x.tld`, whatever the ending.
    fn is_www(&self) -> bool {
        self.first.eq_ignore_ascii_case("www") && self.rest.len() > 4
    }

    /// Where the host ends, if its ending is evidence of a link.
    fn evidence(&self) -> Option<usize> {
        let second = self.rest.rsplit('.').next()?;
        if second.is_empty() || second.contains('_') || !second.chars().any(char::is_alphanumeric) {
            return None;
        }
        // `80488.biz` is a name; `3.com` begins a sentence that was meant to follow a space.
        if second.bytes().all(|c| c.is_ascii_digit()) && second.len() < 4 {
            return None;
        }
        if !self.last.is_ascii() {
            return self.idn_end();
        }
        // `example.com-based`
        let top = self.last.split('-').next()?;
        let punycode = self.last.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("xn--"));
        let (top, end) = if punycode {
            (self.last, self.end)
        } else {
            (top, self.end.saturating_sub(self.last.len()).saturating_add(top.len()))
        };
        if !tld::is_known_tld(top) {
            return None;
        }
        let counts = self.is_followed_like_a_host(top, end)
            || (!self.is_sentence(second, top)
                && !self.is_code(second, top)
                && (tld::is_core_tld(top) || (self.rest.len() > second.len() && tld::is_second_level(second, top))));
        counts.then_some(end)
    }

    fn idn_end(&self) -> Option<usize> {
        let length = tld::idn_tld(self.last)?;
        let end = self.end.saturating_sub(self.last.len()).saturating_add(length);
        let continues = char_at(self.text, end).is_some_and(is_host_char);
        (!continues).then_some(end)
    }

    /// `he went home.Info follows`: a lower-case word, a full stop, a sentence.
    fn is_sentence(&self, second: &str, top: &str) -> bool {
        let title = top.bytes().next().is_some_and(|c| c.is_ascii_uppercase())
            && top.bytes().skip(1).all(|c| c.is_ascii_lowercase());
        title && second.chars().next().is_some_and(char::is_lowercase)
    }

    /// `ASP.NET` is a product, `com.example.info` a package, `log.info(` a call.
    fn is_code(&self, second: &str, top: &str) -> bool {
        let product = matches!(top, "NET" | "Net") && matches!(second, "ASP" | "VB" | "ADO" | "ML" | "System");
        let package = self.rest.contains('.') && matches!(self.first, "com" | "org" | "net" | "io" | "java" | "javax");
        let call = byte(self.text.as_bytes(), self.end) == b'(' && !matches!(top, "com" | "org" | "net" | "biz");
        product || package || call
    }

    /// `bit.ly/x`, `host.io:8080`, `okay.me?x`: what follows only follows a host.
    fn is_followed_like_a_host(&self, top: &str, end: usize) -> bool {
        let bytes = self.text.as_bytes();
        let next = byte(bytes, end.saturating_add(1));
        match byte(bytes, end) {
            b'/' => !tld::is_file_type(top) || (next.is_ascii_alphanumeric() && !self.is_file_list(top, end)),
            b'?' => next.is_ascii_alphanumeric(),
            b':' => tail::port(bytes, end).is_some_and(|(port_end, digits)| {
                let path = byte(bytes, port_end) == b'/';
                let line_and_column = byte(bytes, port_end) == b':';
                let ambiguous = tld::is_file_type(top) || tld::is_field_name(top);
                path || (digits > 1 && !ambiguous && !line_and_column)
            }),
            _ => false,
        }
    }

    /// `main.rs/lib.rs`: what follows is a file of the same type.
    fn is_file_list(&self, top: &str, end: usize) -> bool {
        let rest = part(self.text, end.saturating_add(1)..self.text.len());
        let next = rest.split([' ', '\n', '/', ',']).next().unwrap_or_default();
        next.rsplit_once('.').is_some_and(|(_, other)| other.eq_ignore_ascii_case(top))
    }
}
