//! What a `Content-Type` says of a body, as far as inspection goes.

use http::{HeaderMap, header::CONTENT_TYPE};

use super::super::{Deny, urls::Style};

/// The kind of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Media {
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `application/json`, `text/json` and `…+json`.
    Json,
    /// `multipart/form-data`.
    Multipart {
        /// Its boundary, without the dashes before it.
        boundary: String,
    },
    /// `text/…`, XML and HTML.
    Text(Style),
    /// Images, video, audio, fonts, protobuf, gRPC and `application/octet-stream`: only the size is judged.
    Binary,
    /// Any other type, and a body without a `Content-Type`: inspected as text when it is UTF-8, else only its size.
    Unknown,
}

/// Longest boundary (RFC 2046 5.1.1).
const BOUNDARY_BYTES_MAX: usize = 70;

/// Optional blanks (RFC 9110 5.6.3).
const OWS: [char; 2] = [' ', '\t'];

pub(super) fn of(headers: &HeaderMap) -> Result<Media, Deny> {
    let mut values = headers.get_all(CONTENT_TYPE).into_iter();
    let (value, None) = (values.next(), values.next()) else {
        return Err(malformed("more than one Content-Type"));
    };
    let Some(value) = value else { return Ok(Media::Unknown) };
    parse(value.to_str().map_err(|_| ungrammatical("a Content-Type that is no visible ASCII"))?)
}

fn malformed(why: &'static str) -> Deny {
    Deny::MalformedBody { at: "content-type".to_owned(), why }
}

const fn ungrammatical(why: &'static str) -> Deny {
    Deny::ContentType { why }
}

/// Reads `type/subtype; name=value` (RFC 9110 8.3.1) and nothing else. Some readers cut what is no such value at the
/// first comma or blank and take the rest for a form (PHP), some take the last of a list: to call it unknown would let
/// a body pass as something else than the upstream reads.
pub(super) fn parse(value: &str) -> Result<Media, Deny> {
    let (essence, parameters) = value.split_once(';').unwrap_or((value, ""));
    let essence = essence.trim_matches(OWS).to_ascii_lowercase();
    let (kind, subtype) = essence
        .split_once('/')
        .filter(|(kind, subtype)| is_token(kind) && is_token(subtype))
        .ok_or(ungrammatical("a Content-Type that is not one type and subtype"))?;
    let parameters = Parameters::parse(parameters, Bare::Token)
        .map_err(|Unreadable| ungrammatical("a Content-Type with parameters that cannot be read"))?;
    let media = match (kind, subtype) {
        ("application", "x-www-form-urlencoded") => Media::Form,
        ("application" | "text", "json") => Media::Json,
        (_, subtype) if subtype.ends_with("+json") => Media::Json,
        ("multipart", "form-data") => {
            let boundary = parameters.only("boundary").unwrap_or_default();
            let valid = (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len()) && boundary.bytes().all(is_boundary);
            // PHP takes what stands behind the first `boundary`, also that of `xboundary=`.
            if !valid || value.to_ascii_lowercase().matches("boundary").count() > 1 {
                return Err(malformed("multipart/form-data without exactly one valid boundary"));
            }
            Media::Multipart { boundary: boundary.to_owned() }
        }
        ("text" | "application", "xml" | "html" | "xhtml+xml") => Media::Text(Style::Markup),
        (_, subtype) if subtype.ends_with("+xml") => Media::Text(Style::Markup),
        ("text", _) => Media::Text(Style::Plain),
        ("image" | "video" | "audio" | "font", _) => Media::Binary,
        ("application", "octet-stream" | "protobuf" | "x-protobuf" | "grpc") => Media::Binary,
        ("application", subtype) if subtype.starts_with("grpc+") || subtype.starts_with("vnd.google.protobuf") => {
            Media::Binary
        }
        _ => Media::Unknown,
    };
    if matches!(media, Media::Binary | Media::Unknown) {
        return Ok(media);
    }
    // RFC 2231 spells one parameter in several ways (`charset*=…`, `charset*0=…`); some readers know them.
    if parameters.has_extended("charset") {
        return Err(malformed("a charset in extended notation"));
    }
    match parameters.only("charset") {
        Some(charset) if !is_utf8(charset) => Err(Deny::NotUtf8 { at: "content-type".to_owned() }),
        None if parameters.has("charset") => Err(malformed("more than one charset")),
        Some(_) | None => Ok(media),
    }
}

/// ASCII is UTF-8. Another charset would be read by the upstream as other text than was inspected.
pub(super) fn is_utf8(charset: &str) -> bool {
    ["utf-8", "utf8", "us-ascii", "ascii"].iter().any(|name| name.eq_ignore_ascii_case(charset))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

fn is_token_byte(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c)
}

fn is_boundary(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&c)
}

/// The parameters of a header value, names in lower case.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters(Vec<(String, String)>);

/// What a value without quotes may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bare {
    /// A token (RFC 9110 5.6.6).
    Token,
    /// Any text up to a blank, quote or semicolon: many a client writes `filename=` so.
    Text,
}

/// A parameter that cannot be read in one way only.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

