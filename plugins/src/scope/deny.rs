//! Why a request is not confined. A detail names a parameter that the operator wrote, never what the client did.

use std::borrow::Cow;

use portcullis_api::{Code, Refusal};

use super::{
    BODY_BYTES_MAX, PARAMETERS_MAX, ParameterName, TARGET_BYTES_MAX,
    promql::{self, Unscoped},
};

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deny {
    /// A parameter that says what is asked for is not there.
    Missing(ParameterName),
    /// A parameter that may be there once is there more often, be it once in the query and once in the form.
    Repeated(ParameterName),
    /// A parameter that the route does not name, as it may be shown.
    Parameter(Box<str>),
    /// A plain parameter has another value than the tenant's.
    Other(ParameterName),
    /// A query that cannot be confined, and why.
    Query(ParameterName, Unscoped),
    /// The query or the form is no list of parameters in UTF-8.
    Malformed,
    /// More parameters than [`PARAMETERS_MAX`].
    TooMany,
    /// The form is larger than [`BODY_BYTES_MAX`], or than can be read ahead.
    BodyTooLarge,
    /// What would go upstream is larger than [`TARGET_BYTES_MAX`].
    TargetTooLarge,
    /// A body that is no plain form, or one of a method that has none.
    Body(&'static str),
}

const MISSING: Code =
    Code { name: "scope.missing", status: 400, title: "A parameter that says what is asked for is missing" };
const REPEATED: Code = Code { name: "scope.repeated", status: 400, title: "A parameter may be there only once" };
const PARAMETER: Code = Code { name: "scope.parameter", status: 400, title: "A parameter is not admitted here" };
const CONFLICT: Code =
    Code { name: "scope.conflict", status: 403, title: "The request asks for more than its tenant's" };
const UNREADABLE: Code =
    Code { name: "scope.unreadable", status: 400, title: "The request cannot be read in the one way that is safe" };
const TOO_LARGE: Code = Code { name: "scope.too_large", status: 413, title: "The query is too large" };
const BODY: Code = Code { name: "scope.body", status: 415, title: "Only a form in plain UTF-8 is admitted as body" };

impl Deny {
    /// A parameter that the route does not name. What is no name of a parameter may be a value, which no log may hold.
    pub(super) fn unknown(name: &str) -> Self {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '[' | ']');
        Self::Parameter(match (1..=32).contains(&name.len()) && name.chars().all(is_name) {
            true => format!("parameter `{name}`").into(),
            false => "a parameter of no usual name".into(),
        })
    }
}

impl Refusal for Deny {
    const CODES: &'static [Code] = &[MISSING, REPEATED, PARAMETER, CONFLICT, UNREADABLE, TOO_LARGE, BODY];

    fn code(&self) -> Code {
        match self {
            Self::Missing(_) => MISSING,
            Self::Repeated(_) => REPEATED,
            Self::Parameter(_) => PARAMETER,
            Self::Other(_) | Self::Query(_, Unscoped::Conflict) => CONFLICT,
            Self::Query(_, Unscoped::TooLarge { .. }) | Self::TooMany | Self::BodyTooLarge | Self::TargetTooLarge => {
                TOO_LARGE
            }
            Self::Query(_, Unscoped::Syntax | Unscoped::Unsupported(_) | Unscoped::Changed) | Self::Malformed => {
                UNREADABLE
            }
            Self::Body(_) => BODY,
        }
    }

    fn rule(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Missing(name) | Self::Repeated(name) | Self::Other(name) | Self::Query(name, _) => {
                Some(name.as_str().into())
            }
            Self::Parameter(_)
            | Self::Malformed
            | Self::TooMany
            | Self::BodyTooLarge
            | Self::TargetTooLarge
            | Self::Body(_) => None,
        }
    }

    fn detail(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Missing(name) => format!("`{name}` is missing").into(),
            Self::Repeated(name) => format!("`{name}` is there more than once").into(),
            Self::Parameter(shown) => format!("{shown}, which the route's `scope` does not name").into(),
            Self::Other(name) => format!("`{name}` is not the tenant's").into(),
            Self::Query(name, why) => format!("`{name}`: {}", told(why)).into(),
            Self::Malformed => "a query or form with a stray %, or not in UTF-8".into(),
            Self::TooMany => format!("more than {PARAMETERS_MAX} parameters").into(),
            Self::BodyTooLarge => format!("more than {BODY_BYTES_MAX} bytes, or more than can be read ahead").into(),
            Self::TargetTooLarge => format!("a target of more than {TARGET_BYTES_MAX} bytes").into(),
            Self::Body(why) => (*why).into(),
        })
    }
}

fn told(why: &promql::Unscoped) -> Cow<'static, str> {
    match why {
        Unscoped::Conflict => "a selector has another matcher for the label of the tenant".into(),
        Unscoped::TooLarge { what, max } => format!("more than {max} {what}").into(),
        Unscoped::Syntax => "it is no PromQL that is known here".into(),
        Unscoped::Unsupported(what) => format!("{what} cannot be confined").into(),
        Unscoped::Changed => "it cannot be written anew without a change".into(),
    }
}
