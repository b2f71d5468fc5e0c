//! Violations and blocks in Redis: a script counts, a script lifts, and each gateway reads what has changed.
//!
//! Of a client there are two keys, its violations and its block, and of the deployment one, the clients that have
//! changed: see `tail`.
//!
//! Invariant: no address stands in Redis, only [`ClientKey`]s; and every key ends by itself.

use std::sync::LazyLock;

use ::redis::{Script, aio::MultiplexedConnection};
use portcullis_api::Micros;
use portcullis_plugins::{
    bans::{Asking, Block, CLIENTS_MAX, Changes, ClientKey, Cursor, SharedBans, Strike, Struck},
    rate_limit::StoreFault,
};

use super::{RedisCounters, tail::Tail};

static STRIKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../strike.lua")));
pub(super) static LIFT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../lift.lua")));

/// Violations and blocks over the connection of the counters.
pub(crate) struct RedisBans(pub(super) Tail);

impl RedisCounters {
    /// Violations and blocks in the same store.
    pub(crate) fn bans(&self) -> RedisBans {
        // As many as a gateway holds clients.
        RedisBans(Tail { inner: self.inner.clone(), kind: "bans", blocked: "block", changes_max: CLIENTS_MAX })
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
        Box::pin(self.0.read(cursor))
    }
}

impl RedisBans {
    /// `clock` is a test's, in microseconds.
    pub(super) async fn strike_at(&self, strike: Strike, clock: Option<Micros>) -> Result<Struck, StoreFault> {
        let Strike { client, code, max, window, block } = strike;
        let mut call = self.script(&STRIKE, client, clock);
        call.arg(max).arg(window).arg(block).arg(code).arg(self.0.changes_max);
        let ask = async |mut live: MultiplexedConnection| call.invoke_async(&mut live).await;
        let (answer, age, remaining, code): (u8, Micros, Micros, String) = self.0.ask(ask).await?;
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
        call.arg(told_for).arg(self.0.changes_max);
        self.0.ask(async |mut live: MultiplexedConnection| call.invoke_async(&mut live).await).await
    }

    fn script<'s>(
        &self,
        script: &'s Script,
        client: ClientKey,
        clock: Option<Micros>,
    ) -> ::redis::ScriptInvocation<'s> {
        let mut call = script.prepare_invoke();
        call.key(self.0.key("violations", client)).key(self.0.key("block", client)).key(self.0.changes_key());
        call.arg(clock.map_or_else(String::new, |micros| micros.to_string())).arg(client.to_string());
        call
    }
}
