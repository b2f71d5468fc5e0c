//! Revocations that all gateways of a deployment share: each is added to the stream of the store, which every gateway reads
//! four times a second.
//!
//! Invariant: what a gateway knows and the stream does not hold is added to it. A store that comes back empty, or without
//! its last writes, is filled again by whoever is there.
//!
//! Invariant: an entry that cannot be read was not heard. What can be read holds at once, also behind it; but nothing is
//! confirmed, and the others are told of nothing past it, for as long as it stands there.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use portcullis_api::{Millis, UnixSeconds};
use portcullis_plugins::{
    rate_limit::StoreFault,
    revocations::{Mark, Record},
};
use tokio::time::sleep;

use super::{Revoking, receipt};
use crate::{
    follow::{CATCH_UP_INTERVAL, CATCH_UP_MAX, News, READ_INTERVAL, Readings},
    stores::redis::{RedisRevocations, Unread},
};

/// The stream, and how far it was heard.
pub(crate) struct Shared {
    pub(super) store: RedisRevocations,
    /// Whether the store was not told of a revocation: then all is compared.
    untold: AtomicBool,
    /// What this gateway is called among the others.
    pub(super) name: String,
    /// How long it counts as there after it was heard, in milliseconds: at least as long as it lets requests pass.
    there_ms: AtomicU64,
}

/// The last entry that was read; none before the first reading, and when the store may be another one.
#[derive(Default)]
pub(crate) struct Cursor {
    last: Option<String>,
    /// How many entries the stream had up to there.
    count: u64,
    /// The first entry up to there that could not be read.
    unread: Option<Unread>,
    /// What the others were told of it last, and when.
    said: Option<(Option<String>, Instant)>,
}

impl Cursor {
    /// The last entry up to which all was heard.
    fn heard(&self) -> Option<&String> {
        match &self.unread {
            None => self.last.as_ref(),
            Some(Unread { before }) => before.as_ref(),
        }
    }
}

/// Between two words to the others that this gateway is there.
const SAY_INTERVAL: Duration = Duration::from_secs(5);
/// Beyond the time in which it lets requests pass without a word from the store.
const THERE_SLACK_MS: u64 = 10_000;

impl Shared {
    pub(crate) fn new(store: RedisRevocations) -> Self {
        Self { store, untold: AtomicBool::new(false), name: receipt::name(), there_ms: AtomicU64::new(0) }
    }

    /// How long it may be unheard of and let requests pass all the same: for so long a receipt must name it.
    pub(crate) fn lets_pass_for(&self, max: Millis) {
        self.there_ms.store(max.as_millis().saturating_add(THERE_SLACK_MS), Ordering::Relaxed);
    }

    /// Tells the others. What cannot be told now is told when the store answers.
    pub(super) async fn tell(&self, record: &Record) -> Result<String, StoreFault> {
        let told = self.store.add(record).await;
        if told.is_err() {
            self.untold.store(true, Ordering::Release);
        }
        told
    }

    /// Reads until there is no more, and adds what is missing where all of it was read.
    async fn read(&self, revoking: &Revoking, cursor: &mut Cursor) -> Result<(), StoreFault> {
        if self.untold.swap(false, Ordering::AcqRel) {
            cursor.last = None;
        }
        let mut from = cursor.last.take();
        let whole = from.is_none();
        let mut stands: HashMap<Mark, UnixSeconds> = HashMap::new();
        let began = revoking.now();
        let (mut count, mut unread) = if whole { (0, None) } else { (cursor.count, cursor.unread.clone()) };
        let length = loop {
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
            unread = unread.or(page.unread);
            from = page.last.or(from);
            count = count.saturating_add(page.fresh);
            if !page.more {
                break page.length;
            }
        };
        if length != count {
            // Entries are only ever added at the end, and the last one that was read is still there: as many as were
            // counted are the same ones, and fewer say that some are gone before it. All is read, as above. Those that cannot
            // be read count too: when one of them is gone it is seen here.
            return Ok(());
        }
        if whole {
            for record in revoking.set.list() {
                if stands.get(&record.mark).is_none_or(|at| *at < record.at) {
                    self.store.add(&record).await?;
                }
            }
        }
        let all_heard = unread.is_none();
        (cursor.last, cursor.count, cursor.unread) = (from, count, unread);
        if all_heard {
            revoking.confirm(began).await;
        }
        Ok(())
    }

    /// Reads, and says to the others how far.
    async fn follow(&self, revoking: &Revoking, cursor: &mut Cursor) -> Result<(), StoreFault> {
        self.read(revoking, cursor).await?;
        let (read, heard) = (cursor.last.is_some(), cursor.heard().cloned());
        let due = match &cursor.said {
            None => true,
            Some((said, at)) => (read && *said != heard) || at.elapsed() >= SAY_INTERVAL,
        };
        if due {
            let there = Duration::from_millis(self.there_ms.load(Ordering::Relaxed));
            self.store.say(&self.name, heard.as_deref(), there).await?;
            cursor.said = Some((heard, Instant::now()));
        }
        Ok(())
    }

    /// Reads what is revoked, at the start, and says how far.
    pub(super) async fn catch_up(&self, revoking: &Revoking) -> Cursor {
        let (mut cursor, began) = (Cursor::default(), Instant::now());
        while self.follow(revoking, &mut cursor).await.is_err() {
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
            match readings.note(self.follow(revoking, &mut cursor).await) {
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
