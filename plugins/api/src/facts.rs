//! What is known of a request once it is canonical: shared references, all of them.

use http::{HeaderMap, Method};

/// The protocol the client spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// The canonical request, as every control sees it.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'r> {
    /// As the client sent it, after the route's list admitted it.
    pub method: &'r Method,
    /// Canonical host: lower-case A-label, no port, no trailing dot.
    pub host: &'r str,
    /// The raw path as it goes on the wire: starts with `/`, canonical, still percent-encoded.
    pub path: &'r str,
    /// The raw query without `?`, still percent-encoded; empty when there is none.
    pub query: &'r str,
    /// The client's headers after reserved names were stripped.
    pub headers: &'r HeaderMap,
    /// What the client spoke.
    pub protocol: Protocol,
}
