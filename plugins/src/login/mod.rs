//! `login`: failed logins lock, and nobody can lock somebody else out where that one is at home.
//!
//! A route that says `login` names where its requests say whose login they are. The upstream decides whether the password is
//! right; its 401 and 403 are counted by three things, and each of them locks: the account from this network (the pair), the
//! account, and the network. A success forgets the failures that led to it, of the account and never of the network. The
//! network that an account has logged in from is known, and from there only the pair counts: see [`Locks`]. A network is
//! what a client is counted by everywhere: an IPv4 address, an IPv6 /64.
//!
//! # Settings
//! `[controls.login]`: the numbers, see [`Settings`]; a route's `login`, see [`LoginRoute`].
//!
//! # Codes
//! `login.locked` (429), whatever is locked and whether or not there is such an account, and `login.body_too_large` (413).
//! The log gets the scope, the key of the lock and the failures, never an account.
//!
//! Invariants: a login is refused before the upstream sees a byte of it, so no answer depends on a password. As many logins
//! may be under way as reach the next step if all fail, so nobody gets more tries by sending them at once.
//!
//! The operator's page is `docs/controls/login.md`; why it is like this stands in `gateway/adr/0011-login-lockouts.md`.

mod account;
mod compile;
mod deny;
mod keys;
mod known;
mod ladder;
mod locks;
mod settings;
mod shared;
mod table;

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "times of the tests are far from any edge")]
mod tests;

use std::{num::NonZeroU32, sync::Arc};

use http::StatusCode;
use portcullis_api::{
    Adjustable, ClientIp, Clock, Control, ControlName, Facts, Fault, Issues, Micros, RouteId, Verdict,
};

pub use account::{Account, AccountName};
pub use compile::RouteLogin;
pub use deny::Deny;
pub use keys::{Keys, LockKey, NoLockKey, Scope};
pub use known::NETWORKS_MAX;
pub use ladder::{Ladder, Step};
pub use locks::Locks;
pub use settings::{AccountAt, Failures, Ladder as LadderSettings, LoginRoute, Preset, Settings};
pub use shared::{Began, Failed, Failure, SharedLogins, Stood};

use crate::{
    in_flight::{Held, Wanted},
    rate_limit::no_plan,
};
use compile::Rule;
use locks::{Counted, Stands};

/// The control's name.
pub const NAME: ControlName = ControlName::new("login");

/// Failures and locks of each scope that a gateway holds, and accounts of which it knows networks.
pub const ENTRIES_MAX: usize = 65_536;

/// Largest body of a login whose account is in it: it is read before the upstream sees anything.
pub const BODY_BYTES_MAX: usize = 64 << 10;

/// How often a look at the failures is tried again that others changed meanwhile.
const LOOKS_MAX: u32 = 8;

/// What the operator and the routes wrote about logins.
#[derive(Debug, Clone, Copy)]
pub struct Input<'d> {
    /// `controls.login`.
    pub settings: &'d Settings,
    /// One entry per route.
    pub routes: &'d [RouteLogin<'d>],
}

/// When failures lock, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    /// Of a pair, and of an account.
    accounts: Ladder,
    /// Of a network.
    networks: Ladder,
    known_for: Micros,
}

impl Numbers {
    /// As written; what is wrong with them is said.
    #[must_use]
    pub fn compile(settings: &Settings, issues: &mut Issues) -> Option<Self> {
        compile::numbers(settings, issues)
    }

    /// The ladder of a scope.
    #[must_use]
    pub const fn ladder(&self, scope: Scope) -> &Ladder {
        match scope {
            Scope::Pair | Scope::Account => &self.accounts,
            Scope::Network => &self.networks,
        }
    }

    /// How long a network is known.
    #[must_use]
    pub const fn known_for(&self) -> Micros {
        self.known_for
    }
}

/// One lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// What is locked.
    pub scope: Scope,
    /// Its key.
    pub key: LockKey,
    /// The failures that it began with.
    pub failures: usize,
    /// When it began, on the monotonic clock.
    pub since: Micros,
    /// When it ends.
    pub until: Micros,
}

impl Lock {
    /// Whole seconds until it ends, rounded up, at least 1.
    #[must_use]
    pub fn remaining_s(&self, now: Micros) -> u64 {
        self.until.saturating_sub(now).div_ceil(1_000_000).max(1)
    }
}

/// The proof: the request is no login, or one that nothing locks.
#[derive(Debug, Default)]
pub struct Unlocked(Option<Attempt>);

impl Unlocked {
    /// The login that the upstream is asked to judge, once.
    pub fn attempt(&mut self) -> Option<Attempt> {
        self.0.take()
    }
}

