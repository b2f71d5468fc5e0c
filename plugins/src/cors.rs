//! `cors`: cross-origin rules (Fetch, "HTTP CORS protocol"). Nothing is allowed unless an exact origin is written.
//!
//! A preflight is answered here and reaches no upstream. On every answer the upstream's own `Access-Control-*` fields
//! are removed first: what this host allows is decided in one place.

use std::collections::BTreeSet;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
    },
};
use portcullis_api::{At, Code, ControlName, Facts, Issues, Millis, Rejection};
use schemars::JsonSchema;
use serde::Deserialize;

/// The control's name.
pub const NAME: ControlName = ControlName::new("cors");

/// A preflight that is not allowed.
pub const REFUSED: Code =
    Code { name: "cors.refused", status: 403, title: "Cross-origin requests of this kind are not allowed" };

/// The refusal of a preflight.
#[must_use]
pub fn refused() -> Rejection {
    Rejection { control: NAME, code: REFUSED, rule: None, detail: None, headers: Box::default(), members: Vec::new() }
}

/// Which origins may read answers of this host from a browser. Without this table none may.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Exact origins, `scheme://host[:port]`; `*`, `null` and patterns are refused.
    pub origins: Vec<At<Origin>>,
    /// Request headers that a preflight may ask for, lower case.
    #[serde(default)]
    pub headers: Vec<At<String>>,
    /// Response headers that scripts may read.
    #[serde(default)]
    pub expose: Vec<At<String>>,
    /// Whether cookies may come along.
    #[serde(default)]
    pub credentials: Credentials,
    /// How long a browser may remember a preflight.
    #[serde(default = "max_age")]
    pub max_age: Millis,
}

const fn max_age() -> Millis {
    Millis::from_secs(600)
}

/// Whether a cross-origin request may carry cookies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Credentials {
    /// It may not.
    #[default]
    Deny,
    /// It may.
    Allow,
}

/// A web origin (RFC 6454), serialised as a browser sends it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(with = "String")]
pub struct Origin(String);

impl Origin {
    /// The serialised origin.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        match rest {
            Some(host)
                if !host.is_empty()
                    && host.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b".-:[]".contains(&c)) =>
            {
                Ok(Self(text))
            }
            _ => Err(serde::de::Error::custom(format!(
                "`{text}` is no exact origin: write scheme://host[:port] in lower case, without a path; `*`, `null` and patterns are not possible"
            ))),
        }
    }
}

/// The rules of one host.
#[derive(Debug)]
pub struct Cors {
    origins: BTreeSet<String>,
    /// Lower case.
    headers: BTreeSet<String>,
    expose: Option<HeaderValue>,
    credentials: Credentials,
    max_age: HeaderValue,
}

/// What a request is to CORS.
#[derive(Debug)]
pub enum Preflight {
    /// No preflight: it goes on.
    No,
    /// An allowed one: 204 with these fields.
    Answer(HeaderMap),
    /// One that is not allowed: [`REFUSED`].
    Refused,
}

/// Names that one preflight may ask for.
const REQUESTED_MAX: usize = 64;

const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
const VARY_PREFLIGHT: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");

impl Cors {
    /// Compiles what a host wrote, or says everything that is wrong with it.
    pub fn compile(settings: &Settings, issues: &mut Issues) -> Option<Self> {
        let Settings { origins, headers, expose, credentials, max_age } = settings;
        let sound = issues.as_slice().len();
        if origins.is_empty() {
            issues.push_help(
                "cors.no_origin",
                &(0..0),
                "cors names no origin, so it allows nobody",
                "without cors nobody is allowed either: remove the table, or write an origin",
            );
        }
        let mut listed = BTreeSet::new();
        for origin in origins {
            let text = origin.value.as_str();
            let default_port = if text.starts_with("https:") { ":443" } else { ":80" };
            if text.ends_with(default_port) {
                let message = format!("origin `{text}` would never match: browsers leave out `{default_port}`");
                issues.push("cors.default_port", &origin.span, message);
            }
            if !listed.insert(text.to_owned()) {
                issues.push("cors.duplicate", &origin.span, format!("origin `{text}` is written twice"));
            }
        }
        let headers = names(headers, issues);
        let exposed: Vec<String> = names(expose, issues).into_iter().collect();
        let expose = (!exposed.is_empty()).then(|| HeaderValue::try_from(exposed.join(", ")));
        let (Ok(expose), true) = (expose.transpose(), issues.as_slice().len() == sound) else { return None };
        let max_age = HeaderValue::from(max_age.as_secs_ceil());
        Some(Self { origins: listed, headers, expose, credentials: *credentials, max_age })
    }

