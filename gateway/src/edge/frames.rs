//! Reads HTTP/2 frame boundaries (RFC 9113, 4.1) as bytes pass by: enough to tell a head in progress, how many
//! requests were opened, how much body arrived and how much the client may still send. It copies nothing and
//! judges nothing; the `h2` crate does.

/// The client's connection preface, RFC 9113, 3.4.
const PREFACE_BYTES: usize = 24;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Frames {
    preface_left: usize,
    header: [u8; 9],
    header_have: usize,
    payload_left: usize,
    kind: u8,
    flags: u8,
    stream: u32,
    increment: u32,
    in_block: bool,
    last_stream: u32,
    blocks: u32,
    heads: u32,
    data: u64,
    granted: u64,
}

impl Frames {
    /// What a client sends: the preface, then frames.
    pub(super) fn from_client() -> Self {
        Self { preface_left: PREFACE_BYTES, ..Self::default() }
    }

    /// What the server sends: frames.
    pub(super) fn from_server() -> Self {
        Self::default()
    }

    /// Whether the preface, or a header block that has begun, is not complete yet.
    pub(super) const fn in_head(&self) -> bool {
        self.preface_left > 0 || self.in_block
    }

    /// Whether nothing at all has passed yet.
    pub(super) const fn is_silent(&self) -> bool {
        self.preface_left == PREFACE_BYTES
    }

    /// Complete header blocks, trailers included.
    pub(super) const fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Complete header blocks that opened a stream: requests.
    pub(super) const fn heads(&self) -> u32 {
        self.heads
    }

    /// Bytes of DATA payload, padding included: what flow control counts.
    pub(super) const fn data(&self) -> u64 {
        self.data
    }

    /// Sum of the window updates of the whole connection (stream 0).
    pub(super) const fn granted(&self) -> u64 {
        self.granted
    }

    /// Takes the next bytes of this direction, cut anywhere.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let want = if self.preface_left > 0 {
                self.preface_left
            } else if self.header_have < self.header.len() {
                self.header.len().saturating_sub(self.header_have)
            } else {
                self.payload_left
            };
            let (part, rest) = bytes.split_at_checked(want).unwrap_or((bytes, &[]));
            self.take(part);
            bytes = rest;
        }
    }

    fn take(&mut self, part: &[u8]) {
        if self.preface_left > 0 {
            self.preface_left = self.preface_left.saturating_sub(part.len());
        } else if self.header_have < self.header.len() {
            for (slot, byte) in self.header.iter_mut().skip(self.header_have).zip(part) {
                *slot = *byte;
            }
            self.header_have = self.header_have.saturating_add(part.len());
            if self.header_have == self.header.len() {
                self.begin();
            }
        } else {
            self.payload(part);
        }
    }

    fn begin(&mut self) {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.header;
        self.payload_left = usize::try_from(u32::from_be_bytes([0, l0, l1, l2])).unwrap_or(usize::MAX);
        self.kind = kind;
        self.flags = flags;
        // The first bit is reserved and ignored.
        self.stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        self.increment = 0;
        if matches!(kind, HEADERS | CONTINUATION) {
            self.in_block = true;
        }
        if self.payload_left == 0 {
            self.end();
        }
    }

    fn payload(&mut self, part: &[u8]) {
        if self.kind == DATA {
            self.data = self.data.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
        } else if self.kind == WINDOW_UPDATE && self.stream == 0 {
            for byte in part {
                self.increment = (self.increment << 8) | u32::from(*byte);
            }
        }
        self.payload_left = self.payload_left.saturating_sub(part.len());
        if self.payload_left == 0 {
            self.end();
        }
    }

    fn end(&mut self) {
        self.header_have = 0;
        match self.kind {
            HEADERS | CONTINUATION if self.flags & END_HEADERS != 0 => {
                self.in_block = false;
                self.blocks = self.blocks.wrapping_add(1);
                if self.stream > self.last_stream {
                    self.last_stream = self.stream;
                    self.heads = self.heads.wrapping_add(1);
                }
            }
            WINDOW_UPDATE if self.stream == 0 => {
                self.granted = self.granted.saturating_add(u64::from(self.increment & 0x7fff_ffff));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn connection() -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(0x4, 0, 0, &[0; 18]));
        bytes.extend(frame(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0]));
        bytes.extend(frame(HEADERS, 0, 1, b"part"));
        bytes.extend(frame(CONTINUATION, END_HEADERS, 1, b""));
        bytes.extend(frame(DATA, 0, 1, &[7; 300]));
        bytes.extend(frame(WINDOW_UPDATE, 0, 1, &[0, 0, 9, 9]));
        bytes.extend(frame(HEADERS, END_HEADERS, 1, b"trailers"));
        bytes.extend(frame(HEADERS, END_HEADERS, 3, b"next"));
        bytes
    }

    #[test]
    fn a_head_is_in_progress_from_its_first_byte_to_end_headers() {
        let mut frames = Frames::from_client();
        assert!(frames.in_head() && frames.is_silent());
        frames.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r");
        assert!(frames.in_head() && !frames.is_silent());
        frames.feed(b"\n");
        assert!(!frames.in_head());
        frames.feed(&frame(HEADERS, 0, 1, b"abc")[..11]);
        assert!(frames.in_head());
        frames.feed(b"c");
        assert!(frames.in_head(), "END_HEADERS has not come");
        frames.feed(&frame(CONTINUATION, END_HEADERS, 1, b"d"));
        assert_eq!((frames.in_head(), frames.blocks(), frames.heads()), (false, 1, 1));
    }

    #[test]
    fn trailers_open_no_request_and_only_the_connection_window_is_counted() {
        let mut frames = Frames::from_client();
        frames.feed(&connection());
        assert_eq!((frames.blocks(), frames.heads(), frames.data(), frames.granted()), (3, 2, 300, 65_536));
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_changes_nothing(cuts in proptest::collection::vec(1usize..40, 1..60)) {
            let bytes = connection();
            let mut whole = Frames::from_client();
            whole.feed(&bytes);
            let mut parts = Frames::from_client();
            let mut rest = bytes.as_slice();
            for cut in cuts {
                let (part, next) = rest.split_at(cut.min(rest.len()));
                parts.feed(part);
                rest = next;
            }
            parts.feed(rest);
            prop_assert_eq!(format!("{whole:?}"), format!("{parts:?}"));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            Frames::from_client().feed(&bytes);
            Frames::from_server().feed(&bytes);
        }
    }
}
