//! A route's path: canonical, matched by whole segments, with at most one `{tenant}`.

use std::cmp::Ordering;

/// One segment of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// These bytes.
    Literal(Box<str>),
    /// `{tenant}`: any one segment that is not empty.
    Tenant,
}

/// A route's path. It matches itself and everything below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    segments: Vec<Segment>,
}

/// Why a path was refused, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path {text:?} {why}")]
pub struct PathError {
    /// As written.
    pub text: String,
    /// What is not canonical about it.
    pub why: &'static str,
    /// What to do.
    pub help: String,
}

const TENANT: &str = "{tenant}";

impl Template {
    /// Parses a path as written.
    ///
    /// # Errors
    /// [`PathError`] unless it is canonical: such a path could never match, because a request with it is refused.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let refuse = |why, help: String| Err(PathError { text: text.to_owned(), why, help });
        let Some(rest) = text.strip_prefix('/') else {
            return refuse("does not start with `/`", format!("write \"/{text}\""));
        };
        if let Some(c) = text.chars().find(|c| !allowed(*c)) {
            let (why, help) = character(c);
            return refuse(why, help);
        }
        if rest.is_empty() {
            return Ok(Self { text: text.to_owned(), segments: Vec::new() });
        }
        if let Some(shorter) = text.strip_suffix('/') {
            let help = format!("write \"{}\": it matches everything below it", shorter.trim_end_matches('/'));
            return refuse("ends with `/`", help);
        }
        let mut segments = Vec::new();
        for segment in rest.split('/') {
            match segment {
                "" => return refuse("has an empty segment (`//`)", "write a single `/`".to_owned()),
                "." | ".." => return refuse("has a dot segment", "write the path that it leads to".to_owned()),
                TENANT if segments.contains(&Segment::Tenant) => {
                    return refuse("has more than one `{tenant}`", "keep the one that names the tenant".to_owned());
                }
                TENANT => segments.push(Segment::Tenant),
                _ if segment.contains(['{', '}']) => {
                    let help = "the only placeholder is a whole segment `{tenant}`; a path matches everything below it";
                    return refuse("has a placeholder that is not possible", help.to_owned());
                }
                _ => {
                    if let Some((why, help)) = encoding(segment) {
                        return refuse(why, help);
                    }
                    segments.push(Segment::Literal(segment.into()));
                }
            }
        }
        Ok(Self { text: text.to_owned(), segments })
    }

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a segment is `{tenant}`.
    #[must_use]
    pub fn has_tenant(&self) -> bool {
        self.segments.contains(&Segment::Tenant)
    }

    /// Whether it matches every path, or every path but `/`.
    #[must_use]
    pub(crate) fn catches_all(&self) -> bool {
        matches!(self.segments.as_slice(), [] | [Segment::Tenant])
    }

    /// Whether a canonical raw path is this one or below it, and the segment that stood for `{tenant}`.
    #[must_use]
    pub fn matches<'p>(&self, path: &'p str) -> Option<Option<&'p str>> {
        let mut given = path.strip_prefix('/')?.split('/');
        let mut tenant = None;
        for segment in &self.segments {
            let given = given.next()?;
            match segment {
                Segment::Literal(literal) if **literal == *given => {}
                Segment::Tenant if !given.is_empty() => tenant = Some(given),
                Segment::Literal(_) | Segment::Tenant => return None,
            }
        }
        Some(tenant)
    }

    /// The order in which templates are tried. At the first position where two differ in kind, a literal comes before
    /// `{tenant}`; where one is the beginning of the other, the longer comes first. Equal only for the same text.
    ///
    /// Position by position, not by length alone: below a literal path that the operator wrote, no tenant's name can
    /// lead to another route.
    #[must_use]
    pub(crate) fn precedence(&self, other: &Self) -> Ordering {
        let kinds = |template: &Self| -> Vec<Kind> {
            let kind = |segment: &Segment| if *segment == Segment::Tenant { Kind::Tenant } else { Kind::Literal };
            template.segments.iter().map(kind).chain([Kind::End]).collect()
        };
        kinds(self).cmp(&kinds(other)).then_with(|| self.text.cmp(&other.text))
    }
}

