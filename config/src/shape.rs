//! From text to a [`Document`]: syntax, unknown and missing fields, wrong types, each with its place and "did you mean".
//!
//! serde stops at the first error. So what it refused is taken out and the rest is read again: a document with three
//! typos gets three lines, not three runs.

use std::{ops::Range, path::Path};

use portcullis_api::{Issues, nearest};
use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer, Error},
};

use crate::{
    document::Document,
    places::{Places, dotted},
    report::{INLINE_SECRET, Report, UNKNOWN_STORE},
};

/// More than anyone fixes in one go; bounds the work on a hostile or mistaken file.
const ISSUES_MAX: usize = 50;

/// Reads a document. `origin` is where the text came from, for messages.
///
/// # Errors
/// A [`Report`] of everything that is wrong with the document's shape.
pub fn parse(text: &str, origin: &Path) -> Result<Document, Report> {
    let mut issues = Issues::default();
    let (table, syntax) = DeTable::parse_recoverable(text);
    for error in syntax.iter().take(ISSUES_MAX) {
        issues.push("document.syntax", &error.span().unwrap_or(0..0), error.message());
    }
    if !syntax.is_empty() {
        return Err(Report::new(text, origin, issues));
    }
    let places = Places::of(table.get_ref());
    match deserialize(&table) {
        Ok(mut document) => {
            document.places = places;
            Ok(document)
        }
        Err(first) => {
            every_error(table, first, &places, &mut issues);
            Err(Report::new(text, origin, issues))
        }
    }
}

fn deserialize(table: &Spanned<DeTable<'_>>) -> Result<Document, Error> {
    Document::deserialize(Deserializer::from(table.clone()))
}

/// Reports `error`, takes what caused it out of the table, and goes on while that is possible.
fn every_error(mut table: Spanned<DeTable<'_>>, mut error: Error, places: &Places, issues: &mut Issues) {
    let mut taken: Vec<Vec<String>> = Vec::new();
    while issues.as_slice().len() < ISSUES_MAX {
        let Refused { code, span, message, help, out } = describe(&error, places);
        // A field that is missing because it was taken out just now is no second mistake.
        if code != MISSING || !taken.contains(&out) {
            issues.push_help(code, &span, message, help);
        }
        if !take_out(table.get_mut(), &out) {
            return;
        }
        taken.push(out.split_last().map(|(_, above)| above.to_vec()).unwrap_or_default());
        match deserialize(&table) {
            Ok(_) => return,
            Err(next) => error = next,
        }
    }
}

/// Takes out what stands at `path`. Says whether it was there.
fn take_out(table: &mut DeTable<'_>, path: &[String]) -> bool {
    let Some((name, below)) = path.split_first() else { return false };
    if below.is_empty() {
        return table.remove(name.as_str()).is_some();
    }
    match table.get_mut(name.as_str()).map(Spanned::get_mut) {
        Some(DeValue::Table(table)) => take_out(table, below),
        Some(
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_),
        )
        | None => false,
    }
}

const MISSING: &str = "document.missing_field";

/// One shape error in an operator's words.
struct Refused {
    code: &'static str,
    span: Range<usize>,
    message: String,
    help: String,
    /// What to take out so that the rest can be read: the refused field or value, or the table that lacks a field.
    out: Vec<String>,
}

fn describe(error: &Error, places: &Places) -> Refused {
    let span = error.span().unwrap_or(0..0);
    let text = error.message();
    let is_key = places.path_of_key(&span);
    let path = is_key.clone().unwrap_or_else(|| places.path(&span));
    let above = path.split_last().map(|(_, above)| above.to_vec()).unwrap_or_default();
    let mut words = text.split('`').skip(1).step_by(2);
    let word = words.next().unwrap_or_default();
    let known: Vec<&str> = words.collect();
    // An unknown variant that is a key is the one entry of a table: `{ forwardd = […] }`. The table is what is wrong.
    let variant = text.starts_with("unknown variant");
    let at = if variant && is_key.is_some() { above.clone() } else { path.clone() };
    let (code, message, help) = if text.starts_with("unknown field") {
        let message = format!("unknown field `{word}` in {}", shown(&above));
        ("document.unknown_field", message, suggestion(word, &known))
    } else if text.starts_with("missing field") {
        (MISSING, format!("missing field `{word}` in {}", shown(&at)), crate::reference::missing(&at, word))
    } else if variant && known.contains(&"secret") && nearest(word, known.iter().copied()).is_none() {
        // The word may be the secret itself.
        (INLINE_SECRET, format!("{} is a text where a table belongs", shown(&at)), suggestion("", &known))
    } else if variant {
        ("document.unknown_value", format!("{} cannot be `{word}`", shown(&at)), suggestion(word, &known))
    } else {
        value_refused(text, &shown(&at))
    };
    Refused { code, span, message, help, out: at.iter().map(|&name| name.to_owned()).collect() }
}

