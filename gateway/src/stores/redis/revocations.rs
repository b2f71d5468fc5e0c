//! Revocations in Redis: a stream, to which each gateway adds what its operator revokes, and which each reads on from where
//! it was.
//!
//! Invariant: an entry stays for longer than anything it refuses can live, and the whole ends by itself.

use ::redis::aio::MultiplexedConnection;
use portcullis_plugins::{rate_limit::StoreFault, revocations::Record};

use super::{
    RedisCounters,
    tail::{PAGE, Tail},
};

/// Longer than any revocation is kept, in seconds.
const KEPT_S: u64 = 367 * 86_400;

/// The stream, over the connection of the counters.
pub(crate) struct RedisRevocations(Tail);

/// One page of the stream.
pub(crate) struct Page {
    /// The first entry of it, whether it is read again or new.
    pub(crate) first: Option<String>,
    /// The last one, from which it goes on.
    pub(crate) last: Option<String>,
    /// What stands there.
    pub(crate) records: Vec<Record>,
    pub(crate) more: bool,
}

impl RedisCounters {
    /// Revocations in the same store.
    pub(crate) fn revocations(&self) -> RedisRevocations {
        RedisRevocations(Tail { inner: self.inner.clone(), kind: "revocations", blocked: "", changes_max: 0 })
    }
}

impl RedisRevocations {
    fn key(&self) -> String {
        format!("{}{}", self.0.inner.keys, self.0.kind)
    }

    /// Adds a revocation. When this answers the store has it.
    pub(crate) async fn add(&self, record: &Record) -> Result<(), StoreFault> {
        let json =
            serde_json::to_string(record).map_err(|_| StoreFault::Refused("a record without JSON".to_owned()))?;
        let (key, oldest) = (self.key(), record.at.saturating_sub(KEPT_S).saturating_mul(1000));
        let mut commands = ::redis::pipe();
        commands.cmd("XADD").arg(&key).arg("MINID").arg("~").arg(oldest).arg("*").arg("r").arg(json).ignore();
        commands.cmd("PEXPIRE").arg(&key).arg(KEPT_S.saturating_mul(1000)).ignore();
        self.0.ask(async |mut live: MultiplexedConnection| commands.query_async(&mut live).await).await
    }

    /// What stands there from this entry on, it included: that it is still there shows that nothing was lost meanwhile.
    pub(crate) async fn read(&self, from: Option<&str>) -> Result<Page, StoreFault> {
        let mut command = ::redis::cmd("XRANGE");
        command.arg(self.key()).arg(from.unwrap_or("-")).arg("+").arg("COUNT").arg(PAGE);
        let ask = async |mut live: MultiplexedConnection| command.query_async(&mut live).await;
        let entries: Vec<(String, Vec<String>)> = self.0.ask(ask).await?;
        let (first, last) = (entries.first().map(|(id, _)| id.clone()), entries.last().map(|(id, _)| id.clone()));
        let more = entries.len() >= PAGE;
        let fresh = entries.into_iter().filter(|(id, _)| Some(id.as_str()) != from);
        Ok(Page { first, last, records: fresh.filter_map(|(_, fields)| record(&fields)).collect(), more })
    }
}

fn record(fields: &[String]) -> Option<Record> {
    let record = fields.get(1).and_then(|json| serde_json::from_str(json).ok());
    if record.is_none() {
        tracing::error!(
            event = "store.unreadable",
            "a revocation in the shared store is none, and refuses nothing here: is it written by others?"
        );
    }
    record
}
