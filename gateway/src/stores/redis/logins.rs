//! Failed logins and locks in Redis: a script counts, a script forgets, a script lifts, and each gateway reads what has
//! changed.
//!
//! Of whatever is counted there are two keys, its failures and its lock; of an account the networks it is known from; and of
//! the deployment one, the locks that have changed: see `tail`.
//!
//! Invariant: no account and no address stands in Redis, only [`LockKey`]s; and every key ends by itself.

use std::sync::LazyLock;

use ::redis::{Script, ScriptInvocation, aio::MultiplexedConnection};
use portcullis_api::Micros;
use portcullis_plugins::{
    bans::{Asking, Block, Changes, Cursor},
    login::{Began, ENTRIES_MAX, Failed, Failure, Keys, LockKey, NETWORKS_MAX, Scope, SharedLogins, Stood},
    rate_limit::StoreFault,
};

use super::{RedisCounters, bans::LIFT, tail::Tail};

static FAIL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../fail.lua")));
static SUCCEED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../succeed.lua")));

/// How `fail.lua` tells what it counted: failures, whether there is a lock, its age, what is left of it, its code.
type Counted = (usize, u8, Micros, Micros, String);

/// Failed logins and locks over the connection of the counters.
pub(crate) struct RedisLogins(pub(super) Tail);

impl RedisCounters {
    /// Failed logins and locks in the same store.
    pub(crate) fn logins(&self) -> RedisLogins {
        RedisLogins(Tail { inner: self.inner.clone(), kind: "login", blocked: "lock", changes_max: ENTRIES_MAX })
    }
}

impl SharedLogins for RedisLogins {
    fn fail(&self, failure: Failure) -> Asking<'_, Failed> {
        Box::pin(async move { self.fail_at(&failure, None).await })
    }

    fn succeed(&self, keys: Keys, known_for: Micros, told_for: Micros) -> Asking<'_, ()> {
        Box::pin(async move { self.succeed_at(&keys, known_for, told_for, None).await.map(|_ended| ()) })
    }

    fn knows(&self, keys: Keys, known_for: Micros) -> Asking<'_, bool> {
        Box::pin(async move { self.knows_at(&keys, known_for, None).await })
    }

    fn lift(&self, key: LockKey, told_for: Micros) -> Asking<'_, bool> {
        Box::pin(self.lift_at(key, told_for, None))
    }

    fn changes<'a>(&'a self, cursor: Option<&'a Cursor>) -> Asking<'a, Changes<LockKey>> {
        Box::pin(self.0.read(cursor))
    }
}

impl RedisLogins {
    /// `clock` is a test's, in microseconds, here and below.
    pub(super) async fn fail_at(&self, failure: &Failure, clock: Option<Micros>) -> Result<Failed, StoreFault> {
        let Failure { keys, numbers } = failure;
        let mut call = self.script(&FAIL, keys, &Scope::ALL, clock);
        call.arg(network(keys)).arg(numbers.known_for()).arg(self.0.changes_max);
        for scope in Scope::ALL {
            let ladder = numbers.ladder(scope);
            call.arg(keys.of(scope).to_string()).arg(scope.as_str()).arg(ladder.window()).arg(ladder.steps().len());
            ladder.steps().iter().for_each(|step| {
                call.arg(step.failures).arg(step.lock);
            });
        }
        let ask = async |mut live: MultiplexedConnection| call.invoke_async(&mut live).await;
        let answer: Vec<::redis::Value> = self.0.ask(ask).await?;
        read(answer).ok_or_else(|| StoreFault::Refused("an answer it does not have".to_owned()))
    }

    /// Answers with the number of locks that ended.
    pub(super) async fn succeed_at(
        &self,
        keys: &Keys,
        known_for: Micros,
        told_for: Micros,
        clock: Option<Micros>,
    ) -> Result<u32, StoreFault> {
        let scopes = [Scope::Pair, Scope::Account];
        let mut call = self.script(&SUCCEED, keys, &scopes, clock);
        call.arg(network(keys)).arg(known_for).arg(self.0.changes_max).arg(NETWORKS_MAX).arg(told_for);
        scopes.iter().for_each(|scope| {
            call.arg(keys.of(*scope).to_string());
        });
        self.0.ask(async |mut live: MultiplexedConnection| call.invoke_async(&mut live).await).await
    }

    pub(super) async fn knows_at(
        &self,
        keys: &Keys,
        known_for: Micros,
        clock: Option<Micros>,
    ) -> Result<bool, StoreFault> {
        let mut commands = ::redis::pipe();
        commands.cmd("TIME").cmd("GET").arg(self.0.key("known", keys.account));
        let ask = async |mut live: MultiplexedConnection| commands.query_async(&mut live).await;
        let (time, known): ((Micros, Micros), Option<String>) = self.0.ask(ask).await?;
        let now = clock.unwrap_or_else(|| time.0.saturating_mul(1_000_000).saturating_add(time.1));
        let network = network(keys);
        let mut each = known.as_deref().unwrap_or_default().split(' ').filter_map(|known| known.split_once(':'));
        Ok(each.any(|(known, since)| {
            known == network && since.parse::<Micros>().is_ok_and(|since| now.saturating_sub(since) < known_for)
        }))
    }

    pub(super) async fn lift_at(
        &self,
        key: LockKey,
        told_for: Micros,
        clock: Option<Micros>,
    ) -> Result<bool, StoreFault> {
        let mut call = LIFT.prepare_invoke();
        call.key(self.0.key("failures", key)).key(self.0.key("lock", key)).key(self.0.changes_key());
        call.arg(told(clock)).arg(key.to_string()).arg(told_for).arg(self.0.changes_max);
        self.0.ask(async |mut live: MultiplexedConnection| call.invoke_async(&mut live).await).await
    }

    fn script<'s>(
        &self,
        script: &'s Script,
        keys: &Keys,
        scopes: &[Scope],
        clock: Option<Micros>,
    ) -> ScriptInvocation<'s> {
        let mut call = script.prepare_invoke();
        call.key(self.0.key("known", keys.account)).key(self.0.changes_key());
        scopes.iter().map(|scope| keys.of(*scope)).for_each(|key| {
            call.key(self.0.key("failures", key)).key(self.0.key("lock", key));
        });
        call.arg(told(clock));
        call
    }
}

fn told(clock: Option<Micros>) -> String {
    clock.map_or_else(String::new, |micros| micros.to_string())
}

/// What the account knows the network by.
fn network(keys: &Keys) -> String {
    format!("{:016x}", keys.pair.network_part())
}

fn read(answer: Vec<::redis::Value>) -> Option<Failed> {
    let mut answer = answer.into_iter();
    let known: u8 = ::redis::from_redis_value(answer.next()?).ok()?;
    let rest: Vec<::redis::Value> = answer.collect();
    let mut stood = Vec::new();
    for (scope, five) in Scope::ALL.into_iter().zip(rest.chunks_exact(5)) {
        let five = ::redis::Value::Array(five.to_vec());
        let (failures, answer, age, remaining, code): Counted = ::redis::from_redis_value(five).ok()?;
        let block = Block { code, age, remaining };
        let lock = match answer {
            0 => None,
            1 => Some((block, Began::Now)),
            2 => Some((block, Began::Before)),
            _ => return None,
        };
        stood.push(Stood { scope, failures, lock });
    }
    Some(Failed { known: known == 1, stood })
}
