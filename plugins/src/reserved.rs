//! Which header names are the gateway's own: what a client may not send, nominate or receive, and how our values are
//! written.
//!
//! Names are compared by [`fold`]: CGI, WSGI and PHP upstreams read `X_Portcullis_Tenant` and `X-Portcullis-Tenant` as
//! one, so whatever folds to a reserved name is that name.
//!
//! Invariant: every header this gateway injects is reserved, and no reserved name may be nominated by `Connection`.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use portcullis_api::Scope;

/// The verified tenant.
pub const TENANT: &str = "X-Portcullis-Tenant";
/// The verified subject, `issuer:sub`, percent-encoded by [`percent_encode_value`].
pub const SUBJECT: &str = "X-Portcullis-Subject";
/// `user`, `apikey`, `embed`, `agent` or `anonymous`; on every forwarded request, so that an upstream can tell an anonymous caller from
/// a request that went round the gateway.
pub const KIND: &str = "X-Portcullis-Kind";
/// The verified role.
pub const ROLE: &str = "X-Portcullis-Role";
/// The environment of the API key.
pub const ENV: &str = "X-Portcullis-Env";
/// The verified scopes, written by [`scopes_value`].
pub const SCOPES: &str = "X-Portcullis-Scopes";
/// Which data the caller may see: base64url (no padding) of the filters' one spelling.
pub const FILTERS: &str = "X-Portcullis-Filters";
/// The SHA-256 of an agent's certificate: `sha256:` and base64url without padding.
pub const AGENT_CERT: &str = "X-Portcullis-Agent-Cert";
/// The signed assertion of all this, for upstreams that ask for it.
pub const ASSERTION: &str = "X-Portcullis-Assertion";
/// The gateway's id of the request.
pub const REQUEST_ID: &str = "X-Request-Id";
/// The settled client address. The gateway reads the client's own before it strips it.
pub const FORWARDED_FOR: &str = "X-Forwarded-For";
/// The scheme of the listener.
pub const FORWARDED_PROTO: &str = "X-Forwarded-Proto";
/// The canonical host.
pub const FORWARDED_HOST: &str = "X-Forwarded-Host";
/// The port of the listener.
pub const FORWARDED_PORT: &str = "X-Forwarded-Port";

/// Every header the gateway injects towards an upstream, in the case in which it is written.
pub const INJECTED: &[&str] = &[
    TENANT,
    SUBJECT,
    KIND,
    ROLE,
    ENV,
    SCOPES,
    FILTERS,
    AGENT_CERT,
    ASSERTION,
    REQUEST_ID,
    FORWARDED_FOR,
    FORWARDED_PROTO,
    FORWARDED_HOST,
    FORWARDED_PORT,
];

/// Security headers of a response, lower case. They are not stripped: the gateway decides for each whether its own
/// value replaces the upstream's or only fills in for a missing one.
pub const SECURITY: &[&str] = &[
    "content-security-policy",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "permissions-policy",
    "referrer-policy",
    "strict-transport-security",
    "x-content-type-options",
    "x-frame-options",
];

