//! A strict JSON tokenizer (RFC 8259) that hands out string values and keeps nothing.
//!
//! Strict, because what an upstream's parser reads must be what was inspected: no comments, no trailing commas, no
//! control characters in strings, no lone surrogates, nothing behind the document. Members of one name are all
//! inspected, whichever of them the upstream keeps.

use std::borrow::Cow;

use super::super::{
    Deny, JSON_DEPTH_MAX, JSON_ELEMENTS_MAX, JSON_MEMBERS_MAX, JSON_VALUES_MAX,
    fold::unicode_escape,
    place::{Place, Step},
    tally::{Links, Tally},
    text::byte,
    urls::Style,
};

/// Inspects a document. `part` is the name of the multipart part that it is, if it is one.
pub(super) fn walk(text: &str, part: Option<&str>, tally: &mut Tally<'_>) -> Result<(), Deny> {
    let mut walker = Walker {
        text,
        bytes: text.as_bytes(),
        at: 0,
        path: Vec::with_capacity(JSON_DEPTH_MAX),
        values: 0,
        part,
        tally,
    };
    walker.skip_space();
    walker.value(Links::Count(Style::Plain))?;
    walker.skip_space();
    if walker.at < text.len() { Err(walker.malformed("something behind the document")) } else { Ok(()) }
}

struct Walker<'t, 'a, 'w> {
    text: &'t str,
    bytes: &'t [u8],
    at: usize,
    path: Vec<Step<'t>>,
    values: usize,
    part: Option<&'t str>,
    tally: &'a mut Tally<'w>,
}

/// A string as written, and whether it holds escapes.
struct Raw<'t> {
    text: &'t str,
    escaped: bool,
}

impl<'t> Walker<'t, '_, '_> {
    fn value(&mut self, links: Links) -> Result<(), Deny> {
        self.values = self.values.saturating_add(1);
        if self.values > JSON_VALUES_MAX {
            return Err(self.too_many("values", JSON_VALUES_MAX));
        }
        match byte(self.bytes, self.at) {
            b'"' => {
                let raw = self.string()?;
                let text = self.unescape(&raw)?;
                self.tally.value(&text, &Place::Json(self.part, &self.path), links)
            }
            b'{' => self.object(links),
            b'[' => self.array(links),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number(),
        }
    }

    fn object(&mut self, links: Links) -> Result<(), Deny> {
        self.enter()?;
        if self.take(b'}') {
            return Ok(());
        }
        for members in 1_usize.. {
            if members > JSON_MEMBERS_MAX {
                return Err(self.too_many("members of one object", JSON_MEMBERS_MAX));
            }
            if byte(self.bytes, self.at) != b'"' {
                return Err(self.malformed("no name of a member where one must be"));
            }
            let key = self.string()?;
            self.unescape(&key)?;
            self.skip_space();
            if !self.take(b':') {
                return Err(self.malformed("no `:` behind a name"));
            }
            self.path.push(Step::Key(key.text));
            self.value(self.links_below(key.text, links))?;
            self.path.pop();
            self.skip_space();
            if self.take(b'}') {
                break;
            }
            if !self.take(b',') {
                return Err(self.malformed("no `,` or `}` behind a member"));
            }
        }
        Ok(())
    }

    fn array(&mut self, links: Links) -> Result<(), Deny> {
        self.enter()?;
        if self.take(b']') {
            return Ok(());
        }
        for index in 0_usize.. {
            if index >= JSON_ELEMENTS_MAX {
                return Err(self.too_many("elements of one array", JSON_ELEMENTS_MAX));
            }
            self.path.push(Step::Index(index));
            self.value(links)?;
            self.path.pop();
            self.skip_space();
            if self.take(b']') {
                break;
            }
            if !self.take(b',') {
                return Err(self.malformed("no `,` or `]` behind an element"));
            }
        }
        Ok(())
    }

    /// Steps into an object or array. Recursion is bounded here.
    fn enter(&mut self) -> Result<(), Deny> {
        if self.path.len() >= JSON_DEPTH_MAX {
            return Err(Deny::TooDeep { max: JSON_DEPTH_MAX, at: self.place() });
        }
        self.at = self.at.saturating_add(1);
        self.skip_space();
        Ok(())
    }

    /// Names of schemas are no links: directly under `$schema`, `$ref` and `xmlns…`, anywhere under `@context`.
    fn links_below(&self, key: &str, links: Links) -> Links {
        let scalar = !matches!(byte(self.bytes, self.at), b'{' | b'[');
        let ignored = key == "@context" || (scalar && (key == "$schema" || key == "$ref" || key.starts_with("xmlns")));
        if ignored { Links::Ignore } else { links }
    }

