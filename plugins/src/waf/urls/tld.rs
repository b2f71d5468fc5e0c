//! Endings of names: which exist, and which are evidence of a URL by themselves.

use std::sync::LazyLock;

/// The delegated top-level domains in ASCII without `xn--` ones, from the IANA root zone.
static KNOWN: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let mut names: Vec<_> = include_str!("tlds.txt").split_whitespace().collect();
    names.sort_unstable();
    names
});

/// The delegated top-level domains in other scripts, in NFKC.
static IDN: LazyLock<Vec<&'static str>> = LazyLock::new(|| include_str!("idn_tlds.txt").split_whitespace().collect());

/// Reads the tables, so that no request has to.
pub(in super::super) fn warm_up() {
    LazyLock::force(&KNOWN);
    LazyLock::force(&IDN);
}

/// The longest ASCII top-level domain has 24 letters or fewer.
const TLD_BYTES_MAX: usize = 24;

/// Calls `look` with the label in lower case, without an allocation.
fn lower<R>(label: &str, look: impl FnOnce(&str) -> R) -> Option<R> {
    let mut buffer = [0; TLD_BYTES_MAX];
    let lowered = buffer.get_mut(..label.len())?;
    lowered.copy_from_slice(label.as_bytes());
    lowered.make_ascii_lowercase();
    std::str::from_utf8(lowered).ok().map(look)
}

/// Whether a top-level domain of this name exists.
pub(in super::super) fn is_known_tld(label: &str) -> bool {
    let punycode = label.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("xn--"));
    punycode || lower(label, |label| KNOWN.binary_search(&label).is_ok()).unwrap_or(false)
}

/// Whether a bare name with this ending is a URL without further evidence: endings that are no word and no file type
/// in any text of note. `message.it`, `okay.me`, `main.rs`, `README.md` are text; `example.com` is not.
pub(in super::super) fn is_core_tld(label: &str) -> bool {
    let core = |label: &str| {
        matches!(
            label,
            "com"
                | "net"
                | "org"
                | "biz"
                | "info"
                | "edu"
                | "gov"
                | "mil"
                | "mobi"
                | "aero"
                | "coop"
                | "asia"
                | "xyz"
                | "icu"
                | "eu"
                | "uk"
                | "de"
                | "fr"
                | "nl"
                | "ru"
                | "ua"
                | "cn"
                | "jp"
                | "kr"
                | "tw"
                | "hk"
                | "br"
                | "mx"
                | "ar"
                | "au"
                | "nz"
                | "za"
                | "ch"
                | "se"
                | "dk"
                | "cz"
                | "sk"
                | "hu"
                | "gr"
                | "tr"
        )
    };
    label.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("xn--")) || lower(label, core).unwrap_or(false)
}

/// Whether `second.top` is a place where names are registered, as `co.uk` is.
pub(in super::super) fn is_second_level(second: &str, top: &str) -> bool {
    let generic = |second: &str| {
        matches!(
            second,
            "co" | "com" | "net" | "org" | "gov" | "gob" | "govt" | "edu" | "ac" | "sch" | "nhs" | "ltd" | "plc"
        )
    };
    let own = |second: &str, top: &str| {
        matches!(
            (second, top),
            ("or" | "ne" | "go", "jp" | "kr" | "th" | "id") | ("me", "uk") | ("id" | "asn", "au") | ("nic", "in")
        )
    };
    top.len() == 2
        && is_known_tld(top)
        && (lower(second, generic).unwrap_or(false)
            || lower(top, |top| lower(second, |second| own(second, top)).unwrap_or(false)).unwrap_or(false))
}

/// Whether the ending is also a file type: `main.rs:42` is a line of a file, `main.rs/lib.rs` two files.
pub(super) fn is_file_type(label: &str) -> bool {
    let file = |label: &str| {
        matches!(
            label,
            "ai" | "app"
                | "as"
                | "bz"
                | "cab"
                | "cc"
                | "cl"
                | "cr"
                | "do"
                | "gz"
                | "hm"
                | "in"
                | "la"
                | "md"
                | "mk"
                | "ml"
                | "mm"
                | "mo"
                | "mov"
                | "mp"
                | "ms"
                | "pl"
                | "pm"
                | "pn"
                | "ps"
                | "py"
                | "rs"
                | "sc"
                | "sh"
                | "so"
                | "sql"
                | "st"
                | "td"
                | "tf"
                | "tk"
                | "tt"
                | "vi"
                | "zip"
        )
    };
    lower(label, file).unwrap_or(false)
}

/// Whether the ending is also a name of a field: `user.id:42` is a log line, no host and port.
pub(super) fn is_field_name(label: &str) -> bool {
    let field = |label: &str| {
        matches!(
            label,
            "audio"
                | "bar"
                | "bot"
                | "build"
                | "cam"
                | "cat"
                | "center"
                | "channel"
                | "city"
                | "cloud"
                | "codes"
                | "color"
                | "company"
                | "contact"
                | "country"
                | "data"
                | "date"
                | "day"
                | "email"
                | "events"
                | "fan"
                | "foo"
                | "gift"
                | "group"
                | "host"
                | "id"
                | "is"
                | "it"
                | "link"
                | "map"
                | "me"
                | "my"
                | "name"
                | "network"
                | "no"
                | "online"
                | "page"
                | "phone"
                | "place"
                | "pro"
                | "report"
                | "run"
                | "score"
                | "select"
                | "services"
                | "site"
                | "style"
                | "support"
                | "tel"
                | "to"
                | "tools"
                | "us"
                | "video"
        )
    };
    lower(label, field).unwrap_or(false)
}

/// The length of the IDN top-level domain that `text` begins with.
pub(super) fn idn_tld(text: &str) -> Option<usize> {
    IDN.iter().filter(|tld| text.starts_with(**tld)).map(|tld| tld.len()).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_found_in_any_case_and_what_is_too_long_is_none() {
        assert!(is_known_tld("COM") && is_known_tld("rs") && is_known_tld("XN--P1AI"));
        assert!(!is_known_tld("") && !is_known_tld("js") && !is_known_tld(&"a".repeat(300)));
        assert!(KNOWN.iter().all(|tld| tld.len() <= TLD_BYTES_MAX));
    }

    #[test]
    fn every_core_ending_exists_and_no_word_or_file_type_is_core() {
        for word in ["it", "me", "md", "rs", "sh", "zip", "how", "is", "in", "so", "to", "id", "name"] {
            assert!(is_known_tld(word) && !is_core_tld(word), "{word}");
        }
        for core in ["com", "net", "org", "biz", "info", "edu", "gov", "mobi", "xyz", "de", "uk"] {
            assert!(is_known_tld(core) && is_core_tld(core), "{core}");
        }
    }

    #[test]
    fn second_levels_need_a_country() {
        assert!(is_second_level("co", "uk") && is_second_level("COM", "au") && is_second_level("ne", "jp"));
        assert!(!is_second_level("co", "com") && !is_second_level("foo", "uk") && !is_second_level("ne", "uk"));
    }
}
