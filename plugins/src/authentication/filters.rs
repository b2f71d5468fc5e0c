//! Filters: which data the holder of a key may see, as terms that all must hold. The gateway carries them from the key's
//! record to the app, which applies them; it never makes a query of them.
//!
//! `{"all":[{"f":"region","op":"in","v":["eu"]}],"v":1}`: structured, and no piece of any query language, so that there is
//! nothing to escape. There is one spelling of one set of filters: members and terms sorted, none twice. That spelling is
//! what is under the MAC of a record, in a token, and told to an app.
//!
//! Invariant: filters are only ever joined by AND ([`Filters::and`]): what comes out lets through what both let through.

use std::{collections::BTreeSet, fmt};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{
    claims::is_printable,
    strict_json::{self, Json, JsonError, Limits},
};

/// Terms of one set.
pub const TERMS_MAX: usize = 16;
/// Bytes of the one spelling.
pub const FILTERS_BYTES_MAX: usize = 2 << 10;
const FIELD_BYTES_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 256;
const VALUES_MAX: usize = 64;
/// Integers from here on are not the same number in every JSON parser (RFC 8259 section 6).
const WHOLE_END: u64 = 1 << 53;
const VERSION: u64 = 1;
/// The document, its list, a term, a list of values.
const LIMITS: Limits = Limits { depth: 4, members: 64, text_bytes: TEXT_BYTES_MAX, items: 64 };

/// Terms that all must hold; never none.
#[derive(Clone, PartialEq, Eq)]
pub struct Filters {
    terms: BTreeSet<Term>,
    canonical: String,
}

/// Filters as they are spelled.
#[derive(Serialize)]
struct Document<'t> {
    all: &'t BTreeSet<Term>,
    v: u64,
}

/// Field, operator, value. Sorted as it is spelled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Term {
    f: String,
    op: Op,
    v: Value,
}

/// How a field is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Op {
    Eq,
    Gt,
    Gte,
    In,
    Lt,
    Lte,
    Ne,
    Prefix,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
enum Value {
    Flag(bool),
    Whole(u64),
    Text(String),
    OneOf(BTreeSet<Value>),
}

/// Why something is no filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no filters: {0}")]
pub struct FiltersError(&'static str);

impl FiltersError {
    /// Why, for the log.
    #[must_use]
    pub const fn why(self) -> &'static str {
        self.0
    }
}

impl Filters {
    /// Reads `{"v":1,"all":[…]}`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self, FiltersError> {
        // Before it is parsed. White space and escapes may make it longer than its one spelling, not without end.
        if json.len() > FILTERS_BYTES_MAX.saturating_mul(4) {
            return Err(FiltersError("longer than 8 KiB"));
        }
        Self::of(&strict_json::parse(json, LIMITS).map_err(unread)?)
    }

    /// Reads one term, `{"f":…,"op":…,"v":…}`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn term(json: &[u8]) -> Result<Self, FiltersError> {
        let json = strict_json::parse(json, LIMITS).map_err(unread)?;
        Self::made(BTreeSet::from([term(&json)?]))
    }

    /// Reads a claim of that form.
    pub(super) fn of(json: &Json) -> Result<Self, FiltersError> {
        let members = json.object().ok_or(FiltersError("no object"))?;
        if members.iter().any(|(name, _)| name != "v" && name != "all") {
            return Err(FiltersError("a member that is neither `v` nor `all`"));
        }
        match json.member("v") {
            Some(Json::Whole(VERSION)) => {}
            _ => return Err(FiltersError("`v` is not 1")),
        }
        let terms = json.member("all").and_then(Json::list).ok_or(FiltersError("`all` is no list"))?;
        if !(1..=TERMS_MAX).contains(&terms.len()) {
            return Err(FiltersError("not 1 to 16 terms"));
        }
        Self::made(terms.iter().map(term).collect::<Result<_, _>>()?)
    }

    fn made(terms: BTreeSet<Term>) -> Result<Self, FiltersError> {
        if !(1..=TERMS_MAX).contains(&terms.len()) {
            return Err(FiltersError("not 1 to 16 terms"));
        }
        let canonical = serde_json::to_string(&Document { all: &terms, v: VERSION });
        let canonical = canonical.map_err(|_| FiltersError("not to be spelled"))?;
        if canonical.len() > FILTERS_BYTES_MAX {
            return Err(FiltersError("longer than 2 KiB"));
        }
        Ok(Self { terms, canonical })
    }

    /// What both let through.
    ///
    /// # Errors
    /// When that is more than an app may be told.
    pub fn and(&self, other: &Self) -> Result<Self, FiltersError> {
        Self::made(self.terms.union(&other.terms).cloned().collect())
    }

    /// The one spelling.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.canonical
    }

    /// As a header's value: base64url of the one spelling, without padding.
    pub(super) fn header(&self) -> String {
        URL_SAFE_NO_PAD.encode(&self.canonical)
    }
}