/// How a pattern of a table is compared with a folded name.
#[derive(Clone, Copy)]
enum Pattern {
    /// The whole name.
    Name(&'static str),
    /// Its beginning.
    Prefix(&'static str),
}
use Pattern::{Name, Prefix};

impl Pattern {
    const fn text(self) -> &'static str {
        match self {
            Self::Name(text) | Self::Prefix(text) => text,
        }
    }

    fn matches(self, folded: &Folded) -> bool {
        match self {
            Self::Name(text) => !folded.cut && folded.as_bytes() == text.as_bytes(),
            Self::Prefix(text) => folded.as_bytes().starts_with(text.as_bytes()),
        }
    }
}

/// What a client may not send on: the names we inject, and those by which other proxies tell an app who is calling,
/// from where, or for which URL. Each has its reason; a name that apps use for their own (`X-Auth-Token`,
/// `X-Account-Id`, `X-Amzn-Trace-Id`) is not one. Folded, sorted, and no prefix is the beginning of another pattern:
/// [`find`] needs both.
const INBOUND: &[Pattern] = &[
    Prefix("cf-access-"),                 // Cloudflare Access: the token and user it verified
    Prefix("cf-connecting-ip"),           // Cloudflare: the client's address
    Prefix("client-cert"),                // RFC 9440: the client's certificate
    Name("client-ip"),                    // PHP apps take it for the client's address before any other
    Name("early-data"),                   // RFC 8470: a proxy's word that a request may be a replay
    Name("fastly-client-ip"),             // Fastly: the client's address
    Prefix("fly-"),                       // Fly.io: the client's address and port
    Name("forwarded"),                    // RFC 7239
    Name("front-end-https"),              // Microsoft proxies: the request came by TLS
    Prefix("grpc-metadata-x-portcullis"), // grpc-gateway hands it on as our own name
    Prefix("impersonate-"),               // Kubernetes: act as this user or group
    Prefix("iv-"),                        // IBM WebSEAL: user, groups and credentials
    Prefix("oam-"),                       // Oracle Access Manager: user and groups
    Prefix("oidc-"),                      // mod_auth_openidc: claims and tokens
    Name("proxy"),                        // becomes HTTP_PROXY in a CGI (CVE-2016-5385)
    Name("proxy-client-ip"),              // WebLogic plug-in; Java apps take it for the client's address
    Prefix("remote-"),                    // REMOTE_USER and REMOTE_ADDR behind a CGI
    Prefix("shib-"),                      // Shibboleth: session and attributes
    Prefix("sm-"),                        // SiteMinder: user, groups and session
    Prefix("ssl-client-"),                // nginx and Apache: fields of the client's certificate
    Prefix("tailscale-"),                 // Tailscale: the user it verified
    Name("true-client-ip"),               // Akamai and Cloudflare: the client's address
    Name("txn-token"),                    // OAuth transaction tokens: a verified caller between services
    Prefix("wl-proxy-"),                  // WebLogic plug-in: address, TLS and client certificate
    Prefix("x-accel-"),                   // nginx; Rack::Sendfile maps paths by it (CVE-2025-61780)
    Name("x-access-token"),               // identity-aware proxies: the user's token
    Prefix("x-amzn-mtls-"),               // AWS load balancers: the client's certificate
    Prefix("x-amzn-oidc-"),               // AWS load balancers: the user they verified; other x-amzn- are traces
    Name("x-anonymous-consumer"),         // Kong
    Prefix("x-apigateway-"),              // Google API Gateway: the claims it verified
    Prefix("x-appengine-"),               // App Engine: user, cron and task marks that apps trust
    Prefix("x-arr-"),                     // IIS request routing: client certificate, TLS
    Name("x-auth-email"),                 // forward-auth proxies; x-auth-token is the app's own and stays
    Prefix("x-auth-group"),               // forward-auth proxies
    Prefix("x-auth-request-"),            // oauth2-proxy: user, groups, tokens
    Prefix("x-auth-role"),                // forward-auth proxies
    Prefix("x-auth-user"),                // forward-auth proxies
    Prefix("x-authenticated-"),           // Kong, PAN-OS and others: user, groups, scope
    Prefix("x-authentik-"),               // authentik
    Prefix("x-azure-"),                   // Azure Front Door: address, and the id by which apps trust it
    Prefix("x-client-cert"),              // the client's certificate
    Name("x-client-ip"),                  // Azure, Apache mod_remoteip
    Name("x-cluster-client-ip"),          // Rackspace, Zeus
    Prefix("x-consumer-"),                // Kong: the consumer it verified
    Prefix("x-credential-"),              // Kong
    Name("x-email"),                      // identity-aware proxies; longer names are left to apps
    Name("x-endpoint-api-userinfo"),      // Google ESP: the claims it verified
    Prefix("x-envoy-"),                   // Envoy: what makes a request internal, original path, retries
    Prefix("x-forwarded"),                // any of them, with and without what follows
    Prefix("x-goog-"),                    // Google IAP: the user it verified
    Prefix("x-group"),                    // groups, as x-role
    Name("x-host"),                       // host override in URL builders
    Prefix("x-http-method"),              // method override
    Name("x-id-token"),                   // identity-aware proxies
    Prefix("x-impersonate-"),             // act as another
    Prefix("x-internal-"),                // marks of a trusted hop
    Prefix("x-jwt-"),                     // claims that a proxy took out of a token
    Name("x-method-override"),            // method override
    Name("x-middleware-subrequest"),      // Next.js skips its middleware (CVE-2025-29927)
    Prefix("x-ms-client-principal"),      // Azure App Service: the user it verified
    Prefix("x-ms-token-"),                // Azure App Service: the user's tokens
    Name("x-nf-client-connection-ip"),    // Netlify: the client's address
    Prefix("x-org"),                      // organisation, as x-tenant
    Prefix("x-original-"),                // IIS and Envoy: another URL, host or address than was judged
    Name("x-originating-ip"),             // the client's address
    Prefix("x-pan-"),                     // Palo Alto: user and groups
    Prefix("x-pomerium-"),                // Pomerium
    Prefix("x-portcullis"),               // ours
    Prefix("x-proxy-user"),               // the user that a proxy verified
    Name("x-proxyuser-ip"),               // the client's address
    Name("x-real-ip"),                    // nginx: the client's address
    Prefix("x-remote-"),                  // as remote-; Kubernetes' front proxy: x-remote-user, -group, -extra-
    Name("x-request-id"),                 // ours
    Prefix("x-rewrite-"),                 // IIS: another URL than was judged
    Prefix("x-role"),                     // roles
    Prefix("x-saml-"),                    // SAML proxies: user and attributes
    Name("x-scheme"),                     // nginx ingress: the scheme
    Prefix("x-scope"),                    // scopes
    Name("x-sendfile-type"),              // Rack::Sendfile (CVE-2025-61780)
    Prefix("x-shib-"),                    // as shib-
    Prefix("x-ssl-"),                     // fields of the client's certificate
    Prefix("x-sso-"),                     // single sign-on proxies
    Prefix("x-tenant"),                   // tenant
    Name("x-url-scheme"),                 // the scheme, in older WSGI apps
    Prefix("x-user"),                     // user
    Prefix("x-vercel-"),                  // Vercel: address and trusted marks
    Prefix("x-vouch-"),                   // Vouch: user and claims
    Prefix("x-webauth-"),                 // Grafana's auth proxy
];

/// What `Connection` and `Trailer` may not name besides [`INBOUND`]: fields that a control or the gateway reads, or
/// that every recipient is meant to see (RFC 9110 7.6.1). Same order as [`INBOUND`].
const END_TO_END: &[Pattern] = &[
    Prefix("accept"),
    Prefix("access-control-"),
    Name("authorization"),
    Name("cache-control"),
    Prefix("content-"),
    Name("cookie"),
    Name("date"),
    Name("expect"),
    Name("host"),
    Prefix("if-"),
    Name("origin"),
    Name("range"),
    Name("referer"),
    Prefix("sec-"),
    Name("transfer-encoding"),
    Name("user-agent"),
    Name("via"),
    Name("x-api-key"),
];

/// What an upstream may not answer with: our names, the cross-origin answer, which is the gateway's alone, and what
/// tells an attacker which software to look up. Same order as [`INBOUND`].
const RESPONSE: &[Pattern] =
    &[Prefix("access-control-"), Name("server"), Prefix("x-portcullis"), Name("x-powered-by"), Name("x-request-id")];

/// Longest folded name that is kept; every pattern is shorter.
const FOLDED_MAX: usize = 64;

/// A folded name, cut after 64 bytes, which is more than any reserved name has. Lives on the stack.
#[derive(Clone, Copy)]
pub struct Folded {
    bytes: [u8; FOLDED_MAX],
    len: usize,
    cut: bool,
}

impl Folded {
    /// The folded text: `a-z`, `0-9` and single `-`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only ASCII is ever pushed.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn push(&mut self, byte: u8) {
        match self.bytes.get_mut(self.len) {
            Some(slot) => {
                *slot = byte;
                self.len = self.len.saturating_add(1);
            }
            None => self.cut = true,
        }
    }
}

