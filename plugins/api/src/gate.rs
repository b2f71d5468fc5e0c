//! A gate asks a control and gives its answer a consequence.
//!
//! Invariant: only a gate turns a fault into a consequence, and no gate turns one into a pass in silence.
//! Strict controls have no posture: there is no constructor that takes one.

use std::{borrow::Cow, marker::PhantomData};

use http::{HeaderMap, HeaderValue, header::RETRY_AFTER};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{Code, Control, ControlName, Fault, Outcome, Refusal, Trail, Verdict};

/// What an adjustable control's refusal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A refusal refuses.
    #[default]
    Enforce,
    /// A refusal is recorded in the trail and the metrics, and the request goes on.
    Shadow,
}

mod sealed {
    pub trait Sealed {}
}

/// Which consequences a control's answers may have.
pub trait Posture: sealed::Sealed + Send + Sync + 'static {}

/// A refusal always refuses, a fault always refuses. No setting changes it.
#[derive(Debug)]
pub enum Strict {}
impl sealed::Sealed for Strict {}
impl Posture for Strict {}

/// The operator may put the control in shadow or switch it off, in writing.
#[derive(Debug)]
pub enum Adjustable {}
impl sealed::Sealed for Adjustable {}
impl Posture for Adjustable {}

/// A gate in front of a control.
pub struct Gate<C: Control> {
    control: Option<C>,
    mode: Mode,
}

/// What a refusal or a fault looks like to the rest of the gateway.
#[derive(Debug)]
pub struct Rejection {
    /// Who refused.
    pub control: ControlName,
    /// The stable code with its status.
    pub code: Code,
    /// The configured rule that decided.
    pub rule: Option<String>,
    /// For the log only.
    pub detail: Option<String>,
    /// Headers the answer must carry. Boxed: a rejection is rare and rides in a `Result`.
    pub headers: Box<HeaderMap>,
    /// Extension members of the problem document.
    pub members: Vec<(&'static str, Vec<String>)>,
}

impl Rejection {
    /// A refusal as a rejection.
    pub fn of(control: ControlName, refusal: &impl Refusal) -> Self {
        let mut headers = Box::new(HeaderMap::new());
        refusal.headers(&mut headers);
        Self {
            control,
            code: refusal.code(),
            rule: refusal.rule().map(Cow::into_owned),
            detail: refusal.detail().map(Cow::into_owned),
            headers,
            members: refusal.members(),
        }
    }

    /// "We cannot tell" is 503, never a pass and never a 401.
    fn unavailable(fault: Fault) -> Self {
        let mut headers = Box::new(HeaderMap::new());
        headers.insert(RETRY_AFTER, HeaderValue::from(fault.retry_after_s.max(1)));
        Self {
            control: fault.control,
            code: fault.code,
            rule: None,
            detail: Some(fault.what.into_owned()),
            headers,
            members: Vec::new(),
        }
    }
}

/// The code of a fault, where its control has none of its own for it.
pub const UNAVAILABLE: Code =
    Code { name: "gateway.unavailable", status: 503, title: "The gateway cannot decide right now" };

/// An adjustable control was asked and the request may go on: it passed, or its mode let it go on in writing.
///
/// Invariant: only a gate of control `C` makes one.
pub struct Cleared<C: Control> {
    proof: Option<C::Proof>,
    gate: PhantomData<fn() -> C>,
}

impl<C: Control> Cleared<C> {
    /// The proof, where the control did pass. `None` in shadow after a refusal, and when switched off.
    #[must_use]
    pub fn proof(&self) -> Option<&C::Proof> {
        self.proof.as_ref()
    }

    /// As [`Self::proof`], for a proof that holds something to be settled.
    pub fn proof_mut(&mut self) -> Option<&mut C::Proof> {
        self.proof.as_mut()
    }

    /// As [`Self::proof`], for a proof that is to be held or given up by itself.
    #[must_use]
    pub fn into_proof(self) -> Option<C::Proof> {
        self.proof
    }
}

impl<C: Control> Gate<C> {
    /// The control behind the gate, for look-ups that are no decision; `None` when it is switched off.
    #[must_use]
    pub fn control(&self) -> Option<&C> {
        self.control.as_ref()
    }
}

impl<C: Control<Posture = Strict>> Gate<C> {
    /// The only gate a strict control can have.
    #[must_use]
    pub fn strict(control: C) -> Self {
        Self { control: Some(control), mode: Mode::Enforce }
    }

