//! The claims of an assertion. What is not known is not there: no claim is empty or null.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_api::{Environment, Role, Scope};
use serde::Serialize;

use super::{Bound, Minted, Signer};
use crate::authentication::{Caller, Filters, thumbprint};

#[derive(Serialize)]
pub(super) struct Claims<'r> {
    iss: &'r str,
    aud: &'r str,
    iat: u64,
    exp: u64,
    jti: &'r str,
    kind: &'static str,
    /// The tenant the request runs for.
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<&'r str>,
    #[serde(flatten)]
    who: Option<Who<'r>>,
    htm: &'r str,
    htu: &'r str,
    qh: String,
}

/// A verified caller. An anonymous one has none of this.
#[derive(Serialize)]
struct Who<'r> {
    /// `issuer:sub`, as in the header but not encoded.
    sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<&'r str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scp: Vec<&'r str>,
    /// Which data it may see.
    #[serde(skip_serializing_if = "Option::is_none")]
    flt: Option<&'r Filters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<&'r str>,
    /// Of an agent, the certificate that it proved to hold the key of (RFC 8705 3.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    cnf: Option<Confirmation>,
}

#[derive(Serialize)]
struct Confirmation {
    #[serde(rename = "x5t#S256")]
    thumbprint: String,
}

impl<'r> Claims<'r> {
    pub(super) fn of(
        signer: &'r Signer,
        caller: &'r Caller,
        tenant: Option<&'r str>,
        bound: &Bound<'r>,
        minted: &Minted<'r>,
    ) -> Self {
        let (kind, who) = match caller {
            Caller::Anonymous => ("anonymous", None),
            Caller::Verified(identity) => {
                let who = Who {
                    sub: format!("{}:{}", identity.issuer(), identity.subject()),
                    role: identity.role().map(Role::as_str),
                    env: identity.environment().map(Environment::as_str),
                    scp: identity.scopes().iter().map(Scope::as_str).collect(),
                    flt: identity.filters(),
                    key_id: identity.key_id(),
                    cnf: identity.certificate().map(|certificate| Confirmation { thumbprint: thumbprint(certificate) }),
                };
                (identity.kind().as_str(), Some(who))
            }
        };
        Self {
            iss: &signer.issuer,
            aud: &signer.audience,
            iat: minted.unix,
            exp: minted.unix.saturating_add(signer.lifetime_s),
            jti: minted.id,
            kind,
            tid: tenant,
            who,
            htm: bound.method.as_str(),
            htu: bound.path,
            qh: URL_SAFE_NO_PAD.encode(digest(&SHA256, bound.query.as_bytes())),
        }
    }
}
