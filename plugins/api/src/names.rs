//! Names with a grammar: one constructor each, private fields.

use std::{fmt, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not in the grammar.
    #[error("{what} `{text}` is not valid: {grammar}")]
    Grammar {
        /// What kind of name.
        what: &'static str,
        /// As written, shortened.
        text: String,
        /// What is allowed.
        grammar: &'static str,
    },
    /// Reserved for the gateway.
    #[error("tenant `{0}` is reserved")]
    Reserved(String),
}

fn shortened(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_default).collect()
}

/// A tenant: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`, never a reserved word.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, JsonSchema)]
#[schemars(with = "String")]
pub struct TenantId(Arc<str>);

/// Tenant names that mean something else somewhere in the document or in an upstream.
const RESERVED_TENANTS: &[&str] = &["identity", "system", "default", "unknown", "any", "none", "admin", "portcullis"];

impl TenantId {
    /// Parses a tenant id.
    ///
    /// # Errors
    /// [`NameError`] when it is outside the grammar or reserved.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let bytes = text.as_bytes();
        let ok = (1..=63).contains(&bytes.len())
            && bytes.iter().all(|&c| inner(c) || c == b'-')
            && bytes.first().is_some_and(|&c| inner(c))
            && bytes.last().is_some_and(|&c| inner(c));
        if !ok {
            return Err(NameError::Grammar {
                what: "tenant",
                text: shortened(text),
                grammar: "1 to 63 of a-z, 0-9 and -, not at either end",
            });
        }
        if RESERVED_TENANTS.contains(&text) {
            return Err(NameError::Reserved(text.to_owned()));
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A canonical host: lower-case A-labels, no port, no trailing dot; or an IP literal as in a URL.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(Arc<str>);

impl HostName {
    /// Wraps a host that the canonicaliser already settled.
    ///
    /// # Errors
    /// [`NameError`] when a byte is outside `a-z 0-9 . - : [ ]` (the last three for IPv6 literals) or it is empty.
    pub fn canonical(text: &str) -> Result<Self, NameError> {
        let ok = !text.is_empty()
            && text.len() <= 253
            && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b".-:[]".contains(&c));
        if ok {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Grammar {
                what: "host",
                text: shortened(text),
                grammar: "lower-case A-labels or an IP literal",
            })
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A scope, `[a-z0-9:._*-]{1,64}`, compared whole.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, JsonSchema)]
#[schemars(with = "String")]
pub struct Scope(Arc<str>);

impl Scope {
    /// Parses a scope.
    ///
    /// # Errors
    /// [`NameError`] outside the grammar.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let ok = (1..=64).contains(&text.len())
            && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b":._*-".contains(&c));
        if ok {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Grammar { what: "scope", text: shortened(text), grammar: "1 to 64 of a-z, 0-9 and :._*-" })
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An environment, `[a-z]{2,8}`, e.g. `live` or `test`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, JsonSchema)]
#[schemars(with = "String")]
pub struct Environment(Arc<str>);

impl Environment {
    /// Parses an environment.
    ///
    /// # Errors
    /// [`NameError`] outside the grammar.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if (2..=8).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_lowercase()) {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Grammar { what: "environment", text: shortened(text), grammar: "2 to 8 of a-z" })
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_name {
    ($($name:ident: $parse:path),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    )+};
}
text_name!(TenantId: TenantId::parse, Scope: Scope::parse, Environment: Environment::parse, HostName: HostName::canonical);

/// The four roles, in order: each may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Builds.
    Developer,
    /// Configures.
    Admin,
    /// Owns the tenant.
    Owner,
}

impl Role {
    /// As written in the configuration and in the injected header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Developer => "developer",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// The role of exactly this name; an unknown name is no role, never a default one.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        match text {
            "viewer" => Some(Self::Viewer),
            "developer" => Some(Self::Developer),
            "admin" => Some(Self::Admin),
            "owner" => Some(Self::Owner),
            _ => None,
        }
    }
}

/// The index of a route in its snapshot: dense from 0, so that controls can keep per-route data in a `Vec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId(u32);

impl RouteId {
    /// The `index`-th route of a snapshot.
    #[must_use]
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// For look-ups in a `Vec` with one entry per route.
    #[must_use]
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A route as controls see it while they are compiled: its id and its name `host/route`.
#[derive(Debug, Clone)]
pub struct RouteRef {
    /// Dense index.
    pub id: RouteId,
    /// `host/route`, as in logs and messages.
    pub name: Arc<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_a_narrow_grammar_and_reserved_words() {
        assert!(TenantId::parse("acme-1").is_ok());
        for bad in ["", "-a", "a-", "A", "__system__", "a.b", "identity", &"a".repeat(64)] {
            assert!(TenantId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn roles_are_ordered_and_an_unknown_name_is_no_role() {
        assert!(Role::Viewer < Role::Developer && Role::Developer < Role::Admin && Role::Admin < Role::Owner);
        assert_eq!(Role::named("root"), None);
    }
}
