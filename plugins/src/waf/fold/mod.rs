//! Makes text plain before it is counted: what a person or a browser would read, without the disguise.
//!
//! Folding is for counting only; the upstream gets the bytes as they came. It runs only where a byte asks for it
//! (see [`super::text::Shape`]), and each step that finds nothing to do copies nothing.

mod decode;
mod defang;
mod unicode;

use std::borrow::Cow;

pub(super) use decode::{hex_pair, unicode_escape};
pub(crate) use unicode::is_ignorable;

/// Rounds of percent, `\uXXXX` and entity decoding beyond the one that the content type itself asks for.
const ROUNDS: usize = 2;

/// The plain form of `text`.
pub(super) fn fold(text: &str) -> Cow<'_, str> {
    let mut plain = Cow::Borrowed(text);
    for _ in 0..ROUNDS {
        match decode::round(&plain) {
            Some(next) => plain = Cow::Owned(next),
            None => break,
        }
    }
    for step in [unicode::plain, defang::brackets, defang::spoken] {
        if let Some(next) = step(&plain) {
            plain = Cow::Owned(next);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_not_copied() {
        for text in ["", "hello world", "a (b) [c] {d}", "100% sure & happy", "C:\\dir", "connect the dot to me"] {
            assert!(matches!(fold(text), Cow::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn disguises_fall() {
        for (text, plain) in [
            ("%68ttp%3A%2F%2Fa.com", "http://a.com"),
            ("%2568ttp", "http"),
            ("\\u0068ttp:\\/\\/a.com", "http://a.com"),
            ("&#104;ttp&colon;&sol;&sol;a&period;com", "http://a.com"),
            ("&#x68;ttp", "http"),
            ("exa\u{200b}mple\u{ad}.com", "example.com"),
            ("\u{ff48}\u{ff54}\u{ff54}\u{ff50}\u{ff1a}//a\u{ff0e}com", "http://a.com"),
            ("a\u{3002}com", "a.com"),
            ("a\u{ff61}com", "a.com"),
            ("\u{0660}\u{0661}\u{06f2}", "012"),
            ("\u{1d7d8}\u{2460}", "01"),
            ("h\0t\0t\0p\0", "http"),
            ("example[.]com", "example.com"),
            ("example[dot]com", "example.com"),
            ("example (DOT) com", "example.com"),
            ("example{.}com", "example.com"),
            ("hxxp[://]example[.]com", "hxxp://example.com"),
            ("http[:]//a", "http://a"),
            ("me[at]example[.]com", "me@example.com"),
            ("www dot example dot com now", "www.example.com now"),
            ("example dot co dot uk", "example.co.uk"),
            ("evil[.]top and", "evil.top/ and"),
            ("+44\u{a0}20\u{2011}7946\u{2013}0018", "+44 20-7946-0018"),
            ("\u{65e5}\u{672c}\u{3002}\u{65e5}\u{672c}", "\u{65e5}\u{672c}\u{3002}\u{65e5}\u{672c}"),
        ] {
            assert_eq!(fold(text), plain, "{text}");
        }
    }

    #[test]
    fn three_rounds_of_encoding_stay_as_they_are_after_two() {
        assert_eq!(fold("%25252568"), "%2568");
    }

    #[test]
    fn the_word_dot_is_no_dot_in_prose() {
        for text in ["the dot com bubble", "a dot net developer", "polka dot dress", "dot com", "x dot y", "the dot "] {
            assert_eq!(fold(text), text);
        }
    }
}
