//! The form of a request for a token: each parameter known, once, with a value, in UTF-8.
//!
//! RFC 6749 (3.2) would have unknown parameters ignored and empty ones taken for absent. Neither is done here: a narrowing
//! that is misspelt or empty would give a token with every right of its key.

use std::borrow::Cow;

use http::{HeaderMap, header::CONTENT_TYPE};
use percent_encoding::percent_decode;
use portcullis_api::Role;

use super::Deny;
use crate::authentication::Filters;

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const API_KEY: &str = "urn:portcullis:params:oauth:token-type:api-key";

/// What is asked for.
#[derive(Debug)]
pub(super) struct Form<'f> {
    pub(super) subject_token: Cow<'f, str>,
    pub(super) token_type: TokenType,
    pub(super) audience: Option<Cow<'f, str>>,
    pub(super) scope: Option<Cow<'f, str>>,
    pub(super) role: Option<Role>,
    pub(super) filters: Option<Filters>,
}

/// How the token is named in the answer. It is the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenType {
    AccessToken,
    Jwt,
}

impl TokenType {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::AccessToken => "urn:ietf:params:oauth:token-type:access_token",
            Self::Jwt => "urn:ietf:params:oauth:token-type:jwt",
        }
    }

    fn named(text: &str) -> Option<Self> {
        [Self::AccessToken, Self::Jwt].into_iter().find(|kind| kind.as_str() == text)
    }
}

macro_rules! parameters {
    ($($field:ident = $name:literal,)+) => {
        #[derive(Default)]
        struct Read<'f> { $($field: Option<Cow<'f, str>>,)+ }
        impl<'f> Read<'f> {
            /// The place of a parameter.
            fn slot(&mut self, name: &str) -> Option<&mut Option<Cow<'f, str>>> {
                match name { $($name => Some(&mut self.$field),)+ _ => None }
            }
        }
    };
}
parameters! {
    grant_type = "grant_type",
    subject_token = "subject_token",
    subject_token_type = "subject_token_type",
    requested_token_type = "requested_token_type",
    audience = "audience",
    resource = "resource",
    scope = "scope",
    role = "portcullis_role",
    filters = "portcullis_filters",
}

/// Reads a form.
pub(super) fn read<'f>(headers: &HeaderMap, body: &'f [u8]) -> Result<Form<'f>, Deny> {
    if !is_form(headers) {
        return Err(Deny::Request("the content-type is not application/x-www-form-urlencoded"));
    }
    let mut read = Read::default();
    for pair in body.split(|&byte| byte == b'&') {
        let mut halves = pair.splitn(2, |&byte| byte == b'=');
        let (Some(name), Some(value)) = (halves.next(), halves.next()) else {
            return Err(Deny::Request("a parameter without a value"));
        };
        let (name, value) = (decoded(name)?, decoded(value)?);
        let slot = read.slot(&name).ok_or(Deny::Request("an unknown parameter"))?;
        if value.is_empty() {
            return Err(Deny::Request("an empty parameter"));
        }
        if slot.replace(value).is_some() {
            return Err(Deny::Request("a parameter twice"));
        }
    }
    let Read {
        grant_type,
        subject_token,
        subject_token_type,
        requested_token_type,
        audience,
        resource,
        scope,
        role,
        filters,
    } = read;
    match grant_type.as_deref() {
        Some(GRANT) => {}
        Some(_) => return Err(Deny::Grant),
        None => return Err(Deny::Request("no grant_type")),
    }
    if subject_token_type.as_deref() != Some(API_KEY) {
        return Err(Deny::Request("subject_token_type is not an API key's"));
    }
    // RFC 8707: the URL of an app. Tokens are for this gateway, which alone verifies them.
    if resource.is_some() {
        return Err(Deny::Target);
    }
    let token_type = match requested_token_type.as_deref() {
        None => TokenType::AccessToken,
        Some(text) => TokenType::named(text).ok_or(Deny::Request("requested_token_type is none that is made here"))?,
    };
    let role = match role.as_deref() {
        None => None,
        Some(text) => Some(Role::named(text).ok_or(Deny::Request("portcullis_role is no role"))?),
    };
    let filters = filters.map(|json| Filters::parse(json.as_bytes())).transpose();
    let filters = filters.map_err(|error| Deny::Request(error.why()))?;
    let subject_token = subject_token.ok_or(Deny::Request("no subject_token"))?;
    Ok(Form { subject_token, token_type, audience, scope, role, filters })
}

