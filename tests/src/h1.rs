//! A raw HTTP/1.1 client: sends the bytes it is told, repairs nothing, and reads answers strictly.

use std::{
    fmt,
    io::{self, Read, Write},
    time::Duration,
};

use serde_json::Value;

use crate::dial::{Wire, is_close};

/// An answer of the gateway, over any protocol.
#[derive(Clone, Default)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header fields in order, names as they came.
    pub headers: Vec<(String, String)>,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// Trailer fields (HTTP/2).
    pub trailers: Vec<(String, String)>,
    /// The head as it came (HTTP/1.1).
    pub head: Vec<u8>,
}

impl Answer {
    /// Every value of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// The one value of a field.
    ///
    /// # Panics
    /// When it is there twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} is there {} times in {self:?}", all.len());
        all.first().copied()
    }

    /// The request id that the gateway gave.
    pub fn request_id(&self) -> String {
        self.header("x-request-id").unwrap_or_else(|| panic!("no request id in {self:?}")).to_owned()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The problem document (RFC 9457), checked for everything that each of ours must have.
    pub fn problem(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: Value = serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {self:?}"));
        for member in ["type", "title", "status", "code", "request_id"] {
            assert!(problem.get(member).is_some(), "no `{member}` in {self:?}");
        }
        assert_eq!(problem["status"], self.status, "{self:?}");
        assert_eq!(problem["request_id"], self.request_id(), "{self:?}");
        problem
    }

    /// The code of the problem document.
    pub fn code(&self) -> String {
        self.problem()["code"].as_str().expect("the code is text").to_owned()
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body: String = self.text().chars().take(600).collect();
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("body", &body)
            .field("trailers", &self.trailers)
            .finish_non_exhaustive()
    }
}

/// One HTTP/1.1 connection.
pub struct H1 {
    wire: Wire,
    pending: Vec<u8>,
}

impl H1 {
    /// Over a connection.
    pub fn over(wire: Wire) -> Self {
        Self { wire, pending: Vec::new() }
    }

    /// The connection.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Sends bytes. `false` when the peer had closed: that is for the test to judge, by what it reads next.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        match self.wire.write_all(bytes.as_ref()).and_then(|()| self.wire.flush()) {
            Ok(()) => true,
            Err(error) if is_close(&error) => false,
            Err(error) => panic!("sending failed: {error}"),
        }
    }

    /// The next final answer, `None` when the peer closed without one.
    pub fn answer(&mut self) -> Option<Answer> {
        self.answer_to("GET")
    }

    /// The next final answer to a request with this method.
    pub fn answer_to(&mut self, method: &str) -> Option<Answer> {
        loop {
            let answer = self.head()?;
            if !(100..200).contains(&answer.status) || answer.status == 101 {
                return Some(self.body_of(answer, method));
            }
        }
    }

    /// The next head, also an interim one, without its body.
    pub fn head(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(at) = find(&self.pending, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill() {
                assert!(self.pending.is_empty(), "closed in a head: {:?}", String::from_utf8_lossy(&self.pending));
                return None;
            }
        };
        let head: Vec<u8> = self.pending.drain(..end).collect();
        let mut fields = [httparse::EMPTY_HEADER; 128];
        let mut parsed = httparse::Response::new(&mut fields);
        let status = parsed.parse(&head);
        assert!(
            matches!(status, Ok(httparse::Status::Complete(_))),
            "{status:?} of {:?}",
            String::from_utf8_lossy(&head)
        );
        Some(Answer {
            status: parsed.code.expect("a complete head has a status"),
            headers: parsed
                .headers
                .iter()
                .map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned()))
                .collect(),
            head,
            ..Answer::default()
        })
    }

    fn body_of(&mut self, mut answer: Answer, method: &str) -> Answer {
        if method == "HEAD" || matches!(answer.status, 101 | 204 | 304) {
            return answer;
        }
        if answer.all("transfer-encoding").iter().any(|v| v.eq_ignore_ascii_case("chunked")) {
            while let Some(chunk) = self.chunk() {
                answer.body.extend_from_slice(&chunk);
            }
        } else if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().expect("a length");
            while self.pending.len() < length {
                assert!(self.fill(), "closed in a body: {answer:?}");
            }
            answer.body = self.pending.drain(..length).collect();
        } else {
            while self.fill() {}
            answer.body = std::mem::take(&mut self.pending);
        }
        answer
    }

    /// The next chunk of a chunked body, `None` at its end.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.line();
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
            .unwrap_or_else(|_| panic!("no chunk size: {line:?}"));
        while self.pending.len() < size + 2 {
            assert!(self.fill(), "closed in a chunk");
        }
        let chunk: Vec<u8> = self.pending.drain(..size).collect();
        assert_eq!(self.pending.drain(..2).collect::<Vec<u8>>(), b"\r\n");
        (size > 0).then_some(chunk)
    }

    fn line(&mut self) -> String {
        loop {
            if let Some(at) = find(&self.pending, b"\r\n") {
                let line: Vec<u8> = self.pending.drain(..at + 2).collect();
                return String::from_utf8_lossy(&line).trim_end().to_owned();
            }
            assert!(self.fill(), "closed in a line");
        }
    }

    /// Exactly `count` bytes, whatever they are.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.pending.len() < count {
            assert!(self.fill(), "closed after {} of {count} bytes", self.pending.len());
        }
        self.pending.drain(..count).collect()
    }

    /// Whether the peer closes within `patience`, having sent nothing more.
    pub fn closes_within(&mut self, patience: Duration) -> bool {
        self.wire.set_patience(patience);
        let mut buffer = [0; 4096];
        self.pending.is_empty()
            && match self.wire.read(&mut buffer) {
                Ok(count) => count == 0,
                Err(error) => is_close(&error),
            }
    }

    /// Calls `drip` on the connection every `pause`, until it says that the peer is gone or until the peer says
    /// something, which is then there to be read.
    pub fn drip(&mut self, pause: Duration, mut drip: impl FnMut(&mut Wire) -> bool) {
        let mut buffer = [0; 4096];
        self.wire.set_patience(pause);
        while drip(&mut self.wire) {
            match self.wire.read(&mut buffer) {
                Ok(count) => {
                    self.pending.extend_from_slice(&buffer[..count]);
                    break;
                }
                Err(error) if is_timeout(&error) => {}
                Err(_) => break,
            }
        }
        self.wire.set_patience(Duration::from_secs(15));
    }

    /// Reads once more; `false` at the end.
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.wire.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.pending.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) if is_close(&error) => false,
            Err(error) => panic!("nothing came: {error}; so far {:?}", String::from_utf8_lossy(&self.pending)),
        }
    }
}

/// Where `needle` starts in `hay`.
pub(crate) fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}

impl From<Wire> for H1 {
    fn from(wire: Wire) -> Self {
        Self::over(wire)
    }
}

/// Whether a read failed because nothing came in time.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
