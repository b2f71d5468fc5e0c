//! PromQL with a matcher in every selector.
//!
//! `promql-parser` parses; its own ways to walk a tree are not used: `walk_expr` leaves out the parameter of an aggregation
//! (`topk(scalar(foo), bar)`). What it is given was sifted before, see [`sift`], because its parser takes what is in order
//! and huge for in order, panics at some durations and compiles every regular expression. What it prints is not believed:
//! it is parsed again, must be the same tree, and must have every matcher.
//!
//! Invariant: the text that came is never sent.

mod sift;
mod tree;

#[cfg(test)]
pub(super) mod tests;

use std::fmt::Write as _;

use promql_parser::{
    parser::{self, Expr},
    util::escape_string,
};

use sift::Sifted;
use tree::Selectors;

/// Bytes of a query, as it comes and as it is sent.
pub const QUERY_BYTES_MAX: usize = 16 << 10;
/// The same with its matchers.
pub const CONFINED_BYTES_MAX: usize = 32 << 10;
/// Brackets and braces in each other.
pub const DEPTH_MAX: usize = 64;
/// Operators, ranges and subqueries: a tree is as deep as these and the brackets together.
pub const STEPS_MAX: usize = 256;
/// Selectors.
pub const SELECTORS_MAX: usize = 256;
/// Regular expressions.
pub const REGEXES_MAX: usize = 128;

/// What every selector must carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matcher<'r> {
    /// The label.
    pub label: &'r str,
    /// Its value, exactly.
    pub value: &'r str,
}

/// What a text is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any expression.
    Expression,
    /// One series selector.
    Selector,
}

/// Why a query cannot be confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unscoped {
    /// It cannot be parsed.
    Syntax,
    /// It is too large to be parsed, or to be sent.
    TooLarge {
        /// Of what there is too much.
        what: &'static str,
        /// How much may be.
        max: usize,
    },
    /// A selector has another matcher for a label that it must carry.
    Conflict,
    /// It holds something that reads series without a selector, or whose meaning is not agreed on.
    Unsupported(&'static str),
    /// What the printed text says is not what the tree says.
    Changed,
}

/// The query with every matcher in every selector.
///
/// # Errors
/// [`Unscoped`] where that cannot be done.
pub fn confine(query: &str, kind: Kind, matchers: &[Matcher<'_>]) -> Result<String, Unscoped> {
    let (mut tree, found) = parse(query, QUERY_BYTES_MAX)?;
    if kind == Kind::Selector && !matches!(tree, Expr::VectorSelector(_)) {
        return Err(Unscoped::Syntax);
    }
    tree::visit(&mut tree, &mut |selector| tree::confine(selector, matchers))?;
    let printed = tree.to_string();
    let (mut again, found_again) = parse(&printed, CONFINED_BYTES_MAX)?;
    let mut carried = 0_usize;
    tree::visit(&mut again, &mut |selector| {
        carried = carried.saturating_add(1);
        if tree::carries(selector, matchers) { Ok(()) } else { Err(Unscoped::Changed) }
    })?;
    // By the tree and by the text: as many braces outside of strings as there are selectors.
    let agree = carried == found.selectors && carried == found_again.selectors && carried == found_again.braces;
    if agree && again == tree { Ok(printed) } else { Err(Unscoped::Changed) }
}

/// A selector of everything that the matchers leave.
#[must_use]
pub fn all(matchers: &[Matcher<'_>]) -> String {
    let mut text = String::from("{");
    for (at, Matcher { label, value }) in matchers.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        // Writing to a string does not fail.
        let _written = write!(text, "{comma}{label}=\"{}\"", escape_string(value));
    }
    text.push('}');
    text
}

/// What is counted of a query.
struct Found {
    selectors: usize,
    braces: usize,
}

/// The tree of a text, with its regular expressions as they were written.
fn parse(text: &str, max: usize) -> Result<(Expr, Found), Unscoped> {
    if text.len() > max {
        return Err(Unscoped::TooLarge { what: "bytes", max });
    }
    let Sifted { text, regexes, braces } = sift::sift(text)?;
    // It is not ours: what it cannot take it may not take down. Nothing of it is shared, so nothing is left half done.
    let parsed = std::panic::catch_unwind(|| parser::parse(&text)).map_err(|_| Unscoped::Syntax)?;
    let mut tree = parsed.map_err(|_| Unscoped::Syntax)?;
    let mut selectors = Selectors::new(regexes);
    tree::visit(&mut tree, &mut |selector| selectors.restore(selector))?;
    let selectors = selectors.finish()?;
    Ok((tree, Found { selectors, braces }))
}
