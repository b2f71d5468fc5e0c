//! What the groups and their surroundings say: what is evidently no phone number, and where one may end or begin.

use super::{
    super::text::{before, byte, char_at, char_before, is_spaceless_script, part},
    DIGITS_MIN,
    candidate::{Candidate, GROUPS_MAX, Gap, Group},
    context,
};

/// What stands at the two ends of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edges {
    /// A number with a `+` may stand here.
    pub(super) plus_stands: bool,
    /// A number without one may stand here.
    pub(super) stands: bool,
    /// A word such as `Tel` is glued to the first digit.
    pub(super) keyword_glued: bool,
    /// The last group belongs to what follows: `10p`, `10:30`.
    pub(super) drop_last: bool,
    /// The first group belongs to the word before it: `Upd8 08001950382`.
    pub(super) drop_first: bool,
}

/// Reads both ends.
pub(super) fn edges(text: &str, candidate: &Candidate, groups: &[Group]) -> Edges {
    let (left, left_plus, keyword_glued) = left(text, candidate, groups);
    let drop_first = !left && is_glued_to_word(text, groups);
    let end = groups.last().map_or(candidate.end, |last| last.end);
    let extended = candidate.end > end;
    let right = if extended { Right::Free } else { groups.last().map_or(Right::Free, |last| right(text, last)) };
    let several = groups.len() > 1;
    let last_is_apart = groups.last().is_some_and(|last| last.gap != Gap::Hyphen);
    let taken = right == Right::Taken || (right == Right::Letters && !candidate.plus);
    let drop_last = taken && several && last_is_apart;
    let bounded = right == Right::Free || drop_last;
    let whole = groups.len() <= GROUPS_MAX;
    Edges {
        // A `+` is strong: `+442079460018or` is a number that lacks a space.
        plus_stands: left_plus && whole && (bounded || right == Right::Letters || several),
        stands: (left || drop_first) && bounded && whole,
        keyword_glued,
        drop_last,
        drop_first,
    }
}

/// One short group at the end of a word, and behind a space one run with a trunk 0.
fn is_glued_to_word(text: &str, groups: &[Group]) -> bool {
    let [first, second, rest @ ..] = groups else { return false };
    first.len() <= 2
        && before(text.as_bytes(), first.start).is_ascii_alphabetic()
        && second.gap == Gap::Space
        && second.len() >= 10
        && byte(text.as_bytes(), second.start) == b'0'
        && rest.len() <= 1
}

/// Whether a number without and with a `+` may begin here, and whether a keyword is glued to it.
fn left(text: &str, candidate: &Candidate, groups: &[Group]) -> (bool, bool, bool) {
    let bytes = text.as_bytes();
    let start = candidate.start;
    let earlier = before(bytes, start.saturating_sub(1));
    match before(bytes, start) {
        // `+442079460018+442079460019`
        c if c.is_ascii_digit() => {
            let head = bytes.get(..start).unwrap_or_default();
            let digits = head.iter().rev().take(DIGITS_MIN).take_while(|c| c.is_ascii_digit()).count();
            (false, digits >= DIGITS_MIN, false)
        }
        c if c.is_ascii_alphanumeric() || c == b'_' => {
            let keyword = context::is_keyword(context::word_before(text, start));
            (keyword, keyword, keyword)
        }
        b'-' if earlier.is_ascii_alphanumeric() => {
            let word = context::word_before(text, start.saturating_sub(1));
            let keyword = context::is_keyword(word);
            (keyword, true, false)
        }
        b'.' => (!earlier.is_ascii_digit(), !earlier.is_ascii_digit(), false),
        b',' => {
            let thousands = earlier.is_ascii_digit() && groups.first().is_some_and(|group| group.len() == 3);
            (!thousands, true, false)
        }
        b':' => (!earlier.is_ascii_digit(), true, false),
        b'/' | b'\\' | b'#' | b'$' => (false, true, false),
        b' ' if is_iban_head(text, start) => (false, true, false),
        c if c.is_ascii() => (true, true, false),
        _ => match char_before(text, start) {
            Some('£' | '€' | '¥' | '₹' | '₽' | '₩' | '₺' | '₴' | '¢') => (false, false, false),
            Some(c) if c.is_alphanumeric() => {
                let keyword = context::is_keyword(context::word_before(text, start));
                let free = keyword || is_spaceless_script(c);
                (free, free, keyword)
            }
            Some(_) | None => (true, true, false),
        },
    }
}

