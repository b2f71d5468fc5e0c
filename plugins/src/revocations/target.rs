//! What can be revoked, and the mark it is found by.

use aws_lc_rs::digest::{Context, Digest, SHA256, digest};
use portcullis_api::TenantId;

use super::{Kind, Mark};
use crate::authentication::{self, is_api_key_id, is_kid, is_printable};

/// Something that can be revoked. Issuers are named by their exact `iss`, so that a renamed one is still the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A token by its id, which is its issuer's and tenant's alone: nobody revokes another tenant's token with it.
    Jti {
        /// The `iss`.
        issuer: String,
        /// The tenant.
        tenant: TenantId,
        /// The `jti`.
        jti: String,
    },
    /// A token by the SHA-256 of `header.payload`. Not of the whole token: of an ECDSA signature anybody makes a second one
    /// that verifies.
    Token {
        /// See [`signing_digest`].
        digest: [u8; 32],
    },
    /// A session.
    Sid {
        /// The `iss`.
        issuer: String,
        /// The tenant.
        tenant: TenantId,
        /// The `sid`.
        sid: String,
    },
    /// A subject, in one tenant or in all.
    Sub {
        /// The `iss`.
        issuer: String,
        /// The tenant; none is all of them.
        tenant: Option<TenantId>,
        /// The `sub`.
        sub: String,
    },
    /// A tenant.
    Tenant {
        /// The tenant.
        tenant: TenantId,
    },
    /// An API key.
    ApiKey {
        /// Its public id.
        id: String,
    },
    /// A signing key.
    Kid {
        /// The `iss`.
        issuer: String,
        /// The `kid`.
        kid: String,
    },
    /// An issuer.
    Issuer {
        /// The `iss`.
        issuer: String,
    },
    /// A client certificate.
    Cert {
        /// The SHA-256 of its DER.
        fingerprint: [u8; 32],
    },
}

/// Why what an operator named cannot be revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It belongs to an issuer.
    #[error("`{}` needs an issuer", .0.as_str())]
    NoIssuer(Kind),
    /// It belongs to a tenant.
    #[error("`{}` needs a tenant", .0.as_str())]
    NoTenant(Kind),
    /// It does not.
    #[error("`{}` is of no issuer: leave it out", .0.as_str())]
    Issuer(Kind),
    /// It does not.
    #[error("`{}` is of no tenant: leave it out", .0.as_str())]
    Tenant(Kind),
    /// An agent is named with its tenant.
    #[error("an agent's `sub` is TENANT:AGENT: no agent is called so")]
    Agent,
    /// Not the value of any.
    #[error("no credential can have this `{}`", .0.as_str())]
    Value(Kind),
}

impl Target {
    /// What an operator named.
    ///
    /// # Errors
    /// [`TargetError`]: what is missing, too much, or the value of nothing.
    pub fn parse(
        kind: Kind,
        issuer: Option<&str>,
        tenant: Option<&TenantId>,
        value: &str,
    ) -> Result<Self, TargetError> {
        let of_issuer = || issuer.map(str::to_owned).ok_or(TargetError::NoIssuer(kind));
        let of_tenant = || tenant.cloned().ok_or(TargetError::NoTenant(kind));
        let no_issuer = || if issuer.is_some() { Err(TargetError::Issuer(kind)) } else { Ok(()) };
        let no_tenant = || if tenant.is_some() { Err(TargetError::Tenant(kind)) } else { Ok(()) };
        let value_if = |fits: bool| if fits { Ok(value.to_owned()) } else { Err(TargetError::Value(kind)) };
        let text = |bytes_max: usize| value_if((1..=bytes_max).contains(&value.len()) && is_printable(value));
        match kind {
            Kind::Jti => {
                let jti = text(authentication::JTI_BYTES_MAX)?;
                Ok(Self::Jti { issuer: of_issuer()?, tenant: of_tenant()?, jti })
            }
            Kind::Sid => {
                let sid = text(authentication::SID_BYTES_MAX)?;
                Ok(Self::Sid { issuer: of_issuer()?, tenant: of_tenant()?, sid })
            }
            Kind::Sub => {
                let sub = text(authentication::SUBJECT_BYTES_MAX)?;
                if issuer == Some(authentication::AGENT_ISSUER) && !authentication::is_agent_subject(&sub) {
                    return Err(TargetError::Agent);
                }
                Ok(Self::Sub { issuer: of_issuer()?, tenant: tenant.cloned(), sub })
            }
            Kind::Kid => {
                no_tenant()?;
                Ok(Self::Kid { issuer: of_issuer()?, kid: value_if(is_kid(value))? })
            }
            Kind::Token => {
                no_issuer().and_then(|()| no_tenant())?;
                unhex(value).map(|digest| Self::Token { digest }).ok_or(TargetError::Value(kind))
            }
            Kind::Tenant => {
                no_issuer().and_then(|()| no_tenant())?;
                TenantId::parse(value).map(|tenant| Self::Tenant { tenant }).map_err(|_| TargetError::Value(kind))
            }
            Kind::ApiKey => {
                no_issuer().and_then(|()| no_tenant())?;
                Ok(Self::ApiKey { id: value_if(is_api_key_id(value))? })
            }
            Kind::Issuer => {
                no_issuer().and_then(|()| no_tenant())?;
                Ok(Self::Issuer { issuer: text(authentication::ISS_BYTES_MAX)? })
            }
            Kind::Cert => {
                no_issuer().and_then(|()| no_tenant())?;
                unhex(value).map(|fingerprint| Self::Cert { fingerprint }).ok_or(TargetError::Value(kind))
            }
        }
    }

