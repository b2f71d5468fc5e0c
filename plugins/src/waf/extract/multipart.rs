//! A small, strict reader of `multipart/form-data` (RFC 7578).
//!
//! Strict, because parsers disagree on everything else: every delimiter stands between two CRLF, nothing stands before
//! the first or behind the last, the delimiter appears nowhere inside a part, and each part says exactly once how it is
//! to be disposed of. What a lenient upstream could read as another part than was inspected is refused.

use memchr::memmem;

use super::{
    super::{
        Deny, PARTS_MAX,
        place::Place,
        tally::{Links, Tally},
    },
    json,
    media::{self, Media, Parameters},
    utf8,
};
use crate::waf::{extract::media::Bare, urls::Style};

/// Most bytes of a part's header.
const PART_HEAD_BYTES_MAX: usize = 8 << 10;

pub(super) fn walk(body: &[u8], boundary: &str, tally: &mut Tally<'_>) -> Result<(), Deny> {
    let delimiter = format!("--{boundary}");
    let mut rest = body.strip_prefix(delimiter.as_bytes()).ok_or_else(|| malformed("", "no boundary at the start"))?;
    let finder = memmem::Finder::new(&delimiter);
    for count in 0_usize.. {
        if rest == b"--" || rest == b"--\r\n" {
            return Ok(());
        }
        if count >= PARTS_MAX {
            return Err(Deny::TooManyValues { what: "parts", max: PARTS_MAX, at: "multipart".to_owned() });
        }
        rest = rest.strip_prefix(b"\r\n").ok_or_else(|| malformed("", "a boundary that is no line of its own"))?;
        let end = finder.find(rest).ok_or_else(|| malformed("", "no closing boundary"))?;
        let (raw, tail) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        let raw = raw.strip_suffix(b"\r\n").ok_or_else(|| malformed("", "a boundary inside a part"))?;
        part(raw, tally)?;
        rest = tail.get(delimiter.len()..).unwrap_or_default();
    }
    Ok(())
}

fn malformed(name: &str, why: &'static str) -> Deny {
    Deny::MalformedBody { at: Place::Part(name).to_string(), why }
}

/// What a part's header says.
#[derive(Debug, Default)]
struct Head {
    name: Option<String>,
    /// Whether it is a file: it has a `filename` that is not empty.
    file: bool,
    content_type: Option<String>,
}

fn part(raw: &[u8], tally: &mut Tally<'_>) -> Result<(), Deny> {
    let (head, content) = match raw.strip_prefix(b"\r\n") {
        Some(content) => (&[][..], content),
        None => {
            let end = memmem::find(raw, b"\r\n\r\n").ok_or_else(|| malformed("", "a part without an empty line"))?;
            let (head, rest) = raw.split_at_checked(end).unwrap_or((raw, &[]));
            (head, rest.get(4..).unwrap_or_default())
        }
    };
    if head.len() > PART_HEAD_BYTES_MAX {
        return Err(malformed("", "a part's header of more than 8 KiB"));
    }
    let head = read_head(utf8(head, &Place::Part(""))?)?;
    let Some(name) = &head.name else { return Err(malformed("", "a part without a name")) };
    // As in a form: the name of a field is a text that the client chose, also that of a file.
    tally.value(name, &Place::Part(""), Links::Count(Style::Plain))?;
    let declared = head.content_type.as_deref().unwrap_or("text/plain");
    let is = |kind: &str| declared.get(..kind.len()).is_some_and(|start| start.eq_ignore_ascii_case(kind));
    if is("multipart/") {
        return Err(malformed(name, "a multipart body inside a multipart body"));
    }
    if head.file && (head.content_type.is_none() || !is("text/")) {
        return Ok(());
    }
    let place = Place::Part(name);
    let media = media::parse(declared).map_err(|deny| match deny {
        Deny::NotUtf8 { .. } => Deny::NotUtf8 { at: place.to_string() },
        Deny::BodyTooLarge { .. }
        | Deny::Urls { .. }
        | Deny::Phones { .. }
        | Deny::Chars { .. }
        | Deny::MalformedBody { .. }
        | Deny::ContentEncoding
        | Deny::ContentType { .. }
        | Deny::TooDeep { .. }
        | Deny::TooManyValues { .. } => malformed(name, "a Content-Type that cannot be read"),
    })?;
    let text = utf8(content, &place)?;
    match media {
        Media::Json if !head.file => json::walk(text, Some(name), tally),
        Media::Text(style) => tally.value(text, &place, Links::Count(style)),
        // A field, whatever it says it holds: upstreams read fields as text.
        Media::Json | Media::Form | Media::Multipart { .. } | Media::Binary | Media::Unknown => {
            tally.value(text, &place, Links::Count(Style::Plain))
        }
    }
}

fn read_head(text: &str) -> Result<Head, Deny> {
    let mut head = Head::default();
    if text.is_empty() {
        return Ok(head);
    }
    let mut disposed = false;
    for line in text.split("\r\n") {
        // A folded line, a bare CR or LF: parsers disagree where the field ends.
        let (field, value) = line
            .split_once(':')
            .filter(|(field, _)| !field.is_empty() && field.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-'))
            .filter(|(_, value)| !value.bytes().any(|c| matches!(c, b'\r' | b'\n' | 0)))
            .ok_or_else(|| malformed("", "a part's header field that cannot be read"))?;
        let value = value.trim_matches([' ', '\t']);
        if field.eq_ignore_ascii_case("content-disposition") {
            if std::mem::replace(&mut disposed, true) {
                return Err(malformed("", "two Content-Disposition fields in one part"));
            }
            disposition(value, &mut head)?;
        } else if field.eq_ignore_ascii_case("content-type") {
            if head.content_type.replace(value.to_owned()).is_some() {
                return Err(malformed("", "two Content-Type fields in one part"));
            }
        } else if field.eq_ignore_ascii_case("content-transfer-encoding")
            && !["7bit", "8bit", "binary"].iter().any(|name| name.eq_ignore_ascii_case(value))
        {
            return Err(malformed("", "a Content-Transfer-Encoding that hides the content"));
        }
    }
    Ok(head)
}

fn disposition(value: &str, head: &mut Head) -> Result<(), Deny> {
    let unreadable = || malformed("", "a Content-Disposition that cannot be read");
    let (kind, rest) = value.split_once(';').ok_or_else(unreadable)?;
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return Err(unreadable());
    }
    let parameters = Parameters::parse(rest, Bare::Text).map_err(|_| unreadable())?;
    head.name = Some(parameters.only("name").ok_or_else(unreadable)?.to_owned());
    // `filename*` alone makes no file: RFC 7578 4.2 forbids it and many parsers do not know it.
    head.file = match (parameters.has("filename"), parameters.only("filename")) {
        (true, None) => return Err(unreadable()),
        (_, filename) => filename.is_some_and(|filename| !filename.is_empty()),
    };
    Ok(())
}
