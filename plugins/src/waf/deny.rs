//! Why content is refused: codes for the client, places and counts for the log, never a value.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, header::ACCEPT_ENCODING};
use portcullis_api::{Code, Refusal};

/// Why content is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deny {
    /// The body is larger than the route admits, declared or counted.
    BodyTooLarge {
        /// Declared, or counted so far.
        bytes: u64,
        /// `body_max`, in bytes.
        max: u64,
    },
    /// More URLs than admitted in query and body together.
    Urls {
        /// `urls_max`.
        max: u32,
        /// The place of the URL that was one too many, e.g. `json.note`.
        at: String,
    },
    /// More phone numbers than admitted in query and body together.
    Phones {
        /// `phones_max`.
        max: u32,
        /// The place of the number that was one too many.
        at: String,
    },
    /// A text value has more characters than admitted.
    Chars {
        /// `chars_max`, in Unicode scalar values.
        max: u32,
        /// The place of the value.
        at: String,
    },
    /// Text that is no UTF-8, or says it is in another charset.
    NotUtf8 {
        /// Its place.
        at: String,
    },
    /// A body that cannot be parsed as what it says it is.
    MalformedBody {
        /// The place where parsing stopped.
        at: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A `Content-Encoding` other than `identity`: a compressed body cannot be inspected.
    ContentEncoding,
    /// A `Content-Type` outside its grammar (RFC 9110 8.3.1): readers disagree on what such a body is.
    ContentType {
        /// What is wrong.
        why: &'static str,
    },
    /// JSON nested deeper than [`super::JSON_DEPTH_MAX`].
    TooDeep {
        /// Levels admitted.
        max: usize,
        /// The place.
        at: String,
    },
    /// More values than a body or query may hold.
    TooManyValues {
        /// What there is too much of, e.g. `members of one object`.
        what: &'static str,
        /// How many are admitted.
        max: usize,
        /// The place.
        at: String,
    },
}

const BODY_TOO_LARGE: Code =
    Code { name: "waf.body_too_large", status: 413, title: "The request body is larger than this route admits" };
const URLS: Code = Code { name: "waf.urls", status: 403, title: "The request holds more URLs than this route admits" };
const PHONES: Code =
    Code { name: "waf.phones", status: 403, title: "The request holds more phone numbers than this route admits" };
const CHARS: Code = Code { name: "waf.chars", status: 403, title: "A text value is longer than this route admits" };
const NOT_UTF8: Code = Code { name: "waf.not_utf8", status: 400, title: "Text must be UTF-8" };
const MALFORMED_BODY: Code = Code {
    name: "waf.malformed_body",
    status: 400,
    title: "The request body is not what its Content-Type says, or not strictly so",
};
const CONTENT_ENCODING: Code = Code {
    name: "waf.content_encoding",
    status: 415,
    title: "The request body must be sent without a Content-Encoding",
};
const CONTENT_TYPE: Code =
    Code { name: "waf.content_type", status: 415, title: "The content type could not be understood" };
const TOO_DEEP: Code = Code { name: "waf.too_deep", status: 400, title: "The JSON body is nested too deeply" };
const TOO_MANY_VALUES: Code =
    Code { name: "waf.too_many_values", status: 400, title: "The request holds too many values" };

impl Refusal for Deny {
    const CODES: &'static [Code] = &[
        BODY_TOO_LARGE,
        URLS,
        PHONES,
        CHARS,
        NOT_UTF8,
        MALFORMED_BODY,
        CONTENT_ENCODING,
        CONTENT_TYPE,
        TOO_DEEP,
        TOO_MANY_VALUES,
    ];

    fn code(&self) -> Code {
        match self {
            Self::BodyTooLarge { .. } => BODY_TOO_LARGE,
            Self::Urls { .. } => URLS,
            Self::Phones { .. } => PHONES,
            Self::Chars { .. } => CHARS,
            Self::NotUtf8 { .. } => NOT_UTF8,
            Self::MalformedBody { .. } => MALFORMED_BODY,
            Self::ContentEncoding => CONTENT_ENCODING,
            Self::ContentType { .. } => CONTENT_TYPE,
            Self::TooDeep { .. } => TOO_DEEP,
            Self::TooManyValues { .. } => TOO_MANY_VALUES,
        }
    }

    fn rule(&self) -> Option<Cow<'_, str>> {
        let setting = match self {
            Self::BodyTooLarge { .. } => "body_max",
            Self::Urls { .. } => "urls_max",
            Self::Phones { .. } => "phones_max",
            Self::Chars { .. } => "chars_max",
            Self::NotUtf8 { .. }
            | Self::MalformedBody { .. }
            | Self::ContentEncoding
            | Self::ContentType { .. }
            | Self::TooDeep { .. }
            | Self::TooManyValues { .. } => return None,
        };
        Some(setting.into())
    }

    fn detail(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::BodyTooLarge { bytes, max } => format!("{bytes} bytes, at most {max}").into(),
            Self::Urls { max, at } => format!("{} URLs, at most {max}; last in {at}", max.saturating_add(1)).into(),
            Self::Phones { max, at } => {
                format!("{} phone numbers, at most {max}; last in {at}", max.saturating_add(1)).into()
            }
            Self::Chars { max, at } => format!("more than {max} characters in {at}").into(),
            Self::NotUtf8 { at } => format!("no UTF-8 in {at}").into(),
            Self::MalformedBody { at, why } => format!("{why} in {at}").into(),
            Self::ContentEncoding => "a Content-Encoding other than identity".into(),
            Self::ContentType { why } => (*why).into(),
            Self::TooDeep { max, at } => format!("more than {max} levels at {at}").into(),
            Self::TooManyValues { what, max, at } => format!("more than {max} {what} in {at}").into(),
        })
    }

    fn headers(&self, answer: &mut HeaderMap) {
        if matches!(self, Self::ContentEncoding) {
            // RFC 9110 15.5.16: say what would have been accepted.
            answer.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
    }
}
