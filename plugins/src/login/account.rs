//! Whose login a request is: found where the route says, and made one of all the ways to write it.
//!
//! Invariant: a request that an app could read in two ways names no account here. All of those count as one, so who finds
//! a second way to name an account has a handful of tries with it, from all networks together.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, header::CONTENT_TYPE};
use percent_encoding::percent_decode;
use portcullis_api::Facts;
use unicode_normalization::UnicodeNormalization;

use crate::{
    authentication::strict_json::{self, Json, Limits},
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

/// An account in the one way it is counted by: trimmed, without characters nobody sees, NFKC, without case.
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
    let seen = text.chars().filter(|c| !is_ignorable(*c)).nfkc();
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
    for place in places {
        let Ok(names) = named(place, facts, body) else { return Account::Unknown };
        for name in names {
            match (AccountName::parse(&name), &found) {
                (Some(name), None) => found = Some(name),
                (Some(name), Some(before)) if name == *before => {}
                (Some(_) | None, _) => return Account::Unknown,
            }
        }
    }
    found.map_or(Account::Unknown, Account::Named)
}

fn named<'b>(place: &Place, facts: &Facts<'_>, body: &'b [u8]) -> Result<Vec<Cow<'b, str>>, Unclear> {
    match place {
        Place::Json(_) if media(facts.headers) != Media::Json => Ok(Vec::new()),
        Place::Json(path) => {
            let json = strict_json::parse(body, JSON).map_err(|_| Unclear)?;
            Ok(member(&json, path)?.into_iter().map(Cow::Owned).collect())
        }
        Place::Form(field) => {
            // Many apps read the query and the body as one.
            let mut names = fields(facts.query.as_bytes(), field)?
                .into_iter()
                .map(|n| Cow::Owned(n.into_owned()))
                .collect::<Vec<_>>();
            if media(facts.headers) == Media::Form {
                names.extend(fields(body, field)?);
            }
            Ok(names)
        }
        Place::Header(name) => {
            let mut values = facts.headers.get_all(name).iter();
            match (values.next(), values.next()) {
                (None, _) => Ok(Vec::new()),
                (Some(value), None) => {
                    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| Unclear)?;
                    Ok(vec![Cow::Owned(text.to_owned())])
                }
                (Some(_), Some(_)) => Err(Unclear),
            }
        }
    }
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
    let mut alike = members.iter().filter(|(member, _)| member.eq_ignore_ascii_case(name));
    match (alike.next(), alike.next()) {
        (None, _) => Ok(None),
        (Some((_, value)), None) => member(value, rest),
        (Some(_), Some(_)) => Err(Unclear),
    }
}

/// The values of a field, in whatever case its name is.
fn fields<'b>(form: &'b [u8], field: &str) -> Result<Vec<Cow<'b, str>>, Unclear> {
    let mut values = Vec::new();
    for pair in form.split(|c| *c == b'&').filter(|pair| !pair.is_empty()) {
        let at = pair.iter().position(|c| *c == b'=').unwrap_or(pair.len());
        let (name, value) = pair.split_at_checked(at).unwrap_or((pair, &[]));
        if decoded(name).is_ok_and(|name| name.eq_ignore_ascii_case(field)) {
            values.push(decoded(value.strip_prefix(b"=").unwrap_or_default())?);
        }
    }
    Ok(values)
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

fn media(headers: &HeaderMap) -> Media {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Media::Other };
    let text = value.to_str().unwrap_or_default();
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