impl std::fmt::Debug for Folded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Folds a header name: lower case, every run of bytes that are neither letters nor digits is one `-`, and such a run
/// at the start is nothing.
#[must_use]
pub fn fold(name: &str) -> Folded {
    let mut folded = Folded { bytes: [0; FOLDED_MAX], len: 0, cut: false };
    // A run at the start is dropped: nothing sensible begins with one, and `-x-portcullis-tenant` is no way round.
    let mut in_run = true;
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() {
            folded.push(byte.to_ascii_lowercase());
        } else if !in_run {
            folded.push(b'-');
        }
        in_run = !byte.is_ascii_alphanumeric();
    }
    folded
}

/// One binary search: since no prefix is the beginning of another pattern, only the greatest pattern that is not greater
/// than the name can match it.
fn find(table: &[Pattern], folded: &Folded) -> bool {
    let after = table.partition_point(|pattern| pattern.text().as_bytes() <= folded.as_bytes());
    after.checked_sub(1).and_then(|at| table.get(at)).is_some_and(|pattern| pattern.matches(folded))
}

/// Whether a client's header of this name must not reach an upstream. Allocates nothing.
#[must_use]
pub fn is_reserved(name: impl AsRef<str>) -> bool {
    find(INBOUND, &fold(name.as_ref()))
}

/// Whether `Connection` or `Trailer` must not name this header: it is reserved, or a control reads it. Allocates
/// nothing.
#[must_use]
pub fn must_not_be_nominated(name: impl AsRef<str>) -> bool {
    let folded = fold(name.as_ref());
    find(INBOUND, &folded) || find(END_TO_END, &folded)
}

/// Whether an upstream's header of this name must not reach a client. Allocates nothing. The headers of [`SECURITY`]
/// are not among them.
#[must_use]
pub fn is_response_reserved(name: impl AsRef<str>) -> bool {
    find(RESPONSE, &fold(name.as_ref()))
}

/// What stands bare in a value of ours: the unreserved bytes of RFC 3986, and `:` and `@`, which keep `issuer:sub` and
/// addresses readable. Not `%`, so decoding gives back exactly what was encoded; not `+`, which some decoders read as
/// a space; not `,`, `;`, `"` or space, which split lists.
const BARE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':').remove(b'@');

/// Percent-encodes free text for a header value: UTF-8, only `A-Z a-z 0-9 - . _ ~ : @` stand bare.
///
/// The result is visible ASCII whatever went in, so no claim can split a header or a list. Empty text gives empty
/// text; an empty value is not sent.
#[must_use]
pub fn percent_encode_value(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, BARE).into()
}

/// The value of [`SCOPES`]: joined by one space, which no scope can contain. `None` when there are none: an empty
/// value is not sent.
#[must_use]
pub fn scopes_value(scopes: &[Scope]) -> Option<String> {
    let mut value = String::new();
    for scope in scopes {
        if !value.is_empty() {
            value.push(' ');
        }
        value.push_str(scope.as_str());
    }
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests;