impl Parameters {
    /// Reads `name=value; name="value"`.
    ///
    /// A backslash before a quote is refused: browsers never write one, and parsers disagree on whether it ends the
    /// value, which would let one of them see a `filename` where another sees none.
    pub(super) fn parse(text: &str, bare: Bare) -> Result<Self, Unreadable> {
        let mut parameters = Vec::new();
        let mut rest = text.trim_matches(OWS);
        while !rest.is_empty() {
            if let Some(tail) = rest.strip_prefix(';') {
                rest = tail.trim_start_matches(OWS);
                continue;
            }
            let (name, tail) = rest.split_once('=').ok_or(Unreadable)?;
            if !is_token(name) {
                return Err(Unreadable);
            }
            let (value, tail) = match tail.strip_prefix('"') {
                Some(quoted) => {
                    let (value, tail) = quoted.split_once('"').ok_or(Unreadable)?;
                    if value.ends_with('\\') {
                        return Err(Unreadable);
                    }
                    (value, tail)
                }
                None => {
                    let end = tail.find([';', ' ', '\t', '"']).unwrap_or(tail.len());
                    let (value, tail) = tail.split_at_checked(end).ok_or(Unreadable)?;
                    if bare == Bare::Token && !is_token(value) {
                        return Err(Unreadable);
                    }
                    (value, tail)
                }
            };
            parameters.push((name.to_ascii_lowercase(), value.to_owned()));
            rest = tail.trim_start_matches(OWS);
            if !rest.is_empty() && !rest.starts_with(';') {
                return Err(Unreadable);
            }
        }
        Ok(Self(parameters))
    }

    /// The value of a parameter that is there once.
    pub(super) fn only(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(known, _)| known == name);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }

    /// Whether the parameter is there as `name*=` or `name*0=` (RFC 2231).
    fn has_extended(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known.strip_prefix(name).is_some_and(|rest| rest.starts_with('*')))
    }

    /// Whether the parameter is there at all.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_in_any_case_and_with_parameters() {
        for (value, media) in [
            ("Application/JSON; charset=UTF-8", Media::Json),
            ("application/problem+json", Media::Json),
            ("text/json", Media::Json),
            ("application/x-www-form-urlencoded", Media::Form),
            ("text/plain;charset=\"utf-8\"", Media::Text(Style::Plain)),
            ("text/html", Media::Text(Style::Markup)),
            ("image/svg+xml", Media::Text(Style::Markup)),
            ("image/png", Media::Binary),
            ("application/grpc+proto", Media::Binary),
            ("application/pdf", Media::Unknown),
            ("multipart/mixed; boundary=a", Media::Unknown),
            ("application/json ;\t; charset=utf-8 ;", Media::Json),
            ("application/pdf; a=\"x, y\"", Media::Unknown),
            ("multipart/form-data; boundary=\"a b\"", Media::Multipart { boundary: "a b".into() }),
        ] {
            assert_eq!(parse(value), Ok(media), "{value}");
        }
    }

    #[test]
    fn what_is_outside_the_grammar_is_refused_and_not_called_unknown() {
        for value in [
            "",
            " ",
            ";",
            "x",
            "json",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "application/json,",
            "application/json, text/plain",
            "application/x-www-form-urlencoded x",
            "application/x-www-form-urlencoded, x",
            "application/ json",
            "application/json charset=utf-8",
            "multipart/form-data, boundary=B",
            "multipart/form-data; boundary=a,b",
            "multipart/form-data; boundary=\"a\\\"",
            "multipart/form-data; boundary=",
            "application/json; charset",
            "application/json; charset=utf-8, text/plain",
            "application/json; charset=\"utf-8",
            "application/json; charset = utf-8",
            "image/png; a",
            "application/pdf; a=b c",
            "\"application/json\"",
            "application/json\u{b}",
        ] {
            let Err(deny) = parse(value) else { panic!("{value}") };
            assert!(matches!(deny, Deny::ContentType { .. }), "{value}: {deny:?}");
        }
    }

    #[test]
    fn another_charset_is_refused_for_text_only() {
        for value in ["text/plain; charset=utf-16", "application/json; charset=iso-8859-1", "text/html;charset=UTF-7"] {
            assert!(matches!(parse(value), Err(Deny::NotUtf8 { .. })), "{value}");
        }
        assert_eq!(parse("image/png; charset=utf-16"), Ok(Media::Binary));
        assert!(parse("text/plain; charset=utf-8; charset=utf-16").is_err());
        assert!(parse("text/plain; charset=utf-8; charset*=''utf-16").is_err());
    }

    #[test]
    fn a_boundary_must_be_there_once_and_be_valid() {
        for value in [
            "multipart/form-data",
            "multipart/form-data; boundary=\"\"",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; xboundary=a; boundary=b",
            "multipart/form-data; boundary=b; boundary*=utf-8''a",
            "multipart/form-data; boundary=\"a<b\"",
            &format!("multipart/form-data; boundary={}", "a".repeat(71)),
        ] {
            assert!(matches!(parse(value), Err(Deny::MalformedBody { .. })), "{value}");
        }
        assert!(parse(&format!("multipart/form-data; boundary={}", "a".repeat(70))).is_ok());
    }

    #[test]
    fn parameters_that_could_be_read_in_two_ways_are_unreadable() {
        for text in ["a", "a=\"b", "a=\"b\\\"; c=d\"", "a=\"b\"c", "=b", "a =b", "a=b c"] {
            assert_eq!(Parameters::parse(text, Bare::Text), Err(Unreadable), "{text}");
        }
        assert!(Parameters::parse("filename=a,b", Bare::Text).is_ok());
        assert_eq!(Parameters::parse("filename=a,b", Bare::Token), Err(Unreadable));
        let read = Parameters::parse("name=\"C:\\dir\\x\"; ; FILENAME=y", Bare::Text).unwrap();
        assert_eq!((read.only("name"), read.only("filename")), (Some("C:\\dir\\x"), Some("y")));
    }
}
