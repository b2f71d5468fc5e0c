//! Exactly one credential per request, found in one pass over everything the gateway knows as a credential.
//!
//! Invariant: what counts as present does not depend on the route. A credential that the route does not accept is
//! refused, not overlooked: two parsers that look at different fields are two identities.

use http::{HeaderMap, header};
use portcullis_api::Facts;

use super::deny::Ambiguity;

/// The request header that carries an API key.
pub const X_API_KEY: &str = "x-api-key";

/// What the gateway knows as credentials.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// `brand_` of API keys, when there are any.
    pub(super) api_key_prefix: Option<String>,
    /// Cookie names, each with its issuer.
    pub(super) cookies: Vec<CookieName>,
}

/// A cookie of ours.
#[derive(Debug)]
pub(super) struct CookieName {
    pub(super) name: String,
    pub(super) issuer: usize,
}

/// The one credential that was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presented<'r> {
    /// `Authorization: Bearer`, a token.
    Bearer(&'r [u8]),
    /// An API key.
    ApiKey(&'r [u8]),
    /// A token in the cookie of this issuer.
    Cookie { issuer: usize, token: &'r [u8] },
    /// `Authorization` with a scheme that nobody accepts here.
    OtherScheme,
}

impl Known {
    /// Finds the credential of a request.
    pub(super) fn find<'r>(&self, facts: &Facts<'r>) -> Result<Option<Presented<'r>>, Ambiguity> {
        if query_has_credential(facts.query) {
            return Err(Ambiguity::InQuery);
        }
        let mut found = None;
        let mut add = |presented: Presented<'r>| match found.replace(presented) {
            None => Ok(()),
            Some(_) => Err(Ambiguity::Several),
        };
        if let Some(value) = single(facts.headers, header::AUTHORIZATION.as_str(), Ambiguity::AuthorizationTwice)? {
            add(self.authorization(value)?)?;
        }
        if self.api_key_prefix.is_some()
            && let Some(value) = single(facts.headers, X_API_KEY, Ambiguity::ApiKeyTwice)?
        {
            add(Presented::ApiKey(token68(value).ok_or(Ambiguity::ApiKeyForm)?))?;
        }
        for cookie in &self.cookies {
            if let Some(token) = find_cookie(facts.headers, &cookie.name)? {
                add(Presented::Cookie { issuer: cookie.issuer, token })?;
            }
        }
        Ok(found)
    }

    /// `scheme SP token68` (RFC 9110 11.4), the scheme in any case, exactly one space.
    fn authorization<'r>(&self, value: &'r [u8]) -> Result<Presented<'r>, Ambiguity> {
        let mut parts = value.splitn(2, |&byte| byte == b' ');
        let scheme = parts.next().unwrap_or_default();
        if scheme.is_empty() || !scheme.iter().all(|&byte| is_token(byte)) {
            return Err(Ambiguity::AuthorizationForm);
        }
        if !scheme.eq_ignore_ascii_case(b"bearer") {
            return Ok(Presented::OtherScheme);
        }
        let token = parts.next().and_then(token68).ok_or(Ambiguity::AuthorizationForm)?;
        let is_key = self.api_key_prefix.as_ref().is_some_and(|prefix| token.starts_with(prefix.as_bytes()));
        Ok(if is_key { Presented::ApiKey(token) } else { Presented::Bearer(token) })
    }
}

/// The only value of a field that may stand once.
fn single<'r>(headers: &'r HeaderMap, name: &str, twice: Ambiguity) -> Result<Option<&'r [u8]>, Ambiguity> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => Ok(Some(value.as_bytes())),
        (Some(_), Some(_)) => Err(twice),
    }
}

/// RFC 9110 11.2: at least one of ALPHA DIGIT - . _ ~ + / and then any number of `=`.
fn token68(value: &[u8]) -> Option<&[u8]> {
    let padding = value.iter().rev().take_while(|&&byte| byte == b'=').count();
    let body = value.get(..value.len().saturating_sub(padding)).unwrap_or_default();
    // No early end, so that many bytes are looked at in one step: this runs over every token of every request.
    let plain = body.iter().fold(true, |plain, &byte| plain & in_token68(byte));
    (plain && !body.is_empty()).then_some(value)
}

/// `- . /` and the digits stand in a row; a letter is one in either case. No branch.
const fn in_token68(byte: u8) -> bool {
    (byte | 0x20).wrapping_sub(b'a') < 26
        || byte.wrapping_sub(b'-') <= b'9'.wrapping_sub(b'-')
        || byte == b'+'
        || byte == b'_'
        || byte == b'~'
}

/// RFC 9110 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Parameter names that some library somewhere takes a credential from (RFC 6750 2.3 and custom). They land in logs,
/// histories and referrers, so they are refused wherever they appear.
const QUERY_NAMES: &[&[u8]] = &[b"access_token", b"api_key", b"apikey"];

fn query_has_credential(query: &str) -> bool {
    // `;` also separates: some servers still read it so.
    query.split(['&', ';']).any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        // All of them start with `a`, and most names do not.
        percent_decoded(name.as_bytes()).next().is_some_and(|first| first.eq_ignore_ascii_case(&b'a'))
            && QUERY_NAMES.iter().any(|known| {
                percent_decoded(name.as_bytes()).map(|byte| byte.to_ascii_lowercase()).eq(known.iter().copied())
            })
    })
}

