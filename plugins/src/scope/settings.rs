//! What the operator writes about a route whose requests are confined.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use http::HeaderName;
use portcullis_api::At;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

/// What requests of a route ask for is confined to the tenant: PromQL, plain parameters and headers are set from the
/// verified claim before the upstream sees them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScopeRoute {
    /// Labels that every selector must carry, and from what each is set, as in `{ tenant = "tenant" }`. Needed with
    /// `promql` and `selectors`.
    #[serde(default)]
    pub labels: BTreeMap<LabelName, Claim>,
    /// Parameters that are a PromQL expression, e.g. `["query"]`. Each must be there once, in the query or in the form.
    #[serde(default)]
    pub promql: Vec<At<ParameterName>>,
    /// Parameters that are a series selector, e.g. `["match[]"]`. Each may be there more than once; what happens where one
    /// is not there says `absent`.
    #[serde(default)]
    pub selectors: Vec<At<ParameterName>>,
    /// A request without a parameter of `selectors`: `"refuse"` (default), or `"set"`, which asks for all series of the
    /// tenant.
    pub absent: Option<At<Absent>>,
    /// Parameters that are set, and from what, as in `{ org = "tenant" }`. A request may leave them out, or carry the same
    /// value once.
    #[serde(default)]
    pub plain: BTreeMap<ParameterName, Claim>,
    /// Headers that are set, and from what, as in `{ X-Scope-OrgID = "tenant" }`. What the client sends under such a name is
    /// removed.
    #[serde(default)]
    pub headers: BTreeMap<HeaderText, Claim>,
    /// Parameters that may come along as they are, e.g. `["time", "timeout"]`. Where the route names parameters, all others
    /// are refused: an upstream could read a query from one of them.
    pub others: Option<At<Vec<At<ParameterName>>>>,
}

/// From what a label, a parameter or a header is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// The tenant that the request runs for: of the verified identity, or of the host where that is fixed.
    Tenant,
}

/// What becomes of a request without a selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Absent {
    /// It is refused.
    #[default]
    Refuse,
    /// It asks for all series of the tenant.
    Set,
}

/// Shows what was written, shortened.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_default).collect()
}

/// A label of Prometheus, `[a-zA-Z_][a-zA-Z0-9_]*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(with = "String")]
pub struct LabelName(String);

impl LabelName {
    /// Parses a label.
    ///
    /// # Errors
    /// A message for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let known = text.len() <= 128 && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
        // `or` stands between two lists of matchers in some dialects, and the name of the metric is what is asked for.
        if starts && known && text != "__name__" && !text.eq_ignore_ascii_case("or") {
            Ok(Self(text.to_owned()))
        } else {
            let shown = shown(text);
            Err(format!("`{shown}` is no label: write letters, digits and `_`, not `__name__` and not `or`"))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a parameter: 1 to 64 of `a-z A-Z 0-9 _ . - [ ]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(with = "String")]
pub struct ParameterName(String);

impl ParameterName {
    /// Parses a name.
    ///
    /// # Errors
    /// A message for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        let known = |c: u8| c.is_ascii_alphanumeric() || b"_.-[]".contains(&c);
        if (1..=64).contains(&text.len()) && text.bytes().all(known) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("`{}` is no name of a parameter: write 1 to 64 of a-z, A-Z, 0-9 and _.-[]", shown(text)))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ParameterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a header that is set, in whatever case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(with = "String")]
pub struct HeaderText(String);

impl HeaderText {
    fn parse(text: &str) -> Result<Self, String> {
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) if text.len() <= 128 => Ok(Self(name.as_str().to_owned())),
            Ok(_) | Err(_) => Err(format!("`{}` is no name of a header", shown(text))),
        }
    }

    /// In lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! from_text {
    ($($name:ident),+) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::parse(&Cow::<str>::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    )+};
}
from_text!(LabelName, ParameterName, HeaderText);
