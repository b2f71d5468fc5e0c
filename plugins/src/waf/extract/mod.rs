//! Takes a request apart into text values with a place each.

mod json;
mod media;
mod multipart;
mod urlencoded;

use http::HeaderMap;

use super::{
    Deny,
    place::Place,
    tally::{Links, Tally},
    urls::Style,
};
pub(super) use media::Media;
pub(super) use urlencoded::query;

/// The kind of the body, from its `Content-Type`.
///
/// # Errors
/// [`Deny`] when the header is there twice, names a charset that is no UTF-8, or lacks what its type needs.
pub(super) fn media(headers: &HeaderMap) -> Result<Media, Deny> {
    media::of(headers)
}

/// Inspects a whole body.
///
/// # Errors
/// [`Deny`] when it is not what its type says, or breaks a limit.
pub(super) fn body(bytes: &[u8], media: &Media, tally: &mut Tally<'_>) -> Result<(), Deny> {
    match media {
        Media::Binary => Ok(()),
        Media::Form => urlencoded::form(bytes, tally),
        Media::Json => json::walk(utf8(bytes, &Place::Json(None, &[]))?, None, tally),
        Media::Multipart { boundary } => multipart::walk(bytes, boundary, tally),
        Media::Text(style) => tally.value(utf8(bytes, &Place::Text)?, &Place::Text, Links::Count(*style)),
        Media::Unknown => match std::str::from_utf8(bytes) {
            Ok(text) => tally.value(text, &Place::Text, Links::Count(Style::Plain)),
            // Not text, and nothing says it should be: its size is all there is to judge.
            Err(_) => Ok(()),
        },
    }
}

fn utf8<'b>(bytes: &'b [u8], place: &Place<'_>) -> Result<&'b str, Deny> {
    std::str::from_utf8(bytes).map_err(|_| Deny::NotUtf8 { at: place.to_string() })
}
