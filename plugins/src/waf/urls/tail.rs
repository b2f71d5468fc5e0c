//! Where a link ends, so that what it carries is not counted again and what stands beside it is.

use super::{
    super::text::{before, byte, char_at, is_spaceless_script},
    bare, scheme,
};

/// A character of a name beyond ASCII: letters and digits of any script, and the vowel signs that Indic and Thai names
/// are written with.
pub(super) fn is_host_char(c: char) -> bool {
    c.is_alphanumeric()
        || (!c.is_ascii() && matches!(u32::from(c), 0x0900..=0x0DFF | 0x0E31..=0x0EFF | 0x1000..=0x109F))
}

/// The end of a link whose authority ends at `at`.
pub(super) fn end(text: &str, at: usize) -> usize {
    let bytes = text.as_bytes();
    let mut at = port(bytes, at).map_or(at, |(end, _)| end);
    if !matches!(byte(bytes, at), b'/' | b'?' | b'#' | b'\\') {
        return at;
    }
    let begin = at;
    loop {
        match byte(bytes, at) {
            0..=b' ' | 127 | b'<' | b'>' | b'"' | b'`' | b'|' | b'{' | b'}' | b'^' => return at,
            b',' | b';' if begins_link(text, at.saturating_add(1)) => return at,
            b':' if scheme::has_slashes(bytes, at) => match scheme::start_of(text, at, begin) {
                Some(start) if !is_nested(before(bytes, start)) => return start,
                Some(_) | None => at = at.saturating_add(1),
            },
            c if c.is_ascii() => at = at.saturating_add(1),
            _ => match char_at(text, at) {
                Some(c) if c.is_whitespace() || is_spaceless_script(c) => return at,
                Some(c) => at = at.saturating_add(c.len_utf8()),
                None => return at,
            },
        }
    }
}

/// A link that follows one of these is carried by the link it stands in: `…?next=https://…`, `…/web/2020/http://…`.
fn is_nested(before: u8) -> bool {
    matches!(before, b'/' | b'=' | b'?' | b'&' | b'%' | b'#' | b':' | b'_' | b'-' | b'.' | b'@' | b'~' | b'+' | b'!')
}

/// Whether a link begins at `at`, as in `a.com/x,b.com/y`.
fn begins_link(text: &str, at: usize) -> bool {
    let bytes = text.as_bytes();
    let is_name = |c: &u8| c.is_ascii_alphanumeric() || *c == b'-';
    let length = bytes.get(at..).map_or(0, |rest| rest.iter().take(64).take_while(|c| is_name(c)).count());
    let next = at.saturating_add(length);
    match byte(bytes, next) {
        b':' => scheme::has_slashes(bytes, next) && scheme::start_of(text, next, at) == Some(at),
        b'.' if length > 0 => bare::begins(text, at),
        _ => false,
    }
}

/// The end of a `:port` at `at`, and the port's digits.
pub(super) fn port(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    if byte(bytes, at) != b':' {
        return None;
    }
    let start = at.saturating_add(1);
    let digits = bytes.get(start..)?.iter().take(6).take_while(|c| c.is_ascii_digit()).count();
    let end = start.saturating_add(digits);
    ((1..=5).contains(&digits) && !byte(bytes, end).is_ascii_alphanumeric()).then_some((end, digits))
}
