//! Whom a client certificate names: by a pattern over its one URI, or by a list of URIs that the operator wrote.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use portcullis_api::{At, Issues, Millis, Role, Scope, TenantId};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    certificate::ClientCertificate,
    deny::Why,
    identity::{Credential, Environments, Identity, Kind, Parts},
};
use crate::revocations::{Revocable, Target};

/// The name under which agents stand where a token has its issuer. No issuer of the configuration may have it.
pub const AGENT_ISSUER: &str = "agent";

/// Certificates of clients, `[listeners.NAME.client_certificates]`: whose signature on them is believed, and whom they name.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificates {
    /// The PEM file of the authorities that sign them; read again with each reload, and then for open connections too.
    pub ca: At<PathBuf>,
    /// PEM files of revocation lists, read again when they change. With one there must be one of every authority in a
    /// chain, and none may be past its next update: what nobody can vouch for is refused.
    #[serde(default)]
    pub crl: Vec<At<PathBuf>>,
    /// Whether a connection without a certificate is refused: `"required"` (default) or `"optional"`.
    #[serde(default)]
    pub mode: CertificateMode,
    /// How the one URI of a certificate names tenant and agent, e.g.
    /// `"spiffe://example.com/tenant/{tenant}/agent/{agent}"`.
    pub uri: Option<At<UriPattern>>,
    /// The role of all whom `uri` names; none when not written.
    pub role: Option<Role>,
    /// The scopes of all whom `uri` names.
    #[serde(default)]
    pub scopes: Vec<Scope>,
    /// Whom single URIs name. They are looked at before `uri`.
    #[serde(default)]
    pub agents: BTreeMap<String, Agent>,
    /// How long a connection with a certificate is used: 1 s to 1 h. It is closed with the next answer after that.
    #[serde(default = "an_hour")]
    pub connection_age_max: At<Millis>,
}

const fn an_hour() -> At<Millis> {
    At::nowhere(Millis::from_secs(3600))
}

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CertificateMode {
    /// They must.
    #[default]
    Required,
    /// They may. One that is shown must count; without one, routes that accept nothing else answer 401.
    Optional,
}

/// Whom one URI names.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its name: 1 to 63 of a-z, 0-9, `-`, `.` and `_`, the first and the last a letter or digit.
    pub agent: AgentName,
    /// Its role; none when not written.
    pub role: Option<Role>,
    /// Its scopes.
    #[serde(default)]
    pub scopes: Vec<Scope>,
}

/// An agent within its tenant.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct AgentName(String);

/// Not a name that an agent can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an agent's name is 1 to 63 of a-z, 0-9, `-`, `.` and `_`, the first and the last a letter or digit")]
pub struct AgentNameError;

impl AgentName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`AgentNameError`].
    pub fn parse(text: &str) -> Result<Self, AgentNameError> {
        let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let fits = (1..=63).contains(&bytes.len())
            && bytes.iter().all(|byte| plain(byte) || b"-._".contains(byte))
            && bytes.first().is_some_and(plain)
            && bytes.last().is_some_and(plain);
        if fits { Ok(Self(text.to_owned())) } else { Err(AgentNameError) }
    }

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether an agent can have this subject.
pub(crate) fn is_agent_subject(text: &str) -> bool {
    let parts = text.split_once(':');
    parts.is_some_and(|(tenant, agent)| TenantId::parse(tenant).is_ok() && AgentName::parse(agent).is_ok())
}

impl<'de> Deserialize<'de> for AgentName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A URI with `{tenant}` and `{agent}`, each a whole segment of its path and there once.
#[derive(Clone, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct UriPattern {
    text: String,
}

/// Not a pattern that could name anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UriPatternError {
    /// No `scheme://authority/path`.
    #[error("write a URI with an authority and a path, as in spiffe://example.com/tenant/{{tenant}}/agent/{{agent}}")]
    Form,
    /// One of the two is missing, is there twice, or is no whole segment of the path.
    #[error("`{{tenant}}` and `{{agent}}` stand once each, as whole segments of the path")]
    Places,
}

const TENANT: &str = "{tenant}";
const AGENT: &str = "{agent}";

impl UriPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`UriPatternError`].
    pub fn parse(text: &str) -> Result<Self, UriPatternError> {
        let (scheme, rest) = text.split_once("://").ok_or(UriPatternError::Form)?;
        let (authority, path) = rest.split_once('/').ok_or(UriPatternError::Form)?;
        let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let good = scheme.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase())
            && scheme.bytes().all(|byte| lower(byte) || b"+-.".contains(&byte))
            && !authority.is_empty()
            && authority.bytes().all(|byte| lower(byte) || b"-._".contains(&byte))
            && text.len() <= 512;
        if !good {
            return Err(UriPatternError::Form);
        }
        let mut places = [0_usize; 2];
        for segment in path.split('/') {
            match segment {
                TENANT => places = [places[0].saturating_add(1), places[1]],
                AGENT => places = [places[0], places[1].saturating_add(1)],
                literal if is_segment(literal) => {}
                other if other.contains(['{', '}']) => return Err(UriPatternError::Places),
                _ => return Err(UriPatternError::Form),
            }
        }
        if places == [1, 1] { Ok(Self { text: text.to_owned() }) } else { Err(UriPatternError::Places) }
    }

    /// Whom a URI names: every byte that is no placeholder is the pattern's, and what stands for one is a name.
    fn names<'u>(&self, uri: &'u str) -> Option<(&'u str, &'u str)> {
        let (mut tenant, mut agent) = ("", "");
        let (mut ours, mut theirs) = (self.text.split('/'), uri.split('/'));
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return Some((tenant, agent)),
                (Some(TENANT), Some(name)) => tenant = name,
                (Some(AGENT), Some(name)) => agent = name,
                (Some(ours), Some(theirs)) if ours == theirs => {}
                (Some(_), Some(_)) | (Some(_), None) | (None, Some(_)) => return None,
            }
        }
    }

    /// The URI of an agent. `names` gives these two back.
    #[must_use]
    pub fn uri_of(&self, tenant: &TenantId, agent: &AgentName) -> String {
        let segments = self.text.split('/').map(|segment| match segment {
            TENANT => tenant.as_str(),
            AGENT => agent.as_str(),
            literal => literal,
        });
        segments.collect::<Vec<_>>().join("/")
    }
}

