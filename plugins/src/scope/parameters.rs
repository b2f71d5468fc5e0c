//! Parameters of a query or a form: read strictly, and written anew.
//!
//! What is written has one reading: nothing but unreserved bytes stands bare, so there is no `;`, no `+` and no `%` that one
//! server splits or decodes and another does not.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

use super::{Deny, PARAMETERS_MAX};

/// What stands bare: the unreserved bytes of RFC 3986.
const BARE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A parameter and its value, decoded.
pub(super) type Parameter<'r> = (Cow<'r, str>, Cow<'r, str>);

/// Every parameter, in order.
pub(super) fn read(raw: &[u8]) -> Result<Vec<Parameter<'_>>, Deny> {
    let mut parameters = Vec::new();
    for pair in raw.split(|c| *c == b'&').filter(|pair| !pair.is_empty()) {
        if parameters.len() >= PARAMETERS_MAX {
            return Err(Deny::TooMany);
        }
        let at = pair.iter().position(|c| *c == b'=').unwrap_or(pair.len());
        let (name, value) = pair.split_at_checked(at).unwrap_or((pair, &[]));
        parameters.push((decoded(name)?, decoded(value.strip_prefix(b"=").unwrap_or_default())?));
    }
    Ok(parameters)
}

/// The same as a query or a form.
pub(super) fn write(parameters: &[Parameter<'_>]) -> String {
    let mut text = String::new();
    for (name, value) in parameters {
        if !text.is_empty() {
            text.push('&');
        }
        text.extend(utf8_percent_encode(name, BARE));
        text.push('=');
        text.extend(utf8_percent_encode(value, BARE));
    }
    text
}

fn decoded(raw: &[u8]) -> Result<Cow<'_, str>, Deny> {
    if !raw.iter().any(|c| matches!(c, b'+' | b'%')) {
        return std::str::from_utf8(raw).map(Cow::Borrowed).map_err(|_| Deny::Malformed);
    }
    let mut escapes = raw.split(|c| *c == b'%').skip(1);
    let is_escape =
        |after: &[u8]| matches!(after, [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit());
    if !escapes.all(is_escape) {
        return Err(Deny::Malformed);
    }
    let spaced: Vec<u8> = raw.iter().map(|c| if *c == b'+' { b' ' } else { *c }).collect();
    String::from_utf8(percent_decode(&spaced).collect()).map(Cow::Owned).map_err(|_| Deny::Malformed)
}
