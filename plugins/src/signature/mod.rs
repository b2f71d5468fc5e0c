//! The signature of a request as it goes upstream (RFC 9421), for apps that want more than who calls to be covered, or cannot
//! verify a JWS.
//!
//! Covered are the method, the path, the query, every field about the caller that is there, the request id, and the body where
//! it was read whole. What is not covered is not named in `Signature-Input`, so an app sees it.
//!
//! Rejected: the crate `httpsig`, whose signer wants an HTTP message of its own and parses components from text for each
//! request; a signature of the answer, which nobody asks for; `alg` among the parameters, which verifiers must know by the key
//! (RFC 9421 7.3.6); `@authority`, which apps see only as their own servers let them.

mod settings;
mod signer;

use http::{HeaderMap, HeaderValue, Method};
use portcullis_api::UnixSeconds;
pub use settings::{Algorithm, KEYID_BYTES_MAX, Settings};
pub use signer::{KeyError, Signer};

use crate::reserved;

/// The name of the signature in `Signature-Input` and `Signature`.
pub const LABEL: &str = "portcullis";
/// `tag` of every signature: no other application's is taken for one (RFC 9421 7.2.7).
pub const TAG: &str = "gw-upstream";
/// How long a signature is valid.
pub const LIFETIME_S: u64 = 30;

/// The names of the fields, in lower case as RFC 9421 2.1 writes them.
pub const SIGNATURE_INPUT: &str = "signature-input";
/// As [`SIGNATURE_INPUT`].
pub const SIGNATURE: &str = "signature";
/// As [`SIGNATURE_INPUT`] (RFC 9530).
pub const CONTENT_DIGEST: &str = "content-digest";

/// Fields that are covered where they are there, in this order. All of them are ours: what a client wrote under these names was
/// stripped.
const FIELDS: [&str; 9] = [
    reserved::KIND,
    reserved::TENANT,
    reserved::SUBJECT,
    reserved::ROLE,
    reserved::ENV,
    reserved::SCOPES,
    reserved::AGENT_CERT,
    reserved::ASSERTION,
    reserved::REQUEST_ID,
];

/// The request as it goes upstream.
#[derive(Clone, Copy)]
pub struct Message<'m> {
    /// The method.
    pub method: &'m Method,
    /// The path, percent-encoded as it is sent.
    pub path: &'m str,
    /// The query as it is sent, without `?`; empty when there is none.
    pub query: &'m str,
    /// The fields, with everything about the caller.
    pub headers: &'m HeaderMap,
    /// `Content-Digest`, where the body is covered.
    pub digest: Option<&'m HeaderValue>,
}

/// When a signature is made, and what makes it another than the last.
#[derive(Clone, Copy)]
pub struct Stamp<'m> {
    /// For `created` and `expires`.
    pub unix: UnixSeconds,
    /// `nonce`: no other signature's; printable, without `"` and `\`.
    pub nonce: &'m str,
}

/// The two fields of a signature.
#[derive(Debug)]
pub struct Signed {
    /// `Signature-Input`.
    pub input: HeaderValue,
    /// `Signature`.
    pub signature: HeaderValue,
}

/// Why there is no signature. The request must not go on without it.
#[derive(Debug, thiserror::Error)]
pub enum Unsigned {
    /// A covered field is there twice, or is no text.
    #[error("field {0} cannot be covered")]
    Field(&'static str),
    /// The key does not sign.
    #[error("the key does not sign")]
    Key,
    /// The signature is no header value.
    #[error("the signature cannot stand in a header")]
    Value,
}

/// What a signature covers: names of components and their values, in order.
type Components<'c> = Vec<(&'static str, &'c str)>;

impl Signer {
    /// The signature of one attempt to send one request.
    ///
    /// # Errors
    /// [`Unsigned`]; none is expected.
    pub fn sign(&self, message: &Message<'_>, stamp: &Stamp<'_>) -> Result<Signed, Unsigned> {
        let query = format!("?{}", message.query); // also where there is none (RFC 9421 2.2.7)
        let components = components(message, &query)?;
        let created = stamp.unix;
        let parameters = format!(
            "{names};created={created};expires={expires};keyid=\"{keyid}\";nonce=\"{nonce}\";tag=\"{TAG}\"",
            names = names(&components),
            expires = created.saturating_add(LIFETIME_S),
            keyid = self.keyid(),
            nonce = stamp.nonce,
        );
        let signature = self.sign_base(&base(&components, &parameters)).ok_or(Unsigned::Key)?;
        let field = |text: String| HeaderValue::try_from(text).map_err(|_| Unsigned::Value);
        Ok(Signed {
            input: field(format!("{LABEL}={parameters}"))?,
            signature: field(format!("{LABEL}=:{signature}:"))?,
        })
    }
}

fn components<'c>(message: &Message<'c>, query: &'c str) -> Result<Components<'c>, Unsigned> {
    let mut components = vec![("@method", message.method.as_str()), ("@path", message.path), ("@query", query)];
    for name in FIELDS {
        let mut values = message.headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => {}
            (Some(value), None) => components.push((name, text(name, value)?)),
            (Some(_), Some(_)) => return Err(Unsigned::Field(name)),
        }
    }
    if let Some(digest) = message.digest {
        components.push((CONTENT_DIGEST, text(CONTENT_DIGEST, digest)?));
    }
    Ok(components)
}

fn text<'v>(name: &'static str, value: &'v HeaderValue) -> Result<&'v str, Unsigned> {
    value.to_str().map(str::trim).map_err(|_| Unsigned::Field(name))
}

/// The covered components as `Signature-Input` lists them (RFC 9421 2.3).
fn names(components: &[(&'static str, &str)]) -> String {
    let mut names = String::with_capacity(256);
    for (name, _) in components {
        names.push(if names.is_empty() { '(' } else { ' ' });
        names.push('"');
        names.extend(name.chars().map(|c| c.to_ascii_lowercase()));
        names.push('"');
    }
    names.push(')');
    names
}

/// The signature base (RFC 9421 2.5): what is signed.
fn base(components: &[(&'static str, &str)], parameters: &str) -> String {
    let mut base = String::with_capacity(1024);
    for (name, value) in components {
        base.push('"');
        base.extend(name.chars().map(|c| c.to_ascii_lowercase()));
        base.push_str("\": ");
        base.push_str(value);
        base.push('\n');
    }
    base.push_str("\"@signature-params\": ");
    base.push_str(parameters);
    base
}

#[cfg(test)]
mod tests;
