//! What the operator writes, with the place where it was written.

use std::{fmt, marker::PhantomData, ops::Range};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, de, de::value::MapAccessDeserializer};

use crate::{RouteRef, TenantId};

/// A value and the byte range of the document it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Byte range in the document.
    pub span: Range<usize>,
}

impl<T> At<T> {
    /// A default has no place.
    #[must_use]
    pub const fn nowhere(value: T) -> Self {
        Self { value, span: 0..0 }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_spanned::Spanned::<T>::deserialize(deserializer)?;
        Ok(Self { span: spanned.span(), value: spanned.into_inner() })
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Settings of a control that can be switched off with the word `"off"`, and in no other way.
#[derive(Debug, Clone)]
pub enum Switch<T> {
    /// The operator wrote `"off"`.
    Off,
    /// The operator wrote settings.
    On(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Switch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Switch<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("settings or the word \"off\"")
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<Self::Value, E> {
                if word == "off" { Ok(Switch::Off) } else { Err(E::invalid_value(de::Unexpected::Str(word), &self)) }
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Switch::On)
            }
        }
        deserializer.deserialize_any(Visitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Switch<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Switch_{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let settings = generator.subschema_for::<T>();
        schemars::json_schema!({ "anyOf": [{ "const": "off" }, settings] })
    }
}

/// What one control was given: the site's word, each route's, and each tenant's two layers.
#[derive(Debug)]
pub struct Scoped<'d, S, T> {
    /// The site's settings, `[controls]`.
    pub site: &'d S,
    /// One entry per route, in the order of their ids.
    pub routes: &'d [(RouteRef, Option<&'d S>)],
    /// One entry per tenant that the document names.
    pub tenants: &'d [(TenantId, Layers<'d, T>)],
}

impl<S, T> Clone for Scoped<'_, S, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S, T> Copy for Scoped<'_, S, T> {}

/// A tenant's two layers. The grant may raise or lower the site's word; `own` may only tighten what results.
#[derive(Debug)]
pub struct Layers<'d, T> {
    /// The operator's word for this tenant.
    pub grant: Option<&'d T>,
    /// The tenant's own word.
    pub own: Option<&'d T>,
}

impl<T> Clone for Layers<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Layers<'_, T> {}

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// A stable code, `section.reason`.
    pub code: &'static str,
    /// What is wrong: lower case, no period.
    pub message: String,
    /// Where, as a byte range; `0..0` where nothing was written.
    pub span: Range<usize>,
    /// What to do.
    pub help: Option<String>,
}

/// Everything that is wrong with a document.
#[derive(Debug, Default)]
pub struct Issues(Vec<Issue>);

impl Issues {
    /// Adds one.
    pub fn push(&mut self, code: &'static str, span: &Range<usize>, message: impl Into<String>) {
        self.0.push(Issue { code, message: message.into(), span: span.clone(), help: None });
    }

    /// Adds one with advice.
    pub fn push_help(
        &mut self,
        code: &'static str,
        span: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.0.push(Issue { code, message: message.into(), span: span.clone(), help: Some(help.into()) });
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in the order they were found.
    #[must_use]
    pub fn into_vec(self) -> Vec<Issue> {
        self.0
    }

    /// All of them so far.
    #[must_use]
    pub fn as_slice(&self) -> &[Issue] {
        &self.0
    }
}

/// The known word nearest to `word`, for "did you mean"; at most two edits and half its length away (optimal
/// string alignment distance).
#[must_use]
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= 2 && edits.saturating_mul(2) <= candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        next.push(i.saturating_add(1));
        for ((&y, pair), left) in b.iter().zip(row.windows(2)).zip(0..) {
            let &[diagonal, up] = pair else { continue };
            let left: usize = next.get::<usize>(left).copied().unwrap_or(usize::MAX);
            next.push(
                diagonal.saturating_add(usize::from(x != y)).min(up.saturating_add(1)).min(left.saturating_add(1)),
            );
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_a_far_one_is_not() {
        assert_eq!(nearest("ip_alowlist", ["ip_allowlist", "waf"]), Some("ip_allowlist"));
        assert_eq!(nearest("wfa", ["waf", "burst"]), None);
        assert_eq!(nearest("zebra", ["waf", "burst"]), None);
    }

    #[test]
    fn off_is_a_word_and_the_only_one() {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Settings {
            requests: At<u32>,
        }
        #[derive(Deserialize)]
        struct Doc {
            burst: Switch<Settings>,
        }
        assert!(matches!(toml::from_str::<Doc>("burst = \"off\"").unwrap().burst, Switch::Off));
        let Switch::On(on) = toml::from_str::<Doc>("burst = { requests = 50 }").unwrap().burst else { panic!("on") };
        assert_eq!((on.requests.value, on.requests.span), (50, 21..23));
        for bad in ["burst = \"of\"", "burst = 0", "burst = \"\"", "burst = { request = 1 }"] {
            assert!(toml::from_str::<Doc>(bad).is_err(), "{bad}");
        }
    }
}
