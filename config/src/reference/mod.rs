//! The operators' reference, made from the types: what is not in the types cannot get into it.

mod defaults;

use std::fmt::Write;

use portcullis_api::Code;
use serde_json::{Map, Value};

use crate::{document::Document, places::dotted};

/// How a name that the operator chooses is shown in a path.
const NAME: &str = "NAME";

/// `docs/reference/settings.md`: a section per table of the document, with each field's type, default and meaning.
#[must_use]
pub fn settings() -> String {
    let schema = Schema::of_document();
    let mut tables = Vec::new();
    schema.collect(Vec::new(), &schema.0, &mut tables);
    let defaults = defaults::defaults();
    let mut out = String::from(
        "# Settings\n\nMade from the types by `portcullis reference`; do not edit. One TOML file, `version = 1`, unknown \
         fields refused. Types: a *duration* is written as `\"25ms\"`, `\"10s\"`, `\"5m\"`, `\"1h\"` or `\"7d\"`; a *size* \
         as `\"512B\"`, `\"64KiB\"`, `\"1MiB\"` or `\"1GiB\"`; a *network* as `\"203.0.113.0/24\"` or `\"2001:db8::/32\"`; a \
         *reference* as `\"file:PATH\"` (relative to the configuration file) or `\"env:VARIABLE\"`. A duration or size is \
         never zero.\n",
    );
    for table in &tables {
        table_section(&mut out, &schema, table, &tables, &defaults);
    }
    out
}

/// `docs/reference/codes.md`: every reason code a client can get, by control.
#[must_use]
pub fn codes(controls: &[(&str, &[Code])]) -> String {
    let mut out = String::from(
        "# Reason codes\n\nMade from the types by `portcullis reference`; do not edit. A code is the `code` of the \
         `application/problem+json` answer, of the access line and of the metrics. Codes do not change.\n",
    );
    for (control, codes) in controls {
        line(&mut out, &format!("\n## {control}\n\n| code | status | title |\n| --- | --- | --- |"));
        for Code { name, status, title } in *codes {
            line(&mut out, &format!("| `{name}` | {status} | {} |", cell(title)));
        }
    }
    out
}

/// `docs/reference/metrics.md`: every metric as (name, kind, labels, help).
#[must_use]
pub fn metrics(metrics: &[(&str, &str, &[&str], &str)]) -> String {
    let mut out = String::from(
        "# Metrics\n\nMade from the code by `portcullis reference`; do not edit. Served as Prometheus text at `/metrics` of \
         the admin listener. Labels hold names from the configuration, never an address, a subject or a path.\n\n\
         | metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n",
    );
    for (name, kind, labels, help) in metrics {
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        line(&mut out, &format!("| `{name}` | {kind} | {labels} | {} |", cell(help)));
    }
    out
}

/// What to write where `field` is missing in the table at `path`.
pub(crate) fn missing(path: &[&str], field: &str) -> String {
    let schema = Schema::of_document();
    let table = path.iter().try_fold(&schema.0, |table, name| schema.below(table, name));
    let description = table.and_then(|table| schema.below_unresolved(table, field)).and_then(described);
    match description {
        Some(text) => format!("nothing is assumed here; `{field}` says: {}", text.trim_end_matches('.')),
        None => "nothing is assumed here; write it".to_owned(),
    }
}

/// The JSON schema of the document.
struct Schema(Value);

/// A table of the document: every path it can stand at, and its schema.
struct Table<'s> {
    paths: Vec<Vec<&'s str>>,
    schema: &'s Value,
}

impl Schema {
    fn of_document() -> Self {
        Self(schemars::schema_for!(Document).to_value())
    }

