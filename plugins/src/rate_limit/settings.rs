//! What the operator and a tenant write about rates. The same rules serve `rate_limit` and `quota`.

use std::{fmt, num::NonZeroU32};

use portcullis_api::{At, MethodName, Millis, Mode};
use schemars::JsonSchema;
use serde::{
    Deserialize,
    de::{MapAccess, Visitor},
};

/// One limit, `[limits.NAME]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// What is counted, e.g. `["api_key"]` or `["tenant", "route"]`. A part that a request lacks is counted in one
    /// shared bucket; it is never unlimited.
    pub key: At<Vec<At<KeyPart>>>,
    /// Requests of these methods only, e.g. `["POST", "PUT"]`, in upper case; `GET` stands for `HEAD` too. Of all methods
    /// when not written. Another method's request is neither counted nor told of the limit.
    pub methods: Option<At<Vec<At<MethodName>>>>,
    /// Requests per window.
    pub requests: At<NonZeroU32>,
    /// The window.
    pub window: At<Millis>,
    /// Requests that may come at once; `requests` when not written.
    pub burst: Option<At<NonZeroU32>>,
    /// What one request takes of `requests` and `burst` when it is admitted; 1 when not written. At most `burst`, also of
    /// every tenant.
    pub cost: Option<At<NonZeroU32>>,
    /// Where the upstream says what a request took in all, `{ header = "x-request-cost", at_most = 50 }`. What it took
    /// beyond `cost` is charged behind the answer.
    pub cost_from: Option<CostFrom>,
    /// `enforce` or `shadow`.
    #[serde(default)]
    pub mode: Mode,
    /// `"exact"` counts with all gateways of the deployment together, in the shared store. `"leased"` does too, and takes
    /// some requests of a busy bucket ahead, so that most are not asked for. `"local"` never asks the store: each gateway
    /// enforces its share, the limit divided by the number of gateways. With counters in memory all are the same.
    #[serde(default)]
    pub consistency: Consistency,
    /// What happens when the shared store does not answer in time: `"local_share"` (each instance enforces its share),
    /// `"deny"` (503), or `{ allow = "a written reason" }`.
    #[serde(default)]
    pub on_store_failure: OnStoreFailure,
}

/// Where the upstream says what a request took.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CostFrom {
    /// The name of a header of the answer. Its value is a whole number; less than `cost` counts as `cost`, and without the
    /// header `cost` is all. It is taken out of the answer.
    pub header: At<String>,
    /// The most that one request takes; more counts as this, and so does what is no whole number. More than `cost`, and at
    /// most `burst`, also of every tenant.
    pub at_most: At<NonZeroU32>,
}

/// What a tenant's grant may set, and a tenant's own settings may tighten.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantLimit {
    /// Requests per window.
    pub requests: Option<At<NonZeroU32>>,
    /// Requests that may come at once.
    pub burst: Option<At<NonZeroU32>>,
}

/// One part of what a limit counts by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(with = "String")]
pub enum KeyPart {
    /// The client's settled address; its /64 for IPv6.
    Client,
    /// The API key's id.
    ApiKey,
    /// Issuer and subject of the verified identity.
    Subject,
    /// The tenant of the verified identity, or the host's fixed one.
    Tenant,
    /// The route.
    Route,
    /// The API key, else the subject, else the client: whoever calls.
    Caller,
    /// A request header's value, by its name in lower case.
    Header(String),
}

impl KeyPart {
    /// Whether the part is known only after authentication.
    #[must_use]
    pub const fn needs_identity(&self) -> bool {
        match self {
            Self::ApiKey | Self::Subject | Self::Tenant | Self::Caller => true,
            Self::Client | Self::Route | Self::Header(_) => false,
        }
    }
}

const KEY_PARTS: &[(&str, KeyPart)] = &[
    ("client", KeyPart::Client),
    ("api_key", KeyPart::ApiKey),
    ("subject", KeyPart::Subject),
    ("tenant", KeyPart::Tenant),
    ("route", KeyPart::Route),
    ("caller", KeyPart::Caller),
];

impl<'de> Deserialize<'de> for KeyPart {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if let Some((_, part)) = KEY_PARTS.iter().find(|(name, _)| *name == text) {
            return Ok(part.clone());
        }
        if let Some(name) = text.strip_prefix("header:")
            && !name.is_empty()
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
        {
            return Ok(Self::Header(name.to_ascii_lowercase()));
        }
        let hint = portcullis_api::nearest(&text, KEY_PARTS.iter().map(|(name, _)| *name))
            .map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        Err(serde::de::Error::custom(format!(
            "`{text}` is nothing a limit can count by: write client, api_key, subject, tenant, route, caller or header:name{hint}"
        )))
    }
}

/// Where a rule is counted when gateways share a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// In the store, for all of them, each request by itself.
    #[default]
    Exact,
    /// In the store, for all of them, some requests of a busy bucket ahead.
    Leased,
    /// In each gateway, its share.
    Local,
}

/// What a rule does when the shared store does not answer in time.
#[derive(Debug, Clone, PartialEq, Eq, Default, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnStoreFailure {
    /// Each instance enforces the limit divided by the number of instances, at least 1.
    #[default]
    LocalShare,
    /// 503 with `Retry-After`.
    Deny,
    /// The request passes unlimited by this rule; the reason is shown in the lint report and the trail.
    Allow(String),
}

impl<'de> Deserialize<'de> for OnStoreFailure {
    /// By hand, so that what is wrong is said in the words of the document.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        const ALL: &str = "\"local_share\", \"deny\" or { allow = \"a reason\" }";
        const ALLOW: &str = "write { allow = \"why requests may pass uncounted\" }";

        impl<'de> Visitor<'de> for Written {
            type Value = OnStoreFailure;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(ALL)
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<OnStoreFailure, E> {
                match word {
                    "local_share" => Ok(OnStoreFailure::LocalShare),
                    "deny" => Ok(OnStoreFailure::Deny),
                    "allow" => Err(E::custom(format!("`allow` needs its reason: {ALLOW}"))),
                    _ => {
                        let near = portcullis_api::nearest(word, ["local_share", "deny", "allow"]);
                        let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                        Err(E::custom(format!("`{word}` is nothing to do without the store: write {ALL}{hint}")))
                    }
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OnStoreFailure, A::Error> {
                let wrong = |what: String| Err(serde::de::Error::custom(format!("{what}: {ALLOW}")));
                match map.next_key::<String>()?.as_deref() {
                    Some("allow") => {}
                    Some(other) => return wrong(format!("`{other}` is unknown here")),
                    None => return wrong("nothing is written here".to_owned()),
                }
                let reason = map.next_value()?;
                match map.next_key::<String>()? {
                    None => Ok(OnStoreFailure::Allow(reason)),
                    Some(other) => wrong(format!("`{other}` is unknown here")),
                }
            }
        }
        deserializer.deserialize_any(Written)
    }
}

/// A class of routes with a built-in limit, counted by caller and class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// 20 requests a minute: sign-in, token and password routes.
    Auth,
    /// 100 requests a minute: configuration and management.
    Management,
    /// 1,000 requests a minute: reads and evaluation.
    Evaluation,
}

impl Class {
    /// As written, and the name of its limit.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "class_auth",
            Self::Management => "class_management",
            Self::Evaluation => "class_evaluation",
        }
    }

    /// Requests a minute.
    #[must_use]
    pub const fn per_minute(self) -> u32 {
        match self {
            Self::Auth => 20,
            Self::Management => 100,
            Self::Evaluation => 1000,
        }
    }
}
