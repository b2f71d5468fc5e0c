//! Where the frames of a WebSocket begin and end on their way to the client (RFC 6455, 5.2): a frame of ours may only stand
//! between two of the upstream's.

/// Follows what is written after a handshake was accepted.
#[derive(Debug, Default)]
pub(super) struct Frames {
    at: At,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In the head of the answer: so many bytes of the empty line that ends it.
    Head(u8),
    /// In the first bytes of a frame: how many of them have passed, and what they say so far.
    Frame { passed: u8, length_bytes: u8, length: u64, mask_bytes: u8 },
    /// In what a frame carries: so many bytes are left.
    Payload(u64),
}

impl Default for At {
    fn default() -> Self {
        Self::Head(0)
    }
}

const BEGIN: At = At::Frame { passed: 0, length_bytes: 0, length: 0, mask_bytes: 0 };

impl Frames {
    /// Bytes that were written.
    pub(super) fn on_write(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if let At::Payload(left) = self.at {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let left = left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
                self.at = if left == 0 { BEGIN } else { At::Payload(left) };
                bytes = bytes.get(taken..).unwrap_or_default();
            } else {
                self.at = self.at.after(*first);
                bytes = rest;
            }
        }
    }

    /// Whether a frame may begin here.
    pub(super) fn is_between(&self) -> bool {
        self.at == BEGIN
    }
}

impl At {
    fn after(self, byte: u8) -> Self {
        match self {
            Self::Head(matched) => match (matched, byte) {
                (0 | 2, b'\r') | (1, b'\n') => Self::Head(matched.saturating_add(1)),
                (3, b'\n') => BEGIN,
                (_, b'\r') => Self::Head(1),
                _ => Self::Head(0),
            },
            Self::Frame { passed: 0, .. } => Self::Frame { passed: 1, length_bytes: 0, length: 0, mask_bytes: 0 },
            Self::Frame { passed: 1, .. } => {
                let (length_bytes, length) = match byte & 0x7f {
                    126 => (2, 0),
                    127 => (8, 0),
                    short => (0, u64::from(short)),
                };
                let mask_bytes = if byte & 0x80 == 0 { 0 } else { 4 };
                Self::Frame { passed: 2, length_bytes, length, mask_bytes }.settled()
            }
            Self::Frame { passed, length_bytes, length, mask_bytes } => {
                let passed = passed.saturating_add(1);
                let in_length = passed <= length_bytes.saturating_add(2);
                let length = if in_length { length << 8 | u64::from(byte) } else { length };
                Self::Frame { passed, length_bytes, length, mask_bytes }.settled()
            }
            Self::Payload(left) => Self::Payload(left),
        }
    }

    /// The payload, once all that stands before it has passed.
    fn settled(self) -> Self {
        match self {
            Self::Frame { passed, length_bytes, length, mask_bytes }
                if passed == length_bytes.saturating_add(mask_bytes).saturating_add(2) =>
            {
                if length == 0 {
                    BEGIN
                } else {
                    Self::Payload(length)
                }
            }
            Self::Frame { .. } | Self::Head(_) | Self::Payload(_) => self,
        }
    }
}

/// A close frame with this status.
pub(super) const fn close(status: u16) -> [u8; 4] {
    let [high, low] = status.to_be_bytes();
    [0x88, 2, high, low]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nX: a\r\r\n\r\n";

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut out = vec![0x82];
        match length {
            0..=125 => out.push(mask | u8::try_from(length).unwrap()),
            126..=0xffff => {
                out.push(mask | 126);
                out.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                out.push(mask | 127);
                out.extend(u64::try_from(length).unwrap().to_be_bytes());
            }
        }
        out.extend(if masked { &[1, 2, 3, 4][..] } else { &[] });
        out.extend(std::iter::repeat_n(0x88, length));
        out
    }

    proptest! {
        #[test]
        fn a_frame_may_begin_exactly_where_one_ended_however_the_bytes_come(
            frames in prop::collection::vec(
                (prop_oneof![0..200usize, Just(125), Just(126), Just(65_535), Just(65_536)], any::<bool>()), 0..5),
            piece in 1..90usize,
        ) {
            let mut all = HEAD.to_vec();
            let mut ends = vec![all.len()];
            for (length, masked) in frames {
                all.extend(frame(length, masked));
                ends.push(all.len());
            }
            let mut followed = Frames::default();
            let mut written = 0_usize;
            for part in all.chunks(piece) {
                followed.on_write(part);
                written = written.saturating_add(part.len());
                prop_assert_eq!(followed.is_between(), ends.contains(&written), "after {} bytes", written);
            }
        }
    }

    #[test]
    fn a_close_frame_carries_its_status() {
        assert_eq!(close(1008), [0x88, 2, 0x03, 0xf0]);
    }
}
