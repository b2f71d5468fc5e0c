//! Characters that only look different, or that nobody sees.

use unicode_normalization::UnicodeNormalization;

use super::super::text::is_cjk;

/// The text without characters that nobody sees, in NFKC, with ASCII digits, dots, dashes and spaces; `None` when that
/// is what it is.
pub(super) fn plain(text: &str) -> Option<String> {
    if text.bytes().all(|c| c.is_ascii() && !is_hidden_control(char::from(c))) {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let mut stop_held = false;
    let mut last = None;
    for c in text.chars().filter(|&c| !is_ignorable(c)).nfkc().map(simple) {
        if stop_held {
            // Between ideographs it ends a sentence; next to anything else browsers read it as the dot of a name.
            let sentence = last.is_some_and(is_cjk) && is_cjk(c);
            out.push(if sentence { IDEOGRAPHIC_STOP } else { '.' });
        }
        stop_held = c == IDEOGRAPHIC_STOP;
        if !stop_held {
            out.push(c);
            last = Some(c);
        }
    }
    if stop_held {
        out.push(IDEOGRAPHIC_STOP);
    }
    Some(out)
}

/// Full width and half width: NFKC makes one of both.
const IDEOGRAPHIC_STOP: char = '\u{3002}';

fn is_hidden_control(c: char) -> bool {
    c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r')
}

/// Default-ignorable code points (Unicode `DerivedCoreProperties`), the keycap mark and control characters.
pub(crate) fn is_ignorable(c: char) -> bool {
    is_hidden_control(c)
        || matches!(u32::from(c),
            0x80..=0x84 | 0x86..=0x9F | 0xAD | 0x34F | 0x61C | 0x115F..=0x1160 | 0x17B4..=0x17B5 | 0x180B..=0x180F
            | 0x200B..=0x200F | 0x202A..=0x202E | 0x2060..=0x206F | 0x20E3 | 0x3164 | 0xFE00..=0xFE0F | 0xFEFF
            | 0xFFA0 | 0xFFF0..=0xFFF8 | 0x1BCA0..=0x1BCA3 | 0x1D173..=0x1D17A | 0xE0000..=0xE0FFF)
}

fn simple(c: char) -> char {
    match c {
        '\u{85}' | '\u{2028}' | '\u{2029}' => '\n',
        '\u{2010}'..='\u{2015}' | '\u{2212}' => '-',
        '\u{1680}' => ' ',
        _ if c.is_ascii() => c,
        _ => decimal(c).unwrap_or(c),
    }
}

/// The zero of each set of decimal digits (Unicode category Nd) that NFKC leaves as it is.
const ZEROS: &[u32] = &[
    0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6, 0x0D66, 0x0DE6, 0x0E50,
    0x0ED0, 0x0F20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0, 0x1C40, 0x1C50,
    0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10, 0x104A0, 0x10D30, 0x10D40, 0x11066, 0x110F0,
    0x11136, 0x111D0, 0x112F0, 0x11450, 0x114D0, 0x11650, 0x116C0, 0x116D0, 0x116DA, 0x11730, 0x118E0, 0x11950,
    0x11BF0, 0x11C50, 0x11D50, 0x11DA0, 0x11F50, 0x16130, 0x16A60, 0x16AC0, 0x16B50, 0x16D70, 0x1E140, 0x1E2F0,
    0x1E4F0, 0x1E5F1, 0x1E950,
];

fn decimal(c: char) -> Option<char> {
    let code = u32::from(c);
    let zero = ZEROS.get(ZEROS.partition_point(|&zero| zero <= code).checked_sub(1)?)?;
    char::from_digit(code.checked_sub(*zero)?, 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_zero_begins_ten_digits_and_the_next_is_none() {
        assert!(ZEROS.is_sorted());
        assert_eq!(decimal('\u{0669}'), Some('9'));
        assert_eq!(decimal('\u{066a}'), None);
        assert_eq!(decimal('\u{e9}'), None);
    }
}
