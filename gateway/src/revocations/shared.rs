//! Revocations that all gateways of a deployment share: each is added to the stream of the store, which every gateway reads
//! four times a second.
//!
//! Invariant: what a gateway knows and the stream does not hold is added to it. A store that comes back empty, or without
//! its last writes, is filled again by whoever is there.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use portcullis_api::UnixSeconds;
use portcullis_plugins::{
    rate_limit::StoreFault,
    revocations::{Mark, Record},
};
use tokio::time::sleep;

use super::Revoking;
use crate::{
    follow::{CATCH_UP_INTERVAL, CATCH_UP_MAX, News, READ_INTERVAL, Readings},
    stores::redis::RedisRevocations,
};

/// The stream, and how far it was heard.
pub(crate) struct Shared {
    store: RedisRevocations,
    /// Whether the store was not told of a revocation: then all is compared.
    untold: AtomicBool,
}

/// The last entry that was read; none before the first reading, and when the store may be another one.
#[derive(Default)]
pub(crate) struct Cursor(Option<String>);

impl Shared {
    pub(crate) fn new(store: RedisRevocations) -> Self {
        Self { store, untold: AtomicBool::new(false) }
    }

    /// Tells the others. What cannot be told now is told when the store answers.
    pub(super) async fn tell(&self, record: &Record) -> Result<(), StoreFault> {
        let told = self.store.add(record).await;
        if told.is_err() {
            self.untold.store(true, Ordering::Release);
        }
        told
    }

    /// Reads until there is no more, and adds what is missing where all of it was read.
    async fn read(&self, revoking: &Revoking, cursor: &mut Cursor) -> Result<(), StoreFault> {
        if self.untold.swap(false, Ordering::AcqRel) {
            cursor.0 = None;
        }
        let mut from = cursor.0.take();
        let whole = from.is_none();
        let mut stands: HashMap<Mark, UnixSeconds> = HashMap::new();
        let began = revoking.now();
        loop {
            let page = self.store.read(from.as_deref()).await?;
            if from.is_some() && page.first != from {
                // It has begun anew, or lost its last writes: all is read, and compared, at once the next time.
                return Ok(());
            }
            if whole {
                for Record { mark, at, .. } in &page.records {
                    let known = stands.entry(*mark).or_insert(*at);
                    *known = (*known).max(*at);
                }
            }
            revoking.heard(page.records).await?;
            from = page.last.or(from);
            if !page.more {
                break;
            }
        }
        if whole {
            for record in revoking.set.list() {
                if stands.get(&record.mark).is_none_or(|at| *at < record.at) {
                    self.store.add(&record).await?;
                }
            }
        }
        cursor.0 = from;
        revoking.confirm(began).await;
        Ok(())
    }

    /// Reads what is revoked, at the start, and says how far.
    pub(super) async fn catch_up(&self, revoking: &Revoking) -> Cursor {
        let (mut cursor, began) = (Cursor::default(), Instant::now());
        while self.read(revoking, &mut cursor).await.is_err() {
            if began.elapsed() >= CATCH_UP_MAX {
                unheard("nothing could be read at the start");
                break;
            }
            sleep(CATCH_UP_INTERVAL).await;
        }
        cursor
    }

    /// Goes on for ever.
    pub(super) async fn run(&self, revoking: &Revoking, mut cursor: Cursor) {
        let mut readings = Readings::default();
        loop {
            sleep(READ_INTERVAL).await;
            match readings.note(self.read(revoking, &mut cursor).await) {
                Some(News::HeardAgain) => {
                    tracing::info!(event = "revocations.heard", "what other gateways revoke is heard of again");
                }
                Some(News::Unheard(fault)) => unheard(&fault.to_string()),
                None => {}
            }
        }
    }
}

fn unheard(why: &str) {
    tracing::warn!(
        event = "revocations.unheard",
        why,
        "what other gateways revoke is not heard of; what is known holds"
    );
}