    /// What kind it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Jti { .. } => Kind::Jti,
            Self::Token { .. } => Kind::Token,
            Self::Sid { .. } => Kind::Sid,
            Self::Sub { .. } => Kind::Sub,
            Self::Tenant { .. } => Kind::Tenant,
            Self::ApiKey { .. } => Kind::ApiKey,
            Self::Kid { .. } => Kind::Kid,
            Self::Issuer { .. } => Kind::Issuer,
            Self::Cert { .. } => Kind::Cert,
        }
    }

    /// What it is found by. No part can hold the zero byte between them.
    #[must_use]
    pub fn mark(&self) -> Mark {
        let (issuer, tenant, value): (&str, &str, &[u8]) = match self {
            Self::Jti { issuer, tenant, jti } => (issuer, tenant.as_str(), jti.as_bytes()),
            Self::Sid { issuer, tenant, sid } => (issuer, tenant.as_str(), sid.as_bytes()),
            // No tenant is called nothing.
            Self::Sub { issuer, tenant, sub } => (issuer, tenant.as_ref().map_or("", TenantId::as_str), sub.as_bytes()),
            Self::Token { digest } => ("", "", digest),
            Self::Tenant { tenant } => ("", tenant.as_str(), b""),
            Self::ApiKey { id } => ("", "", id.as_bytes()),
            Self::Kid { issuer, kid } => (issuer, "", kid.as_bytes()),
            Self::Issuer { issuer } => (issuer, "", b""),
            Self::Cert { fingerprint } => ("", "", fingerprint),
        };
        let mut context = Context::new(&SHA256);
        for part in [self.kind().as_str().as_bytes(), issuer.as_bytes(), tenant.as_bytes()] {
            context.update(part);
            context.update(&[0]);
        }
        context.update(value);
        Mark(first(&context.finish()))
    }

    /// What of it may be shown: its issuer, its tenant, and its name where it names nobody.
    pub(super) fn shown(&self) -> (Option<String>, Option<TenantId>, Option<String>) {
        match self {
            Self::Jti { issuer, tenant, jti: _ } | Self::Sid { issuer, tenant, sid: _ } => {
                (Some(issuer.clone()), Some(tenant.clone()), None)
            }
            Self::Sub { issuer, tenant, sub: _ } => (Some(issuer.clone()), tenant.clone(), None),
            Self::Token { digest: _ } => (None, None, None),
            Self::Tenant { tenant } => (None, Some(tenant.clone()), None),
            Self::ApiKey { id } => (None, None, Some(id.clone())),
            Self::Kid { issuer, kid } => (Some(issuer.clone()), None, Some(kid.clone())),
            Self::Issuer { issuer } => (Some(issuer.clone()), None, None),
            // A fingerprint names a certificate to those alone who have it.
            Self::Cert { fingerprint } => (None, None, Some(portcullis_api::hex(fingerprint))),
        }
    }
}

/// The SHA-256 of what a token's signature is over.
#[must_use]
pub fn signing_digest(signing_input: &[u8]) -> [u8; 32] {
    first(&digest(&SHA256, signing_input))
}

fn first<const N: usize>(digest: &Digest) -> [u8; N] {
    let mut bytes = [0; N];
    for (slot, byte) in bytes.iter_mut().zip(digest.as_ref()) {
        *slot = *byte;
    }
    bytes
}

/// Exactly so many bytes, in lower case.
pub(super) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(byte.wrapping_sub(b'a').wrapping_add(10)),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect();
    bytes?.try_into().ok()
}
