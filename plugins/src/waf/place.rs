//! Where a value stands: names and indexes for the log, never the value.

use std::fmt;

/// Where a value stands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'p> {
    /// A parameter of the query.
    Query(&'p str),
    /// A field of a form.
    Form(&'p str),
    /// A part of a multipart body.
    Part(&'p str),
    /// A value of a JSON document, which may be a part of a multipart body.
    Json(Option<&'p str>, &'p [Step<'p>]),
    /// The whole body as text.
    Text,
}

/// One step into a JSON document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step<'p> {
    /// Into a member, by its name as written.
    Key(&'p str),
    /// Into an element.
    Index(usize),
}

impl<'p> Place<'p> {
    /// The name of the field, for what it says of its value.
    pub(super) fn name(&self) -> Option<&'p str> {
        match self {
            Self::Query(name) | Self::Form(name) | Self::Part(name) => Some(name),
            Self::Json(part, path) => path
                .iter()
                .rev()
                .find_map(|step| match step {
                    Step::Key(key) => Some(*key),
                    Step::Index(_) => None,
                })
                .or(*part),
            Self::Text => None,
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query(name) => write!(f, "query.{}", Safe(name)),
            Self::Form(name) => write!(f, "form.{}", Safe(name)),
            Self::Part(name) => write!(f, "multipart.{}", Safe(name)),
            Self::Text => f.write_str("text"),
            Self::Json(part, path) => {
                match part {
                    Some(name) => write!(f, "multipart.{}", Safe(name))?,
                    None => f.write_str("json")?,
                }
                for step in *path {
                    match step {
                        Step::Key(key) => write!(f, ".{}", Safe(key))?,
                        Step::Index(index) => write!(f, "[{index}]")?,
                    }
                }
                Ok(())
            }
        }
    }
}

/// Longest name that is shown.
const NAME_CHARS_MAX: usize = 32;
/// A name with more digits than this may be a phone number or an id; its digits are not shown.
const NAME_DIGITS_MAX: usize = 4;

/// A client's name for a field, fit for a log: the client chose it, so it may be anything.
struct Safe<'p>(&'p str);

impl fmt::Display for Safe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name: &str = self.0;
        let personal = name.chars().filter(char::is_ascii_digit).count() > NAME_DIGITS_MAX;
        if name.is_empty() {
            return f.write_str("?");
        }
        for (at, c) in name.chars().take(NAME_CHARS_MAX).enumerate() {
            let shown = match c {
                '0'..='9' if personal => '#',
                c if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '$') => c,
                '@' if at == 0 => c,
                _ => '?',
            };
            write!(f, "{shown}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_like_a_path() {
        let path = [Step::Key("a"), Step::Key("b"), Step::Index(2)];
        assert_eq!(Place::Json(None, &path).to_string(), "json.a.b[2]");
        assert_eq!(Place::Json(Some("meta"), &path[..1]).to_string(), "multipart.meta.a");
        assert_eq!(Place::Json(None, &path).name(), Some("b"));
        assert_eq!(Place::Query("q").to_string(), "query.q");
    }

    #[test]
    fn a_name_that_the_client_chose_shows_nothing_of_a_person() {
        assert_eq!(Place::Form("+442079460018").to_string(), "form.?############");
        assert_eq!(Place::Form("me@example.com\r\n").to_string(), "form.me?example?com??");
        assert_eq!(Place::Form("").to_string(), "form.?");
        assert_eq!(Place::Form(&"a".repeat(99)).to_string().len(), 5 + NAME_CHARS_MAX);
    }
}
