//! Who calls, once verified. Fields are private and the only constructor is seen by this control alone.
//!
//! Invariant: an [`Identity`] was verified. Nothing outside `authentication` can make one, and no field can be changed.

use std::{fmt, sync::Arc};

use http::{HeaderValue, header::InvalidHeaderValue};
use portcullis_api::{Environment, Role, Scope, TenantId, UnixSeconds};

use super::{api_key_uses::KeyUses, filters::Filters, told::told};
use crate::revocations::Revocable;

/// A verified caller.
pub struct Identity {
    parts: Parts,
    told: Result<Vec<(&'static str, HeaderValue)>, InvalidHeaderValue>,
}

/// What the constructor takes: every field, by name.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) tenant: TenantId,
    pub(super) issuer: Arc<str>,
    pub(super) subject: String,
    pub(super) kind: Kind,
    pub(super) role: Option<Role>,
    /// Sorted, without duplicates.
    pub(super) scopes: Vec<Scope>,
    pub(super) environment: Option<Environment>,
    pub(super) key_id: Option<String>,
    pub(super) credential: Credential,
    pub(super) expires: Option<UnixSeconds>,
    pub(super) jti: Option<String>,
    /// Of the certificate that it is from.
    pub(super) certificate: Option<[u8; 32]>,
    /// Of the certificate whose connections alone may show it.
    pub(super) bound: Option<[u8; 32]>,
    pub(super) revocable: Revocable,
    /// Where it may be used, where its record says so.
    pub(super) uses: Option<Arc<KeyUses>>,
    /// The mark of the key that verified its token.
    pub(super) signed_by: Option<u128>,
    /// When the user signed in.
    pub(super) auth_time: Option<UnixSeconds>,
    pub(super) environments: Environments,
    /// Which data it may see; `None` is all of its tenant's.
    pub(super) filters: Option<Filters>,
}

/// Where its role holds.
#[derive(Clone)]
pub(super) enum Environments {
    /// Everywhere, or in the one environment that it is of.
    Any,
    /// Where no environment is asked for; in each of these it is another identity, with the role that it has there.
    Each(Vec<(Environment, Arc<Identity>)>),
}

/// What kind of caller it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The subject of a token.
    User,
    /// The holder of an API key.
    ApiKey,
    /// The holder of an API key that is for pages others show: it is told which data it may show by its filters.
    Embed,
    /// Whoever a client certificate names.
    Agent,
}

impl Kind {
    /// As injected: `user`, `apikey`, `embed` or `agent`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ApiKey => "apikey",
            Self::Embed => "embed",
            Self::Agent => "agent",
        }
    }
}

/// Where the credential came from. It decides whether cross-site checks apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Credential {
    /// A token in `Authorization: Bearer`.
    Bearer,
    /// A token in a cookie: the browser sent it on its own.
    Cookie,
    /// An API key, in `Authorization: Bearer` or `X-Api-Key`.
    ApiKey,
    /// The certificate of the connection.
    Certificate,
}

impl Credential {
    /// As written in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Cookie => "cookie",
            Self::ApiKey => "api_key",
            Self::Certificate => "certificate",
        }
    }
}

/// The name under which API keys stand where a token has its issuer. No issuer of the configuration may have it.
pub const API_KEY_ISSUER: &str = "apikey";

impl Identity {
    pub(super) fn verified(mut parts: Parts) -> Self {
        parts.scopes.sort_unstable();
        parts.scopes.dedup();
        let told = told(&parts);
        Self { parts, told }
    }

    /// One whose role is another in each of these environments, and never a greater one than its own. They are made now, with
    /// what an upstream is told, and not for each request.
    pub(super) fn by_environment(parts: Parts, roles: Vec<(Environment, Option<Role>)>) -> Self {
        let there = |(environment, cap): (Environment, Option<Role>)| {
            let role = parts.role.zip(cap).map(|(role, cap)| role.min(cap));
            let identity = Self::verified(Parts { role, environment: Some(environment.clone()), ..parts.clone() });
            (environment, Arc::new(identity))
        };
        let each = roles.into_iter().map(there).collect();
        Self::verified(Parts { environments: Environments::Each(each), ..parts })
    }

