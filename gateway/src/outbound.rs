//! The only file that writes a request header: `strip(head).inject(admitted)`.
//!
//! Invariant: `inject` exists on what `strip` returns and on nothing else, and it takes an [`Admitted`]. Pingora applies
//! the client's `Connection` nominations before `upstream_request_filter`, so what is injected there survives them.
#![expect(clippy::disallowed_methods, reason = "this is the one file that writes request headers")]

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::RequestHeader;
use portcullis_plugins::{
    admitted::Admitted,
    assertion::{Bound, Minted, Signer},
    authentication::{Caller, ForwardCredentials, strip_cookie_bytes},
    reserved, signature,
};

/// A head without any reserved or foreign identity header.
pub struct Stripped<'h> {
    head: &'h mut RequestHeader,
}

/// What the gateway itself knows of the request and tells the upstream.
pub struct Forwarding<'r> {
    /// The settled client address.
    pub client: IpAddr,
    /// `https` or `http`, as the listener spoke.
    pub scheme: &'static str,
    /// The canonical host.
    pub host: &'r str,
    /// The listener's port.
    pub port: u16,
    /// Ours, never the client's.
    pub request_id: &'r str,
    /// The origin-form target, where the client sent another form.
    pub target: Option<&'r str>,
    /// The signed assertion, for an upstream that asks for it.
    pub assertion: Option<Asserting<'r>>,
    /// The signature of the request, for an upstream that asks for it.
    pub signature: Option<Signing<'r>>,
    /// Our entry in `Via` (RFC 9110 7.6.3): the version the client spoke, and our name.
    pub via: &'static str,
}

/// What an assertion is made of, besides who calls.
pub struct Asserting<'r> {
    /// What signs for the upstream.
    pub signer: &'r Signer,
    /// The path as it goes upstream.
    pub path: &'r str,
    /// The query as it goes upstream, without `?`.
    pub query: &'r str,
    /// When, and under which name.
    pub minted: Minted<'r>,
}

/// What a signature is made of, besides the fields.
pub struct Signing<'r> {
    /// What signs for the upstream.
    pub signer: &'r signature::Signer,
    /// The path as it goes upstream.
    pub path: &'r str,
    /// The query as it goes upstream, without `?`.
    pub query: &'r str,
    /// The body as it goes upstream, where it was read whole.
    pub body: Option<&'r [u8]>,
    /// When, and with which nonce.
    pub stamp: signature::Stamp<'r>,
}

/// Why the identity was not written. The request is refused then, never sent without it.
#[derive(Debug)]
pub enum NotInjected {
    /// A value cannot stand in a header, or could not be signed.
    Failed(Box<Error>),
    /// The fields about the caller take so many bytes, more than an upstream may be trusted to read.
    TooLarge(usize),
}

impl From<Box<Error>> for NotInjected {
    fn from(error: Box<Error>) -> Self {
        Self::Failed(error)
    }
}

/// Bytes of the fields about the caller, as HTTP/1.1 writes them.
const FIELDS_BYTES_MAX: usize = 4 << 10;
/// The same with the assertion: common servers give all fields of a request 8 KiB.
const WITH_ASSERTION_BYTES_MAX: usize = 8 << 10;

/// What happens to the client's own credential.
pub struct CredentialPolicy<'r> {
    /// The route's word.
    pub forward: ForwardCredentials,
    /// Names of our session cookies.
    pub cookies: &'r [String],
}

/// Removes every reserved and foreign identity header, whatever its spelling.
pub fn strip(head: &mut RequestHeader) -> Stripped<'_> {
    let reserved: Vec<HeaderName> = head.headers.keys().filter(|name| reserved::is_reserved(name)).cloned().collect();
    for name in reserved {
        head.remove_header(&name);
    }
    Stripped { head }
}

