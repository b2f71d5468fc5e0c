//! A request as an upstream received it, byte for byte.

/// A request as it arrived.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The head, byte for byte, with its empty line.
    pub head: Vec<u8>,
    /// The body as far as it came, without its framing.
    pub body: Vec<u8>,
    /// Whether the body's end came.
    pub complete: bool,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    /// The TLS version, where there was TLS.
    pub tls: Option<rustls::ProtocolVersion>,
    /// The client's certificate, where the upstream asked for one.
    pub certificate: Option<Vec<u8>>,
}

impl Seen {
    /// The head's first line.
    pub fn request_line(&self) -> String {
        self.lines().next().unwrap_or_default()
    }

    /// The request target.
    pub fn target(&self) -> String {
        self.request_line().split(' ').nth(1).unwrap_or_default().to_owned()
    }

    /// Name and value of every field, as they came.
    pub fn fields(&self) -> Vec<(String, String)> {
        self.lines()
            .skip(1)
            .filter_map(|line| line.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned())))
            .collect()
    }

    /// Every value of a field.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.fields().into_iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v).collect()
    }

    /// The one value of a field.
    ///
    /// # Panics
    /// When it is there twice.
    pub fn header(&self, name: &str) -> Option<String> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} is there {} times in {self:?}", all.len());
        all.into_iter().next()
    }

    /// Every field whose name folds (case, `_` and `-` as one, every other mark too, runs as one) to `name`.
    pub fn folded(&self, name: &str) -> Vec<(String, String)> {
        self.fields().into_iter().filter(|(n, _)| fold(n) == fold(name)).collect()
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        String::from_utf8_lossy(&self.head).split("\r\n").map(str::to_owned).collect::<Vec<_>>().into_iter()
    }
}

/// A field name as the laxest upstream reads it.
pub fn fold(name: &str) -> String {
    name.to_ascii_lowercase()
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|p| !p.is_empty())
        .collect::<Vec<_>>()
        .join("-")
}
