//! The decision record: what each control said of one request, in order.

use crate::{Code, ControlName, Mode, Rejection};

/// What a gate made of a control's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It said yes.
    Pass,
    /// It said no.
    Deny,
    /// It could not decide.
    Fault,
    /// The operator switched it off.
    Off,
    /// It passed, on a fallback that the operator chose in writing, e.g. local shares while the store is away.
    Degraded,
}

impl Outcome {
    /// As written in logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Deny => "deny",
            Self::Fault => "fault",
            Self::Off => "off",
            Self::Degraded => "degraded",
        }
    }
}

/// One control's entry.
#[derive(Debug, Clone)]
pub struct Step {
    /// The control.
    pub control: ControlName,
    /// What came of it.
    pub outcome: Outcome,
    /// Whether a refusal refuses.
    pub mode: Mode,
    /// The code, where it refused or could not decide.
    pub code: Option<Code>,
    /// The configured rule that decided.
    pub rule: Option<String>,
    /// What decided, never a secret or a plain address.
    pub detail: Option<String>,
}

/// The record of one request. Capacity for a whole journey is taken once.
#[derive(Debug)]
pub struct Trail {
    steps: Vec<Step>,
}

impl Default for Trail {
    fn default() -> Self {
        Self { steps: Vec::with_capacity(13) }
    }
}

impl Trail {
    /// Adds an entry without a code.
    pub fn record(&mut self, control: ControlName, outcome: Outcome, mode: Mode) {
        self.steps.push(Step { control, outcome, mode, code: None, rule: None, detail: None });
    }

    /// Adds an entry that names what decided, e.g. a rule that runs on its fallback.
    pub fn note(&mut self, control: ControlName, outcome: Outcome, mode: Mode, rule: &str, detail: &str) {
        self.steps.push(Step {
            control,
            outcome,
            mode,
            code: None,
            rule: Some(rule.to_owned()),
            detail: Some(detail.to_owned()),
        });
    }

    /// Adds a refusal.
    pub fn refused(&mut self, rejection: &Rejection, outcome: Outcome, mode: Mode) {
        self.steps.push(Step {
            control: rejection.control,
            outcome,
            mode,
            code: Some(rejection.code),
            rule: rejection.rule.clone(),
            detail: rejection.detail.clone(),
        });
    }

    /// The entries in the order of the journey.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}
