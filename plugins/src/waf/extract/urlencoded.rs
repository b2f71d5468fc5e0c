//! Query strings and `application/x-www-form-urlencoded` bodies: percent-decoded once, `+` as a space.

use std::borrow::Cow;

use super::super::{
    Deny, VALUES_MAX,
    fold::hex_pair,
    place::Place,
    tally::{Links, Tally},
    urls::Style,
};

/// What a `%` without two hexadecimal digits is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stray {
    /// Itself: people type `?q=100%` and upstreams take it.
    Literal,
    /// An error: no form encoder writes one.
    Refused,
}

/// Inspects a raw query without `?`.
pub(in super::super) fn query(raw: &str, tally: &mut Tally<'_>) -> Result<(), Deny> {
    pairs(raw.as_bytes(), Stray::Literal, Place::Query, tally)
}

/// Inspects a form body.
pub(super) fn form(body: &[u8], tally: &mut Tally<'_>) -> Result<(), Deny> {
    pairs(body, Stray::Refused, Place::Form, tally)
}

fn pairs<'b>(
    raw: &'b [u8],
    stray: Stray,
    place: impl Fn(&'b str) -> Place<'b>,
    tally: &mut Tally<'_>,
) -> Result<(), Deny> {
    for (count, pair) in raw.split(|&c| c == b'&').enumerate() {
        let (name, value) = match pair.iter().position(|&c| c == b'=') {
            Some(at) => (pair.get(..at), pair.get(at.saturating_add(1)..).unwrap_or_default()),
            // `?https://…`: without a name, what is there is the value.
            None => (None, pair),
        };
        // A name is shown in its raw form, and only if that is text.
        let at = place(name.and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default());
        if count >= VALUES_MAX {
            return Err(Deny::TooManyValues { what: "fields", max: VALUES_MAX, at: at.to_string() });
        }
        // `?https://…=`: an app that lists its fields shows the name. What is refused for it, is shown without it.
        if let Some(name) = name {
            inspect(name, stray, &place(""), tally)?;
        }
        inspect(value, stray, &at, tally)?;
    }
    Ok(())
}

fn inspect(raw: &[u8], stray: Stray, place: &Place<'_>, tally: &mut Tally<'_>) -> Result<(), Deny> {
    let decoded = decode(raw, stray).ok_or_else(|| stray_percent(place))?;
    let text = std::str::from_utf8(&decoded).map_err(|_| Deny::NotUtf8 { at: place.to_string() })?;
    tally.value(text, place, Links::Count(Style::Plain))
}

fn stray_percent(place: &Place<'_>) -> Deny {
    Deny::MalformedBody { at: place.to_string(), why: "a % without two hexadecimal digits" }
}

/// The decoded value; `None` for a stray `%` that is refused.
///
/// A `+` at the very start before a digit stays a `+`: no value begins with a space, and many a client forgets to
/// encode the plus of a phone number.
fn decode(raw: &[u8], stray: Stray) -> Option<Cow<'_, [u8]>> {
    if !raw.iter().any(|c| matches!(c, b'%' | b'+')) {
        return Some(Cow::Borrowed(raw));
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' if out.is_empty() && tail.first().is_some_and(u8::is_ascii_digit) => out.push(b'+'),
            b'+' => out.push(b' '),
            b'%' => match (tail, stray) {
                ([high, low, after @ ..], _) if let Some(value) = hex_pair(*high, *low) => {
                    out.push(value);
                    rest = after;
                }
                (_, Stray::Literal) => out.push(b'%'),
                (_, Stray::Refused) => return None,
            },
            other => out.push(other),
        }
    }
    Some(Cow::Owned(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(raw: &str, stray: Stray) -> Option<String> {
        decode(raw.as_bytes(), stray).map(|bytes| String::from_utf8(bytes.into_owned()).unwrap())
    }

    #[test]
    fn values_are_decoded_once_and_a_plus_is_a_space() {
        assert_eq!(text("a+b%20c%2Bd", Stray::Refused).as_deref(), Some("a b c+d"));
        assert_eq!(text("%2541", Stray::Refused).as_deref(), Some("%41"));
        assert_eq!(text("+442079460018", Stray::Refused).as_deref(), Some("+442079460018"));
        assert_eq!(text("+a", Stray::Refused).as_deref(), Some(" a"));
    }

    #[test]
    fn a_stray_percent_is_text_in_a_query_and_an_error_in_a_form() {
        for raw in ["100%", "%", "%4", "%zz", "a%2"] {
            assert_eq!(text(raw, Stray::Literal).as_deref(), Some(raw), "{raw}");
            assert_eq!(text(raw, Stray::Refused), None, "{raw}");
        }
    }

    #[test]
    fn what_needs_no_decoding_is_not_copied() {
        assert!(matches!(decode(b"plain", Stray::Refused), Some(Cow::Borrowed(_))));
    }
}