    /// Asks the control.
    ///
    /// # Errors
    /// A [`Rejection`] when the control refuses, and when it could not decide.
    pub async fn pass<'r>(&'r self, sees: C::Sees<'r>, trail: &mut Trail) -> Result<C::Proof, Rejection> {
        let Some(control) = &self.control else {
            return Err(Rejection::unavailable(Fault {
                control: C::NAME,
                what: "a strict gate without its control".into(),
                retry_after_s: 1,
                code: UNAVAILABLE,
            }));
        };
        match control.check(sees).await {
            Ok(Verdict::Pass(proof)) => {
                trail.record(C::NAME, Outcome::Pass, Mode::Enforce);
                Ok(proof)
            }
            Ok(Verdict::Deny(refusal)) => Err(deny::<C>(&refusal, Mode::Enforce, trail)),
            Err(fault) => Err(could_not(fault, Mode::Enforce, trail)),
        }
    }

    /// Asks the control again of a request that it let pass and that still goes on.
    ///
    /// # Errors
    /// When the control would refuse it now, or could not decide, and which of the two.
    pub fn again(
        &self,
        ask: impl FnOnce(&C) -> Result<Verdict<(), C::Deny>, Fault>,
    ) -> Result<(), Box<(Rejection, Outcome)>> {
        let fault = match self.control.as_ref().map(ask) {
            Some(Ok(Verdict::Pass(()))) => return Ok(()),
            Some(Ok(Verdict::Deny(refusal))) => {
                return Err(Box::new((Rejection::of(C::NAME, &refusal), Outcome::Deny)));
            }
            Some(Err(fault)) => fault,
            None => {
                let what = "a strict gate without its control".into();
                Fault { control: C::NAME, what, retry_after_s: 1, code: UNAVAILABLE }
            }
        };
        Err(Box::new((Rejection::unavailable(fault), Outcome::Fault)))
    }
}

impl<C: Control<Posture = Adjustable>> Gate<C> {
    /// A gate in `mode` before `control`.
    #[must_use]
    pub fn adjustable(control: C, mode: Mode) -> Self {
        Self { control: Some(control), mode }
    }

    /// A gate that the operator switched off with the word `off`. It is counted and shown in every trail.
    #[must_use]
    pub fn off() -> Self {
        Self { control: None, mode: Mode::Enforce }
    }

    /// Asks the control.
    ///
    /// # Errors
    /// A [`Rejection`] when the control refuses or could not decide, and the mode is `enforce`.
    pub async fn clear<'r>(&'r self, sees: C::Sees<'r>, trail: &mut Trail) -> Result<Cleared<C>, Rejection> {
        let Some(control) = &self.control else {
            trail.record(C::NAME, Outcome::Off, Mode::Enforce);
            return Ok(Cleared { proof: None, gate: PhantomData });
        };
        let rejection = match control.check(sees).await {
            Ok(Verdict::Pass(proof)) => {
                trail.record(C::NAME, Outcome::Pass, self.mode);
                return Ok(Cleared { proof: Some(proof), gate: PhantomData });
            }
            Ok(Verdict::Deny(refusal)) => deny::<C>(&refusal, self.mode, trail),
            Err(fault) => could_not(fault, self.mode, trail),
        };
        match self.mode {
            Mode::Enforce => Err(rejection),
            Mode::Shadow => Ok(Cleared { proof: None, gate: PhantomData }),
        }
    }

    /// The mode, `None` when switched off.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        self.control.as_ref().map(|_| self.mode)
    }
}

fn deny<C: Control>(refusal: &C::Deny, mode: Mode, trail: &mut Trail) -> Rejection {
    let rejection = Rejection::of(C::NAME, refusal);
    trail.refused(&rejection, Outcome::Deny, mode);
    rejection
}

fn could_not(fault: Fault, mode: Mode, trail: &mut Trail) -> Rejection {
    let rejection = Rejection::unavailable(fault);
    trail.refused(&rejection, Outcome::Fault, mode);
    rejection
}
