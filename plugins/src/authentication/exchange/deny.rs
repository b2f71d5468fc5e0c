//! Why there is no token. What RFC 6749 (5.2) and RFC 8693 (2.2.2) have a word for is told by that word; what they have
//! none for (too often, from the wrong address) as everywhere else.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderValue,
    header::{RETRY_AFTER, WWW_AUTHENTICATE},
};
use portcullis_api::{Code, Refusal};

use crate::authentication::Why;

/// A refusal of the exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deny {
    /// The request is not what it must be; why, for the log.
    Request(&'static str),
    /// Another grant than an exchange.
    Grant,
    /// A scope that the key does not have, or that is none.
    Scope(&'static str),
    /// The token would be for somebody else.
    Target,
    /// The key is none, or has ended.
    Client(Why),
    /// The key is valid, and not from this address.
    KeyAddress,
    /// The key is none, and its network has tried too many of those.
    KeyFailures {
        /// For the log only.
        why: Why,
        /// Seconds until there is room for another.
        retry_after_s: u64,
    },
    /// The key was exchanged too often.
    Rate {
        /// Seconds until there is room for another.
        retry_after_s: u64,
    },
}

const REQUEST: Code =
    Code { name: "exchange.invalid_request", status: 400, title: "The request for a token is not well-formed" };
const GRANT: Code =
    Code { name: "exchange.unsupported_grant_type", status: 400, title: "Only a token exchange is served here" };
const SCOPE: Code = Code { name: "exchange.invalid_scope", status: 400, title: "The API key does not have the scope" };
const TARGET: Code =
    Code { name: "exchange.invalid_target", status: 400, title: "Tokens for this audience are not made here" };
const CLIENT: Code = Code { name: "exchange.invalid_client", status: 401, title: "The API key is not valid" };
const KEY_ADDRESS: Code =
    Code { name: "exchange.key_address", status: 403, title: "The API key may not be used from this address" };
const KEY_FAILURES: Code =
    Code { name: "exchange.key_failures", status: 429, title: "Too many API keys from this network were not valid" };
const RATE: Code = Code { name: "exchange.rate", status: 429, title: "The API key was exchanged too often" };

impl Deny {
    /// The `error` of an OAuth answer, where there is one for it.
    #[must_use]
    pub const fn error(&self) -> Option<&'static str> {
        match self {
            Self::Request(_) => Some("invalid_request"),
            Self::Grant => Some("unsupported_grant_type"),
            Self::Scope(_) => Some("invalid_scope"),
            Self::Target => Some("invalid_target"),
            Self::Client(_) => Some("invalid_client"),
            Self::KeyAddress | Self::KeyFailures { .. } | Self::Rate { .. } => None,
        }
    }
}

impl Refusal for Deny {
    const CODES: &'static [Code] = &[REQUEST, GRANT, SCOPE, TARGET, CLIENT, KEY_ADDRESS, KEY_FAILURES, RATE];

    fn code(&self) -> Code {
        match self {
            Self::Request(_) => REQUEST,
            Self::Grant => GRANT,
            Self::Scope(_) => SCOPE,
            Self::Target => TARGET,
            Self::Client(_) => CLIENT,
            Self::KeyAddress => KEY_ADDRESS,
            Self::KeyFailures { .. } => KEY_FAILURES,
            Self::Rate { .. } => RATE,
        }
    }

    fn detail(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Request(why) | Self::Scope(why) => Some((*why).into()),
            Self::Client(why) | Self::KeyFailures { why, .. } => Some(why.as_str().into()),
            Self::KeyAddress => Some("the client is in none of the key's cidrs".into()),
            Self::Grant | Self::Target | Self::Rate { .. } => None,
        }
    }

    fn headers(&self, answer: &mut HeaderMap) {
        match self {
            Self::Client(_) => {
                answer.insert(WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer realm="portcullis""#));
            }
            Self::KeyFailures { retry_after_s, .. } | Self::Rate { retry_after_s } => {
                answer.insert(RETRY_AFTER, HeaderValue::from(*retry_after_s));
            }
            Self::Request(_) | Self::Grant | Self::Scope(_) | Self::Target | Self::KeyAddress => {}
        }
    }
}