/// A login on its way to the upstream.
#[derive(Debug)]
pub struct Attempt {
    keys: Keys,
    numbers: Arc<Numbers>,
    statuses: Arc<Statuses>,
    named: Named,
    held: Held,
}

/// What says that a login failed, and that it succeeded.
#[derive(Debug)]
struct Statuses {
    failures: Box<[u16]>,
    /// All 2xx where none are written.
    successes: Option<Box<[u16]>>,
}

impl Statuses {
    fn is_success(&self, status: StatusCode) -> bool {
        self.successes.as_ref().map_or_else(|| status.is_success(), |list| list.contains(&status.as_u16()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Yes,
    No,
}

/// A login that succeeded.
#[derive(Debug, Clone)]
pub struct Success {
    /// Whose.
    pub keys: Keys,
    /// How long its network is known.
    pub numbers: Arc<Numbers>,
}

/// What an upstream said of a login.
#[derive(Debug)]
pub enum Said {
    /// It failed.
    Failed(Failure),
    /// It succeeded.
    Succeeded(Success),
    /// Neither; or it succeeded for an account that is not known, which says nothing of the others that are not.
    Nothing,
}

/// A login is under way until this is dropped: when what became of it is counted.
#[derive(Debug)]
pub struct UnderWay(#[expect(dead_code, reason = "held for its drop")] Held);

impl Attempt {
    /// What a final answer of this status says.
    #[must_use]
    pub fn answered(self, status: StatusCode) -> (Said, UnderWay) {
        let Self { keys, numbers, statuses, named, held } = self;
        let said = match named {
            _ if statuses.failures.contains(&status.as_u16()) => Said::Failed(Failure { keys, numbers }),
            Named::Yes if statuses.is_success(status) => Said::Succeeded(Success { keys, numbers }),
            Named::Yes | Named::No => Said::Nothing,
        };
        (said, UnderWay(held))
    }

    /// The client went away before the upstream had answered, which may still judge it: that is a failure, or tries would be
    /// free for whoever hangs up.
    #[must_use]
    pub fn abandoned(self) -> (Said, UnderWay) {
        let Self { keys, numbers, statuses: _, named: _, held } = self;
        (Said::Failed(Failure { keys, numbers }), UnderWay(held))
    }
}

/// Where failures and locks are. All of it outlives every snapshot.
#[derive(Clone)]
pub struct Needs {
    /// Those that this gateway knows.
    pub locks: Arc<Locks>,
    /// Where several gateways share them.
    pub shared: Option<Arc<dyn SharedLogins>>,
    /// The monotonic clock.
    pub clock: Arc<dyn Clock>,
}

/// What must be known.
#[derive(Debug, Clone, Copy)]
pub struct Sees<'r> {
    /// The canonical request.
    pub facts: Facts<'r>,
    /// The settled address.
    pub client: ClientIp,
    /// Where the request goes.
    pub route: RouteId,
    /// Its body, where [`Login::reads_body`].
    pub body: &'r [u8],
}

/// The control.
pub struct Login {
    /// By route; `Some(None)` for one that is no login.
    rules: Box<[Option<Option<Rule>>]>,
    numbers: Arc<Numbers>,
    needs: Needs,
}

impl Control for Login {
    const NAME: ControlName = NAME;
    type Settings<'d> = Input<'d>;
    type Sees<'r> = Sees<'r>;
    type Proof = Unlocked;
    type Deny = Deny;
    type Needs = Needs;
    type Posture = Adjustable;

    fn compile(input: Input<'_>, needs: &Needs, issues: &mut Issues) -> Option<Self> {
        let (rules, numbers) = (compile::rules(&input, issues), Numbers::compile(input.settings, issues));
        Some(Self { rules: rules?, numbers: Arc::new(numbers?), needs: needs.clone() })
    }

    async fn check<'r>(&'r self, sees: Sees<'r>) -> Result<Verdict<Unlocked, Deny>, Fault> {
        let Sees { facts, client, route, body } = sees;
        let Some(rule) = self.rule(route)? else { return Ok(Verdict::Pass(Unlocked(None))) };
        if !rule.methods.contains(facts.method) {
            return Ok(Verdict::Pass(Unlocked(None)));
        }
        let account = account::find(&rule.places, &facts, body);
        let keys = self.needs.locks.keys(&rule.realm, &account, client.counted());
        let named = match account {
            Account::Named(_) => Named::Yes,
            Account::Unknown => Named::No,
        };
        let counted = self.counted(&keys, named).await;
        let statuses = rule.statuses.clone();
        let mut admitted = self.admit(&keys, counted);
        // Strangers' logins under way hold nobody up at home, as their locks do not.
        if let (Err(Deny::AtOnce { scope: Scope::Account | Scope::Network, .. }), Named::Yes) = (&admitted, named)
            && self.is_known_elsewhere(&keys).await
        {
            admitted = self.admit(&keys, Counted::Pair);
        }
        Ok(match admitted {
            Ok(held) => {
                let numbers = self.numbers.clone();
                Verdict::Pass(Unlocked(Some(Attempt { keys, numbers, statuses, named, held })))
            }
            Err(deny) => Verdict::Deny(deny),
        })
    }
}

impl Login {
    /// Whether the body of a request must be read before this control is asked.
    #[must_use]
    pub fn reads_body(&self, route: RouteId, method: &http::Method) -> bool {
        let Ok(Some(rule)) = self.rule(route) else { return false };
        rule.methods.contains(method) && rule.places.iter().any(account::Place::is_in_body)
    }

    /// Whose accounts there are, as `tenant:ID` or `host:NAME`, each once.
    #[must_use]
    pub fn realms(&self) -> Vec<&str> {
        let mut realms: Vec<&str> = self.rules.iter().flatten().flatten().map(|rule| &*rule.realm).collect();
        realms.sort_unstable();
        realms.dedup();
        realms
    }

    /// The rule of a route; none for one that is no login.
    fn rule(&self, route: RouteId) -> Result<Option<&Rule>, Fault> {
        self.rules.get(route.index()).and_then(Option::as_ref).map(Option::as_ref).ok_or_else(|| no_plan(NAME))
    }

    /// What a login counts in. The store is asked only where its answer could let in somebody who is locked: whoever is not
    /// waits for nothing. Where it gives none the lock stays.
    async fn counted(&self, keys: &Keys, named: Named) -> Counted {
        let Needs { locks, shared, clock } = &self.needs;
        if named == Named::No {
            return Counted::All;
        }
        if locks.knows(keys, &self.numbers, clock.now()) {
            return Counted::Pair;
        }
        let locked = |counted| matches!(locks.stands(keys, &self.numbers, counted, clock.now()), Stands::Locked(_));
        let is_asked = shared.is_some() && !locked(Counted::Pair) && locked(Counted::All);
        if is_asked && self.is_known_elsewhere(keys).await { Counted::Pair } else { Counted::All }
    }

    /// Whether another gateway knows the network of the account, which this one then does too.
    async fn is_known_elsewhere(&self, keys: &Keys) -> bool {
        let Needs { locks, shared, clock } = &self.needs;
        let Some(shared) = shared else { return false };
        let known = shared.knows(*keys, self.numbers.known_for).await == Ok(true);
        if known {
            locks.learn_known(keys, clock.now());
        }
        known
    }

    /// A slot of everything that the login counts in. What others count between the look and the taking is seen by a second
    /// look: a failure is counted before its slot is given back.
    fn admit(&self, keys: &Keys, counted: Counted) -> Result<Held, Deny> {
        let Needs { locks, shared: _, clock } = &self.needs;
        let mut looks = 0_u32;
        loop {
            let now = clock.now();
            let stands = locks.stands(keys, &self.numbers, counted, now);
            let (pair, others) = match stands {
                Stands::Locked(lock) => return Err(Deny::Locked { lock, remaining_s: lock.remaining_s(now) }),
                Stands::Open { pair, others } => (pair, others),
            };
            let failures = std::iter::once(pair).chain(others.into_iter().flatten());
            let most = |scope: Scope, failures: usize| self.numbers.ladder(scope).room(failures);
            let wanted: Vec<Wanted> = counted
                .scopes()
                .iter()
                .zip(failures)
                .map(|(scope, failures)| Wanted { key: keys.of(*scope).0, most: most(*scope, failures) })
                .collect();
            let held = locks.slots.take(&wanted).map_err(|counts| at_once(keys, counted, &wanted, &counts))?;
            looks = looks.saturating_add(1);
            if looks >= LOOKS_MAX || locks.stands(keys, &self.numbers, counted, now) == stands {
                return Ok(held);
            }
        }
    }
}

/// The first scope that has no room.
fn at_once(keys: &Keys, counted: Counted, wanted: &[Wanted], counts: &[u32]) -> Deny {
    let full = |most: NonZeroU32, count: u32| count >= most.get();
    let mut each = counted.scopes().iter().zip(wanted).zip(counts);
    let found = each.find(|((_, wanted), count)| full(wanted.most, **count));
    let (scope, under_way) = found.map_or((Scope::Pair, 0), |((scope, _), count)| (*scope, *count));
    Deny::AtOnce { scope, key: keys.of(scope), under_way }
}