    /// Follows references, and steps over the alternatives `null` and `"off"`.
    fn resolved<'s>(&'s self, mut schema: &'s Value) -> &'s Value {
        loop {
            let followed = if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
                reference.strip_prefix('#').and_then(|pointer| self.0.pointer(pointer))
            } else {
                let any = schema.get("anyOf").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                any.iter().find(|one| one.get("const").is_none() && one.get("type").is_none_or(|kind| kind != "null"))
            };
            match followed {
                Some(next) => schema = next,
                None => return schema,
            }
        }
    }

    fn below_unresolved<'s>(&self, table: &'s Value, name: &str) -> Option<&'s Value> {
        table.get("properties").and_then(|fields| fields.get(name)).or_else(|| named(table))
    }

    fn below<'s>(&'s self, table: &'s Value, name: &str) -> Option<&'s Value> {
        self.below_unresolved(table, name).map(|schema| self.resolved(schema))
    }

    /// Every table at and below `path`, each type once, in the order of the document.
    fn collect<'s>(&'s self, path: Vec<&'s str>, schema: &'s Value, tables: &mut Vec<Table<'s>>) {
        let Some(fields) = fields(schema) else { return };
        match tables.iter_mut().find(|table| table.schema == schema) {
            Some(table) => table.paths.push(path.clone()),
            None => tables.push(Table { paths: vec![path.clone()], schema }),
        }
        for (name, field) in fields {
            let mut below = path.clone();
            below.push(name);
            let field = self.resolved(field);
            match named(field) {
                Some(each) => {
                    below.push(NAME);
                    self.collect(below, self.resolved(each), tables);
                }
                None => self.collect(below, field, tables),
            }
        }
    }

    /// A field's type in an operator's words.
    fn kind(&self, schema: &Value, tables: &[Table<'_>]) -> String {
        let off = schema
            .get("anyOf")
            .and_then(Value::as_array)
            .is_some_and(|any| any.iter().any(|one| one.get("const").and_then(Value::as_str) == Some("off")));
        let suffix = if off { " or `\"off\"`" } else { "" };
        let name = self.definition(schema);
        let resolved = self.resolved(schema);
        let kind = match name.trim_end_matches(|c: char| c.is_ascii_digit()) {
            "Millis" => "duration".to_owned(),
            "Size" => "size".to_owned(),
            "Cidrs" => "list of networks".to_owned(),
            "SecretRef" => "reference".to_owned(),
            _ => match (resolved.get("oneOf"), value_type(resolved)) {
                (Some(alternatives), _) => self.alternatives(alternatives, tables),
                (None, Some("integer")) if resolved.get("minimum") == Some(&1.into()) => {
                    "number, at least 1".to_owned()
                }
                (None, Some("integer")) => "number".to_owned(),
                (None, Some("array")) => {
                    let items = resolved.get("items").map(|items| self.kind(items, tables));
                    format!("list of {}", items.unwrap_or_default())
                }
                (None, Some("object")) => self.table_kind(resolved, tables),
                (None, _) => "text".to_owned(),
            },
        };
        format!("{kind}{suffix}")
    }

    /// The name of the definition a schema leads to.
    fn definition<'s>(&self, schema: &'s Value) -> &'s str {
        let any = schema.get("anyOf").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let reference = schema.get("$ref").or_else(|| any.iter().find_map(|one| one.get("$ref")));
        reference.and_then(Value::as_str).and_then(|text| text.rsplit('/').next()).unwrap_or_default()
    }

    fn table_kind(&self, schema: &Value, tables: &[Table<'_>]) -> String {
        match named(schema) {
            Some(each) if fields(self.resolved(each)).is_some() => {
                format!("by name, each a {}", self.kind(each, tables))
            }
            Some(each) => format!("by name, each {}", self.kind(each, tables)),
            None => match tables.iter().find(|table| table.schema == schema).and_then(|table| table.paths.first()) {
                Some(path) => format!("[table](#{})", anchor(path)),
                None => "table".to_owned(),
            },
        }
    }

    fn alternatives(&self, alternatives: &Value, tables: &[Table<'_>]) -> String {
        let mut shown = Vec::new();
        for one in alternatives.as_array().map(Vec::as_slice).unwrap_or_default() {
            let words = one.get("enum").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            shown.extend(one.get("const").into_iter().chain(words).map(|word| format!("`{word}`")));
            for (name, inner) in fields(one).into_iter().flatten() {
                shown.push(format!("`{{ {name} = … }}` ({})", self.kind(inner, tables)));
            }
        }
        shown.join(", ")
    }
}

fn table_section(
    out: &mut String,
    schema: &Schema,
    table: &Table<'_>,
    tables: &[Table<'_>],
    defaults: &defaults::Defaults,
) {
    let Some((first, others)) = table.paths.split_first() else { return };
    line(out, &format!("\n## {}\n", heading(first)));
    if let Some(text) = described(table.schema) {
        line(out, &format!("{text}\n"));
    }
    if !others.is_empty() {
        let others = others.iter().map(|path| heading(path)).collect::<Vec<_>>().join(", ");
        line(out, &format!("Also at {others}.\n"));
    }
    line(out, "| field | type | default | meaning |\n| --- | --- | --- | --- |");
    let required = table.schema.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (name, field) in fields(table.schema).into_iter().flatten() {
        let kind = schema.kind(field, tables);
        let default = if required.iter().any(|one| one == name) {
            "**needed**".to_owned()
        } else {
            match defaults.get(&(dotted(first), name.as_str())) {
                Some(value) => format!("`{value}`"),
                None if kind.starts_with("[table](#") && !optional(field) => "its fields' defaults".to_owned(),
                None => "none".to_owned(),
            }
        };
        let meaning = described(field).unwrap_or_default();
        line(out, &format!("| `{name}` | {} | {} | {} |", cell(&kind), cell(&default), cell(&meaning)));
    }
}

/// The fields of a table, in the order of its type.
fn fields(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object)
}

/// The schema of each entry, where the names are the operator's.
fn named(schema: &Value) -> Option<&Value> {
    schema.get("additionalProperties").filter(|each| each.is_object())
}

/// Whether a field may be absent altogether.
fn optional(field: &Value) -> bool {
    let has = |list: Option<&Value>, null: &dyn Fn(&Value) -> bool| {
        list.and_then(Value::as_array).is_some_and(|list| list.iter().any(null))
    };
    has(field.get("anyOf"), &|one| one.get("type").is_some_and(|kind| kind == "null"))
        || has(field.get("type"), &|kind| kind == "null")
}

/// The type of a schema's value, beside `null`.
fn value_type(schema: &Value) -> Option<&str> {
    let kind = schema.get("type")?;
    let first = kind.as_array().and_then(|kinds| kinds.iter().find(|kind| *kind != "null"));
    first.unwrap_or(kind).as_str()
}

fn described(schema: &Value) -> Option<String> {
    let text = schema.get("description").and_then(Value::as_str)?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn heading(path: &[&str]) -> String {
    if path.is_empty() { "The document".to_owned() } else { format!("`[{}]`", dotted(path)) }
}

/// GitHub's anchor of [`heading`].
fn anchor(path: &[&str]) -> String {
    let keep = |c: &char| c.is_ascii_alphanumeric() || *c == '-' || *c == '_' || *c == ' ';
    heading(path).chars().filter(keep).collect::<String>().to_ascii_lowercase().replace(' ', "-")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn line(out: &mut String, text: &str) {
    // Writing to a `String` does not fail.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_may_be_left_out_has_a_default_or_may_be_absent() {
        let schema = Schema::of_document();
        let mut tables = Vec::new();
        schema.collect(Vec::new(), &schema.0, &mut tables);
        let defaults = defaults::defaults();
        for table in &tables {
            let required = table.schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
            for (name, field) in fields(table.schema).unwrap() {
                let path = dotted(table.paths.first().unwrap());
                let kind = value_type(schema.resolved(field)).unwrap_or_default();
                let known = required.contains(&name.as_str().into())
                    || optional(field)
                    || kind == "array"
                    || kind == "object"
                    || defaults.contains_key(&(path.clone(), name.as_str()));
                assert!(known, "say the default of `{name}` of `{path}` in reference/defaults.rs");
                assert!(described(field).is_some(), "`{name}` of `{path}` has no description");
            }
        }
        for (path, name) in defaults.keys() {
            let known = tables.iter().any(|table| {
                dotted(table.paths.first().unwrap()) == *path && fields(table.schema).unwrap().contains_key(*name)
            });
            assert!(known, "`{name}` of `{path}` is no field");
        }
    }

    #[test]
    fn codes_and_metrics_are_tables() {
        const CODES: &[Code] = &[Code { name: "a.b", status: 403, title: "No | never" }];
        assert!(
            codes(&[("a", CODES)])
                .ends_with("## a\n\n| code | status | title |\n| --- | --- | --- |\n| `a.b` | 403 | No \\| never |\n")
        );
        assert!(
            metrics(&[("m_total", "counter", &["host", "code"], "Things.")])
                .ends_with("| `m_total` | counter | `host`, `code` | Things. |\n")
        );
    }

    #[test]
    fn what_a_missing_field_is_comes_from_its_own_documentation() {
        let help = missing(&["hosts", "api.example.com"], "tenant");
        assert!(help.starts_with("nothing is assumed here; `tenant` says: Whose host this is"), "{help}");
        assert_eq!(missing(&["nowhere"], "x"), "nothing is assumed here; write it");
    }
}