fn unread(error: JsonError) -> FiltersError {
    FiltersError(match error {
        JsonError::Syntax => "not JSON",
        JsonError::Duplicate => "a member twice",
        JsonError::TooDeep => "nested too deep",
        JsonError::TooManyMembers | JsonError::ListTooLong => "too many members or items",
        JsonError::TextTooLong => "a text longer than 256 bytes",
    })
}

fn term(json: &Json) -> Result<Term, FiltersError> {
    let members = json.object().ok_or(FiltersError("a term is no object"))?;
    if members.iter().any(|(name, _)| !["f", "op", "v"].contains(&name.as_str())) {
        return Err(FiltersError("a member of a term that is not `f`, `op` or `v`"));
    }
    let field = json.member("f").and_then(Json::text).filter(|field| is_field(field));
    let field = field.ok_or(FiltersError("`f` is not 1 to 64 of a-z, A-Z, 0-9, `_` and `.`, a letter or `_` first"))?;
    let op = json.member("op").and_then(Json::text).and_then(op).ok_or(FiltersError("`op` is none of ours"))?;
    let value = json.member("v").ok_or(FiltersError("a term without `v`"))?;
    let v = match op {
        Op::Eq | Op::Ne => scalar(value)?,
        Op::Gt | Op::Gte | Op::Lt | Op::Lte => match scalar(value)? {
            ordered @ (Value::Whole(_) | Value::Text(_)) => ordered,
            Value::Flag(_) | Value::OneOf(_) => return Err(FiltersError("what has no order is compared by it")),
        },
        Op::Prefix => match scalar(value)? {
            Value::Text(text) if !text.is_empty() => Value::Text(text),
            Value::Text(_) | Value::Whole(_) | Value::Flag(_) | Value::OneOf(_) => {
                return Err(FiltersError("a prefix is a text that is not empty"));
            }
        },
        Op::In => {
            let items = value.list().filter(|items| (1..=VALUES_MAX).contains(&items.len()));
            let items = items.ok_or(FiltersError("`in` takes a list of 1 to 64"))?;
            Value::OneOf(items.iter().map(scalar).collect::<Result<_, _>>()?)
        }
    };
    Ok(Term { f: field.to_owned(), op, v })
}

/// ASCII alone: of two letters that look alike an app knows one.
fn is_field(text: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    text.len() <= FIELD_BYTES_MAX
        && text.bytes().next().is_some_and(first)
        && text.bytes().all(|byte| first(byte) || byte.is_ascii_digit() || byte == b'.')
}

fn op(name: &str) -> Option<Op> {
    Some(match name {
        "eq" => Op::Eq,
        "ne" => Op::Ne,
        "in" => Op::In,
        "lt" => Op::Lt,
        "lte" => Op::Lte,
        "gt" => Op::Gt,
        "gte" => Op::Gte,
        "prefix" => Op::Prefix,
        _ => return None,
    })
}

fn scalar(json: &Json) -> Result<Value, FiltersError> {
    match json {
        Json::Flag(flag) => Ok(Value::Flag(*flag)),
        Json::Whole(whole) if *whole < WHOLE_END => Ok(Value::Whole(*whole)),
        Json::Text(text) if is_printable(text) => Ok(Value::Text(text.clone())),
        Json::Text(_) => Err(FiltersError("a text with something that is not printable")),
        Json::Whole(_) | Json::Number => Err(FiltersError("a number that is no integer from 0 to 2^53")),
        Json::Null | Json::List(_) | Json::Object(_) => Err(FiltersError("a value that is no text, integer or flag")),
    }
}

impl Serialize for Filters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Document { all: &self.terms, v: VERSION }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Filters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = strict_json::from(deserializer, LIMITS)?;
        Self::of(&json).map_err(D::Error::custom)
    }
}

/// Its values are the customer's.
impl fmt::Debug for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filters").field("terms", &self.terms.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "filters_tests.rs"]
mod tests;
