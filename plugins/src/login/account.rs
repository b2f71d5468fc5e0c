//! Whose login a request is: found where the route says, and made one of all the ways to write it.
//!
//! Invariant: a request that an app could read in two ways names no account here. All of those count as one, so who finds
//! a second way to name an account has a handful of tries with it, from all networks together.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use percent_encoding::percent_decode;
use portcullis_api::Facts;
use unicode_normalization::UnicodeNormalization;

use crate::{
    authentication::strict_json::{self, Json, Limits},
    reserved,
    waf::is_ignorable,
};

/// What a login may look like. A body is bounded by [`super::BODY_BYTES_MAX`].
const JSON: Limits = Limits { depth: 16, members: 512, text_bytes: super::BODY_BYTES_MAX, items: 512 };

/// Foldings until nothing changes any more; more than any text needs.
const ROUNDS_MAX: usize = 4;

/// Whose login it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// The request names one.
    Named(AccountName),
    /// It names none, or could be read in two ways. All of these are one account.
    Unknown,
}

/// An account in the one way it is counted by: trimmed, without characters nobody sees, NFKC, without case and without the
/// marks over and under Latin letters, which many databases do not tell apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountName(String);

impl AccountName {
    /// `None` where nothing is left.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut name: String = fold(text);
        for _ in 0..ROUNDS_MAX {
            let next = fold(&name);
            if next == name {
                break;
            }
            name = next;
        }
        (!name.is_empty()).then_some(Self(name))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Up and then down: what differs in case only comes out alike, also where one letter becomes two.
fn fold(text: &str) -> String {
    let bare = text.chars().filter(|c| !is_ignorable(*c)).nfkd().filter(|c| !('\u{300}'..='\u{36f}').contains(c));
    let seen = bare.nfkc();
    let folded: String = seen.flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfkc().collect();
    folded.trim().to_owned()
}

/// Where an account is named, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Json(Box<[String]>),
    Form(String),
    Header(HeaderName),
}

impl Place {
    pub(super) const fn is_in_body(&self) -> bool {
        match self {
            Self::Json(_) | Self::Form(_) => true,
            Self::Header(_) => false,
        }
    }
}

/// The request can be read in two ways.
struct Unclear;

/// What the places say, of a request with this body.
pub(super) fn find(places: &[Place], facts: &Facts<'_>, body: &[u8]) -> Account {
    let mut found: Option<AccountName> = None;
    let media = media(facts.headers);
    // A body that names nobody where it is read here may name somebody where the app reads it.
    let mut is_body_read = body.is_empty() || !places.iter().any(Place::is_in_body);
    for place in places {
        let Ok(Names { of_body, others }) = named(place, media, facts, body) else { return Account::Unknown };
        is_body_read |= !of_body.is_empty();
        for name in of_body.into_iter().chain(others) {
            match (AccountName::parse(&name), &found) {
                (Some(name), None) => found = Some(name),
                (Some(name), Some(before)) if name == *before => {}
                (Some(_) | None, _) => return Account::Unknown,
            }
        }
    }
    found.filter(|_| is_body_read).map_or(Account::Unknown, Account::Named)
}

/// What one place says.
#[derive(Default)]
struct Names<'b> {
    of_body: Vec<Cow<'b, str>>,
    others: Vec<Cow<'b, str>>,
}

fn named<'b>(place: &Place, media: Media, facts: &Facts<'b>, body: &'b [u8]) -> Result<Names<'b>, Unclear> {
    let mut names = Names::default();
    match place {
        Place::Json(path) => {
            if media == Media::Json {
                let json = strict_json::parse(body, JSON).map_err(|_| Unclear)?;
                names.of_body.extend(member(&json, path)?.map(Cow::Owned));
            }
        }
        Place::Form(field) => {
            // Many apps read the query and the body as one.
            names.others = fields(facts.query.as_bytes(), field)?;
            if media == Media::Form {
                // Some apps read JSON whatever its type says.
                if body.trim_ascii_start().first().is_some_and(|first| matches!(first, b'{' | b'[')) {
                    return Err(Unclear);
                }
                names.of_body = fields(body, field)?;
            }
        }
        Place::Header(name) => {
            let meant = reserved::fold(name.as_str());
            let alike = |other: &HeaderName| reserved::fold(other.as_str()).as_str() == meant.as_str();
            let mut values = facts.headers.iter().filter(|(other, _)| alike(other));
            match (values.next(), values.next()) {
                (None, _) => {}
                (Some((_, value)), None) => {
                    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| Unclear)?;
                    names.others.push(Cow::Owned(text.to_owned()));
                }
                (Some(_), Some(_)) => return Err(Unclear),
            }
        }
    }
    Ok(names)
}

