//! Where each name of a document stands, so that an error about a name, or about something that is missing, can point.
//!
//! serde gives values a place ([`portcullis_api::At`]) but gives none to the names of tables; this tree does.

use std::{collections::BTreeMap, ops::Range};

use toml::de::{DeTable, DeValue};

/// The names of a document, each with the byte range of its key and of its value.
#[derive(Debug, Clone, Default)]
pub struct Places {
    key: Range<usize>,
    value: Range<usize>,
    below: BTreeMap<String, Self>,
}

impl Places {
    /// Collects the names of a parsed table.
    pub(crate) fn of(table: &DeTable<'_>) -> Self {
        let below = table
            .iter()
            .map(|(key, value)| {
                let mut place = match value.get_ref() {
                    DeValue::Table(table) => Self::of(table),
                    DeValue::String(_)
                    | DeValue::Integer(_)
                    | DeValue::Float(_)
                    | DeValue::Boolean(_)
                    | DeValue::Datetime(_)
                    | DeValue::Array(_) => Self::default(),
                };
                place.key = key.span();
                place.value = value.span();
                (key.get_ref().to_string(), place)
            })
            .collect();
        Self { key: 0..0, value: 0..0, below }
    }

    /// The byte range of the key at `path`, or of its nearest ancestor that was written; `0..0` for none.
    #[must_use]
    pub fn key(&self, path: &[&str]) -> Range<usize> {
        let mut place = self;
        for name in path {
            match place.below.get(*name) {
                Some(below) => place = below,
                None => break,
            }
        }
        place.key.clone()
    }

    /// Whether something was written at `path`.
    #[must_use]
    pub fn written(&self, path: &[&str]) -> bool {
        let mut place = Some(self);
        for name in path {
            place = place.and_then(|place| place.below.get(*name));
        }
        place.is_some()
    }

    /// The path of the innermost table or value that holds `span`; empty for the document itself.
    pub(crate) fn path(&self, span: &Range<usize>) -> Vec<&str> {
        let mut best: Option<(usize, Vec<&str>)> = None;
        self.search(span, &mut Vec::new(), &mut best);
        best.map(|(_, path)| path).unwrap_or_default()
    }

    fn search<'p>(&'p self, span: &Range<usize>, here: &mut Vec<&'p str>, best: &mut Option<(usize, Vec<&'p str>)>) {
        for (name, place) in &self.below {
            here.push(name);
            let length = place.value.end.saturating_sub(place.value.start);
            if place.value.start <= span.start
                && span.end <= place.value.end
                && best.as_ref().is_none_or(|(shortest, path)| {
                    length < *shortest || (length == *shortest && here.len() > path.len())
                })
            {
                *best = Some((length, here.clone()));
            }
            place.search(span, here, best);
            here.pop();
        }
    }

    /// The path whose last name is the key that stands exactly at `span`.
    pub(crate) fn path_of_key(&self, span: &Range<usize>) -> Option<Vec<&str>> {
        for (name, place) in &self.below {
            if place.key == *span {
                return Some(vec![name]);
            }
            if let Some(mut path) = place.path_of_key(span) {
                path.insert(0, name);
                return Some(path);
            }
        }
        None
    }
}

/// A path as it is written in TOML: bare where it can be, quoted where it must be.
pub(crate) fn dotted(path: &[&str]) -> String {
    let quoted = path.iter().map(|name| {
        let bare = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_');
        if bare { (*name).to_owned() } else { format!("{name:?}") }
    });
    quoted.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[hosts.\"a.example\"]\ntenant = \"acme\"\n[hosts.\"a.example\".routes.r]\npath = { x = 1 }\n";

    fn places() -> Places {
        Places::of(DeTable::parse(TEXT).unwrap().get_ref())
    }

    #[test]
    fn a_name_is_found_where_it_was_written() {
        let places = places();
        assert_eq!(TEXT.get(places.key(&["hosts", "a.example"])), Some("\"a.example\""));
        assert_eq!(TEXT.get(places.key(&["hosts", "a.example", "tenant"])), Some("tenant"));
        assert_eq!(
            TEXT.get(places.key(&["hosts", "a.example", "nothing"])),
            Some("\"a.example\""),
            "the nearest ancestor"
        );
        assert_eq!(places.key(&["nothing"]), 0..0);
        assert!(places.written(&["hosts", "a.example"]) && !places.written(&["hosts", "b.example"]));
    }

    #[test]
    fn a_span_is_traced_back_to_its_path() {
        let places = places();
        let one = TEXT.find('1').unwrap();
        assert_eq!(dotted(&places.path(&(one..one + 1))), "hosts.\"a.example\".routes.r.path.x");
        let acme = TEXT.find("\"acme\"").unwrap();
        assert_eq!(dotted(&places.path(&(acme..acme + 6))), "hosts.\"a.example\".tenant");
        let key = TEXT.find("path").unwrap();
        assert_eq!(
            places.path_of_key(&(key..key + 4)).map(|p| dotted(&p)).as_deref(),
            Some("hosts.\"a.example\".routes.r.path")
        );
    }
}