fn shown(path: &[&str]) -> String {
    if path.is_empty() { "the document".to_owned() } else { format!("`{}`", dotted(path)) }
}

/// A value of a wrong type, or one that its type refused. The value itself is never repeated by us: it may be a secret.
fn value_refused(text: &str, at: &str) -> (&'static str, String, String) {
    if let Some((found, expected)) = mismatch(text, "invalid type: ") {
        ("document.wrong_type", format!("{at} is {found}"), format!("write {expected}"))
    } else if let Some((_, expected)) = mismatch(text, "invalid value: ") {
        ("document.value", format!("{at} has a value that is not possible"), format!("write {expected}"))
    } else if text.starts_with("a secret is written") {
        (INLINE_SECRET, format!("{at} is no reference"), text.to_owned())
    } else if let Some(help) = text.strip_prefix("no store of this kind: ") {
        (UNKNOWN_STORE, format!("{at} is no kind of store"), help.to_owned())
    } else if text.starts_with("wanted exactly 1 element") {
        let help = "write exactly one of its kinds, as docs/reference/settings.md shows".to_owned();
        ("document.value", format!("{at} has none or several entries"), help)
    } else {
        let (message, help) = advice(text.lines().next().unwrap_or_default());
        ("document.value", format!("{at}: {message}"), help)
    }
}

/// A type's own message, cut where its advice begins.
fn advice(text: &str) -> (&str, String) {
    if text == "invalid socket address syntax" {
        return ("no address with a port", "write both, as in \"0.0.0.0:8443\" or \"[::]:8443\"".to_owned());
    }
    match text.split_once("; ").or_else(|| text.split_once(": ")) {
        Some((message, help)) => (message, help.to_owned()),
        None => (text, "docs/reference/settings.md says what is possible".to_owned()),
    }
}

fn suggestion(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "no field is possible here".to_owned(),
        None => format!("possible are {}", known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")),
    }
}

/// What was found and what was expected, in an operator's words and without the value itself.
fn mismatch<'t>(text: &'t str, prefix: &str) -> Option<(&'static str, String)> {
    let rest: &'t str = text.strip_prefix(prefix)?;
    let (found, expected) = rest.rsplit_once(", expected ")?;
    let found = [
        ("string", "a text"),
        ("integer", "a number"),
        ("floating", "a number with a point"),
        ("boolean", "a boolean"),
        ("sequence", "a list"),
        ("map", "a table"),
    ]
    .iter()
    .find(|(start, _)| found.starts_with(start))
    .map_or("something else", |(_, word)| word);
    let expected = match expected {
        "a string" | "string" => "a text in quotes".to_owned(),
        "a sequence" => "a list, as in [\"one\", \"two\"]".to_owned(),
        "a map" | "map" => "a table".to_owned(),
        "a nonzero u32" => "a whole number more than zero, without quotes".to_owned(),
        "u32" => "a whole number, zero or more, without quotes".to_owned(),
        "string or map" => "one of its words in quotes, or a table with one of them".to_owned(),
        table if table.starts_with("struct ") => "a table".to_owned(),
        other => other.to_owned(),
    };
    Some((found, expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> String {
        parse(text, Path::new("x")).unwrap_err().plain()
    }

    #[test]
    fn a_document_without_end_gives_a_report_with_an_end() {
        let many: String = (0..200).map(|n| format!("z{n} = 1\n")).collect();
        assert_eq!(lines(&many).lines().count(), ISSUES_MAX);
    }

    #[test]
    fn no_text_makes_the_parser_panic() {
        for text in
            ["", "\u{feff}", "=", "[", "[[hosts]]", "hosts = 1", "version = 99999999999999999999", "\0", "a.b.c.d = 1"]
        {
            assert!(!lines(text).is_empty(), "{text}");
        }
    }
}