    /// Who this caller is in an environment; `None` where it is the same everywhere, or has no access there.
    pub(super) fn there(&self, environment: &Environment) -> Option<&Arc<Self>> {
        match &self.parts.environments {
            Environments::Any => None,
            Environments::Each(each) => each.iter().find(|(name, _)| name == environment).map(|(_, identity)| identity),
        }
    }

    /// Whether it has no access to this environment.
    #[must_use]
    pub fn is_kept_out_of(&self, environment: &Environment) -> bool {
        match &self.parts.environments {
            Environments::Any => false,
            Environments::Each(_) => self.there(environment).is_none(),
        }
    }

    /// The mark of the key that verified its token.
    pub(super) fn signed_by(&self) -> Option<u128> {
        self.parts.signed_by
    }

    /// When the user signed in, in seconds since 1970, where the token says so.
    #[must_use]
    pub fn auth_time(&self) -> Option<UnixSeconds> {
        self.parts.auth_time
    }

    /// The fields that tell an upstream who calls: names of [`crate::reserved`] and their values, without the tenant, which is
    /// the request's. Written once, when the credential is verified, and not for each request that repeats it.
    ///
    /// # Errors
    /// When a value cannot stand in a header: the request must not go on without it.
    pub fn told(&self) -> Result<&[(&'static str, HeaderValue)], &InvalidHeaderValue> {
        self.told.as_deref()
    }

    /// The tenant. Only ever from a verified claim or a key record.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.parts.tenant
    }

