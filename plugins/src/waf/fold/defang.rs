//! Links that were made harmless, or were made to look so: `example[.]com`, `example (dot) com`, `example dot com`.

use memchr::memchr3;

use super::super::{
    text::{before, byte, part},
    urls,
};

/// The text with `[.]`, `(dot)`, `{:}` and their like as plain characters; `None` when there was none.
///
/// Nobody writes `evil[.]top` by accident: a name of any known ending that was written so gets a `/` behind it, the
/// mark by which the scanner counts an ending that could also be a word.
pub(super) fn brackets(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let mut copied = 0;
    let mut from = 0;
    while let Some(offset) = bytes.get(from..).and_then(|rest| memchr3(b'[', b'(', b'{', rest)) {
        let at = from.saturating_add(offset);
        let Some((plain, close)) = bracketed(text, at) else {
            from = at.saturating_add(1);
            continue;
        };
        let mut start = at;
        let mut end = close;
        if matches!(plain, "." | "@") {
            start = skip_spaces_back(bytes, at);
            end = skip_spaces(bytes, close);
            let joins = is_label(before(bytes, start)) && is_label(byte(bytes, end));
            if !joins {
                from = close;
                continue;
            }
        }
        out.push_str(part(text, copied..start));
        out.push_str(plain);
        copied = end;
        from = end;
        if plain == "." {
            let label_end = skip_label(bytes, end);
            let label = part(text, end..label_end);
            if ends_a_name(bytes, label_end) && urls::is_known_tld(label) && !urls::is_core_tld(label) {
                out.push_str(label);
                out.push('/');
                copied = label_end;
                from = label_end;
            }
        }
    }
    if copied == 0 {
        return None;
    }
    out.push_str(part(text, copied..text.len()));
    Some(out)
}

/// What a bracket at `at` stands for, and where it ends.
fn bracketed(text: &str, at: usize) -> Option<(&'static str, usize)> {
    let bytes = text.as_bytes();
    let start = skip_spaces(bytes, at.saturating_add(1));
    let inner_end = start.saturating_add(
        bytes.get(start..)?.iter().take(4).position(|c| matches!(c, b']' | b')' | b'}' | b' ')).unwrap_or(4),
    );
    let close = skip_spaces(bytes, inner_end);
    if !matches!(byte(bytes, close), b']' | b')' | b'}') {
        return None;
    }
    let inner = text.get(start..inner_end)?;
    let plain = match inner {
        "." => ".",
        ":" => ":",
        "://" => "://",
        "/" if byte(bytes, at) == b'[' => "/",
        "@" => "@",
        _ if inner.eq_ignore_ascii_case("dot") => ".",
        _ if inner.eq_ignore_ascii_case("at") => "@",
        _ => return None,
    };
    Some((plain, close.saturating_add(1)))
}

/// Words before " dot " that make it a word of a sentence: "the dot com bubble", "a dot net developer".
#[rustfmt::skip]
const ARTICLES: &[&str] = &[
    "a", "an", "and", "any", "are", "as", "at", "by", "each", "every", "for", "from", "her", "his", "in", "is",
    "its", "like", "my", "no", "of", "old", "on", "one", "or", "our", "some", "that", "the", "their", "this", "to",
    "was", "were", "with", "your",
];

/// The text with `example dot com` as `example.com`; `None` when there was none.
pub(super) fn spoken(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let mut copied = 0;
    let mut from = 0;
    while let Some(at) = next_spoken(bytes, from) {
        from = at.saturating_add(1);
        let name_end = skip_spaces_back(bytes, at);
        let name_start = skip_label_back(bytes, name_end).max(copied);
        let name = part(text, name_start..name_end);
        if name.is_empty() || ARTICLES.iter().any(|word| word.eq_ignore_ascii_case(name)) {
            continue;
        }
        let Some((labels, end)) = chain(text, at) else { continue };
        out.push_str(part(text, copied..name_end));
        for label in &labels {
            out.push('.');
            out.push_str(label);
        }
        copied = end;
        from = end;
    }
    if copied == 0 {
        return None;
    }
    out.push_str(part(text, copied..text.len()));
    Some(out)
}

/// Where the next " dot " begins.
fn next_spoken(bytes: &[u8], from: usize) -> Option<usize> {
    let found = bytes.get(from..)?.windows(5).position(|five| five.eq_ignore_ascii_case(b" dot "))?;
    Some(from.saturating_add(found))
}

/// Most labels behind the first that are put together.
const SPOKEN_LABELS_MAX: usize = 4;

/// The labels of ` dot label dot label…` from `at` on, when the last is one that ends a name.
fn chain(text: &str, at: usize) -> Option<(Vec<&str>, usize)> {
    let bytes = text.as_bytes();
    let mut labels = Vec::with_capacity(SPOKEN_LABELS_MAX);
    let mut end = at;
    while labels.len() < SPOKEN_LABELS_MAX
        && bytes.get(end..end.saturating_add(5)).is_some_and(|five| five.eq_ignore_ascii_case(b" dot "))
    {
        let start = skip_spaces(bytes, end.saturating_add(5));
        let label_end = skip_label(bytes, start);
        let label = part(text, start..label_end);
        if label.is_empty() {
            break;
        }
        labels.push(label);
        end = label_end;
    }
    let (last, rest) = labels.split_last()?;
    let named = urls::is_core_tld(last) || rest.last().is_some_and(|second| urls::is_second_level(second, last));
    (named && ends_a_name(bytes, end)).then_some((labels, end))
}

fn is_label(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || !byte.is_ascii()
}

fn ends_a_name(bytes: &[u8], at: usize) -> bool {
    !(is_label(byte(bytes, at))
        || matches!(byte(bytes, at), b'.' | b'[' | b'(' | b'{' | b'/' | b':' | b'?' | b'_' | b'@'))
        || (byte(bytes, at) == b'.' && !is_label(byte(bytes, at.saturating_add(1))))
}

fn skip_spaces(bytes: &[u8], mut at: usize) -> usize {
    while byte(bytes, at) == b' ' {
        at = at.saturating_add(1);
    }
    at
}

fn skip_spaces_back(bytes: &[u8], mut at: usize) -> usize {
    while before(bytes, at) == b' ' {
        at = at.saturating_sub(1);
    }
    at
}

fn skip_label(bytes: &[u8], mut at: usize) -> usize {
    while byte(bytes, at).is_ascii_alphanumeric() || byte(bytes, at) == b'-' {
        at = at.saturating_add(1);
    }
    at
}

fn skip_label_back(bytes: &[u8], mut at: usize) -> usize {
    while before(bytes, at).is_ascii_alphanumeric() || before(bytes, at) == b'-' {
        at = at.saturating_sub(1);
    }
    at
}