/// What stands at a position of a template, in the order in which it is tried.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Literal,
    Tenant,
    End,
}

/// The characters of a path (RFC 3986, `pchar` without `;` and `*`), `/`, and braces for the placeholder.
fn allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~!$&'()+,=:@%/{}".contains(c)
}

fn character(c: char) -> (&'static str, String) {
    match c {
        '?' => ("has a query", "match on the path alone; a query never decides about a route".to_owned()),
        '#' => ("has a fragment", "leave it out; a fragment never reaches a server".to_owned()),
        ';' => ("has a path parameter (`;`)", "requests with `;` in the path are refused".to_owned()),
        '\\' => ("has a backslash", "write `/`; requests with a backslash are refused".to_owned()),
        '*' => ("has a wildcard", "leave it out: a path matches everything below it".to_owned()),
        c if c.is_control() => ("has a control character", "leave it out; requests with one are refused".to_owned()),
        c => {
            let mut utf8 = [0; 4];
            let encoded: String = c.encode_utf8(&mut utf8).bytes().map(|byte| format!("%{byte:02X}")).collect();
            ("has a character that is not written as itself", format!("write `{encoded}` for `{c}`"))
        }
    }
}

/// What is wrong with the percent-encodings of a segment: each must be needed, upper case, and stay one segment.
fn encoding(segment: &str) -> Option<(&'static str, String)> {
    let mut decoded = Vec::new();
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (Some(high), Some(low)) = (bytes.next(), bytes.next()) else {
            return Some(("ends in an incomplete percent-encoding", "write `%` and two hex digits".to_owned()));
        };
        let pair = [high, low];
        let digits = std::str::from_utf8(&pair).unwrap_or_default();
        let Some(value) = pair.iter().all(u8::is_ascii_hexdigit).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
        else {
            return Some(("has a `%` without two hex digits", "write `%` and two hex digits".to_owned()));
        };
        if digits.bytes().any(|c| c.is_ascii_lowercase()) {
            return Some(("has a percent-encoding in lower case", format!("write `%{}`", digits.to_ascii_uppercase())));
        }
        if value.is_ascii_alphanumeric() || b"-._~".contains(&value) {
            return Some(("encodes a character that needs none", format!("write `{}`", char::from(value))));
        }
        if value.is_ascii_control() || b"/\\;%#".contains(&value) {
            return Some(("encodes a character that requests are refused for", format!("leave `%{digits}` out")));
        }
        decoded.push(value);
    }
    std::str::from_utf8(&decoded)
        .is_err()
        .then(|| ("has percent-encodings that are not UTF-8", "encode the UTF-8 bytes of each character".to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template(text: &str) -> Template {
        Template::parse(text).unwrap()
    }

    #[test]
    fn a_template_matches_itself_and_below_by_whole_segments() {
        let orders = template("/v1/orders");
        for hit in ["/v1/orders", "/v1/orders/", "/v1/orders/7", "/v1/orders/7/x"] {
            assert_eq!(orders.matches(hit), Some(None), "{hit}");
        }
        for miss in ["/v1/ordersx", "/v1/orders-admin", "/v1", "/", "/v1/order", "/V1/orders", "v1/orders", ""] {
            assert_eq!(orders.matches(miss), None, "{miss}");
        }
        assert_eq!(template("/").matches("/anything/at/all"), Some(None));
    }

    #[test]
    fn tenant_stands_for_exactly_one_segment_that_is_not_empty() {
        let t = template("/t/{tenant}/orders");
        assert_eq!(t.matches("/t/acme/orders/7"), Some(Some("acme")));
        for miss in ["/t//orders", "/t/orders", "/t/a/b/orders", "/t/acme"] {
            assert_eq!(t.matches(miss), None, "{miss}");
        }
        assert_eq!(template("/{tenant}").matches("/"), None);
    }

    #[test]
    fn a_path_that_no_request_can_have_is_refused() {
        for bad in [
            "",
            "v1",
            "//",
            "/a//b",
            "/a/",
            "/a/.",
            "/a/../b",
            "/a;b",
            "/a?b",
            "/a#b",
            "/a\\b",
            "/a b",
            "/ü",
            "/a\n",
            "/%2e",
            "/%2E",
            "/%2F",
            "/%5C",
            "/%41",
            "/%c3%a9",
            "/%C3",
            "/%",
            "/%4",
            "/%zz",
            "/%+1",
            "/%25",
            "/%3B",
            "/%23",
            "/%00",
            "/%7F",
            "/{id}",
            "/a{tenant}",
            "/{tenant}/{tenant}",
            "/*",
            "/a/**",
            "/{",
            "/{tenant",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
        for good in ["/", "/a", "/a.b/~c", "/%C3%A9", "/%20", "/a:b@c", "/.well-known", "/...", "/a/{tenant}/b"] {
            assert!(Template::parse(good).is_ok(), "{good}: {:?}", Template::parse(good));
        }
    }

    /// Which of `templates` is tried first among those that match.
    fn winner<'t>(templates: &[&'t str], path: &str) -> Option<&'t str> {
        let mut sorted: Vec<_> = templates.iter().map(|&text| (text, template(text))).collect();
        sorted.sort_by(|(_, a), (_, b)| a.precedence(b));
        sorted.into_iter().find(|(_, template)| template.matches(path).is_some()).map(|(text, _)| text)
    }

    #[test]
    fn the_longest_wins_and_a_literal_before_a_tenant() {
        let all =
            ["/", "/v1", "/v1/{tenant}", "/v1/{tenant}/orders", "/v1/orders", "/{tenant}/v1", "/v1/orders/{tenant}/x"];
        for (path, expected) in [
            ("/x", "/"),
            ("/v1", "/v1"),
            ("/v1/", "/v1"),
            ("/v1/acme", "/v1/{tenant}"),
            ("/v1/acme/orders/7", "/v1/{tenant}/orders"),
            ("/v1/orders", "/v1/orders"),
            ("/v1/orders/orders", "/v1/orders"),
            ("/v1/orders/acme/x", "/v1/orders/{tenant}/x"),
            ("/acme/v1", "/{tenant}/v1"),
            ("/v1/v1", "/v1/{tenant}"),
        ] {
            assert_eq!(winner(&all, path), Some(expected), "{path}");
        }
        assert_eq!(winner(&all[1..], "/x"), None);
    }

    fn segment() -> impl Strategy<Value = String> {
        prop_oneof![Just(TENANT.to_owned()), "[ab]{1,2}"]
    }

    proptest! {
        #[test]
        fn precedence_is_an_order_and_equal_only_for_the_same_text(
            a in prop::collection::vec(segment(), 0..4), b in prop::collection::vec(segment(), 0..4),
        ) {
            let texts = [a, b].map(|segments| format!("/{}", segments.join("/")));
            let [Ok(a), Ok(b)] = texts.clone().map(|text| Template::parse(&text)) else { return Ok(()) };
            prop_assert_eq!(a.precedence(&b), b.precedence(&a).reverse());
            prop_assert_eq!(a.precedence(&b) == Ordering::Equal, texts[0] == texts[1]);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            let _ = Template::parse(&text);
        }

        #[test]
        fn a_template_without_placeholder_matches_its_own_text(text in "(/[a-z%.~]{1,4}){1,4}") {
            if let Ok(template) = Template::parse(&text) {
                prop_assert_eq!(template.matches(&text), Some(None));
            }
        }
    }
}
