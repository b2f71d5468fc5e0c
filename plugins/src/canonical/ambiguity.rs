//! Why a head was refused: one variant a rule, each with a stable code.

use std::{borrow::Cow, fmt};

use http::{HeaderMap, HeaderValue, header};
use portcullis_api::{Code, Refusal};

use crate::authentication::MALFORMED_CHALLENGE;

/// Which piece of a head is meant, without a byte of it: paths, hosts and values are personal, and what is refused is
/// logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// A name that stands in this program.
    Known(&'static str),
    /// A name that the client chose.
    Sized {
        /// Its length.
        bytes: usize,
    },
    /// A member of a list.
    Nth {
        /// Its place, from 1.
        at: usize,
        /// Its length.
        bytes: usize,
    },
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(name) => write!(f, "`{name}`"),
            Self::Sized { bytes } => write!(f, "of {bytes} bytes"),
            Self::Nth { at, bytes } => write!(f, "{at}, of {bytes} bytes"),
        }
    }
}

/// The class of a byte that must not stand where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteKind {
    /// 0x00 to 0x1f and 0x7f.
    Control,
    /// A space.
    Space,
    /// An underscore, in names the usual one.
    Underscore,
    /// 0x80 and above.
    NonAscii,
    /// Any other, which is punctuation: letters and digits may stand anywhere.
    Punctuation,
}

impl ByteKind {
    pub(super) const fn of(byte: u8) -> Self {
        match byte {
            b' ' => Self::Space,
            b'_' => Self::Underscore,
            0x80.. => Self::NonAscii,
            byte if byte.is_ascii_control() => Self::Control,
            _ => Self::Punctuation,
        }
    }
}

impl fmt::Display for ByteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "a control byte",
            Self::Space => "a space",
            Self::Underscore => "an underscore",
            Self::NonAscii => "a byte outside ASCII",
            Self::Punctuation => "a punctuation character",
        })
    }
}