    /// The issuer's name in the configuration, [`API_KEY_ISSUER`] or [`super::AGENT_ISSUER`]. With the subject it is unique.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.parts.issuer
    }

    /// The token's `sub` (1 to 255 bytes of printable UTF-8), the API key's id, or `tenant:agent`.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.parts.subject
    }

    /// User, API key or agent.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.parts.kind
    }

    /// The role; `None` is no role, and no right that needs one.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        self.parts.role
    }

    /// The scopes, sorted and without duplicates; at most 64.
    #[must_use]
    pub fn scopes(&self) -> &[Scope] {
        &self.parts.scopes
    }

    /// Whether this scope is among them, compared whole.
    #[must_use]
    pub fn has_scope(&self, scope: &Scope) -> bool {
        self.parts.scopes.binary_search(scope).is_ok()
    }

    /// The API key's environment.
    #[must_use]
    pub fn environment(&self) -> Option<&Environment> {
        self.parts.environment.as_ref()
    }

    /// The API key's public id.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.parts.key_id.as_deref()
    }

    /// Whether it is a token that an API key bought.
    #[must_use]
    pub fn is_exchanged(&self) -> bool {
        self.key_id().is_some() && self.credential() == Credential::Bearer
    }

    /// Which data it may see; `None` is all of its tenant's.
    #[must_use]
    pub fn filters(&self) -> Option<&Filters> {
        self.parts.filters.as_ref()
    }

    /// Where the credential came from.
    #[must_use]
    pub fn credential(&self) -> Credential {
        self.parts.credential
    }

    /// When the credential ends, in seconds since 1970.
    #[must_use]
    pub fn expires(&self) -> Option<UnixSeconds> {
        self.parts.expires
    }

    /// The token's `jti`, where it has one.
    #[must_use]
    pub fn jti(&self) -> Option<&str> {
        self.parts.jti.as_deref()
    }

    /// The SHA-256 of the certificate that it is from.
    #[must_use]
    pub fn certificate(&self) -> Option<&[u8; 32]> {
        self.parts.certificate.as_ref()
    }

    /// The SHA-256 of the certificate whose connections alone may show it.
    pub(super) fn bound(&self) -> Option<&[u8; 32]> {
        self.parts.bound.as_ref()
    }

    /// What may revoke it.
    #[must_use]
    pub fn revocable(&self) -> &Revocable {
        &self.parts.revocable
    }

    /// Where it may be used beyond what its rights say.
    pub(super) fn uses(&self) -> Option<&KeyUses> {
        self.parts.uses.as_deref()
    }

    /// An identity for the tests of other controls. It exists in tests only.
    #[cfg(test)]
    pub(crate) fn for_test(tenant: &str, role: Option<Role>, scopes: &[&str], credential: Credential) -> Self {
        let kind = match credential {
            Credential::ApiKey => Kind::ApiKey,
            Credential::Bearer | Credential::Cookie => Kind::User,
            Credential::Certificate => Kind::Agent,
        };
        let key_id = (kind == Kind::ApiKey).then(|| "k3yid0000000".to_owned());
        Self::verified(Parts {
            tenant: TenantId::parse(tenant).unwrap(),
            issuer: "main".into(),
            subject: "u-1".into(),
            kind,
            role,
            scopes: scopes.iter().map(|scope| Scope::parse(scope).unwrap()).collect(),
            environment: None,
            key_id,
            credential,
            expires: None,
            jti: None,
            certificate: None,
            bound: None,
            revocable: Revocable::default(),
            uses: None,
            signed_by: None,
            auth_time: None,
            environments: Environments::Any,
            filters: None,
        })
    }

    /// The same with these parts, in tests only.
    #[cfg(test)]
    pub(crate) fn signed_in_at(self, auth_time: Option<UnixSeconds>) -> Self {
        Self::verified(Parts { auth_time, ..self.parts })
    }

    /// The same with these roles by environment, in tests only.
    #[cfg(test)]
    pub(crate) fn with_environments(self, roles: &[(&str, Option<Role>)]) -> Self {
        let roles = roles.iter().map(|(name, role)| (Environment::parse(name).unwrap(), *role)).collect();
        Self::by_environment(self.parts, roles)
    }

    /// About how many bytes it takes, for the cache's bound.
    pub(super) fn weight(&self) -> usize {
        let texts = [Some(self.subject()), self.key_id(), self.jti()];
        let texts = texts.into_iter().flatten().fold(0usize, |sum, text| sum.saturating_add(text.len()));
        let scopes = self
            .parts
            .scopes
            .iter()
            .fold(0usize, |sum, scope| sum.saturating_add(scope.as_str().len()).saturating_add(32));
        // Subject and scopes stand in the headers once more, at worst percent-encoded.
        let told = self.told.iter().flatten().fold(0usize, |sum, (_, value)| sum.saturating_add(value.len()));
        let texts = texts.saturating_add(scopes).saturating_add(told);
        // Spelled, and as terms.
        let filters = self.filters().map_or(0, |filters| filters.as_str().len().saturating_mul(4));
        let texts = texts.saturating_add(self.revocable().weight()).saturating_add(filters);
        let elsewhere = match &self.parts.environments {
            Environments::Any => 0,
            Environments::Each(each) => each.iter().fold(0usize, |sum, (_, one)| sum.saturating_add(one.weight())),
        };
        texts.saturating_add(self.tenant().as_str().len()).saturating_add(elsewhere).saturating_add(768)
    }
}

/// Without the subject: it is a person's name at some issuers.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("tenant", &self.parts.tenant)
            .field("issuer", &self.parts.issuer)
            .field("kind", &self.parts.kind)
            .field("role", &self.parts.role)
            .finish_non_exhaustive()
    }
}

/// Who calls. There is no third state.
#[derive(Debug, Clone)]
pub enum Caller {
    /// A verified identity.
    Verified(Arc<Identity>),
    /// Nobody said who, on a route that is public.
    Anonymous,
}

impl Caller {
    /// The identity, where there is one.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Verified(identity) => Some(identity),
            Self::Anonymous => None,
        }
    }
}

/// The proof that authentication was asked and said yes.
#[derive(Debug)]
pub struct Authenticated {
    caller: Caller,
}

impl Authenticated {
    pub(super) const fn new(caller: Caller) -> Self {
        Self { caller }
    }

    /// Who calls.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}
