//! Violations that block a client: counted in this gateway, or with a shared store in all gateways of a deployment.
//!
//! The store is asked behind the answer, never in a request's way: the control looks into the table only. What the other
//! gateways begin and lift is read from the store: see `follow`.
//!
//! Invariant: no violation is lost. One that the store cannot count is counted in the table, by this gateway alone; and
//! a block that is known stays to its end, whatever becomes of the store.

use std::{net::IpAddr, sync::Arc};

use portcullis_api::{Clock, Micros};
use portcullis_plugins::{
    bans::{Asking, Ban, BanTable, Block, Change, Changes, Client, ClientKey, Cursor, SharedBans, Strike, Struck},
    rate_limit::StoreFault,
};
use tokio::sync::Semaphore;

use crate::{
    clock::SystemClock,
    follow::{Follow, Told},
    metrics::Metrics,
    pseudonym::Pseudonyms,
};

/// Violations that may be on their way to the store. One more is counted by this gateway alone.
const UNDER_WAY_MAX: usize = 256;

/// How long a lift is told to the others at least: a day, for a gateway that was cut off all the while.
pub(crate) const LIFT_TOLD_FOR: Micros = 86_400_000_000;

/// Violations and blocks.
pub(crate) struct Bans {
    /// What the control looks into.
    pub(crate) table: Arc<BanTable>,
    store: Option<Arc<dyn SharedBans>>,
    under_way: Arc<Semaphore>,
    clock: Arc<SystemClock>,
    metrics: Arc<Metrics>,
    pseudonyms: Arc<Pseudonyms>,
}

/// The store did not hear of a lift: only this gateway has forgotten the block, and may learn it again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LiftedHereOnly {
    #[error("it is lifted on this gateway only ({0}): lift it again when the store answers")]
    Lifted(StoreFault),
    #[error(
        "it is not blocked on this gateway, and no other could be told ({0}): lift it again when the store answers"
    )]
    NotBlocked(StoreFault),
}

impl Bans {
    pub(crate) fn new(
        table: Arc<BanTable>,
        store: Option<Arc<dyn SharedBans>>,
        clock: Arc<SystemClock>,
        metrics: Arc<Metrics>,
        pseudonyms: Arc<Pseudonyms>,
    ) -> Self {
        Self { table, store, under_way: Arc::new(Semaphore::new(UNDER_WAY_MAX)), clock, metrics, pseudonyms }
    }

    /// Every block that is on, the one that ends first first, and the time at which it is.
    pub(crate) fn list(&self) -> (Vec<Ban>, Micros) {
        let now = self.clock.now_micros();
        (self.table.list(now), now)
    }

    /// Counts a violation of a client as it is counted. Waits for nothing.
    pub(crate) fn record(self: &Arc<Self>, client: IpAddr, code: &'static str) {
        let Some(store) = &self.store else { return self.count_here(client, code) };
        let Some(strike) = self.table.strike(client, code, self.clock.now_micros()) else { return };
        let Ok(permit) = self.under_way.clone().try_acquire_owned() else { return self.count_alone(client, code) };
        let (bans, store) = (Arc::clone(self), store.clone());
        tokio::spawn(async move {
            bans.strike(&*store, client, strike).await;
            drop(permit);
        });
    }

    async fn strike(&self, store: &dyn SharedBans, client: IpAddr, strike: Strike) {
        let asked = self.clock.now_micros();
        let learn = |block: &Block| {
            self.table.learn(strike.client, Client::Address(client), block, asked, self.clock.now_micros())
        };
        match store.strike(strike).await {
            Ok(Struck::Counted) => {}
            Ok(Struck::Began(block)) => {
                learn(&block);
                self.blocked(client, strike.code, block.remaining.div_ceil(1_000_000));
            }
            Ok(Struck::On(block)) => {
                if let Some(ban) = learn(&block) {
                    self.learned(strike.client, &ban);
                }
            }
            Err(_) => self.count_alone(client, strike.code),
        }
    }

    /// The store did not count it.
    fn count_alone(&self, client: IpAddr, code: &'static str) {
        self.metrics.violations_alone.inc();
        self.count_here(client, code);
    }

    fn count_here(&self, client: IpAddr, code: &'static str) {
        let now = self.clock.now_micros();
        if let Some(ban) = self.table.record(client, code, now) {
            self.blocked(client, code, ban.remaining_s(now));
        }
    }

    fn blocked(&self, client: IpAddr, code: &'static str, block_s: u64) {
        self.metrics.blocks.with_label_values(&[code]).inc();
        tracing::warn!(
            event = "bans.blocked",
            client = self.pseudonyms.ip(client),
            client_hash = self.hash(self.table.key(client)),
            reason = code,
            block_s,
            "a client is blocked for its violations"
        );
    }

    fn learned(&self, client: ClientKey, ban: &Ban) {
        tracing::warn!(
            event = "bans.learned",
            client_hash = self.hash(client),
            reason = ban.code,
            block_s = ban.remaining_s(self.clock.now_micros()),
            "a client is blocked, which another gateway began"
        );
    }

    /// What the gateways of a deployment call a client. Without a store its key is its address, which no log may hold.
    fn hash(&self, client: ClientKey) -> Option<String> {
        self.store.is_some().then(|| client.to_string())
    }

    /// Ends a client's block, here and everywhere. Answers whether there was one.
    pub(crate) async fn lift(&self, client: Client) -> Result<bool, LiftedHereOnly> {
        let key = match client {
            Client::Address(address) => self.table.key(portcullis_api::counted(address)),
            Client::Hash(key) => key,
        };
        let shared = match &self.store {
            Some(store) => store.lift(key, LIFT_TOLD_FOR).await,
            None => Ok(false),
        };
        // Afterwards: what was read meanwhile goes too.
        let here = self.table.lift(key);
        if here || matches!(shared, Ok(true)) {
            tracing::warn!(
                event = "bans.lifted",
                client = match client {
                    Client::Address(address) => Some(self.pseudonyms.ip(address)),
                    Client::Hash(_) => None,
                },
                client_hash = self.hash(key),
                at = self.clock.unix(),
                here_only = shared.is_err(),
                "an operator lifted a block"
            );
        }
        let untold = if here { LiftedHereOnly::Lifted } else { LiftedHereOnly::NotBlocked };
        Ok(shared.map_err(untold)? || here)
    }
}

impl Follow for Bans {
    type Key = ClientKey;
    const READ: &'static str = "bans.read";
    const UNREAD: &'static str = "bans.unread";

    fn changes<'a>(&'a self, cursor: Option<&'a Cursor>) -> Option<Asking<'a, Changes>> {
        self.store.as_ref().map(|store| store.changes(cursor))
    }

    fn now(&self) -> Micros {
        self.clock.now_micros()
    }

    fn take(&self, client: ClientKey, change: &Change, asked: Micros, told: Told) {
        let now = self.clock.now_micros();
        match change {
            Change::Blocked(block) => {
                let news = self.table.learn(client, Client::Hash(client), block, asked, now);
                if let (Some(ban), Told::Each) = (news, told) {
                    self.learned(client, &ban);
                }
            }
            Change::Lifted(age) => {
                // As late as it can have been, so that it comes after the block it lifted.
                if self.table.lift_before(client, now.saturating_sub(*age)) {
                    tracing::warn!(
                        event = "bans.lift_learned",
                        client_hash = self.hash(client),
                        "a block has ended, which an operator lifted on another gateway"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
