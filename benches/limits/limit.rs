//! The limits that are measured, as the gateways' documents have them and as the judge sees them.

use std::{fmt::Write, time::Duration};

use crate::{client::KEY, judge};

/// Gateways that count together.
pub(crate) const GATEWAYS: u32 = 3;

/// How late a gateway may spend what it has taken ahead, as `docs/controls/rate_limit.md` says.
const SPENT_LATE: Duration = Duration::from_secs(2);

/// Numbers of a limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) requests: u32,
    pub(crate) window: Duration,
    pub(crate) burst: u32,
}

impl Numbers {
    /// One gateway's share.
    pub(crate) fn share(self) -> Self {
        let burst = self.burst.checked_div(GATEWAYS).unwrap_or(0).max(1);
        Self { window: self.window.saturating_mul(GATEWAYS), burst, ..self }
    }

    /// As the judge sees them. What is taken ahead may be spent late: a quarter of the burst, or what flows in
    /// meanwhile where that is less.
    pub(crate) fn judged(self, counting: Counting) -> judge::Limit {
        let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        let interval = nanos(self.window).checked_div(i64::from(self.requests)).unwrap_or(i64::MAX);
        let burst = i64::from(self.burst);
        let flowed_in = nanos(SPENT_LATE).checked_div(interval).unwrap_or(0);
        let spent_late = match counting {
            Counting::Leased if self.is_leased() => flowed_in.min(burst / 4),
            Counting::Nothing | Counting::Memory | Counting::Local | Counting::Leased | Counting::Exact => 0,
        };
        judge::Limit { interval, burst, spent_late }
    }

    /// Whether a gateway could hold two requests ahead.
    pub(crate) fn is_leased(self) -> bool {
        self.burst.checked_div(GATEWAYS.saturating_mul(4)).unwrap_or(0) >= 2
    }
}

/// How a route's limit is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Counting {
    /// No limit: what the others are compared with.
    Nothing,
    /// In memory, a third of the limit at each of three gateways without a shared store.
    Memory,
    Local,
    Leased,
    Exact,
}

impl Counting {
    pub(crate) const ALL: [Self; 5] = [Self::Nothing, Self::Memory, Self::Local, Self::Leased, Self::Exact];

    /// In the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no limit",
            Self::Memory => "a third each, memory",
            Self::Local => "`local`",
            Self::Leased => "`leased`",
            Self::Exact => "`exact`",
        }
    }

    /// In names and paths.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Memory => "memory",
            Self::Local => "local",
            Self::Leased => "leased",
            Self::Exact => "exact",
        }
    }
}

/// Limits of the same numbers and the route that is under them, and no other.
#[derive(Debug, Clone)]
pub(crate) struct Limited {
    /// Of the limit and of the route.
    pub(crate) name: String,
    pub(crate) limits: u32,
    pub(crate) numbers: Numbers,
    /// Further settings of the limit, as TOML.
    pub(crate) more: String,
}

impl Limited {
    /// The path of the route.
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// Both as TOML.
    pub(crate) fn write(&self, text: &mut String) -> anyhow::Result<()> {
        let Numbers { requests, window, burst } = self.numbers;
        let names: Vec<String> = (1..=self.limits).map(|n| format!("{}-{n}", self.name)).collect();
        for name in &names {
            write!(
                text,
                "\n[limits.{name}]\nkey = [\"header:{KEY}\"]\nrequests = {requests}\nwindow = \"{}s\"\nburst = {burst}\n{}\n",
                window.as_secs(),
                self.more
            )?;
        }
        route(text, &self.name, &format!("limits = {names:?}"))
    }
}

/// A route as TOML.
pub(crate) fn route(text: &mut String, name: &str, more: &str) -> anyhow::Result<()> {
    let host = crate::client::HOST;
    write!(
        text,
        "\n[hosts.\"{host}\".routes.{name}]\npath = \"/{name}\"\nmethods = [\"GET\"]\nupstream = \"app\"\n\
         auth = {{ public = \"the keys are the client's own\" }}\n{more}\n"
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Numbers = Numbers { requests: 10, window: Duration::from_secs(1), burst: 10 };
    const HOT: Numbers = Numbers { requests: 200, window: Duration::from_secs(1), burst: 200 };

    #[test]
    fn a_share_is_a_third_of_everything() {
        let share = SMALL.share();
        assert_eq!((share.requests, share.window.as_secs(), share.burst), (10, 3, 3));
        assert_eq!(share.judged(Counting::Memory).interval, 300_000_000);
    }

    #[test]
    fn only_what_is_taken_ahead_may_be_spent_late_and_never_more_than_the_documentation_says() {
        assert_eq!(HOT.judged(Counting::Exact).spent_late, 0);
        assert_eq!(HOT.judged(Counting::Leased).spent_late, 50);
        assert_eq!(SMALL.judged(Counting::Leased).spent_late, 0, "too small to take anything ahead");
        let minute = Numbers { requests: 1_000, window: Duration::from_secs(60), burst: 1_000 };
        assert_eq!(minute.judged(Counting::Leased).spent_late, 33);
    }
}
