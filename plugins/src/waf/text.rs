//! Reading text by position without a panic: what lies outside is nothing.

use std::ops::Range;

/// The byte at `at`; 0 outside the text. Folded text holds no 0, so 0 reads as "nothing there".
pub(super) fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// The byte before `at`; 0 at the start.
pub(super) fn before(bytes: &[u8], at: usize) -> u8 {
    at.checked_sub(1).map_or(0, |at| byte(bytes, at))
}

/// The part of the text in `range`; empty when the range is no part of it.
pub(super) fn part(text: &str, range: Range<usize>) -> &str {
    text.get(range).unwrap_or_default()
}

/// The character that starts at `at`.
pub(super) fn char_at(text: &str, at: usize) -> Option<char> {
    text.get(at..)?.chars().next()
}

/// The character that ends at `at`.
pub(super) fn char_before(text: &str, at: usize) -> Option<char> {
    text.get(..at)?.chars().next_back()
}

/// Scripts that are written without spaces between words: a name of ASCII letters ends where they begin.
pub(super) fn is_spaceless_script(c: char) -> bool {
    matches!(u32::from(c),
        0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1100..=0x11FF | 0x1780..=0x17FF | 0x2E80..=0x9FFF
        | 0xA960..=0xA97F | 0xAC00..=0xD7FF | 0xF900..=0xFAFF | 0x20000..=0x3FFFF)
}

/// Han, kana and Hangul: the scripts whose sentences end with an ideographic full stop.
pub(super) fn is_cjk(c: char) -> bool {
    matches!(u32::from(c), 0x1100..=0x11FF | 0x2E80..=0x3001 | 0x3003..=0x9FFF | 0xAC00..=0xD7FF | 0xF900..=0xFAFF
        | 0x20000..=0x3FFFF)
}

/// What a value holds, found in one pass: which of the slower steps it needs at all.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shape {
    mask: u8,
    /// ASCII digits.
    pub(super) digits: usize,
}

const LINK: u8 = 1;
const DIGIT: u8 = 2;
const FOLD: u8 = 4;
const BRACKET: u8 = 8;

/// The class of each byte. A control byte asks for folding: UTF-16 text read as UTF-8 is full of zeros.
static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut rest: &mut [u8] = &mut table;
    let mut byte: u8 = 0;
    while let [first, tail @ ..] = rest {
        *first = match byte {
            b'.' | b':' => LINK,
            b'0'..=b'9' => DIGIT,
            b'\t' | b'\n' | b'\r' => 0,
            b'%' | b'&' | b'\\' | 0..=31 | 127..=255 => FOLD,
            b'[' | b'(' | b'{' => BRACKET,
            _ => 0,
        };
        rest = tail;
        byte = byte.wrapping_add(1);
    }
    table
}

impl Shape {
    /// Reads the text once.
    pub(super) fn of(text: &str) -> Self {
        let mut shape = Self::default();
        let mut spoken = false;
        let mut last: u32 = 0;
        for &byte in text.as_bytes() {
            let class = CLASSES.get(usize::from(byte)).copied().unwrap_or(FOLD);
            shape.mask |= class;
            shape.digits = shape.digits.wrapping_add(usize::from(class == DIGIT));
            last = last.wrapping_shl(8) | u32::from(byte | 0x20);
            spoken |= last == u32::from_be_bytes(*b" dot");
        }
        if spoken {
            shape.mask |= BRACKET;
        }
        shape
    }

    /// Whether a `.` or `:` is there: without one there is no URL.
    pub(super) const fn links(self) -> bool {
        self.mask & LINK != 0
    }

    /// Whether folding could change the text.
    pub(super) const fn folds(self) -> bool {
        self.mask & (FOLD | BRACKET) != 0
    }
}
