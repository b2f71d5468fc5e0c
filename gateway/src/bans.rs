//! Violations that block a client: counted in this gateway, or with a shared store in all gateways of a deployment.
//!
//! The store is asked behind the answer, never in a request's way: the control looks into the table only. What the other
//! gateways begin and lift is read from the store every [`READ_INTERVAL`], so it holds here well within a second.
//!
//! Invariant: no violation is lost. One that the store cannot count is counted in the table, by this gateway alone; and
//! a block that is known stays to its end, whatever becomes of the store.

use std::{net::IpAddr, sync::Arc, time::Duration};

use portcullis_api::{Clock, Micros};
use portcullis_plugins::{
    bans::{Ban, BanTable, Block, Change, Client, ClientKey, Cursor, SharedBans, Strike, Struck},
    rate_limit::StoreFault,
};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{clock::SystemClock, metrics::Metrics, pseudonym::Pseudonyms};

/// Between two readings of what the other gateways did.
const READ_INTERVAL: Duration = Duration::from_millis(250);

/// Readings in a row that fail before it is told: what the others did may take longer than a second from here on.
const READS_FAILED: u32 = 4;

/// How long a start waits for the blocks that are on. Without them it starts all the same.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// Between two attempts at the start.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(20);

/// Violations that may be on their way to the store. One more is counted by this gateway alone.
const UNDER_WAY_MAX: usize = 256;

/// How long a lift is told to the others at least: a day, for a gateway that was cut off all the while.
const LIFT_TOLD_FOR: Micros = 86_400_000_000;

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

    /// Reads the blocks that are on, at the start, and hands on the one who goes on reading.
    pub(crate) async fn catch_up(self: &Arc<Self>) -> Follower {
        let mut follower = Follower { bans: Arc::clone(self), cursor: None };
        let mut known = 0_usize;
        // Page after page, however many there are, as long as they come.
        let mut heard = tokio::time::Instant::now();
        loop {
            let left = CATCH_UP_MAX.saturating_sub(heard.elapsed());
            match timeout(left, follower.read_page(Told::Never)).await {
                Ok(Ok(Page { clients, more })) => {
                    (known, heard) = (known.saturating_add(clients), tokio::time::Instant::now());
                    if !more {
                        break;
                    }
                }
                Ok(Err(_)) if heard.elapsed() < CATCH_UP_MAX => sleep(CATCH_UP_INTERVAL).await,
                Ok(Err(_)) | Err(_) => {
                    let why = "nothing could be read at the start";
                    tracing::warn!(event = "bans.unread", why, "blocks of other gateways are not heard of");
                    break;
                }
            }
        }
        if known > 0 {
            tracing::info!(event = "bans.read", clients = known, "blocks that other gateways began hold here");
        }
        follower
    }
}

/// What was read at once.
struct Page {
    clients: usize,
    more: bool,
}

/// Whether each block that is learned has a line of its own in the log.
#[derive(Clone, Copy)]
enum Told {
    Each,
    /// At a start there may be very many.
    Never,
}

/// Follows what the other gateways do.
pub(crate) struct Follower {
    bans: Arc<Bans>,
    cursor: Option<Cursor>,
}

impl Follower {
    /// Goes on for ever.
    pub(crate) async fn run(mut self) {
        if self.bans.store.is_none() {
            return std::future::pending().await;
        }
        let mut failed = 0_u32;
        loop {
            sleep(READ_INTERVAL).await;
            match self.read().await {
                Ok(()) => {
                    if failed >= READS_FAILED {
                        tracing::info!(event = "bans.read", "blocks of other gateways hold here again");
                    }
                    failed = 0;
                }
                Err(fault) => {
                    failed = failed.saturating_add(1);
                    if failed == READS_FAILED {
                        let why = fault.to_string();
                        tracing::warn!(event = "bans.unread", why, "blocks of other gateways are not heard of");
                    }
                }
            }
        }
    }

    /// Reads until there is no more.
    async fn read(&mut self) -> Result<(), StoreFault> {
        while self.read_page(Told::Each).await?.more {}
        Ok(())
    }

    async fn read_page(&mut self, told: Told) -> Result<Page, StoreFault> {
        let Some(store) = self.bans.store.clone() else { return Ok(Page { clients: 0, more: false }) };
        let asked = self.bans.clock.now_micros();
        match store.changes(self.cursor.as_ref()).await {
            Ok(changes) => {
                changes.clients.iter().for_each(|(client, change)| self.take(*client, change, asked, told));
                self.cursor = changes.cursor;
                Ok(Page { clients: changes.clients.len(), more: changes.more })
            }
            Err(fault) => {
                if fault == StoreFault::Away {
                    // It may be another server when it is back, with other numbers.
                    self.cursor = None;
                }
                Err(fault)
            }
        }
    }

    fn take(&self, client: ClientKey, change: &Change, asked: Micros, told: Told) {
        let Bans { table, clock, .. } = &*self.bans;
        let now = clock.now_micros();
        match change {
            Change::Blocked(block) => {
                let news = table.learn(client, Client::Hash(client), block, asked, now);
                if let (Some(ban), Told::Each) = (news, told) {
                    self.bans.learned(client, &ban);
                }
            }
            Change::Lifted(age) => {
                // As late as it can have been, so that it comes after the block it lifted.
                if table.lift_before(client, now.saturating_sub(*age)) {
                    tracing::warn!(
                        event = "bans.lift_learned",
                        client_hash = self.bans.hash(client),
                        "a block has ended, which an operator lifted on another gateway"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
