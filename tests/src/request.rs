//! Requests as a test writes them: exact bytes, with a mark by which the upstream finds them again.

use std::sync::atomic::{AtomicU64, Ordering};

/// Which protocol a request goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    H1,
    /// HTTP/2.
    H2,
}

impl Protocol {
    /// Both, for attacks that exist in both.
    pub const BOTH: [Self; 2] = [Self::H1, Self::H2];
}

/// A request. Nothing is checked and nothing is repaired.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The request target.
    pub target: Vec<u8>,
    /// The `Host` field (HTTP/1.1) or `:authority` (HTTP/2); none when `None`.
    pub host: Option<Vec<u8>>,
    /// Header fields in order.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// The body; on HTTP/1.1 with a `Content-Length` unless the test wrote its own framing.
    pub body: Vec<u8>,
    /// What the upstream finds the request by; sent as `X-Mark`.
    pub mark: String,
    framed: bool,
}

static MARKS: AtomicU64 = AtomicU64::new(0);

/// A mark that nobody else uses.
pub fn mark() -> String {
    format!("m{}-{}", std::process::id(), MARKS.fetch_add(1, Ordering::Relaxed))
}

/// The host of the default setup.
pub const HOST: &str = "api.example.test";

impl Request {
    /// A request to the default host.
    pub fn new(method: &str, target: impl AsRef<[u8]>) -> Self {
        Self {
            method: method.to_owned(),
            target: target.as_ref().to_vec(),
            host: Some(HOST.as_bytes().to_vec()),
            headers: Vec::new(),
            body: Vec::new(),
            mark: mark(),
            framed: false,
        }
    }

    /// A GET.
    pub fn get(target: impl AsRef<[u8]>) -> Self {
        Self::new("GET", target)
    }

    /// A POST with a body.
    pub fn post(target: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Self {
        Self::new("POST", target).body(body)
    }

    /// To this host.
    #[must_use]
    pub fn host(mut self, host: impl AsRef<[u8]>) -> Self {
        self.host = Some(host.as_ref().to_vec());
        self
    }

    /// Without a host.
    #[must_use]
    pub fn hostless(mut self) -> Self {
        self.host = None;
        self
    }

    /// With one more field.
    #[must_use]
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// With `Authorization: Bearer`.
    #[must_use]
    pub fn bearer(self, token: impl AsRef<str>) -> Self {
        self.header("Authorization", format!("Bearer {}", token.as_ref()))
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self.framed = true;
        self
    }

    /// With a JSON body.
    #[must_use]
    pub fn json(self, body: &serde_json::Value) -> Self {
        self.header("Content-Type", "application/json").body(body.to_string())
    }

    /// With this body in chunks of `size` (HTTP/1.1 only).
    #[must_use]
    pub fn chunked(mut self, body: impl AsRef<[u8]>, size: usize) -> Self {
        self.framed = false;
        self.body.clear();
        for chunk in body.as_ref().chunks(size) {
            self.body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            self.body.extend_from_slice(chunk);
            self.body.extend_from_slice(b"\r\n");
        }
        self.body.extend_from_slice(b"0\r\n\r\n");
        self.header("Transfer-Encoding", "chunked")
    }

    /// The head as HTTP/1.1 sends it.
    pub fn h1_head(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
        put(&[self.method.as_bytes(), b" ", &self.target, b" HTTP/1.1\r\n"]);
        if let Some(host) = &self.host {
            put(&[b"Host: ", host, b"\r\n"]);
        }
        put(&[b"X-Mark: ", self.mark.as_bytes(), b"\r\n"]);
        for (name, value) in &self.headers {
            put(&[name, b": ", value, b"\r\n"]);
        }
        if self.framed {
            put(&[format!("Content-Length: {}\r\n", self.body.len()).as_bytes()]);
        }
        put(&[b"\r\n"]);
        out
    }

    /// With the length of its body in a header of its own, as most HTTP/2 clients send it, unless it has one already.
    pub(crate) fn with_length(&self) -> Self {
        let declared = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(b"content-length"));
        if self.framed && !declared {
            self.clone().header("content-length", self.body.len().to_string())
        } else {
            self.clone()
        }
    }

    /// The whole request as HTTP/1.1 sends it.
    pub fn h1(&self) -> Vec<u8> {
        [self.h1_head(), self.body.clone()].concat()
    }

    /// The fields as HTTP/2 sends them, names in lower case.
    pub fn h2_fields(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let pseudo = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
        let mut fields =
            vec![pseudo(":method", self.method.as_bytes()), pseudo(":scheme", b"https"), pseudo(":path", &self.target)];
        fields.extend(self.host.as_ref().map(|host| pseudo(":authority", host)));
        fields.push(pseudo("x-mark", self.mark.as_bytes()));
        fields.extend(self.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())));
        fields
    }
}
