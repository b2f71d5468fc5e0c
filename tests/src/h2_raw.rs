//! HTTP/2 by hand: frames and fields that no library would send, and as much of the answer as a verdict needs.

use std::io::{self, Read, Write};

use crate::{
    Request,
    dial::{Wire, is_close},
};

/// What came back on the first stream of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// An answer with this status.
    Status(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code.
    GoAway(u32),
    /// The connection closed.
    Closed,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
/// RFC 9113 6.5.2: the size that every peer accepts.
const FRAME_MAX: usize = 16_384;

/// Sends one request, exactly these fields and body, on a fresh connection, and waits for the verdict.
pub fn send(wire: Wire, request: &Request) -> Verdict {
    send_fields(wire, &request.h2_fields(), &request.body)
}

/// As [`send`], with the fields as they are, pseudo fields too.
pub fn send_fields(mut wire: Wire, fields: &[(Vec<u8>, Vec<u8>)], body: &[u8]) -> Verdict {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut out, SETTINGS, 0, 0, &[]);
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
    let end = if body.is_empty() { END_STREAM } else { 0 };
    let mut pieces = block.chunks(FRAME_MAX).peekable();
    let mut kind = HEADERS;
    let mut flags = end;
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        frame(&mut out, kind, flags | last, 1, piece);
        (kind, flags) = (9, 0); // CONTINUATION
    }
    let mut pieces = body.chunks(FRAME_MAX).peekable();
    while let Some(piece) = pieces.next() {
        frame(&mut out, DATA, if pieces.peek().is_none() { END_STREAM } else { 0 }, 1, piece);
    }
    match wire.write_all(&out).and_then(|()| wire.flush()) {
        // What was said before the close is still there to be read.
        Err(error) if !is_close(&error) => panic!("sending failed: {error}"),
        Ok(()) | Err(_) => verdict(&mut wire),
    }
}

fn verdict(wire: &mut Wire) -> Verdict {
    loop {
        let (kind, flags, stream, payload) = match read_frame(wire) {
            Ok(frame) => frame,
            Err(error) if is_close(&error) => return Verdict::Closed,
            Err(error) => panic!("no verdict came: {error}"),
        };
        match kind {
            HEADERS if stream == 1 => return Verdict::Status(status(&payload, flags)),
            RST_STREAM if stream == 1 => return Verdict::Reset(word(&payload)),
            GOAWAY => return Verdict::GoAway(word(&payload[4..])),
            SETTINGS if flags & ACK == 0 => {
                let mut out = Vec::new();
                frame(&mut out, SETTINGS, ACK, 0, &[]);
                // A peer that has closed says so on the next read.
                drop(wire.write_all(&out).and_then(|()| wire.flush()));
            }
            _ => {}
        }
    }
}

fn read_frame(wire: &mut Wire) -> io::Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    wire.read_exact(&mut head)?;
    let [a, b, c, kind, flags, s1, s2, s3, s4] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    wire.read_exact(&mut payload)?;
    Ok((kind, flags, u32::from_be_bytes([s1 & 0x7f, s2, s3, s4]), payload))
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&u32::try_from(payload.len()).expect("a frame is small").to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// A literal field without indexing, without Huffman (RFC 7541 6.2.2): any bytes at all.
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        integer(&mut out, text.len());
        out.extend_from_slice(text);
    }
    out
}

/// An integer with a 7-bit prefix (RFC 7541 5.1).
fn integer(out: &mut Vec<u8>, value: usize) {
    if value < 127 {
        out.push(u8::try_from(value).expect("below 127"));
        return;
    }
    out.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).expect("below 128") | 0x80);
        rest /= 128;
    }
    out.push(u8::try_from(rest).expect("below 128"));
}

/// The status of a header block that is the first of its connection, so that nothing in it refers to the dynamic table.
fn status(payload: &[u8], flags: u8) -> u16 {
    let mut block = payload;
    if flags & PADDED != 0 {
        block = &block[1..];
    }
    if flags & PRIORITY != 0 {
        block = &block[5..];
    }
    // A table size update (RFC 7541 6.3) may come first.
    while block[0] & 0xe0 == 0x20 {
        let more = block[0] & 0x1f == 0x1f;
        block = &block[1..];
        while more && block[0] & 0x80 != 0 {
            block = &block[1..];
        }
        if more {
            block = &block[1..];
        }
    }
    // RFC 7541 appendix A: 8 to 14 are the indexed statuses.
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let first = block[0];
    if first & 0x80 != 0 {
        return INDEXED[usize::from(first & 0x7f) - 8];
    }
    let index = if first & 0xc0 == 0x40 { first & 0x3f } else { first & 0x0f };
    assert!((8..=14).contains(&index), "the first field is no status: {payload:?}");
    let length = usize::from(block[1] & 0x7f);
    let text = &block[2..2 + length];
    if block[1] & 0x80 == 0 {
        return std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).expect("three digits");
    }
    digits(text)
}

/// Three digits in the Huffman code of RFC 7541 appendix B: `0` to `2` are 5 bits, `3` to `9` are 6.
fn digits(text: &[u8]) -> u16 {
    let bits: Vec<u16> = text.iter().flat_map(|b| (0..8).rev().map(move |i| u16::from(b >> i & 1))).collect();
    let take = |at: usize, count: usize| bits[at..at + count].iter().fold(0, |n, bit| n * 2 + bit);
    let mut at = 0;
    let mut number = 0;
    for _ in 0..3 {
        let (digit, used) = match take(at, 5) {
            short @ 0..=2 => (short, 5),
            _ => (take(at, 6) - 0b01_1001 + 3, 6),
        };
        at += used;
        number = number * 10 + digit;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_in_each_of_its_three_forms() {
        assert_eq!(status(&[0x88], END_HEADERS), 200);
        assert_eq!(status(&[0x20, 0x8d], END_HEADERS), 404);
        assert_eq!(status(&[0x48, 3, b'4', b'2', b'9'], END_HEADERS), 429);
        // 421: 011010 00010 00001, padded with ones
        assert_eq!(status(&[0x48, 0x82, 0b0110_1000, 0b0100_0001], END_HEADERS), 421);
    }
}
