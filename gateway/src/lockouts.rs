//! Failed logins and locks: counted in this gateway, or with a shared store in all gateways of a deployment.
//!
//! The store is asked behind the answer, never in a login's way but for one question (see [`portcullis_plugins::login`]). A
//! login is under way until its failure is counted, so that none passes between the answer and the lock.
//!
//! Invariant: no failure is lost. One that the store cannot count is counted here, by this gateway alone; and a lock that is
//! known stays to its end, whatever becomes of the store.

use std::{net::IpAddr, sync::Arc};

use http::StatusCode;
use portcullis_api::{Clock, Micros};
use portcullis_plugins::{
    bans::{Asking, Change, Changes, Cursor},
    login::{self, Account, Attempt, Began, Failure, Lock, LockKey, Locks, Said, SharedLogins, Success, UnderWay},
    rate_limit::StoreFault,
};
use tokio::sync::Semaphore;

use crate::{
    bans::LIFT_TOLD_FOR,
    clock::SystemClock,
    follow::{Follow, Told},
    metrics::Metrics,
};

/// Answers of upstreams that may be on their way to the store. One more is counted by this gateway alone.
const UNDER_WAY_MAX: usize = 256;

/// Failed logins and locks.
pub(crate) struct Lockouts {
    /// What the control looks into.
    pub(crate) locks: Arc<Locks>,
    store: Option<Arc<dyn SharedLogins>>,
    under_way: Arc<Semaphore>,
    clock: Arc<SystemClock>,
    metrics: Arc<Metrics>,
}

/// What is to be lifted.
#[derive(Debug, Clone)]
pub(crate) enum Lifting {
    /// A lock as it is listed.
    Key(LockKey),
    /// That of a network.
    Network(IpAddr),
    /// Those of an account: its own, and those of it from a network.
    Account {
        /// Where it is an account.
        realm: String,
        /// Its name.
        account: Account,
    },
}

/// The store did not hear of a lift: only this gateway has forgotten the lock, and may learn it again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnlockedHereOnly {
    #[error("it is lifted on this gateway only ({0}): lift it again when the store answers")]
    Lifted(StoreFault),
    #[error("it is not locked on this gateway, and no other could be told ({0}): lift it again when the store answers")]
    NotLocked(StoreFault),
}

impl Lockouts {
    pub(crate) fn new(needs: login::Needs, clock: Arc<SystemClock>, metrics: Arc<Metrics>) -> Self {
        let login::Needs { locks, shared: store, clock: _ } = needs;
        Self { locks, store, under_way: Arc::new(Semaphore::new(UNDER_WAY_MAX)), clock, metrics }
    }

    /// Every lock that is on, the one that ends first first, and the time at which it is.
    pub(crate) fn list(&self) -> (Vec<Lock>, Micros) {
        let now = self.clock.now_micros();
        (self.locks.list(now), now)
    }

    /// Counts what the upstream said of a login. Waits for nothing.
    pub(crate) fn answered(self: &Arc<Self>, attempt: Attempt, status: StatusCode) {
        self.said(attempt.answered(status));
    }

    /// Counts a login whose client went away before the upstream had answered.
    pub(crate) fn abandoned(self: &Arc<Self>, attempt: Attempt) {
        self.said(attempt.abandoned());
    }

    fn said(self: &Arc<Self>, (said, under_way): (Said, UnderWay)) {
        let count = |result: &str| self.metrics.login_attempts.with_label_values(&[result]).inc();
        match said {
            Said::Failed(failure) => {
                count("failure");
                self.failed(failure, under_way);
            }
            Said::Succeeded(success) => {
                count("success");
                self.succeeded(&success);
            }
            Said::Nothing => count("other"),
        }
    }

    /// `under_way` is held until it is counted.
    fn failed(self: &Arc<Self>, failure: Failure, under_way: impl Send + 'static) {
        let Some(store) = &self.store else { return self.count_here(&failure) };
        let Ok(permit) = self.under_way.clone().try_acquire_owned() else { return self.count_alone(&failure) };
        let (lockouts, store) = (Arc::clone(self), store.clone());
        tokio::spawn(async move {
            lockouts.tell(&*store, &failure).await;
            drop((under_way, permit));
        });
    }

    async fn tell(&self, store: &dyn SharedLogins, failure: &Failure) {
        let asked = self.clock.now_micros();
        match store.fail(failure.clone()).await {
            Ok(failed) => {
                for (lock, began) in self.locks.learn_failed(failure, &failed, asked, self.clock.now_micros()) {
                    match began {
                        Began::Now => self.locked(&lock),
                        Began::Before => self.learned(&lock),
                    }
                }
            }
            Err(_) => self.count_alone(failure),
        }
    }

