//! What an upstream is told of a caller, as header fields.

use http::{HeaderValue, header::InvalidHeaderValue};

use super::{certificate::thumbprint, identity::Parts};
use crate::reserved;

/// Names of [`reserved`] and their values, without the tenant, which is the request's.
pub(super) fn told(parts: &Parts) -> Result<Vec<(&'static str, HeaderValue)>, InvalidHeaderValue> {
    let Parts {
        tenant: _,
        issuer,
        subject,
        kind,
        role,
        scopes,
        environment,
        key_id: _,
        credential: _,
        expires: _,
        jti: _,
        certificate,
        bound: _,
        revocable: _,
        uses: _,
        signed_by: _,
        auth_time: _,
        environments: _,
        filters,
    } = parts;
    let subject = HeaderValue::from_str(&reserved::percent_encode_value(&format!("{issuer}:{subject}")))?;
    let mut told = vec![(reserved::SUBJECT, subject), (reserved::KIND, HeaderValue::from_static(kind.as_str()))];
    if let Some(role) = role {
        told.push((reserved::ROLE, HeaderValue::from_static(role.as_str())));
    }
    if let Some(environment) = environment {
        told.push((reserved::ENV, HeaderValue::from_str(environment.as_str())?));
    }
    if let Some(scopes) = reserved::scopes_value(scopes) {
        told.push((reserved::SCOPES, HeaderValue::from_str(&scopes)?));
    }
    if let Some(filters) = filters {
        told.push((reserved::FILTERS, HeaderValue::from_str(&filters.header())?));
    }
    if let Some(certificate) = certificate {
        told.push((reserved::AGENT_CERT, HeaderValue::from_str(&format!("sha256:{}", thumbprint(certificate)))?));
    }
    Ok(told)
}
