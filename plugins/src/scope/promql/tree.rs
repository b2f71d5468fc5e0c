//! The syntax tree: every selector of it, and what is done to one.

use std::sync::LazyLock;

use promql_parser::{
    label::{MatchOp, Matcher as Written},
    parser::{
        AggregateExpr, BinaryExpr, Call, Expr, MatrixSelector, ParenExpr, SubqueryExpr, UnaryExpr, VectorSelector,
        token::{T_EQL_REGEX, T_NEQ_REGEX},
    },
};

use super::{Matcher, SELECTORS_MAX, Unscoped};

/// What a selector may be asked or told.
type Visitor<'v> = dyn FnMut(&mut VectorSelector) -> Result<(), Unscoped> + 'v;

/// Functions that read no series but those of their arguments. One that is not among them, be it one that a later parser
/// knows, is refused until somebody has looked at it: `info` adds the labels of series that no selector names.
const FUNCTIONS: &[&str] = &[
    "abs",
    "absent",
    "absent_over_time",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "avg_over_time",
    "ceil",
    "changes",
    "clamp",
    "clamp_max",
    "clamp_min",
    "cos",
    "cosh",
    "count_over_time",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "days_in_month",
    "deg",
    "delta",
    "deriv",
    "double_exponential_smoothing",
    "exp",
    "first_over_time",
    "floor",
    "histogram_avg",
    "histogram_count",
    "histogram_fraction",
    "histogram_quantile",
    "histogram_quantiles",
    "histogram_stddev",
    "histogram_stdvar",
    "histogram_sum",
    "hour",
    "idelta",
    "increase",
    "irate",
    "label_join",
    "label_replace",
    "last_over_time",
    "ln",
    "log10",
    "log2",
    "mad_over_time",
    "max_over_time",
    "min_over_time",
    "minute",
    "month",
    "pi",
    "predict_linear",
    "present_over_time",
    "quantile_over_time",
    "rad",
    "rate",
    "resets",
    "round",
    "scalar",
    "sgn",
    "sin",
    "sinh",
    "sort",
    "sort_by_label",
    "sort_by_label_desc",
    "sort_desc",
    "sqrt",
    "stddev_over_time",
    "stdvar_over_time",
    "sum_over_time",
    "tan",
    "tanh",
    "time",
    "timestamp",
    "ts_of_first_over_time",
    "ts_of_last_over_time",
    "ts_of_max_over_time",
    "ts_of_min_over_time",
    "vector",
    "year",
];

/// Every selector of a tree. The patterns name every field: one that is added to the tree must be looked at here.
pub(super) fn visit(tree: &mut Expr, visitor: &mut Visitor<'_>) -> Result<(), Unscoped> {
    match tree {
        Expr::Aggregate(AggregateExpr { op: _, expr, param, modifier: _ }) => {
            if let Some(param) = param {
                visit(param, visitor)?;
            }
            visit(expr, visitor)
        }
        Expr::Unary(UnaryExpr { expr }) | Expr::Paren(ParenExpr { expr }) => visit(expr, visitor),
        Expr::Binary(BinaryExpr { op: _, lhs, rhs, modifier: _ }) => {
            visit(lhs, visitor)?;
            visit(rhs, visitor)
        }
        Expr::Subquery(SubqueryExpr { expr, offset: _, at: _, range: _, step: _ }) => visit(expr, visitor),
        Expr::Call(Call { func, args }) => {
            if !FUNCTIONS.contains(&func.name) {
                return Err(Unscoped::Unsupported("a function that is not known here"));
            }
            args.args.iter_mut().try_for_each(|argument| visit(argument, visitor))
        }
        Expr::VectorSelector(selector) => visitor(selector),
        Expr::MatrixSelector(MatrixSelector { vs, range: _ }) => visitor(vs),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => Ok(()),
        Expr::Extension(_) => Err(Unscoped::Unsupported("an extension")),
    }
}

/// Adds every matcher that is not there. One for the same label that is not the same is a conflict, also where it would
/// narrow: who asks for another tenant is told so, not given an empty answer.
pub(super) fn confine(selector: &mut VectorSelector, matchers: &[Matcher<'_>]) -> Result<(), Unscoped> {
    let written = &mut selector.matchers.matchers;
    for Matcher { label, value } in matchers {
        let is_same = |other: &Written| other.op == MatchOp::Equal && other.value == *value;
        if written.iter().any(|other| other.name == *label && !is_same(other)) {
            return Err(Unscoped::Conflict);
        }
        written.retain(|other| other.name != *label);
        written.push(Written::new(MatchOp::Equal, label, value));
    }
    // In the order in which they are printed, so that two trees can be compared.
    written.sort_by_cached_key(ToString::to_string);
    Ok(())
}

/// Whether it carries each matcher, once, and no other for its label.
pub(super) fn carries(selector: &VectorSelector, matchers: &[Matcher<'_>]) -> bool {
    let VectorSelector { name: _, matchers: written, offset: _, at: _ } = selector;
    written.or_matchers.is_empty()
        && matchers.iter().all(|Matcher { label, value }| {
            let mut same = written.matchers.iter().filter(|other| other.name == *label);
            let first = same.next();
            first.is_some_and(|other| other.op == MatchOp::Equal && other.value == *value) && same.next().is_none()
        })
}

/// Gives the selectors of a sifted text their regular expressions back, and counts them.
pub(super) struct Selectors {
    regexes: Vec<Option<String>>,
    count: usize,
}

impl Selectors {
    pub(super) fn new(regexes: Vec<String>) -> Self {
        Self { regexes: regexes.into_iter().map(Some).collect(), count: 0 }
    }

    pub(super) fn restore(&mut self, selector: &mut VectorSelector) -> Result<(), Unscoped> {
        self.count = self.count.saturating_add(1);
        if self.count > SELECTORS_MAX {
            return Err(Unscoped::TooLarge { what: "selectors", max: SELECTORS_MAX });
        }
        if !selector.matchers.or_matchers.is_empty() {
            return Err(Unscoped::Unsupported("`or` between matchers"));
        }
        for matcher in &mut selector.matchers.matchers {
            if matcher.name.eq_ignore_ascii_case("or") {
                return Err(Unscoped::Unsupported("a label `or`"));
            }
            let op = match matcher.op {
                MatchOp::Equal | MatchOp::NotEqual => continue,
                MatchOp::Re(_) => &STAND_INS.0,
                MatchOp::NotRe(_) => &STAND_INS.1,
            };
            let regex = matcher.value.parse().ok().and_then(|at: usize| self.regexes.get_mut(at)?.take());
            matcher.value = regex.ok_or(Unscoped::Changed)?;
            matcher.op = op.clone().ok_or(Unscoped::Changed)?;
        }
        Ok(())
    }

    /// How many there were, if nothing was left over.
    pub(super) fn finish(self) -> Result<usize, Unscoped> {
        if self.regexes.iter().all(Option::is_none) { Ok(self.count) } else { Err(Unscoped::Changed) }
    }
}

/// The compiled expression that every matcher is given: it is never asked, and two trees are compared by the text.
static STAND_INS: LazyLock<(Option<MatchOp>, Option<MatchOp>)> = LazyLock::new(|| {
    let op = |token| Written::new_matcher(token, String::from("label"), String::from("0")).ok().map(|made| made.op);
    (op(T_EQL_REGEX), op(T_NEQ_REGEX))
});
