//! Everything that can be wrong with what the operator wrote about issuers.

use std::collections::BTreeMap;

use portcullis_api::{At, Issues, Millis};

use super::{
    AGENT_ISSUER, API_KEY_ISSUER, Algorithm, Issuer, Keys,
    claims::{Path, is_printable},
    compile::shown,
    credential::{is_token, same_cookie},
    exchange::{EMBED_ISSUER, EXCHANGE_ISSUER},
    key_server,
};

const CLOCK_SKEW_MAX: Millis = Millis::from_secs(30);
const LIFETIME_MAX: Millis = Millis::from_secs(7 * 86_400);
const HOST_PREFIX: &str = "__Host-";
/// Longest `iss` and `aud`.
pub(crate) const ISS_BYTES_MAX: usize = 512;
/// Claims that users choose for themselves at most issuers (OpenID Connect Core 5.1): no ground for a tenant.
const USER_CLAIMS: &[&str] = &["email", "name", "preferred_username", "nickname", "given_name", "family_name"];

/// Checks each issuer, and all of them beside each other.
pub(super) fn check(issuers: &BTreeMap<String, Issuer>, issues: &mut Issues) {
    for (name, issuer) in issuers {
        check_issuer(name, issuer, issues);
    }
    check_twins(issuers, issues);
}

fn check_issuer(name: &str, issuer: &Issuer, issues: &mut Issues) {
    let place = &issuer.issuer.span;
    let named = (1..=32).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte));
    if !named {
        issues.push(
            "issuers.name",
            place,
            format!("issuer name `{}` is not 1 to 32 of a-z, 0-9, _ and -", shown(name)),
        );
    }
    check_reserved(name, place, issues);
    if !is_text(&issuer.issuer.value) {
        issues.push("issuers.issuer", place, format!("issuer `{name}` has an `issuer` that no token can carry: it is empty, longer than 512 bytes, or not printable"));
    }
    if issuer.audiences.value.is_empty() {
        issues.push_help(
            "issuers.audiences_empty",
            &issuer.audiences.span,
            format!("issuer `{name}` has no audience, so no token could be for this gateway"),
            "write the `aud` that the issuer puts into tokens for this gateway",
        );
    }
    for audience in &issuer.audiences.value {
        if !is_text(&audience.value) {
            issues.push(
                "issuers.audiences",
                &audience.span,
                "an audience is empty, longer than 512 bytes, or not printable",
            );
        }
    }
    check_algorithms(name, issuer, issues);
    key_server::check(name, issuer, issues);
    check_claims(name, issuer, issues);
    if let Some(typ) = &issuer.typ
        && !is_text(&typ.value)
    {
        issues.push(
            "issuers.typ",
            &typ.span,
            "`typ` is empty or not printable; leave it out to accept JWT, at+jwt or none",
        );
    }
    if issuer.clock_skew.value > CLOCK_SKEW_MAX {
        issues.push(
            "issuers.clock_skew",
            &issuer.clock_skew.span,
            format!("clock_skew {} is more than {CLOCK_SKEW_MAX}", issuer.clock_skew.value),
        );
    }
    if issuer.max_lifetime.value > LIFETIME_MAX {
        issues.push(
            "issuers.max_lifetime",
            &issuer.max_lifetime.span,
            format!("max_lifetime {} is more than {LIFETIME_MAX}", issuer.max_lifetime.value),
        );
    }
    if let Some(cookie) = &issuer.cookie {
        check_cookie(cookie, issues);
    }
}

/// Names that stand for something else where a token has its issuer.
fn check_reserved(name: &str, place: &std::ops::Range<usize>, issues: &mut Issues) {
    let stands_for = [
        (API_KEY_ISSUER, "API keys"),
        (EXCHANGE_ISSUER, "tokens that API keys bought"),
        (EMBED_ISSUER, "API keys for embedded pages"),
        (AGENT_ISSUER, "client certificates"),
    ];
    for (reserved, what) in stands_for {
        if name == reserved {
            let message = format!("the issuer name `{name}` stands for {what} in the injected identity");
            issues.push("issuers.name", place, message);
        }
    }
}

