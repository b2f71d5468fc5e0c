//! `burst`: how many requests one client may send in a short window, before any expensive work.
//!
//! Counted per client address (its /64 for IPv6) in this process, by the arithmetic of `rate_limit`. Exceeding it is
//! a violation: see [`crate::bans`].

use std::{num::NonZeroU32, sync::Arc};

use portcullis_api::{Adjustable, At, ClientIp, Clock, Control, ControlName, Fault, Issues, Millis, Mode, Verdict};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::rate_limit::{
    Answer, Excess, KeyHasher, Numbers, Origin, Standing, Table, WINDOW_MAX, exceeded, with_class,
};

/// The control's name.
pub const NAME: ControlName = ControlName::new("burst");

/// A short window per client address (its /64 for IPv6), counted in this process.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `enforce` or `shadow`.
    #[serde(default)]
    pub mode: Mode,
    /// Requests per window, all of which may come at once.
    pub requests: At<NonZeroU32>,
    /// The window.
    pub window: At<Millis>,
}

/// The client sent no more than it may.
#[derive(Debug)]
pub struct WithinBurst(());

exceeded!("burst.exceeded", "Too many requests at once", "The client sent too many in too short a time.", |_| None);

/// What it counts in. All of it outlives every snapshot.
#[derive(Clone)]
pub struct Needs {
    /// The monotonic clock.
    pub clock: Arc<dyn Clock>,
    /// The buckets. Best a table of its own: a flood of addresses then pushes out no quota.
    pub table: Arc<Table>,
    /// The key of the buckets.
    pub hasher: Arc<KeyHasher>,
}

/// The control.
pub struct Burst {
    name: Arc<str>,
    numbers: Numbers,
    needs: Needs,
}

/// What must be known.
#[derive(Debug, Clone, Copy)]
pub struct Sees {
    /// The settled address.
    pub client: ClientIp,
}

impl Control for Burst {
    const NAME: ControlName = NAME;
    type Settings<'d> = &'d Settings;
    type Sees<'r> = Sees;
    type Proof = WithinBurst;
    type Deny = Deny;
    type Needs = Needs;
    type Posture = Adjustable;

    /// The gate takes `mode`.
    fn compile(settings: &Settings, needs: &Needs, issues: &mut Issues) -> Option<Self> {
        let Settings { mode: _, requests, window } = settings;
        if window.value > WINDOW_MAX {
            let message = format!("the window is {}, longer than {WINDOW_MAX}", window.value);
            issues.push("burst.window_too_long", &window.span, message);
            return None;
        }
        match Numbers::new(NAME.as_str(), requests.value, window.value, None) {
            Ok(numbers) => Some(Self { name: NAME.as_str().into(), numbers, needs: needs.clone() }),
            Err(wrong) => {
                issues.push("burst.numbers", &requests.span, wrong.to_string());
                None
            }
        }
    }

    async fn check(&self, sees: Sees) -> Result<Verdict<WithinBurst, Deny>, Fault> {
        let Needs { clock, table, hasher } = &self.needs;
        let mut hashing = hasher.begin();
        hashing.field(NAME.as_str().as_bytes());
        let revision = self.numbers.revision();
        hashing.field(&revision);
        Origin::add_address(sees.client.counted(), &mut hashing);
        let key = with_class(hashing.finish(), &revision);
        let level = table.take_one(clock.now(), key, self.numbers.rate());
        Ok(match level.answer {
            Answer::Charged => Verdict::Pass(WithinBurst(())),
            Answer::Spared | Answer::Short | Answer::Unasked => {
                Verdict::Deny(Deny::Exceeded(Excess::of_one(Standing::new(&self.name, &self.numbers, key, level))))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, header::RETRY_AFTER};
    use portcullis_api::{Refusal, Topology};

    use super::*;
    use crate::testing::{HandClock, now_or_never};

    fn client(ip: &str) -> ClientIp {
        Topology::Direct.settle(format!("{ip}:1").parse().unwrap(), None, &HeaderMap::new()).unwrap()
    }

    fn burst(clock: &Arc<HandClock>, table: &Arc<Table>, hasher: &Arc<KeyHasher>, requests: u32) -> Burst {
        let settings: Settings = toml::from_str(&format!("requests = {requests}\nwindow = \"1s\"")).unwrap();
        let needs = Needs { clock: clock.clone(), table: table.clone(), hasher: hasher.clone() };
        Burst::compile(&settings, &needs, &mut Issues::default()).unwrap()
    }

    fn fresh(requests: u32) -> (Arc<HandClock>, Burst) {
        let clock = HandClock::new();
        let burst = burst(&clock, &Arc::new(Table::new(64)), &Arc::new(KeyHasher::process()), requests);
        (clock, burst)
    }

    fn ask(burst: &Burst, ip: &str) -> Option<Deny> {
        match now_or_never(burst.check(Sees { client: client(ip) })).unwrap() {
            Verdict::Pass(_) => None,
            Verdict::Deny(deny) => Some(deny),
        }
    }

    #[test]
    fn as_many_as_written_come_through_at_once_and_one_more_does_not() {
        let (clock, burst) = fresh(5);
        assert!((0..5).all(|_| ask(&burst, "192.0.2.1").is_none()));
        let deny = ask(&burst, "192.0.2.1").unwrap();
        let mut headers = HeaderMap::new();
        deny.headers(&mut headers);
        assert_eq!(deny.code().name, "burst.exceeded");
        assert_eq!(headers.get(RETRY_AFTER).unwrap(), "1");
        assert_eq!(headers.get("ratelimit").unwrap(), "\"burst\";r=0;t=1");
        assert_eq!(headers.get("ratelimit-policy").unwrap(), "\"burst\";q=5;w=1");
        assert_eq!(deny.members(), [("violated-policies", vec!["burst".to_owned()])]);
        clock.advance(200_000);
        assert!(ask(&burst, "192.0.2.1").is_none());
        assert!(ask(&burst, "192.0.2.1").is_some());
    }

    #[test]
    fn another_client_has_its_own_bucket_and_a_64_is_one_client() {
        let (_, burst) = fresh(1);
        assert!(ask(&burst, "192.0.2.1").is_none() && ask(&burst, "192.0.2.2").is_none());
        assert!(ask(&burst, "[2001:db8::1]").is_none() && ask(&burst, "[2001:db8:0:1::1]").is_none());
        assert!(ask(&burst, "[2001:db8::ffff]").is_some());
    }

    #[test]
    fn a_reload_with_the_same_numbers_resets_nobody() {
        let (clock, table, hasher) = (HandClock::new(), Arc::new(Table::new(64)), Arc::new(KeyHasher::process()));
        assert!(ask(&burst(&clock, &table, &hasher, 1), "192.0.2.1").is_none());
        assert!(ask(&burst(&clock, &table, &hasher, 1), "192.0.2.1").is_some());
        assert!(ask(&burst(&clock, &table, &hasher, 2), "192.0.2.1").is_none());
    }

    #[test]
    fn numbers_that_cannot_be_counted_are_issues() {
        for (text, code) in [
            ("requests = 1\nwindow = \"32d\"", "burst.window_too_long"),
            ("requests = 1001\nwindow = \"1ms\"", "burst.numbers"),
        ] {
            let mut issues = Issues::default();
            let settings: Settings = toml::from_str(text).unwrap();
            let needs = Needs {
                clock: HandClock::new(),
                table: Arc::new(Table::new(8)),
                hasher: Arc::new(KeyHasher::process()),
            };
            assert!(Burst::compile(&settings, &needs, &mut issues).is_none());
            assert_eq!(issues.as_slice()[0].code, code);
        }
    }
}
