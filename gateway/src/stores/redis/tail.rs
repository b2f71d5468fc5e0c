//! What is blocked in Redis, read on from where one was: by each gateway, four times a second.
//!
//! There is a key for each that is blocked, and one with all that have changed, each with the number of its last change. A
//! gateway reads on from the last number it has seen and then asks how these stand now: so whatever it missed or reads
//! twice, it ends up with what holds.

use std::{fmt::Display, str::FromStr, sync::Arc};

use ::redis::{RedisError, aio::MultiplexedConnection};
use portcullis_api::Micros;
use portcullis_plugins::{
    bans::{Block, Change, Changes, Cursor},
    rate_limit::StoreFault,
};
use tokio::time::timeout;

use super::{Inner, Miss};

/// Changes that are read at once.
pub(super) const PAGE: usize = 512;

/// One kind of what is blocked, over the connection of the counters.
pub(super) struct Tail {
    pub(super) inner: Arc<Inner>,
    /// The part of every key, after those of the deployment.
    pub(super) kind: &'static str,
    /// The part of the keys of what is blocked.
    pub(super) blocked: &'static str,
    /// Changes that are remembered.
    pub(super) changes_max: usize,
}

impl Tail {
    pub(super) fn key(&self, what: &str, of: impl Display) -> String {
        format!("{}{}:{what}:{of}", self.inner.keys, self.kind)
    }

    pub(super) fn changes_key(&self) -> String {
        format!("{}{}:changes", self.inner.keys, self.kind)
    }

    /// The change at the cursor is read again: that it is still there shows that nothing was lost meanwhile. When all is
    /// gone, because every block has ended or the server began anew, the next reading begins at the beginning.
    pub(super) async fn read<K: FromStr + Display + Copy>(
        &self,
        cursor: Option<&Cursor>,
    ) -> Result<Changes<K>, StoreFault> {
        let from = cursor.map_or("-inf", |cursor| &cursor.0);
        let mut command = ::redis::cmd("ZRANGEBYSCORE");
        command.arg(self.changes_key()).arg(from).arg("+inf").arg("WITHSCORES").arg("LIMIT").arg(0).arg(PAGE);
        let ask = async |mut live: MultiplexedConnection| command.query_async(&mut live).await;
        let mut changed: Vec<(String, String)> = self.ask(ask).await?;
        let Some((_, last)) = changed.last() else {
            return Ok(Changes { clients: Vec::new(), cursor: None, more: false });
        };
        let (next, more) = (Cursor(last.clone()), changed.len() >= PAGE);
        changed.retain(|(_, number)| number != from);
        let clients = self.stand(changed.iter().map(|(client, _)| client.as_str())).await?;
        Ok(Changes { clients, cursor: Some(next), more })
    }

    /// How they stand now. One whose block has ended by itself does not stand in Redis any more.
    async fn stand<'c, K: FromStr + Display + Copy>(
        &self,
        changed: impl Iterator<Item = &'c str>,
    ) -> Result<Vec<(K, Change)>, StoreFault> {
        let changed: Vec<K> = changed.filter_map(readable).collect();
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = ::redis::pipe();
        commands.cmd("TIME").cmd("MGET");
        changed.iter().for_each(|key| {
            commands.arg(self.key(self.blocked, *key));
        });
        let ask = async |mut live: MultiplexedConnection| commands.query_async(&mut live).await;
        let (time, values): ((Micros, Micros), Vec<Option<String>>) = self.ask(ask).await?;
        let now = time.0.saturating_mul(1_000_000).saturating_add(time.1);
        let known = |(key, value): (K, Option<String>)| Some((key, change(&value?, now)?));
        Ok(changed.into_iter().zip(values).filter_map(known).collect())
    }

    /// Asks within the deadline. What the connection does is noted; what the server says is not, for it tells nothing of
    /// whether a check can be counted. The watch looks for that by itself.
    pub(super) async fn ask<T>(
        &self,
        call: impl AsyncFnOnce(MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, StoreFault> {
        let inner = &self.inner;
        if inner.breaker.is_open() {
            return Err(StoreFault::Away);
        }
        let Some(live) = inner.live.load_full() else { return Err(StoreFault::Away) };
        let _permit = inner.permits.try_acquire().map_err(|_| StoreFault::Busy)?;
        let miss = match timeout(inner.deadline, call(MultiplexedConnection::clone(&live))).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Miss::of(&error),
            Err(_) => Miss::Late,
        };
        match &miss {
            Miss::Refused(_) => {}
            Miss::Late | Miss::Gone(_) => inner.note(&live, &Err(miss.clone())),
        }
        Err(miss.into())
    }
}

fn readable<K: FromStr>(key: &str) -> Option<K> {
    let key = key.parse();
    if key.is_err() {
        tracing::error!(event = "store.unreadable", "a key in the shared store is none: is it written by others?");
    }
    key.ok()
}

/// What stands of a key, told from `now` on; nothing where its block has just ended.
fn change(value: &str, now: Micros) -> Option<Change> {
    let mut words = value.splitn(4, ' ');
    let mut word = || words.next();
    let number = |word: Option<&str>| word?.parse::<Micros>().ok();
    match (word(), number(word()), number(word()), word()) {
        (Some("blocked"), Some(began), Some(ends), Some(code)) => {
            let block =
                Block { code: code.to_owned(), age: now.saturating_sub(began), remaining: ends.checked_sub(now)? };
            (block.remaining > 0).then_some(Change::Blocked(block))
        }
        (Some("lifted"), Some(at), None, None) => Some(Change::Lifted(now.saturating_sub(at))),
        _ => {
            tracing::error!(
                event = "store.unreadable",
                "a block in the shared store is none: is it written by others?"
            );
            None
        }
    }
}
