//! One request, confined.

use std::borrow::Cow;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use portcullis_api::TenantId;

use super::{
    Absent, BODY_BYTES_MAX, Body, Claim, Confined, Deny, PARAMETERS_MAX, Sees, TARGET_BYTES_MAX, Target,
    compile::{Known, Parameters, Rule, What},
    parameters::{self, Parameter},
    promql::{self, Kind, Matcher, QUERY_BYTES_MAX, Unscoped},
};

/// What goes upstream instead of the request.
pub(super) fn confine(rule: &Rule, tenant: &TenantId, sees: &Sees<'_>) -> Result<Confined, Deny> {
    let mut confined = Confined::default();
    for (name, claim) in &rule.headers {
        // A tenant is lower-case letters, digits and hyphens: nothing in it splits a header or a list in one.
        let value = HeaderValue::from_str(value(*claim, tenant)).map_err(|_| Deny::Malformed)?;
        confined.headers.push((name.clone(), value));
    }
    let Some(parameters) = &rule.parameters else { return Ok(confined) };
    let mut query = parameters::read(sees.facts.query.as_bytes())?;
    let mut form = match form(sees)? {
        Some(body) => Some(parameters::read(body)?),
        None => None,
    };
    if query.len().saturating_add(form.as_ref().map_or(0, Vec::len)) > PARAMETERS_MAX {
        return Err(Deny::TooMany);
    }
    let labels: Vec<Matcher<'_>> = (parameters.labels.iter())
        .map(|(label, claim)| Matcher { label: label.as_str(), value: value(*claim, tenant) })
        .collect();
    count(parameters, &query, form.as_deref().unwrap_or_default())?;
    weigh(parameters, &query, form.as_deref().unwrap_or_default())?;
    for list in [Some(&mut query), form.as_mut()].into_iter().flatten() {
        confine_each(parameters, tenant, &labels, list)?;
    }
    add_absent(parameters, tenant, &labels, &mut query, form.as_deref().unwrap_or_default());
    let path = sees.facts.path;
    let mut text = path.to_owned();
    if !query.is_empty() {
        text.push('?');
        text.push_str(&parameters::write(&query));
    }
    if text.len() > TARGET_BYTES_MAX {
        return Err(Deny::TargetTooLarge);
    }
    confined.target = Some(Target { text, path_len: path.len() });
    confined.form = form.map(|form| Bytes::from(parameters::write(&form)));
    Ok(confined)
}

fn value(claim: Claim, tenant: &TenantId) -> &str {
    match claim {
        Claim::Tenant => tenant.as_str(),
    }
}

/// The form of a request; none without a body.
fn form<'r>(sees: &Sees<'r>) -> Result<Option<&'r [u8]>, Deny> {
    let body = match sees.body {
        Body::Absent | Body::Unread => return Ok(None),
        Body::Whole(body) => body,
    };
    if body.len() > BODY_BYTES_MAX {
        return Err(Deny::BodyTooLarge);
    }
    if *sees.facts.method != Method::POST {
        return Err(Deny::Body("a body of a method that has none"));
    }
    is_form(sees.facts.headers)?;
    Ok(Some(body))
}

/// Whether the body is a form in plain UTF-8, to every reader.
fn is_form(headers: &HeaderMap) -> Result<(), Deny> {
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(Deny::Body("a body in a coding"));
    }
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(media), None) = (values.next(), values.next()) else {
        return Err(Deny::Body("a body without one content type"));
    };
    let mut parts = media.to_str().unwrap_or_default().split(';').map(str::trim);
    if !parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")) {
        return Err(Deny::Body("a body that is no form"));
    }
    let is_utf8 = |parameter: &str| {
        parameter.split_once('=').is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("charset") && value.trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
    };
    if parts.all(is_utf8) { Ok(()) } else { Err(Deny::Body("a form in another charset")) }
}

/// Each parameter is known, and there as often as it may be, in the query and the form together: apps read both as one.
fn count(parameters: &Parameters, query: &[Parameter<'_>], form: &[Parameter<'_>]) -> Result<(), Deny> {
    let all = || query.iter().chain(form);
    if let Some((name, _)) = all().find(|(name, _)| !parameters.known.contains_key(name.as_ref())) {
        return Err(Deny::unknown(name));
    }
    for Known { name, what } in parameters.known.values() {
        let count = all().filter(|(other, _)| other == name.as_str()).count();
        match what {
            What::Expression if count == 0 => return Err(Deny::Missing(name.clone())),
            What::Selector if count == 0 && parameters.absent == Absent::Refuse => {
                return Err(Deny::Missing(name.clone()));
            }
            What::Expression | What::Plain(_) if count > 1 => return Err(Deny::Repeated(name.clone())),
            What::Expression | What::Selector | What::Plain(_) | What::Other => {}
        }
    }
    Ok(())
}

/// All queries of a request together are no larger than one may be: what they cost is bounded, however many there are.
fn weigh(parameters: &Parameters, query: &[Parameter<'_>], form: &[Parameter<'_>]) -> Result<(), Deny> {
    let mut bytes = 0_usize;
    for (name, text) in query.iter().chain(form) {
        let Some(Known { name, what }) = parameters.known.get(name.as_ref()) else { return Err(Deny::unknown(name)) };
        match what {
            What::Expression | What::Selector => bytes = bytes.saturating_add(text.len()),
            What::Plain(_) | What::Other => {}
        }
        if bytes > QUERY_BYTES_MAX {
            let why = Unscoped::TooLarge { what: "bytes of queries", max: QUERY_BYTES_MAX };
            return Err(Deny::Query(name.clone(), why));
        }
    }
    Ok(())
}

/// Confines every parameter of a list, in place.
fn confine_each(
    parameters: &Parameters,
    tenant: &TenantId,
    labels: &[Matcher<'_>],
    list: &mut [Parameter<'_>],
) -> Result<(), Deny> {
    for (name, text) in list {
        let Some(Known { name, what }) = parameters.known.get(name.as_ref()) else { return Err(Deny::unknown(name)) };
        let kind = match what {
            What::Expression => Kind::Expression,
            What::Selector => Kind::Selector,
            What::Plain(claim) if text == value(*claim, tenant) => continue,
            What::Plain(_) => return Err(Deny::Other(name.clone())),
            What::Other => continue,
        };
        let written = promql::confine(text, kind, labels).map_err(|why| Deny::Query(name.clone(), why))?;
        *text = Cow::Owned(written);
    }
    Ok(())
}

/// Adds what is not there, to the query: that is read of every method.
fn add_absent<'r>(
    parameters: &'r Parameters,
    tenant: &'r TenantId,
    labels: &[Matcher<'_>],
    query: &mut Vec<Parameter<'r>>,
    form: &[Parameter<'_>],
) {
    for (text, Known { name: _, what }) in &parameters.known {
        let set = match what {
            What::Selector => Cow::Owned(promql::all(labels)),
            What::Plain(claim) => Cow::Borrowed(value(*claim, tenant)),
            What::Expression | What::Other => continue,
        };
        if !query.iter().chain(form).any(|(name, _)| name == text.as_str()) {
            query.push((Cow::Borrowed(text.as_str()), set));
        }
    }
}
