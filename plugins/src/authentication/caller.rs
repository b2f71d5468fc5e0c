//! From what a verified token says to who calls, and to everything whose revocation ends it.

use std::sync::Arc;

use super::{
    IssuerRule,
    claims::Claims,
    identity::{Credential, Environments, Identity, Kind, Parts},
};
use crate::revocations::{Revocable, Target, signing_digest};

/// Everything whose revocation ends this token.
pub(super) fn revocable(
    issuer: &IssuerRule,
    claims: &Claims,
    kid: Option<String>,
    api_key: Option<Target>,
    signing_input: &[u8],
) -> Revocable {
    let Claims {
        tenant,
        subject,
        issued,
        jti,
        sid,
        role: _,
        scopes: _,
        expires: _,
        environments: _,
        auth_time: _,
        bound: _,
    } = claims;
    let iss = || issuer.iss.clone();
    let mut targets = vec![
        Target::Token { digest: signing_digest(signing_input) },
        Target::Sub { issuer: iss(), tenant: Some(tenant.clone()), sub: subject.clone() },
        Target::Sub { issuer: iss(), tenant: None, sub: subject.clone() },
        Target::Tenant { tenant: tenant.clone() },
        Target::Issuer { issuer: iss() },
    ];
    targets.extend(jti.clone().map(|jti| Target::Jti { issuer: iss(), tenant: tenant.clone(), jti }));
    targets.extend(sid.clone().map(|sid| Target::Sid { issuer: iss(), tenant: tenant.clone(), sid }));
    targets.extend(api_key);
    targets.extend(kid.map(|kid| Target::Kid { issuer: iss(), kid }));
    Revocable::new(&targets, *issued)
}

pub(super) fn identity_of(
    issuer: &IssuerRule,
    claims: Claims,
    (credential, signed_by): (Credential, u128),
    revocable: Revocable,
) -> Identity {
    let Claims { tenant, subject, role, scopes, environments, auth_time, issued: _, expires, jti, sid: _, bound } =
        claims;
    let parts = Parts {
        tenant,
        issuer: Arc::clone(&issuer.name),
        subject,
        kind: Kind::User,
        role,
        scopes,
        environment: None,
        key_id: None,
        credential,
        expires: Some(expires),
        auth_time,
        jti,
        certificate: None,
        bound,
        revocable,
        uses: None,
        signed_by: Some(signed_by),
        filters: None,
        environments: Environments::Any,
    };
    match environments {
        None => Identity::verified(parts),
        Some(roles) => Identity::by_environment(parts, roles),
    }
}
