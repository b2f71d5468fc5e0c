//! What the operator writes about logins: the site's numbers, and which routes are logins.

use std::{borrow::Cow, collections::BTreeMap, num::NonZeroU32};

use portcullis_api::{At, MethodName, Millis, Mode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, de};

/// When failed logins lock, of every route that says `login`. A tenant cannot change it: who logs in is nobody's yet.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `enforce` or `shadow`.
    #[serde(default)]
    pub mode: Mode,
    /// Numbers for both ladders: `"rising"` (5 failures lock for 1 minute, 10 for 5 minutes, 20 for 1 hour; those of an
    /// account are counted over 24 hours, those of a network over 1 hour) or `"five_in_15m"` (5 failures in 15 minutes lock
    /// for 15 minutes).
    #[serde(default)]
    pub preset: Preset,
    /// Own numbers for an account, instead of the preset's.
    pub accounts: Option<Ladder>,
    /// Own numbers for a network, over all accounts, instead of the preset's.
    pub networks: Option<Ladder>,
    /// How long a network is known from which an account has logged in, at most a year. From there an account is locked only
    /// by its own failures.
    #[serde(default = "known_for")]
    pub known_for: At<Millis>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            preset: Preset::default(),
            accounts: None,
            networks: None,
            known_for: known_for(),
        }
    }
}

const fn known_for() -> At<Millis> {
    At::nowhere(Millis::from_secs(30 * 86_400))
}

/// Numbers that are known by a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// 5 failures lock for 1 minute, 10 for 5 minutes, 20 for 1 hour.
    #[default]
    Rising,
    /// 5 failures in 15 minutes lock for 15 minutes.
    #[serde(rename = "five_in_15m")]
    FiveIn15m,
}

/// How many failures lock for how long.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ladder {
    /// A failure counts until it is this old, or until a login succeeds.
    pub window: At<Millis>,
    /// How long so many failures lock, e.g. `{ 5 = "1m", 10 = "5m" }`. From the last number on each failure locks again.
    pub steps: At<BTreeMap<Failures, Millis>>,
}

/// So many failures: 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failures(NonZeroU32);

impl Failures {
    /// The most failures that can be asked for: each is remembered with its time.
    pub const MAX: u32 = 100;

    /// The number.
    #[must_use]
    pub const fn get(self) -> NonZeroU32 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Failures {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        // One spelling each: `5` and `05` would be two steps of one number.
        let plain = !text.starts_with('0') && text.bytes().all(|c| c.is_ascii_digit());
        let number = text.parse().ok().filter(|number: &NonZeroU32| plain && number.get() <= Self::MAX);
        number.map(Self).ok_or_else(|| {
            let shown: String = text.chars().take(32).flat_map(char::escape_default).collect();
            de::Error::custom(format!(
                "`{shown}` is no number of failures: write 1 to {}, as in {{ 5 = \"1m\" }}",
                Self::MAX
            ))
        })
    }
}

impl JsonSchema for Failures {
    fn schema_name() -> Cow<'static, str> {
        "Failures".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "string" })
    }
}

/// A route where people log in: the upstream's refusals are counted, by account and by network.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRoute {
    /// Where a request says whose login it is: `"json:NAME"` (`"json:user/email"` for a member of a member), `"form:NAME"`
    /// or `"header:NAME"`. Of several, all that are there must agree. What names no account is counted as one account.
    pub account: At<Vec<At<AccountAt>>>,
    /// Requests of these methods are logins, in upper case; `POST` when not written. Others pass uncounted.
    pub methods: Option<At<Vec<At<MethodName>>>>,
    /// Statuses of the upstream that say that a login failed, 400 to 499; 401 and 403 when not written.
    pub failures: Option<At<Vec<At<u16>>>>,
    /// Statuses that say that it succeeded, 200 to 399; all 2xx when not written. A success makes the network known for the
    /// account, so list none that a request without the right password can get. All other statuses say nothing.
    pub successes: Option<At<Vec<At<u16>>>>,
}

/// Where an account is named.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub enum AccountAt {
    /// A member of the body's JSON object, of one in it, and so on.
    Json(Vec<String>),
    /// A field of the body's form.
    Form(String),
    /// A header.
    Header(String),
}

impl AccountAt {
    /// Parses the text form.
    ///
    /// # Errors
    /// A message for the operator.
    fn parse(text: &str) -> Result<Self, String> {
        let known = |name: &str| {
            (!name.is_empty() && name.len() <= 128 && !name.contains(char::is_control)).then(|| name.to_owned())
        };
        let found = match text.split_once(':') {
            Some(("json", path)) => path.split('/').map(known).collect::<Option<Vec<_>>>().map(Self::Json),
            Some(("form", name)) => known(name).map(Self::Form),
            Some(("header", name)) => known(name).map(|name| Self::Header(name.to_ascii_lowercase())),
            Some(_) | None => None,
        };
        found.ok_or_else(|| {
            let shown: String = text.chars().take(64).flat_map(char::escape_default).collect();
            format!("`{shown}` is no place of an account: write json:NAME, form:NAME or header:NAME, as in \"json:username\"")
        })
    }
}

impl<'de> Deserialize<'de> for AccountAt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