/// One `Content-Type`, with no other parameter than a charset of UTF-8.
fn is_form(headers: &HeaderMap) -> bool {
    let mut fields = headers.get_all(CONTENT_TYPE).iter();
    let (Some(Ok(value)), None) = (fields.next().map(http::HeaderValue::to_str), fields.next()) else { return false };
    let mut parts = value.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        && parts.all(|part| part.eq_ignore_ascii_case("charset=utf-8"))
}

/// `+` is a space; every `%` begins a byte; what comes of it is UTF-8.
fn decoded(raw: &[u8]) -> Result<Cow<'_, str>, Deny> {
    let escapes = raw.split(|&byte| byte == b'%').skip(1);
    let whole = |rest: &[u8]| matches!(rest, [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    if !escapes.into_iter().all(whole) {
        return Err(Deny::Request("a stray percent sign"));
    }
    let text = if raw.contains(&b'%') || raw.contains(&b'+') {
        let spaced: Vec<u8> = raw.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
        String::from_utf8(percent_decode(&spaced).collect()).map(Cow::Owned).ok()
    } else {
        std::str::from_utf8(raw).map(Cow::Borrowed).ok()
    };
    text.ok_or(Deny::Request("a parameter that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(body: &str) -> Result<String, Deny> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("application/x-www-form-urlencoded"));
        read(&headers, body.as_bytes())
            .map(|form| format!("{} {} {:?}", form.subject_token, form.token_type.as_str(), form.scope.as_deref()))
    }

    const GOOD: &str = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=k\
                        &subject_token_type=urn:portcullis:params:oauth:token-type:api-key";

    #[test]
    fn a_form_is_read_and_a_plus_is_a_space() {
        assert_eq!(
            form(&format!("{GOOD}&scope=a+b%20c")).unwrap(),
            "k urn:ietf:params:oauth:token-type:access_token Some(\"a b c\")"
        );
        assert_eq!(
            form(&format!("{GOOD}&requested_token_type=urn%3Aietf%3Aparams:oauth:token-type:jwt")).unwrap(),
            "k urn:ietf:params:oauth:token-type:jwt None"
        );
    }

    #[test]
    fn what_is_misspelt_missing_empty_or_twice_is_refused_and_not_ignored() {
        for more in [
            "&scopes=a",
            "&scope=",
            "&scope",
            "&scope=a&scope=a",
            "&Scope=a",
            "&scope=%zz",
            "&scope=%f",
            "&scope=%ff",
            "&",
            "&=a",
            "&actor_token=x",
            "&subject_token=k",
            "&portcullis_role=root",
            "&requested_token_type=saml2",
        ] {
            assert!(matches!(form(&format!("{GOOD}{more}")), Err(Deny::Request(_))), "{more}");
        }
        assert_eq!(form(&format!("{GOOD}&resource=https://a.example")), Err(Deny::Target));
        assert_eq!(form(&GOOD.replace("token-exchange", "client_credentials")), Err(Deny::Grant));
        for gone in ["grant_type", "subject_token", "subject_token_type"] {
            let kept: Vec<&str> = GOOD.split('&').filter(|pair| !pair.starts_with(&format!("{gone}="))).collect();
            assert!(matches!(form(&kept.join("&")), Err(Deny::Request(_))), "{gone}");
        }
        assert!(matches!(form(""), Err(Deny::Request(_))));
    }

    #[test]
    fn only_one_content_type_of_a_form_counts() {
        let with = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_TYPE, http::HeaderValue::from_static(value));
            }
            is_form(&headers)
        };
        let form = "application/x-www-form-urlencoded";
        assert!(with(&[form]) && with(&["Application/X-WWW-Form-Urlencoded; charset=UTF-8"]));
        assert!(!with(&[]) && !with(&["application/json"]) && !with(&[form, form]));
        assert!(!with(&["application/x-www-form-urlencoded; charset=utf-7"]));
    }
}
