//! What a control is: settings in, one of three answers out.
//!
//! Invariant: a control decides and does nothing else. It reads shared references, never writes a header,
//! never reads a clock or a file, and never turns "could not decide" into yes or no.

use std::{borrow::Cow, fmt, future::Future};

use http::HeaderMap;

use crate::{Issues, Posture};

/// The one name of a control: module, configuration key, metric label, log field and docs page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ControlName(&'static str);

impl ControlName {
    /// `name` is lower-case words joined by `_`, e.g. `rate_limit`.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// The name as written in the configuration, the log and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for ControlName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for ControlName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A stable reason code, `control.reason`, e.g. `rate_limit.exceeded`. Changing one is a breaking change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code {
    /// `control.reason`.
    pub name: &'static str,
    /// The HTTP status the client gets.
    pub status: u16,
    /// The `title` of the problem document: one short sentence that helps a client and no attacker.
    pub title: &'static str,
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.status)
    }
}

/// Why a control says no: a small enum, one per control.
pub trait Refusal: Send + fmt::Debug {
    /// Every code this control can answer with, for the generated reference.
    const CODES: &'static [Code];

    /// The code of this refusal. Must be one of [`Refusal::CODES`].
    fn code(&self) -> Code;

    /// The configured rule that decided, as the operator named it, e.g. a limit's name.
    fn rule(&self) -> Option<Cow<'_, str>> {
        None
    }

    /// What decided, for the log and `portcullis explain`. Never a secret, a token, a query value or a plain address.
    fn detail(&self) -> Option<Cow<'_, str>> {
        None
    }

    /// Headers the answer must carry, e.g. `Retry-After` or `WWW-Authenticate`.
    fn headers(&self, _answer: &mut HeaderMap) {}

    /// Extension members of the problem document, e.g. `violated-policies`.
    fn members(&self) -> Vec<(&'static str, Vec<String>)> {
        Vec::new()
    }
}

/// What a control that could decide says.
#[derive(Debug)]
pub enum Verdict<P, D> {
    /// Yes, and the value that proves it.
    Pass(P),
    /// No, and why.
    Deny(D),
}

/// A control could not decide. Only a [`crate::Gate`] gives this a consequence.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{control} could not decide: {what}")]
pub struct Fault {
    /// The control that could not decide.
    pub control: ControlName,
    /// What was missing, for the log: e.g. `no key set for issuer main`.
    pub what: Cow<'static, str>,
    /// When it is worth trying again, in seconds.
    pub retry_after_s: u32,
    /// What the client is told: [`crate::UNAVAILABLE`], or a code of the control's own with a status of 503.
    pub code: Code,
}

/// One control of the gateway. See `CONTRIBUTING.md` for how one is added.
pub trait Control: Sized + Send + Sync + 'static {
    /// Config key = module = metric label = log field = docs page.
    const NAME: ControlName;
    /// What the operator, the routes and the tenants wrote, gathered for this control.
    type Settings<'d>;
    /// What must be known before this control can be asked: its place in the journey.
    type Sees<'r>: Copy + Send;
    /// What passing proves. Only the control's own module can make one.
    type Proof: Send;
    /// Why it refuses.
    type Deny: Refusal;
    /// Stores and clocks. They outlive every snapshot.
    type Needs;
    /// [`crate::Strict`] or [`crate::Adjustable`].
    type Posture: Posture;

    /// Turns settings into a control, or says everything that is wrong with them in `issues` and answers `None`.
    fn compile(settings: Self::Settings<'_>, needs: &Self::Needs, issues: &mut Issues) -> Option<Self>;

    /// Decides.
    ///
    /// # Errors
    /// [`Fault`] when it could not decide.
    fn check<'r>(
        &'r self,
        sees: Self::Sees<'r>,
    ) -> impl Future<Output = Result<Verdict<Self::Proof, Self::Deny>, Fault>> + Send + 'r;
}