impl Stripped<'_> {
    /// Writes the verified identity and what the gateway knows, and removes the client's credential unless the route
    /// says otherwise.
    ///
    /// # Errors
    /// When a value cannot stand in a header, or all of them are too large.
    pub fn inject(
        self,
        admitted: &Admitted,
        forwarding: &Forwarding<'_>,
        credentials: &CredentialPolicy<'_>,
    ) -> Result<(), NotInjected> {
        let head = self.head;
        if let Some(target) = forwarding.target {
            retarget(head, target)?;
        }
        credential(head, credentials)?;
        confined(head, admitted)?;
        match admitted.caller() {
            Caller::Verified(identity) => {
                let told = identity.told().map_err(|_| {
                    Error::explain(ErrorType::InvalidHTTPHeader, "a verified value cannot stand in a header")
                })?;
                for (name, value) in told {
                    head.insert_header(*name, value.clone())?;
                }
            }
            Caller::Anonymous => insert_static(head, reserved::KIND, "anonymous")?,
        }
        if let Some(tenant) = admitted.tenant() {
            insert(head, reserved::TENANT, tenant.as_str())?;
        }
        within(&head.headers, FIELDS_BYTES_MAX)?;
        if let Some(Asserting { signer, path, query, minted }) = &forwarding.assertion {
            let bound = Bound { method: &head.method, path, query };
            let assertion = signer
                .mint(admitted, &bound, minted)
                .map_err(|why| Error::explain(ErrorType::InternalError, why.to_string()))?;
            head.insert_header(reserved::ASSERTION, assertion)?;
            within(&head.headers, WITH_ASSERTION_BYTES_MAX)?;
        }
        forwarded(head, forwarding)?;
        match &forwarding.signature {
            Some(signing) => Ok(sign(head, signing)?),
            None => Ok(()),
        }
    }
}

/// Writes the target. HTTP/2 names the host beside it, which an upstream of HTTP/2 reads: it stays.
fn retarget(head: &mut RequestHeader, target: &str) -> Result<()> {
    if head.uri.authority().is_none() {
        return head.set_raw_path(target.as_bytes());
    }
    let mut parts = head.uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().or_err(ErrorType::InvalidHTTPHeader, "the target")?);
    head.set_uri(http::Uri::from_parts(parts).or_err(ErrorType::InvalidHTTPHeader, "the target")?);
    Ok(())
}

/// Sets the headers that the route confines, in the place of all that an upstream could take for one of them, and the
/// length of the form that goes upstream instead of the body.
fn confined(head: &mut RequestHeader, admitted: &Admitted) -> Result<()> {
    let scoped = admitted.in_scope();
    for (name, value) in scoped.headers() {
        let meant = reserved::fold(name.as_str());
        let alike = |other: &&HeaderName| reserved::fold(other.as_str()).as_str() == meant.as_str();
        let others: Vec<HeaderName> = head.headers.keys().filter(alike).cloned().collect();
        for other in others {
            head.remove_header(&other);
        }
        head.insert_header(name.clone(), value.clone())?;
    }
    let Some(form) = scoped.form() else { return Ok(()) };
    if head.headers.contains_key(header::CONTENT_LENGTH) {
        head.insert_header(header::CONTENT_LENGTH, HeaderValue::from(form.len()))?;
    }
    for digest in ["content-digest", "content-md5", "digest", "repr-digest"] {
        head.remove_header(digest); // of the body that came
    }
    Ok(())
}

/// Whether the fields about the caller fit. None is ever cut: an app that is told half of the scopes is told a lie.
fn within(headers: &HeaderMap, max: usize) -> Result<(), NotInjected> {
    // Nothing else of ours is there: whatever folds to one of these names was stripped.
    let bytes = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-portcullis-"))
        .fold(0usize, |sum, (name, value)| {
            sum.saturating_add(name.as_str().len()).saturating_add(value.len()).saturating_add(4)
        });
    if bytes > max { Err(NotInjected::TooLarge(bytes)) } else { Ok(()) }
}

fn forwarded(head: &mut RequestHeader, forwarding: &Forwarding<'_>) -> Result<()> {
    insert(head, reserved::REQUEST_ID, forwarding.request_id)?;
    insert(head, reserved::FORWARDED_FOR, &forwarding.client.to_string())?;
    insert_static(head, reserved::FORWARDED_PROTO, forwarding.scheme)?;
    insert(head, reserved::FORWARDED_HOST, forwarding.host)?;
    head.insert_header(reserved::FORWARDED_PORT, HeaderValue::from(forwarding.port))?;
    head.remove_header(&header::EXPECT);
    head.append_header("via", HeaderValue::from_static(forwarding.via))?;
    if let Some(authority) = head.uri.authority()
        && authority.as_str() != forwarding.host
    {
        // HTTP/2 names the host here; an upstream of HTTP/2 reads it here.
        let mut parts = head.uri.clone().into_parts();
        parts.authority = Some(forwarding.host.parse().or_err(ErrorType::InvalidHTTPHeader, "the canonical host")?);
        head.set_uri(http::Uri::from_parts(parts).or_err(ErrorType::InvalidHTTPHeader, "the canonical host")?);
    }
    if head.headers.contains_key(header::HOST) {
        insert(head, "host", forwarding.host)?;
    }
    Ok(())
}

