//! Credentials that are refused though they verify: because an operator revoked them, their session, their subject, their
//! tenant, the key they were signed with or their whole issuer.
//!
//! Two kinds of entry in one set ([`Revocations`]), found by a [`Mark`]. Of a token id, a token, a session, a signing key,
//! an API key and a certificate all that carries it is refused. Of a subject, a tenant and an issuer what was issued up to the second of the
//! revocation is refused: whoever signs in afterwards comes in again.
//!
//! Invariant: an entry is kept until nothing that it refuses can be valid any more, and never dropped for want of room: a
//! revocation that does not fit is refused.

mod fresh;
mod set;
mod target;

use std::{fmt, str::FromStr};

use portcullis_api::{TenantId, UnixSeconds, hex};
use serde::{Deserialize, Serialize};

pub use fresh::{Age, Freshness, MaxStale, UNTIL_EXP_MAX};
pub use set::{ENTRIES_MAX, Full, Learned, Revocations};
pub use target::{Target, TargetError, signing_digest};

const DAY_S: u64 = 86_400;
/// How long what refuses tokens alone is kept: no issuer's tokens live longer than 7 days.
const TOKENS_KEPT_S: u64 = 8 * DAY_S;
/// How long what refuses API keys and certificates too is kept, which live 365 days; and sessions and signing keys, of which new tokens may
/// come at any time.
const KEYS_KEPT_S: u64 = 366 * DAY_S;

/// What is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One token, by its `jti`.
    Jti,
    /// One token, by what its signature is over: for tokens without `jti`.
    Token,
    /// A session, by the `sid` of its tokens.
    Sid,
    /// A subject of an issuer, in one tenant or in all.
    Sub,
    /// A tenant: its tokens of every issuer and its API keys.
    Tenant,
    /// An API key.
    ApiKey,
    /// A signing key of an issuer.
    Kid,
    /// An issuer.
    Issuer,
    /// A client certificate, by the SHA-256 of its DER.
    Cert,
}

/// How a verified credential relates to what was revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// All that carries it.
    Everything,
    /// What was issued up to then.
    IssuedUpTo(UnixSeconds),
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 9] =
        [Self::Jti, Self::Token, Self::Sid, Self::Sub, Self::Tenant, Self::ApiKey, Self::Kid, Self::Issuer, Self::Cert];

    /// As written by operators and in the journal.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jti => "jti",
            Self::Token => "token",
            Self::Sid => "sid",
            Self::Sub => "sub",
            Self::Tenant => "tenant",
            Self::ApiKey => "api_key",
            Self::Kid => "kid",
            Self::Issuer => "issuer",
            Self::Cert => "cert",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    const fn kept_s(self) -> u64 {
        match self {
            Self::Jti | Self::Token | Self::Issuer => TOKENS_KEPT_S,
            Self::Sid | Self::Sub | Self::Tenant | Self::ApiKey | Self::Kid | Self::Cert => KEYS_KEPT_S,
        }
    }

    /// A signing key that others hold signs any `iat`, so its tokens are refused whenever they say they were issued. An API
    /// key and a session have one beginning.
    const fn reach(self, at: UnixSeconds) -> Reach {
        match self {
            Self::Jti | Self::Token | Self::Sid | Self::ApiKey | Self::Kid | Self::Cert => Reach::Everything,
            Self::Sub | Self::Tenant | Self::Issuer => Reach::IssuedUpTo(at),
        }
    }
}

/// What is revoked, as 16 bytes: a truncated SHA-256 of its kind, issuer, tenant and value. Values that name people and
/// tokens are stored nowhere else.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mark([u8; 16]);

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mark({self})")
    }
}

/// Not 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not 32 digits of 0-9 and a-f")]
pub struct MarkError;

impl FromStr for Mark {
    type Err = MarkError;

    fn from_str(text: &str) -> Result<Self, MarkError> {
        target::unhex(text).map(Self).ok_or(MarkError)
    }
}

impl TryFrom<String> for Mark {
    type Error = MarkError;

    fn try_from(text: String) -> Result<Self, MarkError> {
        text.parse()
    }
}

impl From<Mark> for String {
    fn from(mark: Mark) -> Self {
        mark.to_string()
    }
}

/// Why an operator revoked something: 1 to 200 printable characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reason(String);

/// A reason that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a reason is 1 to 200 printable characters")]
pub struct ReasonError;

impl Reason {
    /// The longest, in characters.
    pub const CHARS_MAX: usize = 200;

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Reason {
    type Error = ReasonError;

    fn try_from(text: String) -> Result<Self, ReasonError> {
        let fits = (1..=Self::CHARS_MAX).contains(&text.trim().chars().count()) && text.len() <= Self::CHARS_MAX * 4;
        if fits && crate::authentication::is_printable(&text) { Ok(Self(text)) } else { Err(ReasonError) }
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.0
    }
}

/// One revocation, as it is kept, written down and told to other gateways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What is revoked.
    pub kind: Kind,
    /// Which.
    pub mark: Mark,
    /// The `iss` it belongs to, where it belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The tenant it belongs to, where it belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "tenant")]
    pub tenant: Option<TenantId>,
    /// Its name, where it names nobody: an API key's id, a `kid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When, in seconds since 1970. What was issued in this second is refused too.
    pub at: UnixSeconds,
    /// Why.
    pub reason: Reason,
}

fn tenant<S: serde::Serializer>(tenant: &Option<TenantId>, serializer: S) -> Result<S::Ok, S::Error> {
    tenant.as_ref().map(TenantId::as_str).serialize(serializer)
}

impl Record {
    /// The revocation of this target.
    #[must_use]
    pub fn new(target: &Target, at: UnixSeconds, reason: Reason) -> Self {
        let (issuer, tenant, name) = target.shown();
        Self { kind: target.kind(), mark: target.mark(), issuer, tenant, name, at, reason }
    }

    /// When nothing that it refuses can be valid any more.
    #[must_use]
    pub const fn expires(&self) -> UnixSeconds {
        self.at.saturating_add(self.kind.kept_s())
    }

    /// Whether it refuses what was issued at this time and carries its mark.
    const fn refuses(&self, issued: UnixSeconds) -> bool {
        match self.kind.reach(self.at) {
            Reach::Everything => true,
            Reach::IssuedUpTo(at) => issued <= at,
        }
    }
}

/// What may revoke a verified credential: its marks, and when it was issued.
#[derive(Debug, Clone, Default)]
pub struct Revocable {
    marks: Box<[(Kind, Mark)]>,
    issued: UnixSeconds,
}

impl Revocable {
    /// A credential that belongs to all of these.
    #[must_use]
    pub(crate) fn new(targets: &[Target], issued: UnixSeconds) -> Self {
        Self { marks: targets.iter().map(|target| (target.kind(), target.mark())).collect(), issued }
    }

    /// Whether it is of this issuer, session, tenant or whatever else.
    pub(crate) fn carries(&self, target: &Target) -> bool {
        self.marks.contains(&(target.kind(), target.mark()))
    }

    /// About how many bytes it takes.
    pub(crate) fn weight(&self) -> usize {
        size_of_val(&*self.marks)
    }
}

#[cfg(test)]
mod tests;
