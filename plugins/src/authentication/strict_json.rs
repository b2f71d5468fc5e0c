//! JSON as JOSE needs it: one meaning or none. No duplicate member at any depth, and a bound on everything.
//!
//! The lexer is serde_json's; this file adds what it lacks. serde_json keeps the last of two equal members, and two
//! parsers that keep different ones are two parsers that see different tokens.

use std::{cell::Cell, fmt};

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// A JSON value. Numbers keep only what a claim may be: a non-negative integer, or something else.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Flag(bool),
    /// An integer from 0 to 2^64-1, written without fraction and exponent.
    Whole(u64),
    /// Any other number.
    Number,
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The member of this name, if this is an object that has it.
    pub(crate) fn member(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            Self::Null | Self::Flag(_) | Self::Whole(_) | Self::Number | Self::Text(_) | Self::List(_) => None,
        }
    }

    /// The text, if this is one.
    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The items, if this is a list.
    pub(crate) fn list(&self) -> Option<&[Self]> {
        if let Self::List(items) = self { Some(items) } else { None }
    }

    /// The members, if this is an object.
    pub(crate) fn object(&self) -> Option<&[(String, Self)]> {
        if let Self::Object(members) = self { Some(members) } else { None }
    }
}

/// How large a document may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Objects and lists inside each other; the outermost counts as one.
    pub(crate) depth: u8,
    /// Members of all objects together.
    pub(crate) members: u32,
    /// Bytes of one string or member name after unescaping.
    pub(crate) text_bytes: usize,
    /// Items of one list.
    pub(crate) items: usize,
}

/// What a client's token may hold.
pub(crate) const TOKEN: Limits = Limits { depth: 8, members: 128, text_bytes: 1024, items: 128 };

/// What an issuer's key set may hold: 64 keys with certificate chains.
pub(crate) const KEY_SET: Limits = Limits { depth: 8, members: 4096, text_bytes: 16 * 1024, items: 128 };

/// Why a document was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JsonError {
    #[error("not JSON")]
    Syntax,
    #[error("a member twice")]
    Duplicate,
    #[error("nested too deep")]
    TooDeep,
    #[error("too many members")]
    TooManyMembers,
    #[error("a string too long")]
    TextTooLong,
    #[error("a list too long")]
    ListTooLong,
}

/// Parses a whole document; nothing may follow it.
pub(crate) fn parse(bytes: &[u8], limits: Limits) -> Result<Json, JsonError> {
    let budget = Budget { limits, members: Cell::new(0), why: Cell::new(JsonError::Syntax) };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Seed { budget: &budget, depth: 0 }.deserialize(&mut deserializer).map_err(|_| budget.why.get())?;
    deserializer.end().map_err(|_| JsonError::Syntax)?;
    Ok(value)
}

/// As [`parse`], of what another parser reads.
pub(crate) fn from<'de, D: Deserializer<'de>>(deserializer: D, limits: Limits) -> Result<Json, D::Error> {
    let budget = Budget { limits, members: Cell::new(0), why: Cell::new(JsonError::Syntax) };
    Seed { budget: &budget, depth: 0 }.deserialize(deserializer)
}

struct Budget {
    limits: Limits,
    members: Cell<u32>,
    why: Cell<JsonError>,
}

impl Budget {
    fn refuse<E: de::Error>(&self, why: JsonError) -> E {
        self.why.set(why);
        E::custom(why)
    }
}

#[derive(Clone, Copy)]
struct Seed<'b> {
    budget: &'b Budget,
    depth: u8,
}