fn check_algorithms(name: &str, issuer: &Issuer, issues: &mut Issues) {
    let algorithms = &issuer.algorithms;
    if algorithms.value.is_empty() {
        issues.push(
            "issuers.algorithms_empty",
            &algorithms.span,
            format!("issuer `{name}` has no algorithm, so no token could be verified"),
        );
    }
    for (index, algorithm) in algorithms.value.iter().enumerate() {
        if algorithms.value.iter().take(index).any(|earlier| earlier.value == algorithm.value) {
            issues.push("issuers.algorithms_twice", &algorithm.span, format!("{:?} is listed twice", algorithm.value));
        }
    }
    let symmetric = algorithms.value.iter().any(|algorithm| algorithm.value == Algorithm::HS256);
    let asymmetric = algorithms.value.iter().any(|algorithm| algorithm.value != Algorithm::HS256);
    if symmetric && asymmetric {
        issues.push_help(
            "issuers.algorithms_mixed",
            &algorithms.span,
            format!("issuer `{name}` mixes HS256 with public-key algorithms"),
            "a public key must never be usable as a shared secret: write two issuers",
        );
        return;
    }
    let fits = match &issuer.keys.value {
        Keys::Secret(_) => !asymmetric,
        Keys::JwksUrl(_) | Keys::Discovery(_) | Keys::JwksFile(_) => !symmetric,
    };
    if !fits {
        let (what, help) = if symmetric {
            ("HS256 needs a secret, and a key set holds none", "write keys = { secret = \"file:…\" }")
        } else {
            (
                "public-key algorithms need a key set, and a secret is none",
                "write keys = { jwks_url = \"https://…\" } or { jwks_file = \"…\" }",
            )
        };
        issues.push_help("issuers.keys_family", &issuer.keys.span, format!("issuer `{name}`: {what}"), help);
    }
}

fn check_claims(name: &str, issuer: &Issuer, issues: &mut Issues) {
    let claims = &issuer.claims;
    let optional = [claims.roles.as_ref(), claims.scopes.as_ref(), claims.environments.as_ref()];
    for at in std::iter::once(&claims.tenant).chain(optional.into_iter().flatten()) {
        if Path::parse(&at.value).is_none() {
            issues.push_help(
                "issuers.claim_path",
                &at.span,
                format!("`{}` is no path to a claim", shown(&at.value)),
                "write member names joined by dots, as in \"realm_access.roles\", or one name that starts with https://",
            );
        }
    }
    if USER_CLAIMS.contains(&claims.tenant.value.as_str()) {
        issues.push(
            "issuers.claim_tenant",
            &claims.tenant.span,
            format!(
                "issuer `{name}`: users choose `{}` themselves, so it cannot decide the tenant",
                claims.tenant.value
            ),
        );
    }
    if let (Some(environments), None) = (&claims.environments, &claims.roles) {
        let message = format!("issuer `{name}` tells roles by environment and no role: `claims.roles` is missing");
        issues.push("issuers.environments", &environments.span, message);
    }
    if let Some(map) = &issuer.roles {
        if claims.roles.is_none() {
            issues.push(
                "issuers.roles",
                &issuer.issuer.span,
                format!("issuer `{name}` maps roles but `claims.roles` does not say where they are"),
            );
        }
        if map.is_empty() {
            issues.push(
                "issuers.roles",
                &issuer.issuer.span,
                format!("issuer `{name}` has an empty role map; leave it out to use the four names as they are"),
            );
        }
    }
}

fn check_cookie(cookie: &At<String>, issues: &mut Issues) {
    let name = &cookie.value;
    if !name.starts_with(HOST_PREFIX) {
        issues.push_help(
            "issuers.cookie_prefix",
            &cookie.span,
            format!("cookie `{}` does not start with `{HOST_PREFIX}`", shown(name)),
            "without the prefix a neighbouring host can set the cookie; issue it as __Host-… with Secure and Path=/",
        );
    } else if name.len() <= HOST_PREFIX.len() || name.len() > 64 || !name.bytes().all(is_token) {
        issues.push(
            "issuers.cookie_name",
            &cookie.span,
            format!("cookie `{}` is no cookie name of at most 64 characters (RFC 6265 4.1.1)", shown(name)),
        );
    }
}

/// Two issuers must differ in more than a person would notice.
fn check_twins(issuers: &BTreeMap<String, Issuer>, issues: &mut Issues) {
    let plain = |issuer: &Issuer| issuer.issuer.value.trim_end_matches('/').to_ascii_lowercase();
    for (index, (name, issuer)) in issuers.iter().enumerate() {
        for (other_name, other) in issuers.iter().take(index) {
            if plain(issuer) == plain(other) {
                let how = if issuer.issuer.value == other.issuer.value { "the same" } else { "nearly the same" };
                issues.push("issuers.twin", &issuer.issuer.span, format!("issuers `{other_name}` and `{name}` have {how} `issuer`, so a token could not tell which of them it is from"));
            }
            if let (Some(a), Some(b)) = (&issuer.cookie, &other.cookie)
                && same_cookie(&a.value, &b.value)
            {
                issues.push(
                    "issuers.cookie_twin",
                    &a.span,
                    format!(
                        "issuers `{other_name}` and `{name}` use one cookie name, or two that some parsers take for one"
                    ),
                );
            }
        }
    }
}

fn is_text(text: &str) -> bool {
    (1..=ISS_BYTES_MAX).contains(&text.len()) && text.trim() == text && is_printable(text)
}
