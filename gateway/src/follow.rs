//! Follows what the other gateways of a deployment began and ended: blocks of clients, locks of logins. It is read from the
//! shared store every [`READ_INTERVAL`], so it holds here well within a second; no request waits for it.

use std::{sync::Arc, time::Duration};

use portcullis_api::Micros;
use portcullis_plugins::{
    bans::{Asking, Change, Changes, Cursor},
    rate_limit::StoreFault,
};
use tokio::time::{sleep, timeout};

/// Between two readings of what the other gateways did.
pub(crate) const READ_INTERVAL: Duration = Duration::from_millis(250);

/// Readings in a row that fail before it is told: what the others did may take longer than a second from here on.
const READS_FAILED: u32 = 4;

/// How long a start waits for what is on. Without it it starts all the same.
pub(crate) const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// Between two attempts at the start.
pub(crate) const CATCH_UP_INTERVAL: Duration = Duration::from_millis(20);

/// How readings go, one after the other.
#[derive(Default)]
pub(crate) struct Readings {
    failed: u32,
}

/// What is to be told of readings.
pub(crate) enum News {
    /// They have failed for a while.
    Unheard(StoreFault),
    /// They succeed again.
    HeardAgain,
}

impl Readings {
    /// Notes how one went.
    pub(crate) fn note(&mut self, result: Result<(), StoreFault>) -> Option<News> {
        let before = self.failed;
        match result {
            Ok(()) => {
                self.failed = 0;
                (before >= READS_FAILED).then_some(News::HeardAgain)
            }
            Err(fault) => {
                self.failed = before.saturating_add(1);
                (self.failed == READS_FAILED).then_some(News::Unheard(fault))
            }
        }
    }
}

/// Whether each block that is learned has a line of its own in the log.
#[derive(Clone, Copy)]
pub(crate) enum Told {
    Each,
    /// At a start there may be very many.
    Never,
}

/// Something that several gateways share.
pub(crate) trait Follow: Send + Sync + 'static {
    /// What is found by it.
    type Key: Copy + Send + Sync;
    /// The event of the log when others are heard of.
    const READ: &'static str;
    /// And when they are not.
    const UNREAD: &'static str;

    /// What has changed in the store; none where there is no store.
    fn changes<'a>(&'a self, cursor: Option<&'a Cursor>) -> Option<Asking<'a, Changes<Self::Key>>>;

    /// The monotonic clock.
    fn now(&self) -> Micros;

    /// Takes over a change that the store, asked at `asked`, has just told.
    fn take(&self, key: Self::Key, change: &Change, asked: Micros, told: Told);
}

/// Reads what is on, at the start, and hands on the one who goes on reading.
pub(crate) async fn catch_up<F: Follow>(followed: &Arc<F>) -> Follower<F> {
    let mut follower = Follower { followed: Arc::clone(followed), cursor: None };
    let mut known = 0_usize;
    // Page after page, however many there are, as long as they come.
    let mut heard = tokio::time::Instant::now();
    loop {
        let left = CATCH_UP_MAX.saturating_sub(heard.elapsed());
        match timeout(left, follower.read_page(Told::Never)).await {
            Ok(Ok(Page { changes, more })) => {
                (known, heard) = (known.saturating_add(changes), tokio::time::Instant::now());
                if !more {
                    break;
                }
            }
            Ok(Err(_)) if heard.elapsed() < CATCH_UP_MAX => sleep(CATCH_UP_INTERVAL).await,
            Ok(Err(_)) | Err(_) => {
                let why = "nothing could be read at the start";
                tracing::warn!(event = F::UNREAD, why, "what other gateways began and ended is not heard of");
                break;
            }
        }
    }
    if known > 0 {
        tracing::info!(event = F::READ, changes = known, "what other gateways began holds here");
    }
    follower
}

/// What was read at once.
struct Page {
    changes: usize,
    more: bool,
}

/// Follows what the other gateways do.
pub(crate) struct Follower<F: Follow> {
    followed: Arc<F>,
    cursor: Option<Cursor>,
}

impl<F: Follow> Follower<F> {
    /// Goes on for ever.
    pub(crate) async fn run(mut self) {
        if self.followed.changes(None).is_none() {
            return std::future::pending().await;
        }
        let mut readings = Readings::default();
        loop {
            sleep(READ_INTERVAL).await;
            match readings.note(self.read().await) {
                Some(News::HeardAgain) => {
                    tracing::info!(event = F::READ, "what other gateways began and ended is heard of again");
                }
                Some(News::Unheard(fault)) => {
                    let why = fault.to_string();
                    tracing::warn!(event = F::UNREAD, why, "what other gateways began and ended is not heard of");
                }
                None => {}
            }
        }
    }

    /// Reads until there is no more.
    async fn read(&mut self) -> Result<(), StoreFault> {
        while self.read_page(Told::Each).await?.more {}
        Ok(())
    }

    async fn read_page(&mut self, told: Told) -> Result<Page, StoreFault> {
        let asked = self.followed.now();
        let Some(asking) = self.followed.changes(self.cursor.as_ref()) else {
            return Ok(Page { changes: 0, more: false });
        };
        let read = asking.await;
        match read {
            Ok(changes) => {
                changes.clients.iter().for_each(|(key, change)| self.followed.take(*key, change, asked, told));
                self.cursor = changes.cursor;
                Ok(Page { changes: changes.clients.len(), more: changes.more })
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
}