/// Signs what was written, in the place of all that an upstream could take for a signature. A client's `Content-Digest` goes
/// only where ours comes.
fn sign(head: &mut RequestHeader, signing: &Signing<'_>) -> Result<()> {
    let failed = |why: &str| Error::explain(ErrorType::InternalError, why.to_owned());
    let mut ours = vec![signature::SIGNATURE, signature::SIGNATURE_INPUT];
    let digest = match signing.body {
        Some(body) => {
            ours.push(signature::CONTENT_DIGEST);
            Some(signature::Signer::content_digest(body).ok_or_else(|| failed("no digest of the body"))?)
        }
        None => None,
    };
    let alike = |name: &&HeaderName| ours.contains(&reserved::fold(name.as_str()).as_str());
    let clients: Vec<HeaderName> = head.headers.keys().filter(alike).cloned().collect();
    for name in clients {
        head.remove_header(&name);
    }
    let message = signature::Message {
        method: &head.method,
        path: signing.path,
        query: signing.query,
        headers: &head.headers,
        digest: digest.as_ref(),
    };
    let signed = signing.signer.sign(&message, &signing.stamp).map_err(|why| failed(&why.to_string()))?;
    if let Some(digest) = digest {
        head.insert_header("Content-Digest", digest)?;
    }
    head.insert_header("Signature-Input", signed.input)?;
    head.insert_header("Signature", signed.signature)
}

/// Removes the credential that was verified, and our session cookies; joins the crumbs of an h2 `cookie` (RFC 9113
/// 8.2.3) so that an HTTP/1 upstream sees one field.
fn credential(head: &mut RequestHeader, policy: &CredentialPolicy<'_>) -> Result<()> {
    if policy.forward == ForwardCredentials::Strip {
        head.remove_header("x-api-key");
        head.remove_header(&header::AUTHORIZATION);
    }
    let crumbs: Vec<&[u8]> = head.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.is_empty() {
        return Ok(());
    }
    let mut joined = without_attributes(&crumbs.join(&b"; "[..]));
    if policy.forward == ForwardCredentials::Strip {
        for name in policy.cookies {
            joined = joined.and_then(|cookies| strip_cookie_bytes(&cookies, name));
        }
    }
    head.remove_header(&header::COOKIE);
    if let Some(cookies) = joined {
        let value = HeaderValue::from_bytes(&cookies).or_err(ErrorType::InvalidHTTPHeader, "cookie")?;
        head.insert_header(header::COOKIE, value)?;
    }
    Ok(())
}

/// Drops `$Version` and its like: attributes of RFC 2965 that some apps still read as a change of the cookies' syntax.
fn without_attributes(cookies: &[u8]) -> Option<Vec<u8>> {
    if !cookies.contains(&b'$') {
        return Some(cookies.to_vec());
    }
    let kept: Vec<&[u8]> = cookies
        .split(|&byte| byte == b';')
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty() && !pair.starts_with(b"$"))
        .collect();
    (!kept.is_empty()).then(|| kept.join(&b"; "[..]))
}

fn insert_static(head: &mut RequestHeader, name: &'static str, value: &'static str) -> Result<()> {
    head.insert_header(name, HeaderValue::from_static(value))
}

fn insert(head: &mut RequestHeader, name: &'static str, value: &str) -> Result<()> {
    let value = HeaderValue::from_str(value)
        .or_err(ErrorType::InvalidHTTPHeader, "a verified value cannot stand in a header")?;
    head.insert_header(name, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_about_the_caller_fit_up_to_the_bound_and_not_one_byte_past_it() {
        let mut headers = HeaderMap::new();
        headers.insert("x-other", HeaderValue::from_static("does not count"));
        for (length, fits) in [(100 - 22, true), (100 - 21, false)] {
            // The name has 18 bytes; `: ` and the line's end have 4.
            let value = HeaderValue::from_str(&"v".repeat(length)).unwrap();
            headers.insert("x-portcullis-scope", value);
            assert_eq!(within(&headers, 100).is_ok(), fits, "{length}");
        }
    }
}
