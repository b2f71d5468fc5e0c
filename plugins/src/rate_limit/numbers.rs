//! The numbers of a limit: the site's, and what a tenant's grant and its own word make of them.
//!
//! Invariant: a tenant's own word can lower a number and never raise one. All of it is settled at load.

use std::{num::NonZeroU32, sync::Arc};

use portcullis_api::{Issues, Millis, TenantId};

use super::{Rate, RateError, TenantLimit, matching::LIMITS};

/// Numbers as they are counted and as they are told.
#[derive(Debug, Clone)]
pub struct Numbers {
    rate: Rate,
    pub(super) window: Millis,
    /// Requests per window.
    pub(super) requests: NonZeroU32,
    /// The limit as an item of `RateLimit-Policy`.
    pub(super) policy: Arc<str>,
}

impl Numbers {
    /// Requests per [`Numbers::window`].
    #[must_use]
    pub const fn requests(&self) -> NonZeroU32 {
        self.requests
    }

    /// The window.
    #[must_use]
    pub const fn window(&self) -> Millis {
        self.window
    }

    /// Requests that may come at once.
    #[must_use]
    pub const fn burst(&self) -> u32 {
        self.rate.burst()
    }

    pub(crate) const fn rate(&self) -> Rate {
        self.rate
    }

    /// What is told as a policy: `"name";q=10;w=1`. `w` is whole seconds, so a window that is none is told by as
    /// many of its requests as fit.
    pub(crate) fn new(
        name: &str,
        requests: NonZeroU32,
        window: Millis,
        burst: Option<NonZeroU32>,
    ) -> Result<Self, RateError> {
        Written { requests, window, burst, cost: NonZeroU32::MIN, at_most: None }.numbers(name)
    }

    fn of(name: &str, written: Written) -> Result<Self, RateError> {
        let Written { requests, window, burst, cost, at_most } = written;
        let rate = Rate::new(requests, window, burst.unwrap_or(requests))?.at_cost(cost)?;
        if let Some(at_most) = at_most.map(NonZeroU32::get).filter(|at_most| *at_most > rate.burst()) {
            return Err(RateError::MostTooHigh { at_most, burst: rate.burst() });
        }
        let seconds = window.as_secs_ceil();
        let quota = u64::from(requests.get())
            .saturating_mul(seconds.saturating_mul(1_000))
            .checked_div(window.as_millis())
            .unwrap_or(0);
        let policy = format!("\"{name}\";q={quota};w={seconds}").into();
        Ok(Self { rate, window, requests, policy })
    }

    /// Part of every bucket's key: two sets of numbers on one bucket would admit up to twice of either.
    pub(crate) fn revision(&self) -> [u8; 12] {
        let mut revision = [0; 12];
        let bytes = self.rate.interval().to_be_bytes().into_iter().chain(self.rate.burst().to_be_bytes());
        revision.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        revision
    }
}

/// Numbers as written: a burst that nobody wrote follows `requests`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub(super) requests: NonZeroU32,
    pub(super) window: Millis,
    pub(super) burst: Option<NonZeroU32>,
    pub(super) cost: NonZeroU32,
    /// What one request may turn out to take.
    pub(super) at_most: Option<NonZeroU32>,
}

impl Written {
    pub(super) fn numbers(self, name: &str) -> Result<Numbers, RateError> {
        Numbers::of(name, self)
    }

    /// The operator's word for a tenant: raises or lowers.
    pub(super) fn granted(self, grant: &TenantLimit) -> Self {
        let TenantLimit { requests, burst } = grant;
        Self {
            requests: requests.as_ref().map_or(self.requests, |requests| requests.value),
            burst: burst.as_ref().map_or(self.burst, |burst| Some(burst.value)),
            ..self
        }
    }

    /// The tenant's own word: lowers. A number above what the tenant has is an issue, and changes nothing.
    pub(super) fn tightened(self, own: &TenantLimit, whose: (&TenantId, &str), issues: &mut Issues) -> Self {
        let TenantLimit { requests, burst } = own;
        let at_once = self.burst.unwrap_or(self.requests);
        let requests = LIMITS.lowered(requests.as_ref(), self.requests, "requests", whose, issues);
        let burst = LIMITS.lowered(burst.as_ref(), at_once, "burst", whose, issues);
        Self { requests: requests.unwrap_or(self.requests), burst: burst.or(self.burst), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(requests: u32, window_ms: u64) -> Numbers {
        Numbers::new("r", NonZeroU32::new(requests).unwrap(), Millis::new(window_ms), None).unwrap()
    }

    #[test]
    fn a_policy_is_told_in_whole_seconds() {
        assert_eq!(&*numbers(10, 1_000).policy, "\"r\";q=10;w=1");
        assert_eq!(&*numbers(5, 100).policy, "\"r\";q=50;w=1");
        assert_eq!(&*numbers(3, 1_500).policy, "\"r\";q=4;w=2");
        assert_eq!(&*numbers(1_000, 86_400_000).policy, "\"r\";q=1000;w=86400");
    }

    #[test]
    fn other_numbers_are_another_revision() {
        assert_eq!(numbers(10, 1_000).revision(), numbers(10, 1_000).revision());
        assert_ne!(numbers(10, 1_000).revision(), numbers(11, 1_000).revision());
        assert_ne!(numbers(10, 1_000).revision(), numbers(10, 1_001).revision());
        let burst = Numbers::new("r", NonZeroU32::new(10).unwrap(), Millis::new(1_000), NonZeroU32::new(9));
        assert_ne!(numbers(10, 1_000).revision(), burst.unwrap().revision());
    }
}