/// `GB29 NWBK ` before the digits: an IBAN in fours, whose bank is written in letters.
fn is_iban_head(text: &str, start: usize) -> bool {
    let head = start.checked_sub(10).and_then(|from| text.as_bytes().get(from..start));
    let Some(&[a, b, c, d, b' ', ref bank @ .., b' ']) = head else { return false };
    a.is_ascii_uppercase()
        && b.is_ascii_uppercase()
        && c.is_ascii_digit()
        && d.is_ascii_digit()
        && bank.iter().all(u8::is_ascii_uppercase)
}

/// What follows a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    /// Nothing that claims its last group.
    Free,
    /// Letters right behind it.
    Letters,
    /// The last group is part of something else: a time, an amount, an identifier, an address.
    Taken,
}

/// Longer groups of digits beside a hyphen and letters are no part of an identifier such as a UUID, whose groups are
/// shorter or begin with a letter about as often as not.
const IDENTIFIER_GROUP_MAX: usize = 9;

fn right(text: &str, last: &Group) -> Right {
    let bytes = text.as_bytes();
    let end = last.end;
    let next = byte(bytes, end.saturating_add(1));
    match byte(bytes, end) {
        c if c.is_ascii_alphabetic() => Right::Taken.letters_if(next.is_ascii_alphabetic()),
        b'_' | b'%' | b'@' => Right::Taken,
        b':' if next.is_ascii_digit() => Right::Taken,
        b',' if next.is_ascii_digit() => {
            let digits = bytes
                .get(end.saturating_add(1)..)
                .map_or(0, |rest| rest.iter().take(4).take_while(|c| c.is_ascii_digit()).count());
            if digits <= 3 { Right::Taken } else { Right::Free }
        }
        // `09065171142-stop` is a number and a word, `0046-7f` part of an identifier.
        b'-' | b'/' if next.is_ascii_alphabetic() && last.len() < IDENTIFIER_GROUP_MAX => Right::Taken,
        c if c.is_ascii() => Right::Free,
        _ => match char_at(text, end) {
            Some('°' | '€' | '£' | '¥') => Right::Taken,
            Some(c) if c.is_alphanumeric() && !is_spaceless_script(c) => Right::Taken,
            Some(_) | None => Right::Free,
        },
    }
}

impl Right {
    const fn letters_if(self, letters: bool) -> Self {
        if letters { Self::Letters } else { self }
    }
}

/// The leading windows of at most `digits_max` digits, longest first: how many groups, and whether the window ends
/// where a number may end when it is no `+` number.
pub(super) fn windows<'g>(
    text: &'g str,
    groups: &'g [Group],
    digits_max: usize,
) -> impl Iterator<Item = (usize, bool)> + 'g {
    let mut total: usize = 0;
    let longest = groups
        .iter()
        .take_while(|group| {
            total = total.saturating_add(group.len());
            total <= digits_max
        })
        .count();
    (1..=longest).rev().map(|length| (length, ends_well(text, groups, length)))
}

fn ends_well(text: &str, groups: &[Group], length: usize) -> bool {
    let (number, rest) = groups.split_at_checked(length).unwrap_or((groups, &[]));
    let Some(next) = rest.first() else { return true };
    let digits: usize = number.iter().map(Group::len).sum();
    let spaced = !number.iter().skip(1).any(|group| group.gap == Gap::Space);
    let trunk = number.first().is_some_and(|first| byte(text.as_bytes(), first.start) == b'0');
    match next.gap {
        Gap::Wide | Gap::Paren => true,
        // `020 7946 0018 24 hours`, `415-555-2671 415-555-2672`: the number is complete, the next group is apart.
        Gap::Space => digits >= 9 && (trunk || spaced),
        Gap::Start | Gap::Hyphen | Gap::Dot => false,
    }
}