impl Seed<'_> {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.saturating_add(1);
        if depth > self.budget.limits.depth {
            return Err(self.budget.refuse(JsonError::TooDeep));
        }
        Ok(Self { budget: self.budget, depth })
    }

    fn short<E: de::Error>(self, text: String) -> Result<String, E> {
        if text.len() > self.budget.limits.text_bytes {
            return Err(self.budget.refuse(JsonError::TextTooLong));
        }
        Ok(text)
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Json;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E: de::Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Flag(value))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Whole(value))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Json, E> {
        Ok(u64::try_from(value).map_or(Json::Number, Json::Whole))
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Number)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Json, E> {
        self.visit_string(text.to_owned())
    }
    fn visit_string<E: de::Error>(self, text: String) -> Result<Json, E> {
        self.short(text).map(Json::Text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inner)? {
            if items.len() >= self.budget.limits.items {
                return Err(self.budget.refuse(JsonError::ListTooLong));
            }
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let inner = self.deeper()?;
        let mut members: Vec<(String, Json)> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let name = self.short(name)?;
            let count = self.budget.members.get().saturating_add(1);
            self.budget.members.set(count);
            if count > self.budget.limits.members {
                return Err(self.budget.refuse(JsonError::TooManyMembers));
            }
            if members.iter().any(|(known, _)| *known == name) {
                return Err(self.budget.refuse(JsonError::Duplicate));
            }
            let value = map.next_value_seed(inner)?;
            members.push((name, value));
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(text: &str) -> Result<Json, JsonError> {
        parse(text.as_bytes(), TOKEN)
    }

    #[test]
    fn jwt_12_a_duplicate_member_at_any_depth_is_refused() {
        for bad in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"b":2,"\u0061":3}"#,
            r#"{"x":{"a":1,"a":1}}"#,
            r#"{"x":[{"y":[{"a":null,"a":null}]}]}"#,
        ] {
            assert_eq!(token(bad), Err(JsonError::Duplicate), "{bad}");
        }
        assert!(token(r#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}"#).is_ok());
    }

    #[test]
    fn jwt_19_structure_bombs_stop_at_the_edge() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(token(&nested(8)).is_ok());
        assert_eq!(token(&nested(9)), Err(JsonError::TooDeep));
        assert_eq!(token(&nested(10_000)), Err(JsonError::TooDeep));

        let members = |n: usize| format!("{{{}}}", (0..n).map(|i| format!("\"m{i}\":1")).collect::<Vec<_>>().join(","));
        assert!(token(&members(128)).is_ok());
        assert_eq!(token(&members(129)), Err(JsonError::TooManyMembers));
        let halves = format!("[{},{}]", members(64), members(65));
        assert_eq!(token(&halves), Err(JsonError::TooManyMembers), "members are counted over all objects");

        let list = |n: usize| format!("[{}]", vec!["1"; n].join(","));
        assert!(token(&list(128)).is_ok());
        assert_eq!(token(&list(129)), Err(JsonError::ListTooLong));

        let text = |n: usize| format!("\"{}\"", "a".repeat(n));
        assert!(token(&text(1024)).is_ok());
        assert_eq!(token(&text(1025)), Err(JsonError::TextTooLong));
        assert_eq!(token(&format!("{{{}:1}}", text(1025))), Err(JsonError::TextTooLong));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for bad in [
            "",
            " ",
            "{",
            "{}x",
            "{} {}",
            "\u{feff}{}",
            "{a:1}",
            "{'a':1}",
            "[1,]",
            "01",
            "+1",
            "NaN",
            "\"\n\"",
            "\"\\ud800\"",
        ] {
            assert_eq!(token(bad), Err(JsonError::Syntax), "{bad}");
        }
        assert_eq!(parse(b"\"\xff\"", TOKEN), Err(JsonError::Syntax));
    }

    #[test]
    fn only_plain_integers_are_whole_numbers() {
        assert_eq!(token("1"), Ok(Json::Whole(1)));
        assert_eq!(token("18446744073709551615"), Ok(Json::Whole(u64::MAX)));
        for other in ["-1", "1.0", "1e3", "18446744073709551616", "-0"] {
            assert_eq!(token(other), Ok(Json::Number), "{other}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(&bytes, TOKEN);
        }

        #[test]
        fn what_is_accepted_serde_json_reads_the_same_way(text in r#"[\[\]{}":,0-9a-c \\u.eE-]{0,64}"#) {
            if let Ok(json) = token(&text) {
                let other: serde_json::Value = serde_json::from_str(&text).unwrap();
                prop_assert!(same(&json, &other), "{json:?} {other:?}");
            }
        }
    }

    fn same(a: &Json, b: &serde_json::Value) -> bool {
        match a {
            Json::Null => b.is_null(),
            Json::Flag(flag) => b.as_bool() == Some(*flag),
            Json::Whole(n) => b.as_u64() == Some(*n),
            Json::Number => b.is_number() && b.as_u64().is_none(),
            Json::Text(text) => b.as_str() == Some(text),
            Json::List(items) => {
                b.as_array().is_some_and(|o| o.len() == items.len() && items.iter().zip(o).all(|(x, y)| same(x, y)))
            }
            Json::Object(members) => b.as_object().is_some_and(|o| {
                o.len() == members.len() && members.iter().all(|(k, v)| o.get(k).is_some_and(|w| same(v, w)))
            }),
        }
    }
}
