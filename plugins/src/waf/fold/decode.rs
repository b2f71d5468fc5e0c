//! One round of decoding: percent triplets, `\uXXXX`, `\xXX`, `\/` and HTML entities.

use memchr::memchr3;

use super::super::text::byte;

/// Longest entity that is looked at, `&` and `;` included.
const ENTITY_BYTES_MAX: usize = 12;

/// The text with one layer of encoding taken off; `None` when there was none.
pub(super) fn round(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let mut copied = 0;
    let mut from = 0;
    while let Some(offset) = bytes.get(from..).and_then(|rest| memchr3(b'%', b'&', b'\\', rest)) {
        let at = from.saturating_add(offset);
        let decoded = match byte(bytes, at) {
            b'%' => percent(bytes, at),
            b'&' => entity(text, at).map_or(Piece::AsItIs(at.saturating_add(1)), Piece::of),
            _ => backslash(bytes, at).map_or(Piece::AsItIs(at.saturating_add(1)), Piece::of),
        };
        match decoded {
            Piece::Decoded(piece, end) => {
                out.push_str(text.get(copied..at).unwrap_or_default());
                out.push_str(&piece);
                copied = end;
                from = end;
            }
            Piece::AsItIs(end) => from = end,
        }
    }
    if copied == 0 {
        return None;
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Some(out)
}

/// What a trigger byte turned out to begin, and where it ends.
enum Piece {
    Decoded(String, usize),
    AsItIs(usize),
}

impl Piece {
    fn of((piece, end): (String, usize)) -> Self {
        Self::Decoded(piece, end)
    }
}

/// The value of two hexadecimal digits.
pub(in super::super) fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(high)?.wrapping_mul(16) | digit(low)?)
}

/// A whole run of percent triplets, so that each byte is read once. What is no UTF-8 stays as it was written.
fn percent(bytes: &[u8], start: usize) -> Piece {
    let mut raw = Vec::new();
    let mut at = start;
    while byte(bytes, at) == b'%' {
        let Some(value) = hex_pair(byte(bytes, at.saturating_add(1)), byte(bytes, at.saturating_add(2))) else { break };
        raw.push(value);
        at = at.saturating_add(3);
    }
    if raw.is_empty() {
        return Piece::AsItIs(start.saturating_add(1));
    }
    let mut piece = String::with_capacity(raw.len());
    for chunk in raw.utf8_chunks() {
        piece.push_str(chunk.valid());
        for value in chunk.invalid() {
            piece.push_str(&format!("%{value:02X}"));
        }
    }
    // As long as it was: all of it is invalid, and nothing was decoded.
    if piece.len() == at.saturating_sub(start) { Piece::AsItIs(at) } else { Piece::Decoded(piece, at) }
}

fn backslash(bytes: &[u8], at: usize) -> Option<(String, usize)> {
    let next = at.saturating_add(1);
    match byte(bytes, next) {
        b'/' => Some(("/".to_owned(), next.saturating_add(1))),
        b'x' => {
            let value = hex_pair(byte(bytes, next.saturating_add(1)), byte(bytes, next.saturating_add(2)))?;
            Some((char::from(value).to_string(), next.saturating_add(3)))
        }
        b'u' => {
            let (c, end) = unicode_escape(bytes, at)?;
            Some((c.to_string(), end))
        }
        _ => None,
    }
}

/// `\uXXXX` at `at`, or a pair of them for a character beyond U+FFFF; `None` for a lone surrogate.
pub(in super::super) fn unicode_escape(bytes: &[u8], at: usize) -> Option<(char, usize)> {
    let first = unit(bytes, at)?;
    let end = at.saturating_add(6);
    if !(0xD800..0xE000).contains(&first) {
        return char::from_u32(u32::from(first)).map(|c| (c, end));
    }
    let second = unit(bytes, end)?;
    let c = char::decode_utf16([first, second]).next()?.ok()?;
    Some((c, end.saturating_add(6)))
}

fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let &[b'\\', b'u', a, b, c, d] = bytes.get(at..at.checked_add(6)?)? else { return None };
    Some(u16::from_be_bytes([hex_pair(a, b)?, hex_pair(c, d)?]))
}

/// Named entities that can stand in a URL or a phone number.
const NAMED: &[(&str, &str)] = &[
    ("amp", "&"),
    ("apos", "'"),
    ("bsol", "\\"),
    ("colon", ":"),
    ("comma", ","),
    ("commat", "@"),
    ("dash", "-"),
    ("equals", "="),
    ("gt", ">"),
    ("hyphen", "-"),
    ("lbrack", "["),
    ("lowbar", "_"),
    ("lpar", "("),
    ("lsqb", "["),
    ("lt", "<"),
    ("nbsp", " "),
    ("NewLine", "\n"),
    ("num", "#"),
    ("percnt", "%"),
    ("period", "."),
    ("plus", "+"),
    ("quest", "?"),
    ("quot", "\""),
    ("rbrack", "]"),
    ("rpar", ")"),
    ("rsqb", "]"),
    ("shy", ""),
    ("sol", "/"),
    ("Tab", "\t"),
    ("zwj", ""),
    ("zwnj", ""),
];

fn entity(text: &str, at: usize) -> Option<(String, usize)> {
    let bytes = text.as_bytes();
    let window = bytes.get(at..)?;
    let length = window.iter().take(ENTITY_BYTES_MAX).position(|&c| c == b';')?;
    let end = at.saturating_add(length);
    let name = text.get(at.saturating_add(1)..end)?;
    let piece = match name.strip_prefix('#') {
        Some(number) => {
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)?.to_string()
        }
        None => NAMED.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())?,
    };
    Some((piece, end.saturating_add(1)))
}