/// Whether what is left behind a number begins another.
pub(super) fn is_new_number(rest: &[Group]) -> bool {
    rest.first().is_some_and(|group| matches!(group.gap, Gap::Wide | Gap::Space | Gap::Paren))
}

/// Where to look again when no number begins with the first group: behind a wide gap, and behind something short or a
/// date where a trunk prefix or an area code in parentheses begins.
pub(super) fn restart<'g>(text: &str, groups: &'g [Group]) -> &'g [Group] {
    for length in 1..groups.len() {
        let (left, rest) = groups.split_at_checked(length).unwrap_or((groups, &[]));
        let Some(next) = rest.first() else { break };
        let trunk = byte(text.as_bytes(), next.start) == b'0' || next.gap == Gap::Paren;
        let digits: usize = left.iter().map(Group::len).sum();
        let aside = (length == 1 && digits <= 4) || is_date(text, left);
        if next.gap == Gap::Wide || (aside && trunk && matches!(next.gap, Gap::Space | Gap::Paren)) {
            return rest;
        }
    }
    &[]
}

/// Whether the groups are evidently something else than a phone number.
pub(super) fn is_other(text: &str, groups: &[Group]) -> bool {
    let digits: usize = groups.iter().map(Group::len).sum();
    let joined = groups.iter().any(|group| matches!(group.gap, Gap::Hyphen | Gap::Dot));
    let divided = groups.iter().skip(1).any(|group| {
        matches!(group.gap, Gap::Wide | Gap::Paren)
            || (group.gap == Gap::Space && joined)
            || byte(text.as_bytes(), group.start) == b'0'
    });
    (digits > super::plan::INTERNATIONAL_DIGITS_MAX && !divided)
        || is_date(text, groups)
        || is_card(text, groups)
        || is_account(groups)
        || is_isbn(text, groups)
        || is_amount_or_address(text, groups)
}

fn number(text: &str, group: &Group) -> u32 {
    part(text, group.start..group.end).parse().unwrap_or(u32::MAX)
}

/// Dates and times of day, with and without separators: `2024-05-01`, `01/05/2024`, `20240501`, `20240501123000`,
/// `2024-05-01 12`.
fn is_date(text: &str, groups: &[Group]) -> bool {
    let year = |n: u32| (1900..=2100).contains(&n);
    let month = |n: u32| (1..=12).contains(&n);
    let day = |n: u32| (1..=31).contains(&n);
    match groups {
        [one] => is_compact_date(part(text, one.start..one.end)),
        [a, b, c, rest @ ..] if rest.len() <= 3 => {
            let lengths = (a.len(), b.len(), c.len());
            let (x, y, z) = (number(text, a), number(text, b), number(text, c));
            let same = b.gap == c.gap && !matches!(b.gap, Gap::Paren);
            let ordered = match lengths {
                (4, 1..=2, 1..=2) => year(x) && month(y) && day(z),
                (1..=2, 1..=2, 4) => year(z) && ((month(x) && day(y)) || (day(x) && month(y))),
                (2, 2, 2) => a.gap == Gap::Start && rest.is_empty() && b.gap != Gap::Space && month(y.min(x)) && day(z),
                _ => false,
            };
            same && ordered && rest.iter().all(|group| group.len() <= 2)
        }
        // `1999-2004`, `20240501-1230`
        [a, b] => {
            (a.len() == 4 && b.len() == 4 && year(number(text, a)) && year(number(text, b)))
                || (is_compact_date(part(text, a.start..a.end)) && matches!(b.len(), 4 | 6))
        }
        _ => false,
    }
}

fn is_compact_date(digits: &str) -> bool {
    let field = |from: usize, to: usize| digits.get(from..to).and_then(|field| field.parse::<u32>().ok());
    let time_of_day = match digits.len() {
        8 => true,
        10 | 12 | 14 | 17 => {
            field(8, 10).is_some_and(|hour| hour < 24) && field(10, 12).is_none_or(|minute| minute < 60)
        }
        _ => false,
    };
    let date = |y: Option<u32>, m: Option<u32>, d: Option<u32>| {
        y.is_some_and(|y| (1900..=2100).contains(&y))
            && m.is_some_and(|m| (1..=12).contains(&m))
            && d.is_some_and(|d| (1..=31).contains(&d))
    };
    let forward = date(field(0, 4), field(4, 6), field(6, 8));
    let backward = digits.len() == 8 && date(field(4, 8), field(2, 4), field(0, 2));
    time_of_day && (forward || backward)
}

