//! What an API key is for, and what it may not have then.

use portcullis_api::Role;
use serde::Deserialize;

use super::filters::Filters;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// A program of the tenant.
    Service,
    /// Pages that others show: it has filters, and no role above viewer.
    Embed,
}

impl KeyKind {
    /// As written in a record and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Embed => "embed",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Service, Self::Embed].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Whoever opens an embedded page has its token: it reads what the filters let through, and nothing else.
pub(super) fn check_kind(
    kind: Option<KeyKind>,
    role: Option<Role>,
    filters: Option<&Filters>,
) -> Result<(), (&'static str, &'static str)> {
    match (kind, role, filters) {
        (Some(KeyKind::Embed), _, None) => Err(("filters", "a key of kind embed has some")),
        (Some(KeyKind::Embed), Some(Role::Developer | Role::Admin | Role::Owner), Some(_)) => {
            Err(("role", "a key of kind embed is viewer or has none"))
        }
        (Some(KeyKind::Embed), Some(Role::Viewer) | None, Some(_)) | (Some(KeyKind::Service) | None, _, _) => Ok(()),
    }
}
