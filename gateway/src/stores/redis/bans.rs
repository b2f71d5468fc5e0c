//! Violations and blocks in Redis: a script counts, a script lifts, and each gateway reads what has changed.
//!
//! Of a client there are two keys, its violations and its block, and of the deployment one, the clients that have
//! changed, each with the number of its last change. A gateway reads on from the last number it has seen and then asks
//! how these clients stand now: so whatever it missed or reads twice, it ends up with what holds.
//!
//! Invariant: no address stands in Redis, only [`ClientKey`]s; and every key ends by itself.

use std::sync::{Arc, LazyLock};

use ::redis::{RedisError, Script, aio::MultiplexedConnection};
use portcullis_api::Micros;
use portcullis_plugins::{
    bans::{Asking, Block, CLIENTS_MAX, Change, Changes, ClientKey, Cursor, SharedBans, Strike, Struck},
    rate_limit::StoreFault,
};
use tokio::time::timeout;

use super::{Inner, Miss, RedisCounters};

static STRIKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../strike.lua")));
static LIFT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../lift.lua")));

/// Changes that are read at once.
pub(super) const PAGE: usize = 512;

/// Violations and blocks over the connection of the counters.
pub(crate) struct RedisBans {
    inner: Arc<Inner>,
    /// Changes that are remembered.
    pub(super) changes_max: usize,
}

impl RedisCounters {
    /// Violations and blocks in the same store.
    pub(crate) fn bans(&self) -> RedisBans {
        // As many as a gateway holds clients.
        RedisBans { inner: self.inner.clone(), changes_max: CLIENTS_MAX }
    }
}

impl SharedBans for RedisBans {
    fn strike(&self, strike: Strike) -> Asking<'_, Struck> {
        Box::pin(self.strike_at(strike, None))
    }

    fn lift(&self, client: ClientKey, told_for: Micros) -> Asking<'_, bool> {
        Box::pin(self.lift_at(client, told_for, None))
    }

    fn changes<'a>(&'a self, cursor: Option<&'a Cursor>) -> Asking<'a, Changes> {
        Box::pin(self.read(cursor))
    }
}

impl RedisBans {
    /// `clock` is a test's, in microseconds.
    pub(super) async fn strike_at(&self, strike: Strike, clock: Option<Micros>) -> Result<Struck, StoreFault> {
        let Strike { client, code, max, window, block } = strike;
        let mut call = self.script(&STRIKE, client, clock);
        call.arg(max).arg(window).arg(block).arg(code).arg(self.changes_max);
        let ask = async |mut live: MultiplexedConnection| call.invoke_async(&mut live).await;
        let (answer, age, remaining, code): (u8, Micros, Micros, String) = self.ask(ask).await?;
        let block = Block { code, age, remaining };
        match answer {
            0 => Ok(Struck::Counted),
            1 => Ok(Struck::Began(block)),
            2 => Ok(Struck::On(block)),
            _ => Err(StoreFault::Refused("an answer it does not have".to_owned())),
        }
    }

    /// `clock` is a test's, in microseconds.
    pub(super) async fn lift_at(
        &self,
        client: ClientKey,
        told_for: Micros,
        clock: Option<Micros>,
    ) -> Result<bool, StoreFault> {
        let mut call = self.script(&LIFT, client, clock);
        call.arg(told_for).arg(self.changes_max);
        self.ask(async |mut live: MultiplexedConnection| call.invoke_async(&mut live).await).await
    }

    fn script<'s>(
        &self,
        script: &'s Script,
        client: ClientKey,
        clock: Option<Micros>,
    ) -> ::redis::ScriptInvocation<'s> {
        let mut call = script.prepare_invoke();
        call.key(self.key("violations", client)).key(self.key("block", client)).key(self.changes_key());
        call.arg(clock.map_or_else(String::new, |micros| micros.to_string())).arg(client.to_string());
        call
    }

    fn key(&self, what: &str, client: ClientKey) -> String {
        format!("{}bans:{what}:{client}", self.inner.keys)
    }

    fn changes_key(&self) -> String {
        format!("{}bans:changes", self.inner.keys)
    }

    /// The change at the cursor is read again: that it is still there shows that nothing was lost meanwhile. When all is
    /// gone, because every block has ended or the server began anew, the next reading begins at the beginning.
    async fn read(&self, cursor: Option<&Cursor>) -> Result<Changes, StoreFault> {
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

    /// How clients stand now. One whose block has ended by itself does not stand in Redis any more.
    async fn stand<'c>(&self, clients: impl Iterator<Item = &'c str>) -> Result<Vec<(ClientKey, Change)>, StoreFault> {
        let clients: Vec<ClientKey> = clients.filter_map(readable).collect();
        if clients.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = ::redis::pipe();
        commands.cmd("TIME").cmd("MGET");
        clients.iter().for_each(|client| {
            commands.arg(self.key("block", *client));
        });
        let ask = async |mut live: MultiplexedConnection| commands.query_async(&mut live).await;
        let (time, values): ((Micros, Micros), Vec<Option<String>>) = self.ask(ask).await?;
        let now = time.0.saturating_mul(1_000_000).saturating_add(time.1);
        let known = |(client, value): (ClientKey, Option<String>)| Some((client, change(&value?, now)?));
        Ok(clients.into_iter().zip(values).filter_map(known).collect())
    }

    /// Asks within the deadline. What the connection does is noted; what the server says is not, for it tells nothing of
    /// whether a check can be counted. The watch looks for that by itself.
    async fn ask<T>(
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

fn readable(client: &str) -> Option<ClientKey> {
    let key = client.parse();
    if key.is_err() {
        tracing::error!(event = "bans.unreadable", "a client in the shared store is none: is it written by others?");
    }
    key.ok()
}

/// What stands of a client, told from `now` on; nothing where its block has just ended.
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
            tracing::error!(event = "bans.unreadable", "a block in the shared store is none: is it written by others?");
            None
        }
    }
}