/// The text at a path. Some readers of JSON know no case in names, so two that differ in it are two ways to read it.
fn member(json: &Json, path: &[String]) -> Result<Option<String>, Unclear> {
    let Some((name, rest)) = path.split_first() else {
        return match json {
            Json::Text(text) => Ok(Some(text.clone())),
            Json::Whole(number) => Ok(Some(number.to_string())),
            Json::Null | Json::Flag(_) | Json::Number | Json::List(_) | Json::Object(_) => Err(Unclear),
        };
    };
    let members = json.object().ok_or(Unclear)?;
    let meant = fold(name);
    let mut alike = members.iter().filter(|(member, _)| fold(member) == meant);
    match (alike.next(), alike.next()) {
        (None, _) => Ok(None),
        (Some((written, value)), None) if written.eq_ignore_ascii_case(name) => member(value, rest),
        (Some(_), _) => Err(Unclear),
    }
}

/// The values of a field, in whatever case its name is. A name that only some readers take for it is unclear, and so is a
/// form that some split at `;`.
fn fields<'b>(form: &'b [u8], field: &str) -> Result<Vec<Cow<'b, str>>, Unclear> {
    let mut values = Vec::new();
    if form.contains(&b';') {
        return Err(Unclear);
    }
    for pair in form.split(|c| *c == b'&').filter(|pair| !pair.is_empty()) {
        let at = pair.iter().position(|c| *c == b'=').unwrap_or(pair.len());
        let (name, value) = pair.split_at_checked(at).unwrap_or((pair, &[]));
        let name = decoded(name)?;
        if name.eq_ignore_ascii_case(field) {
            values.push(decoded(value.strip_prefix(b"=").unwrap_or_default())?);
        } else if loosely(&name) == loosely(field) {
            return Err(Unclear);
        }
    }
    Ok(values)
}

/// A name as the most careless reader takes it: it ends at the first NUL or bracket, blanks and dots are underscores, and
/// whatever folds alike is the same.
fn loosely(name: &str) -> String {
    let name = fold(name.trim_start_matches(|c: char| c.is_whitespace() || c.is_control() || c == '['));
    let end = name.find(['\0', '[', ']']).unwrap_or(name.len());
    let name = name.get(..end).unwrap_or_default().trim();
    name.replace([' ', '.', '+'], "_")
}

fn decoded(raw: &[u8]) -> Result<Cow<'_, str>, Unclear> {
    if !raw.iter().any(|c| matches!(c, b'+' | b'%')) {
        return std::str::from_utf8(raw).map(Cow::Borrowed).map_err(|_| Unclear);
    }
    let spaced: Vec<u8> = raw.iter().map(|c| if *c == b'+' { b' ' } else { *c }).collect();
    String::from_utf8(percent_decode(&spaced).collect()).map(Cow::Owned).map_err(|_| Unclear)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Media {
    Json,
    Form,
    Other,
}

/// What a body in another charset or coding says is not read here.
fn media(headers: &HeaderMap) -> Media {
    if headers.contains_key(CONTENT_ENCODING) {
        return Media::Other;
    }
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Media::Other };
    let text = value.to_str().unwrap_or_default();
    let charset = |parameter: &str| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = value.trim().trim_matches('"');
        name.trim().eq_ignore_ascii_case("charset") && !value.eq_ignore_ascii_case("utf-8")
    };
    if text.split(';').skip(1).any(charset) {
        return Media::Other;
    }
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.split_once('/') {
        Some(("application", "x-www-form-urlencoded")) => Media::Form,
        Some(("application" | "text", "json")) => Media::Json,
        Some((_, subtype)) if subtype.ends_with("+json") => Media::Json,
        Some(_) | None => Media::Other,
    }
}

#[cfg(test)]
mod tests;