macro_rules! ambiguities {
    ($(
        $(#[$doc:meta])+
        $variant:ident $({ $($(#[$field_doc:meta])+ $field:ident: $kind:ty),+ $(,)? })?
        = $status:literal $code:literal $title:literal, $detail:literal
    ;)+) => {
        /// Why a head has no single reading, or is not one this gateway takes.
        ///
        /// `Display` is the detail for the log, and holds nothing of what the client sent; the client gets the code and
        /// its title.
        #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
        pub enum Ambiguity {$(
            $(#[$doc])+
            #[error($detail)]
            $variant $({ $($(#[$field_doc])+ $field: $kind),+ })?,
        )+}

        impl Refusal for Ambiguity {
            const CODES: &'static [Code] = &[$(Code { name: $code, status: $status, title: $title }),+];

            fn code(&self) -> Code {
                match self {$(
                    Self::$variant { .. } => Code { name: $code, status: $status, title: $title },
                )+}
            }

            fn detail(&self) -> Option<Cow<'_, str>> {
                Some(self.to_string().into())
            }

            fn headers(&self, answer: &mut HeaderMap) {
                if let Self::Connect = self {
                    // RFC 9110 15.5.6 wants the list with a 405; it is empty, no host allows this method anywhere.
                    answer.insert(header::ALLOW, HeaderValue::from_static(""));
                }
                if let Self::Upgrade { .. } = self {
                    // RFC 6455 4.4: the version to come back with.
                    answer.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                }
                if let Self::Repeated { name } | Self::FieldValue { name: Piece::Known(name), .. } = self
                    && *name == header::AUTHORIZATION.as_str()
                {
                    // RFC 6750 3.1: two credentials, or one that is malformed.
                    answer.insert(header::WWW_AUTHENTICATE, MALFORMED_CHALLENGE);
                }
            }
        }
    };
}

ambiguities! {
    /// More bytes of head than the listener takes.
    HeadTooLarge {
        /// As received.
        bytes: usize,
        /// The listener's bound.
        max: usize,
    } = 431 "request.head_too_large" "The header section is too large", "{bytes} bytes of head, at most {max}";

    /// More header fields than the listener takes.
    TooManyFields {
        /// As received.
        fields: usize,
        /// The listener's bound.
        max: usize,
    } = 431 "request.too_many_fields" "There are too many header fields", "{fields} header fields, at most {max}";

    /// A longer request target than the listener takes.
    TargetTooLong {
        /// As received.
        bytes: usize,
        /// The listener's bound.
        max: usize,
    } = 414 "request.target_too_long" "The request target is too long", "{bytes} bytes of target, at most {max}";

    /// A line of the head does not end in CR LF, or a CR stands inside one.
    LineEnd = 400 "request.line_end" "A line of the head does not end in CR LF", "bare CR or LF in the head";

    /// The request line is not `METHOD SP target SP HTTP/1.0` or `/1.1`, or says something else than was parsed.
    RequestLine {
        /// What is wrong.
        why: &'static str,
    } = 400 "request.request_line" "The request line is malformed", "{why}";

    /// A field line that is folded, has no name, or has blanks around its name.
    FieldLine {
        /// What is wrong.
        why: &'static str,
    } = 400 "request.field_line" "A header field is malformed", "{why}";

    /// A field name with other bytes than letters, digits and `-` (RFC 9110 5.1 allows more; upstreams fold them).
    FieldName {
        /// The name.
        name: Piece,
        /// The first byte that is not allowed.
        byte: ByteKind,
    } = 400 "request.field_name" "A header name has other characters than letters, digits and hyphens", "field name {name} with {byte}";

    /// A control byte in a value, or a byte outside visible ASCII in a value that somebody decides by.
    FieldValue {
        /// The field.
        name: Piece,
        /// The byte.
        byte: ByteKind,
    } = 400 "request.field_value" "A header value has a character that is not allowed there", "{byte} in the value of the field {name}";

    /// A field twice that may come once.
    Repeated {
        /// The field.
        name: &'static str,
    } = 400 "request.repeated_field" "A header that may come once came twice", "`{name}` more than once";

    /// A `Connection` field that asks to remove what upstreams rely on, is no list of names, or is too long; or any
    /// connection-specific field on HTTP/2 (RFC 9113 8.2.2).
    Connection {
        /// What is wrong.
        why: &'static str,
        /// The option or field.
        option: Piece,
    } = 400 "request.connection" "The Connection header is not acceptable", "{why}: {option}";

    /// A `Trailer` field that announces what a trailer may not carry.
    Trailer {
        /// The announced name.
        name: Piece,
    } = 400 "request.trailer" "The Trailer header is not acceptable", "trailer announces a name that it may not: {name}";

    /// Both `Content-Length` and `Transfer-Encoding` (RFC 9112 6.3 lets a server reject it; this one does).
    LengthAndEncoding = 400 "request.length_and_encoding" "Content-Length and Transfer-Encoding exclude each other",
        "both content-length and transfer-encoding";

    /// A `Content-Length` that is no single number.
    ContentLength {
        /// What is wrong.
        why: &'static str,
    } = 400 "request.content_length" "The Content-Length header is not acceptable", "{why}";

    /// A `Transfer-Encoding` that is not exactly one `chunked`, or stands on HTTP/1.0.
    TransferEncoding {
        /// What is wrong.
        why: &'static str,
    } = 400 "request.transfer_encoding" "The Transfer-Encoding header is not acceptable", "{why}";

    /// A body on `GET`, `HEAD` or `OPTIONS`.
    UnexpectedBody = 400 "request.unexpected_body" "This method takes no body", "body on GET, HEAD or OPTIONS";

    /// An `Expect` other than `100-continue`.
    Expectation {
        /// Its length.
        bytes: usize,
    } = 417 "request.expectation" "The expectation cannot be met", "an expectation of {bytes} bytes";

    /// `CONNECT`, plain or extended (RFC 8441).
    Connect = 405 "request.connect" "CONNECT is not possible here", "connect";

    /// No `Host`, or an empty one.
    HostMissing = 400 "request.host_missing" "The Host header is missing", "no host";

    /// A host that is neither a name nor an IP literal.
    Host {
        /// What is wrong.
        why: &'static str,
        /// The length of the host.
        bytes: usize,
    } = 400 "request.host" "The Host header is malformed", "{why}, in a host of {bytes} bytes";

    /// `Host` differs from `:authority` or from the host of an absolute-form target.
    HostMismatch {
        /// The length of the canonical `Host`.
        host: usize,
        /// The length of the other one.
        other: usize,
    } = 400 "request.host_mismatch" "The request names two hosts", "a host of {host} bytes and another of {other}";

    /// A scheme other than `http` or `https`.
    Scheme {
        /// Its length.
        bytes: usize,
    } = 400 "request.scheme" "The scheme is neither http nor https", "a scheme of {bytes} bytes";

    /// A target that is neither a path, nor `OPTIONS *`, nor a whole URL.
    TargetForm {
        /// The length of the target.
        bytes: usize,
    } = 400 "request.target" "The request target is not a path", "a target of {bytes} bytes";

    /// A `#` in the target.
    Fragment = 400 "request.fragment" "The request target has a fragment", "raw # in the target";

    /// A byte in the path that RFC 3986 and browsers always encode.
    PathByte {
        /// The byte.
        byte: ByteKind,
    } = 400 "request.path_byte" "The path has a character that must be percent-encoded", "{byte} in the path";

    /// A backslash, raw or encoded: some upstreams read it as `/`.
    Backslash {
        /// The segment.
        segment: Piece,
    } = 400 "request.backslash" "The path has a backslash", "backslash in segment {segment}";

    /// A `;`, raw: some upstreams cut the segment there.
    PathParameter {
        /// The segment.
        segment: Piece,
    } = 400 "request.path_parameter" "The path has a semicolon", "semicolon in segment {segment}";

    /// A segment `.` or `..`, in any spelling.
    DotSegment {
        /// The segment.
        segment: Piece,
    } = 400 "request.dot_segment" "The path has a dot segment", "dot segment {segment}";

    /// Two slashes in a row.
    EmptySegment = 400 "request.empty_segment" "The path has two slashes in a row", "empty segment";

    /// A `%` without two hexadecimal digits.
    PercentEncoding {
        /// The segment.
        segment: Piece,
    } = 400 "request.percent_encoding" "The path has a percent sign that encodes nothing", "incomplete triplet in segment {segment}";

    /// `/`, `?`, `#` or `;`, encoded: after one decode it would delimit.
    EncodedDelimiter {
        /// The segment.
        segment: Piece,
    } = 400 "request.encoded_delimiter" "The path has an encoded delimiter", "encoded delimiter in segment {segment}";

    /// A triplet that decodes to the start of another.
    DoubleEncoding {
        /// The segment.
        segment: Piece,
    } = 400 "request.double_encoding" "The path is encoded twice", "double encoding in segment {segment}";

    /// A letter, digit, `-`, `.`, `_` or `~`, encoded: `%61dmin` is `admin` to some and not to others.
    EncodedUnreserved {
        /// The segment.
        segment: Piece,
    } = 400 "request.encoded_unreserved" "The path encodes characters that need no encoding",
        "encoded unreserved character in segment {segment}";

    /// An encoded control character, C0, DEL or C1.
    EncodedControl {
        /// The segment.
        segment: Piece,
    } = 400 "request.encoded_control" "The path has an encoded control character", "encoded control in segment {segment}";

    /// Encoded bytes that are not UTF-8, overlong forms and surrogates among them.
    PathUtf8 {
        /// The segment.
        segment: Piece,
    } = 400 "request.path_utf8" "The path is not UTF-8", "no UTF-8 in segment {segment}";

    /// A space, a control byte or a byte outside ASCII in the query.
    QueryByte {
        /// The byte.
        byte: ByteKind,
    } = 400 "request.query_byte" "The query has a character that must be percent-encoded", "{byte} in the query";

    /// An `Upgrade` that is no WebSocket handshake of RFC 6455.
    Upgrade {
        /// What is wrong.
        why: &'static str,
    } = 400 "request.upgrade" "The only upgrade is a WebSocket handshake", "{why}";
}