    /// The request's one `Origin`, if it is on the list. Two of them are none.
    fn allowed<'r>(&self, request: &'r HeaderMap) -> Option<&'r HeaderValue> {
        let origin = only(request, &ORIGIN)?;
        self.origins.contains(origin.to_str().ok()?).then_some(origin)
    }

    /// The names that a preflight asks for, lower case and each once; `None` if one of them is not on the list.
    fn requested(&self, request: &HeaderMap) -> Option<BTreeSet<String>> {
        let mut requested = BTreeSet::new();
        for value in request.get_all(ACCESS_CONTROL_REQUEST_HEADERS) {
            for name in value.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                let name = name.to_ascii_lowercase();
                if !self.headers.contains(&name) || requested.len() >= REQUESTED_MAX {
                    return None;
                }
                requested.insert(name);
            }
        }
        Some(requested)
    }

    fn answer(&self, facts: &Facts<'_>, methods: &[Method]) -> Option<HeaderMap> {
        let origin = self.allowed(facts.headers)?;
        let method = only(facts.headers, &ACCESS_CONTROL_REQUEST_METHOD)?;
        let allowed = allowed_methods(methods);
        allowed.iter().find(|allowed| method.as_bytes() == allowed.as_bytes())?;
        let headers = self.requested(facts.headers)?;

        let mut answer = HeaderMap::new();
        answer.insert(VARY, VARY_PREFLIGHT);
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::try_from(allowed.join(", ")).ok()?);
        if !headers.is_empty() {
            let headers = headers.into_iter().collect::<Vec<_>>().join(", ");
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::try_from(headers).ok()?);
        }
        answer.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        self.allow(origin, &mut answer);
        Some(answer)
    }

    fn allow(&self, origin: &HeaderValue, answer: &mut HeaderMap) {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        match self.credentials {
            Credentials::Allow => {
                answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
            Credentials::Deny => {}
        }
    }
}

/// Answers a preflight: `OPTIONS` with `Origin` and `Access-Control-Request-Method`. `methods` is the list of the
/// route at this path. A host without rules refuses every preflight.
#[must_use]
pub fn preflight(cors: Option<&Cors>, facts: &Facts<'_>, methods: &[Method]) -> Preflight {
    let is_preflight = facts.method == Method::OPTIONS
        && facts.headers.contains_key(ORIGIN)
        && facts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if !is_preflight {
        return Preflight::No;
    }
    cors.and_then(|cors| cors.answer(facts, methods)).map_or(Preflight::Refused, Preflight::Answer)
}

/// Makes an answer say what this host allows, and nothing of what the upstream would. With rules it varies by
/// `Origin`, also for a client that sent none: a cache must not hand one origin's answer to another.
pub fn response_headers(cors: Option<&Cors>, facts: &Facts<'_>, answer: &mut HeaderMap) {
    let foreign: Vec<HeaderName> = answer.keys().filter(|name| is_cors_field(name)).cloned().collect();
    for name in foreign {
        answer.remove(name);
    }
    let Some(cors) = cors else { return };
    if !varies_by_origin(answer) {
        answer.append(VARY, VARY_ORIGIN);
    }
    if let Some(origin) = cors.allowed(facts.headers) {
        cors.allow(origin, answer);
        if let Some(expose) = &cors.expose {
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

/// Whether a response field is one of CORS. The gateway removes the upstream's.
#[must_use]
pub fn is_cors_field(name: &HeaderName) -> bool {
    name.as_str().starts_with("access-control-")
}

fn varies_by_origin(answer: &HeaderMap) -> bool {
    let names = answer.get_all(VARY).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    names.map(str::trim).any(|name| name == "*" || name.eq_ignore_ascii_case("origin"))
}

/// `GET` on a route's list admits `HEAD`.
fn allowed_methods(methods: &[Method]) -> Vec<&str> {
    let head = (methods.contains(&Method::GET) && !methods.contains(&Method::HEAD)).then_some(&Method::HEAD);
    methods.iter().chain(head).map(Method::as_str).collect()
}

/// The value of a field that stands once.
fn only<'r>(headers: &'r HeaderMap, name: &HeaderName) -> Option<&'r HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn names(written: &[At<String>], issues: &mut Issues) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for At { value, span } in written {
        let shown: String = value.chars().take(64).flat_map(char::escape_default).collect();
        // `*` is a token to HTTP, and to browsers the word for all.
        let is_name = value != "*" && HeaderName::from_lowercase(value.as_bytes()).is_ok();
        if !is_name {
            issues.push_help(
                "cors.header",
                span,
                format!("`{shown}` is no name of a header"),
                "write exact names in lower case; `*` is not possible",
            );
        } else if !names.insert(value.clone()) {
            issues.push("cors.duplicate", span, format!("header `{shown}` is written twice"));
        }
    }
    names
}

#[cfg(test)]
mod tests;