/// Unreserved characters of RFC 3986: nothing is escaped, so nothing can be spelt in two ways.
fn is_segment(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

impl fmt::Debug for UriPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for UriPattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Whom the certificates of one listener name.
#[derive(Debug)]
pub(super) struct Rules {
    pattern: Option<UriPattern>,
    role: Option<Role>,
    scopes: Vec<Scope>,
    agents: BTreeMap<String, Agent>,
}

/// Scopes of one agent, as of one token.
const SCOPES_MAX: usize = 64;

impl Rules {
    pub(super) fn compile(settings: &ClientCertificates) -> Self {
        let ClientCertificates { ca: _, crl: _, mode: _, uri, role, scopes, agents, connection_age_max: _ } = settings;
        Self {
            pattern: uri.as_ref().map(|uri| uri.value.clone()),
            role: *role,
            scopes: scopes.clone(),
            agents: agents.clone(),
        }
    }

    /// Whoever this certificate names, with everything whose revocation ends it.
    pub(super) fn identity(&self, certificate: &ClientCertificate) -> Result<Identity, Why> {
        let uri = certificate.uri()?;
        let (tenant, agent, role, scopes) = match self.agents.get(uri) {
            Some(Agent { tenant, agent, role, scopes }) => (tenant.clone(), agent.clone(), *role, scopes.clone()),
            None => {
                let names = self.pattern.as_ref().and_then(|pattern| pattern.names(uri));
                let (tenant, agent) = names.ok_or(Why::CertificateUnknown)?;
                let tenant = TenantId::parse(tenant).map_err(|_| Why::CertificateName)?;
                let agent = AgentName::parse(agent).map_err(|_| Why::CertificateName)?;
                (tenant, agent, self.role, self.scopes.clone())
            }
        };
        // Neither part can hold a colon; two tenants may each have an agent of one name.
        let subject = format!("{}:{}", tenant.as_str(), agent.as_str());
        let targets = [
            Target::Cert { fingerprint: *certificate.fingerprint() },
            Target::Tenant { tenant: tenant.clone() },
            Target::Sub { issuer: AGENT_ISSUER.to_owned(), tenant: Some(tenant.clone()), sub: subject.clone() },
            Target::Sub { issuer: AGENT_ISSUER.to_owned(), tenant: None, sub: subject.clone() },
        ];
        Ok(Identity::verified(Parts {
            tenant,
            issuer: Arc::from(AGENT_ISSUER),
            subject,
            kind: Kind::Agent,
            role,
            scopes,
            environment: None,
            environments: Environments::Any,
            key_id: None,
            credential: Credential::Certificate,
            expires: Some(certificate.not_after()),
            auth_time: None,
            uses: None,
            signed_by: None,
            filters: None,
            jti: None,
            certificate: Some(*certificate.fingerprint()),
            bound: None,
            revocable: Revocable::new(&targets, certificate.not_before()),
        }))
    }
}

/// What is wrong with a listener's settings.
pub(super) fn check(listener: &str, settings: &ClientCertificates, issues: &mut Issues) {
    let ClientCertificates { ca: _, crl: _, mode: _, uri, role, scopes, agents, connection_age_max: age } = settings;
    let place = uri.as_ref().map_or(&settings.ca.span, |uri| &uri.span);
    if uri.is_none() && (role.is_some() || !scopes.is_empty()) {
        issues.push_help(
            "client_certificates.rights_of_nobody",
            place,
            format!("listener `{listener}` gives rights to those whom `uri` names, and there is no `uri`"),
            "write `uri`, or `role` and `scopes` for each of `agents`",
        );
    }
    if !(1_000..=3_600_000).contains(&age.value.as_millis()) {
        let message = format!("connection_age_max of listener `{listener}` is {}, not 1s to 1h", age.value);
        issues.push("client_certificates.age", &age.span, message);
    }
    let many = agents.values().map(|agent| &agent.scopes).chain([scopes]).any(|scopes| scopes.len() > SCOPES_MAX);
    if many {
        let message = format!("an agent of listener `{listener}` has more than {SCOPES_MAX} scopes");
        issues.push("client_certificates.scopes", place, message);
    }
    for uri in agents.keys() {
        let plain = uri
            .split_once("://")
            .is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty() && rest.split('/').all(is_segment));
        if !plain {
            issues.push_help(
                "client_certificates.uri",
                place,
                format!("`{}` is no URI that names one agent", super::compile::shown(uri)),
                "write it out, with letters, digits, `-`, `.`, `_` and `~` between the slashes",
            );
        }
    }
}
