//! Everything that is wrong with a document, over its own text: for a terminal (miette) and, a line an issue, for a log.

use std::{fmt, ops::Range, path::Path};

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use portcullis_api::{Issue, Issues};

/// Why a document was refused: at least one issue, each with its place.
#[derive(Debug)]
pub struct Report {
    origin: String,
    text: String,
    findings: Vec<Finding>,
}

/// One issue, with the text it points into.
#[derive(Debug)]
struct Finding {
    issue: Issue,
    source: NamedSource<String>,
}

/// The code of a secret that the operator wrote inline.
pub(crate) const INLINE_SECRET: &str = "secrets.inline";
/// The code of a store that is none; what was written may be a URL with a password.
pub(crate) const UNKNOWN_STORE: &str = "stores.unknown";
/// The code of a store's URL that is none: its password may be anywhere in it.
pub(crate) const NO_STORE_URL: &str = "stores.no_url";
/// The same of a store of API keys.
pub(crate) const NO_KEY_STORE_URL: &str = "api_keys.no_url";
/// Where what was written may be a secret.
const HIDDEN: &[&str] = &[INLINE_SECRET, UNKNOWN_STORE, NO_STORE_URL, NO_KEY_STORE_URL];

impl Report {
    /// A report over `text`, which came from `origin`. The issues are put in the order of the text.
    #[must_use]
    pub fn new(text: &str, origin: &Path, issues: Issues) -> Self {
        let mut issues = issues.into_vec();
        issues.sort_by_key(|issue| (issue.span.start, issue.span.end));
        issues.dedup();
        let origin = origin.display().to_string();
        let shown = without_secrets(text, &issues);
        let findings = issues
            .into_iter()
            .map(|issue| Finding { issue, source: NamedSource::new(&origin, shown.clone()).with_language("TOML") })
            .collect();
        Self { origin, text: text.to_owned(), findings }
    }

    /// The issues, in the order of the text.
    pub fn issues(&self) -> impl Iterator<Item = &Issue> {
        self.findings.iter().map(|finding| &finding.issue)
    }

    /// One line per issue: `file:line:column: code: message; help`. For logs; holds no text of the document but names.
    #[must_use]
    pub fn plain(&self) -> String {
        let mut lines = String::new();
        for Issue { code, message, span, help } in self.issues() {
            let (line, column) = position(&self.text, span.start);
            lines.push_str(&format!("{}:{line}:{column}: {code}: {message}", self.origin));
            if let Some(help) = help {
                lines.push_str("; ");
                lines.push_str(help);
            }
            lines.push('\n');
        }
        lines
    }

    /// The report with excerpts of the text, without colour and `width` columns wide.
    #[must_use]
    pub fn excerpts(&self, width: usize) -> String {
        let mut out = String::new();
        let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(width);
        match handler.render_report(&mut out, self) {
            Ok(()) => out,
            Err(fmt::Error) => self.plain(),
        }
    }
}

/// The text with whatever may be an inline secret replaced by `*`, byte for byte, so that spans stay true.
fn without_secrets(text: &str, issues: &[Issue]) -> String {
    let secrets: Vec<_> = issues.iter().filter(|issue| HIDDEN.contains(&issue.code)).collect();
    let secret = |at: usize| secrets.iter().any(|issue| issue.span.contains(&at));
    let mut shown = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        if secret(at) && c != '\n' {
            shown.extend(std::iter::repeat_n('*', c.len_utf8()));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Line and column of a byte, both from 1, the column in characters.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count().saturating_add(1);
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count().saturating_add(1);
    (line, column)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.findings.len() {
            1 => write!(f, "{} has 1 issue and was not loaded", self.origin),
            many => write!(f, "{} has {many} issues and was not loaded", self.origin),
        }
    }
}

impl std::error::Error for Report {}

impl Diagnostic for Report {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        None
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.findings.iter().map(|finding| -> &dyn Diagnostic { finding })))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.issue.message)
    }
}

impl std::error::Error for Finding {}

impl Diagnostic for Finding {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.issue.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.issue.help.as_ref().map(|help| -> Box<dyn fmt::Display + 'a> { Box::new(help) })
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let Range { start, end } = self.issue.span.clone();
        if (start, end) == (0, 0) {
            return None;
        }
        let label = LabeledSpan::new(Some("here".to_owned()), start, end.saturating_sub(start));
        Some(Box::new(std::iter::once(label)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str, issues: &[(&'static str, Range<usize>)]) -> Report {
        let mut all = Issues::default();
        for (code, span) in issues {
            all.push_help(code, span, format!("no {code}"), "write it");
        }
        Report::new(text, Path::new("gateway.toml"), all)
    }

    #[test]
    fn the_plain_form_is_a_line_per_issue_in_the_order_of_the_text() {
        let report = report("a = 1\nü = 2\n", &[("b.x", 9..10), ("a.x", 4..5), ("a.x", 4..5), ("c.x", 0..0)]);
        assert_eq!(
            report.plain(),
            "gateway.toml:1:1: c.x: no c.x; write it\n\
             gateway.toml:1:5: a.x: no a.x; write it\n\
             gateway.toml:2:3: b.x: no b.x; write it\n"
        );
        assert_eq!(report.to_string(), "gateway.toml has 3 issues and was not loaded");
    }

    #[test]
    fn a_secret_that_was_written_inline_is_blotted_out_of_the_excerpt() {
        let report = report("key = \"hunter2ü\"\nother = 1\n", &[(INLINE_SECRET, 6..16)]);
        assert!(!report.excerpts(80).contains("hunter2"), "{}", report.excerpts(80));
        assert!(!report.plain().contains("hunter2"));
        assert!(report.excerpts(80).contains("other = 1"));
    }

    #[test]
    fn a_span_outside_the_text_does_no_harm() {
        assert_eq!(report("a", &[("a.x", 7..9)]).plain(), "gateway.toml:1:2: a.x: no a.x; write it\n");
        assert!(!report("ü", &[("a.x", 1..2)]).excerpts(80).is_empty());
    }
}
