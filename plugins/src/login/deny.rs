//! Why a login is refused. Two that are locked get the same answer, whatever is locked and whether there is such an account.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, header::RETRY_AFTER};
use portcullis_api::{Code, Refusal};

use super::{BODY_BYTES_MAX, Lock, LockKey, Scope};

/// Why a login is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deny {
    /// A lock is on.
    Locked {
        /// Which.
        lock: Lock,
        /// Whole seconds until it ends, at least 1.
        remaining_s: u64,
    },
    /// As many logins are under way as may fail before there is a lock.
    AtOnce {
        /// Of what.
        scope: Scope,
        /// Its key.
        key: LockKey,
        /// How many.
        under_way: u32,
    },
    /// The account cannot be read: the body is larger than [`BODY_BYTES_MAX`].
    BodyTooLarge,
}

const LOCKED: Code = Code { name: "login.locked", status: 429, title: "Too many logins have failed: try again later" };
const BODY_TOO_LARGE: Code = Code { name: "login.body_too_large", status: 413, title: "The login is too large" };

impl Refusal for Deny {
    const CODES: &'static [Code] = &[LOCKED, BODY_TOO_LARGE];

    fn code(&self) -> Code {
        match self {
            Self::Locked { .. } | Self::AtOnce { .. } => LOCKED,
            Self::BodyTooLarge => BODY_TOO_LARGE,
        }
    }

    fn rule(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Locked { lock: Lock { scope, .. }, .. } | Self::AtOnce { scope, .. } => Some(scope.as_str().into()),
            Self::BodyTooLarge => None,
        }
    }

    fn detail(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Locked { lock: Lock { scope, key, failures, .. }, remaining_s } => {
                format!("the {} {key} is locked after {failures} failures, {remaining_s}s more", scope.as_str()).into()
            }
            Self::AtOnce { scope, key, under_way } => {
                format!("the {} {key} has {under_way} logins under way, which may all fail", scope.as_str()).into()
            }
            Self::BodyTooLarge => format!("more than {BODY_BYTES_MAX} bytes, or more than can be read ahead").into(),
        })
    }

    fn headers(&self, answer: &mut HeaderMap) {
        let wait_s = match self {
            Self::Locked { remaining_s, .. } => *remaining_s,
            Self::AtOnce { .. } => 1,
            Self::BodyTooLarge => return,
        };
        answer.insert(RETRY_AFTER, HeaderValue::from(wait_s));
    }
}