    /// Takes `c` and the space behind it.
    fn take(&mut self, c: u8) -> bool {
        let there = byte(self.bytes, self.at) == c;
        if there {
            self.at = self.at.saturating_add(1);
            self.skip_space();
        }
        there
    }

    fn skip_space(&mut self) {
        while matches!(byte(self.bytes, self.at), b' ' | b'\t' | b'\n' | b'\r') {
            self.at = self.at.saturating_add(1);
        }
    }

    fn word(&mut self, word: &'static str) -> Result<(), Deny> {
        let end = self.at.saturating_add(word.len());
        if self.text.get(self.at..end) != Some(word) {
            return Err(self.malformed("no value where one must be"));
        }
        self.at = end;
        Ok(())
    }

    /// `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`
    fn number(&mut self) -> Result<(), Deny> {
        let start = self.at;
        if byte(self.bytes, self.at) == b'-' {
            self.at = self.at.saturating_add(1);
        }
        let leading_zero = byte(self.bytes, self.at) == b'0';
        let digits = self.digits();
        if digits == 0 {
            self.at = start;
            return Err(self.malformed("no value where one must be"));
        }
        if leading_zero && digits > 1 {
            return Err(self.malformed("a number with a leading zero"));
        }
        if byte(self.bytes, self.at) == b'.' {
            self.at = self.at.saturating_add(1);
            if self.digits() == 0 {
                return Err(self.malformed("no digits behind a decimal point"));
            }
        }
        if matches!(byte(self.bytes, self.at), b'e' | b'E') {
            self.at = self.at.saturating_add(1);
            if matches!(byte(self.bytes, self.at), b'+' | b'-') {
                self.at = self.at.saturating_add(1);
            }
            if self.digits() == 0 {
                return Err(self.malformed("no digits in an exponent"));
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> usize {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let count = rest.iter().take_while(|c| c.is_ascii_digit()).count();
        self.at = self.at.saturating_add(count);
        count
    }

    /// The string that begins at a `"`.
    fn string(&mut self) -> Result<Raw<'t>, Deny> {
        let start = self.at.saturating_add(1);
        let mut at = start;
        let mut escaped = false;
        loop {
            let rest = self.bytes.get(at..).unwrap_or_default();
            let Some(offset) = rest.iter().position(|&c| c == b'"' || c == b'\\' || c < b' ') else {
                return Err(self.malformed("a string without an end"));
            };
            at = at.saturating_add(offset);
            match byte(self.bytes, at) {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    at = at.saturating_add(2);
                }
                _ => return Err(self.malformed("a control character in a string")),
            }
        }
        self.at = at.saturating_add(1);
        let text = self.text.get(start..at).unwrap_or_default();
        Ok(Raw { text, escaped })
    }

    fn unescape(&self, raw: &Raw<'t>) -> Result<Cow<'t, str>, Deny> {
        if !raw.escaped {
            return Ok(Cow::Borrowed(raw.text));
        }
        let bytes = raw.text.as_bytes();
        let mut out = String::with_capacity(raw.text.len());
        let mut copied = 0;
        while let Some(offset) = bytes.get(copied..).and_then(|rest| memchr::memchr(b'\\', rest)) {
            let at = copied.saturating_add(offset);
            out.push_str(raw.text.get(copied..at).unwrap_or_default());
            let short = match byte(bytes, at.saturating_add(1)) {
                c @ (b'"' | b'\\' | b'/') => char::from(c),
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                b'u' => {
                    let (c, end) =
                        unicode_escape(bytes, at).ok_or_else(|| self.malformed("a \\u escape that is no character"))?;
                    out.push(c);
                    copied = end;
                    continue;
                }
                _ => return Err(self.malformed("an unknown escape in a string")),
            };
            out.push(short);
            copied = at.saturating_add(2);
        }
        out.push_str(raw.text.get(copied..).unwrap_or_default());
        Ok(Cow::Owned(out))
    }

    fn place(&self) -> String {
        Place::Json(self.part, &self.path).to_string()
    }

    fn malformed(&self, why: &'static str) -> Deny {
        Deny::MalformedBody { at: format!("{} (byte {})", self.place(), self.at), why }
    }

    fn too_many(&self, what: &'static str, max: usize) -> Deny {
        Deny::TooManyValues { what, max, at: self.place() }
    }
}