fn percent_decoded(bytes: &[u8]) -> impl Iterator<Item = u8> {
    percent_encoding::percent_decode(bytes)
}

/// The value of our cookie over all `Cookie` fields, which HTTP/2 may split (RFC 9113 8.2.3).
fn find_cookie<'r>(headers: &'r HeaderMap, name: &str) -> Result<Option<&'r [u8]>, Ambiguity> {
    let mut found = None;
    for field in headers.get_all(header::COOKIE) {
        for pair in field.as_bytes().split(|&byte| byte == b';') {
            match compare(pair, name) {
                Likeness::Other => {}
                Likeness::Alias => return Err(Ambiguity::CookieAlias),
                Likeness::Ours(value) => {
                    if found.replace(value).is_some() {
                        return Err(Ambiguity::CookieTwice);
                    }
                }
            }
        }
    }
    Ok(found)
}

enum Likeness<'r> {
    Ours(&'r [u8]),
    /// Not our name, but one that a careless parser makes ours.
    Alias,
    Other,
}

fn compare<'r>(pair: &'r [u8], name: &str) -> Likeness<'r> {
    let pair = trim(pair);
    let mut halves = pair.splitn(2, |&byte| byte == b'=');
    let (theirs, value) = (halves.next().unwrap_or_default(), halves.next());
    if let Some(value) = value
        && theirs == name.as_bytes()
    {
        return Likeness::Ours(trim(value));
    }
    // `$Version`, `$Path` and friends (RFC 2965) are attributes to some parsers and names to none that matter.
    if theirs.first() == Some(&b'$') {
        return Likeness::Other;
    }
    // A nameless cookie `=name=value` is sent by some browsers as `name=value`, and read so by some servers: the first
    // part that has anything visible is the name.
    let mut parts = pair.split(|&byte| byte == b'=');
    let theirs = parts.find(|part| fold(part).next().is_some()).unwrap_or_default();
    if fold(theirs).eq(fold(name.as_bytes())) { Likeness::Alias } else { Likeness::Other }
}

fn trim(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii()
}

/// What careless parsers make of a name: percent-decoded (PHP), without white space, quotes, controls and non-ASCII
/// (Django, ASP.NET, Java trim Unicode), without case, and with punctuation as one character (PHP writes `_` for `.`).
fn fold(name: &[u8]) -> impl Iterator<Item = u8> {
    percent_decoded(name)
        .filter(|byte| byte.is_ascii_graphic() && !b"\"'".contains(byte))
        .map(|byte| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'_' })
}

/// Whether two cookie names are one name to some parser.
pub(super) fn same_cookie(a: &str, b: &str) -> bool {
    fold(a.as_bytes()).eq(fold(b.as_bytes()))
}

/// A `Cookie` field without our cookie; `None` when nothing is left. Other cookies keep their bytes.
#[must_use]
pub fn strip_cookie(header_value: &str, cookie_name: &str) -> Option<String> {
    strip_cookie_bytes(header_value.as_bytes(), cookie_name).and_then(|bytes| String::from_utf8(bytes).ok())
}

/// [`strip_cookie`] for values that are no UTF-8.
#[must_use]
pub fn strip_cookie_bytes(header_value: &[u8], cookie_name: &str) -> Option<Vec<u8>> {
    let kept: Vec<&[u8]> = header_value
        .split(|&byte| byte == b';')
        .filter(|pair| matches!(compare(pair, cookie_name), Likeness::Other))
        .collect();
    let joined = kept.join(&b';');
    let left = joined.trim_ascii_start();
    (!left.is_empty()).then(|| left.to_vec())
}

/// Whether a `Set-Cookie` of an upstream could set one of these cookies, under any spelling that comes back to us as it.
///
/// Not only `name=`: a cookie without a name is sent as its value alone (RFC 6265bis 5.7.3), so `=name=x` and `name` come
/// back as ours. Whatever [`strip_cookie`] takes out of a request may not be set by an answer.
#[must_use]
pub fn sets_cookie(set_cookie_value: &[u8], names: &[String]) -> bool {
    let mut pairs = set_cookie_value.split(|&byte| byte == b';');
    let pair = pairs.find(|pair| !pair.trim_ascii().is_empty()).unwrap_or_default();
    // Older browsers end the value at the first control byte, others refuse it or drop the byte.
    let cut = pair.split(|&byte| byte.is_ascii_control() && byte != b'\t').next().unwrap_or_default();
    names.iter().any(|name| [pair, cut].into_iter().any(|pair| !matches!(compare(pair, name), Likeness::Other)))
}

/// Headers that always carry a credential when the gateway knows API keys. See also
/// [`super::Authentication::credential_headers`], which knows whether it does, and
/// [`super::Authentication::cookie_names`].
#[must_use]
pub const fn credential_headers() -> &'static [&'static str] {
    &["authorization", X_API_KEY]
}

#[cfg(test)]
#[path = "credential_tests.rs"]
mod tests;