/// A payment card: 13 to 19 digits, from 2 to 6 on, in fours (or 4-6-5, or one run) with a Luhn check digit.
fn is_card(text: &str, groups: &[Group]) -> bool {
    let digits: usize = groups.iter().map(Group::len).sum();
    let Some(first) = groups.first() else { return false };
    let joined = groups.iter().skip(1).all(|group| matches!(group.gap, Gap::Space | Gap::Hyphen));
    let issuer = matches!(byte(text.as_bytes(), first.start), b'2'..=b'6');
    if !(13..=19).contains(&digits) || !issuer || !(groups.len() == 1 || (first.len() == 4 && joined)) {
        return false;
    }
    let mut sum: u32 = 0;
    let mut double = false;
    for digit in all_digits(text, groups).rev() {
        let value = if double { digit.wrapping_mul(2) } else { digit };
        sum = sum.wrapping_add(if value > 9 { value.wrapping_sub(9) } else { value });
        double = !double;
    }
    sum.is_multiple_of(10)
}

/// Four and more groups of four (cards, accounts, parcels), and sort codes with their account (`12-34-56 12345678`).
fn is_account(groups: &[Group]) -> bool {
    let Some((last, rest)) = groups.split_last() else { return false };
    let fours = rest.len() >= 3 && rest.iter().all(|group| group.len() == 4) && last.len() <= 4;
    let lengths = groups.iter().map(Group::len);
    (fours && (rest.len() > 3 || last.len() > 1)) || lengths.eq([2, 2, 2, 8])
}

fn all_digits<'t>(text: &'t str, groups: &'t [Group]) -> impl DoubleEndedIterator<Item = u32> + 't {
    groups.iter().flat_map(|group| part(text, group.start..group.end).chars().filter_map(|c| c.to_digit(10)))
}

/// `978-3-16-148410-0`, `0-306-40615-2`, `3-16-148410-X`.
fn is_isbn(text: &str, groups: &[Group]) -> bool {
    let digits: usize = groups.iter().map(Group::len).sum();
    let hyphens = groups.iter().skip(1).all(|group| matches!(group.gap, Gap::Hyphen | Gap::Space));
    let last = groups.last().map_or(0, Group::len);
    if digits == 13 && hyphens {
        let prefix = groups.first().map_or("", |first| part(text, first.start..first.end));
        return prefix.starts_with("978") || prefix.starts_with("979");
    }
    if digits == 10 && hyphens && groups.len() == 4 && last == 1 {
        let sum: u32 =
            all_digits(text, groups).zip((1..=10_u32).rev()).map(|(digit, weight)| digit.wrapping_mul(weight)).sum();
        return sum.is_multiple_of(11);
    }
    false
}

/// Decimals (`51.507351`), thousands (`1.234.567`), IPv4 addresses, networks and versions: numbers on dots.
fn is_amount_or_address(text: &str, groups: &[Group]) -> bool {
    let hung = groups.iter().skip(1).take_while(|group| group.gap == Gap::Dot).count();
    let (dotted, rest) = groups.split_at_checked(hung.saturating_add(1)).unwrap_or((groups, &[]));
    let octet = |group: &Group| group.len() <= 3 && number(text, group) <= 255;
    if dotted.len() == 4 && dotted.iter().all(octet) && dotted.iter().any(|group| group.len() != 2) {
        return true;
    }
    let trunk = groups.first().is_some_and(|first| byte(text.as_bytes(), first.start) == b'0');
    let thousands = !trunk && dotted.iter().skip(1).all(|group| group.len() == 3);
    let version =
        dotted.iter().any(|group| group.len() == 1) && dotted.first().is_none_or(|first| number(text, first) != 1);
    rest.is_empty() && dotted.len() > 1 && (dotted.len() == 2 || thousands || version)
}
