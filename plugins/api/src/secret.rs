//! Secrets: never printed, wiped when dropped, compared in constant time, configured by reference only.

use std::{fmt, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes that must not be printed, logged or compared in variable time.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for the one use they are for.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Constant-time comparison; lengths are not secret.
    #[must_use]
    pub fn equals(&self, other: &[u8]) -> bool {
        self.0.as_slice().ct_eq(other).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Where a secret (or any file the operator keeps beside the configuration) is: `file:PATH` or `env:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub enum SecretRef {
    /// `file:PATH`; a relative path is relative to the configuration file.
    File(PathBuf),
    /// `env:NAME`.
    Env(String),
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            // The text itself is not echoed: it may be the secret.
            Some(_) | None => {
                Err(de::Error::custom("a secret is written as a reference, `file:PATH` or `env:NAME`, never inline"))
            }
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Env(name) => write!(f, "env:{name}"),
        }
    }
}