    /// The store did not count it.
    fn count_alone(&self, failure: &Failure) {
        self.metrics.login_alone.inc();
        self.count_here(failure);
    }

    fn count_here(&self, failure: &Failure) {
        self.locks.fail(failure, self.clock.now_micros()).iter().for_each(|lock| self.locked(lock));
    }

    fn succeeded(self: &Arc<Self>, success: &Success) {
        self.locks.succeed(success, self.clock.now_micros());
        let Some(store) = self.store.clone() else { return };
        let Ok(permit) = self.under_way.clone().try_acquire_owned() else { return self.metrics.login_alone.inc() };
        let (lockouts, Success { keys, numbers }) = (Arc::clone(self), success.clone());
        tokio::spawn(async move {
            if store.succeed(keys, numbers.known_for(), LIFT_TOLD_FOR).await.is_err() {
                lockouts.metrics.login_alone.inc();
            }
            drop(permit);
        });
    }

    fn locked(&self, lock: &Lock) {
        self.metrics.lockouts.with_label_values(&[lock.scope.as_str()]).inc();
        tracing::warn!(
            event = "login.locked",
            scope = lock.scope.as_str(),
            lock = lock.key.to_string(),
            failures = lock.failures,
            lock_s = lock.remaining_s(self.clock.now_micros()),
            "logins are locked after failures"
        );
    }

    fn learned(&self, lock: &Lock) {
        tracing::warn!(
            event = "login.learned",
            scope = lock.scope.as_str(),
            lock = lock.key.to_string(),
            failures = lock.failures,
            lock_s = lock.remaining_s(self.clock.now_micros()),
            "logins are locked, which another gateway began"
        );
    }

    /// Ends locks, here and everywhere. Answers how many there were.
    pub(crate) async fn lift(&self, lifting: Lifting) -> Result<usize, UnlockedHereOnly> {
        let keys = match lifting {
            Lifting::Key(key) => vec![key],
            Lifting::Network(network) => vec![self.locks.network_key(portcullis_api::counted(network))],
            Lifting::Account { realm, account } => {
                let own = self.locks.account_key(&realm, &account);
                let mut keys = self.locks.of_account(own, self.clock.now_micros());
                if !keys.contains(&own) {
                    keys.push(own);
                }
                keys
            }
        };
        // All of them end here, also where the store hears of none; that one was ended here only is told first.
        let (mut lifted, mut untold) = (0_usize, None);
        for key in keys {
            match self.lift_one(key).await {
                Ok(was_on) => lifted = lifted.saturating_add(usize::from(was_on)),
                Err(here_only @ UnlockedHereOnly::Lifted(_)) => untold = Some(here_only),
                Err(here_only @ UnlockedHereOnly::NotLocked(_)) => untold = untold.or(Some(here_only)),
            }
        }
        untold.map_or(Ok(lifted), Err)
    }

    async fn lift_one(&self, key: LockKey) -> Result<bool, UnlockedHereOnly> {
        let shared = match &self.store {
            Some(store) => store.lift(key, LIFT_TOLD_FOR).await,
            None => Ok(false),
        };
        // Afterwards: what was read meanwhile goes too.
        let here = self.locks.lift(key, self.clock.now_micros());
        if here || matches!(shared, Ok(true)) {
            tracing::warn!(
                event = "login.lifted",
                lock = key.to_string(),
                at = self.clock.unix(),
                here_only = shared.is_err(),
                "an operator lifted a lock"
            );
        }
        let untold = if here { UnlockedHereOnly::Lifted } else { UnlockedHereOnly::NotLocked };
        Ok(shared.map_err(untold)? || here)
    }
}

impl Follow for Lockouts {
    type Key = LockKey;
    const READ: &'static str = "login.read";
    const UNREAD: &'static str = "login.unread";

    fn changes<'a>(&'a self, cursor: Option<&'a Cursor>) -> Option<Asking<'a, Changes<LockKey>>> {
        self.store.as_ref().map(|store| store.changes(cursor))
    }

    fn now(&self) -> Micros {
        self.clock.now_micros()
    }

    fn take(&self, key: LockKey, change: &Change, asked: Micros, told: Told) {
        let now = self.clock.now_micros();
        match change {
            Change::Blocked(block) => {
                if let (Some(lock), Told::Each) = (self.locks.learn(key, block, asked, now), told) {
                    self.learned(&lock);
                }
            }
            Change::Lifted(age) => {
                // As late as it can have been, so that it comes after the lock it lifted.
                if self.locks.lift_before(key, now.saturating_sub(*age), now) {
                    tracing::warn!(
                        event = "login.lift_learned",
                        lock = key.to_string(),
                        "a lock has ended, which another gateway ended: an operator, or a login that succeeded"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
