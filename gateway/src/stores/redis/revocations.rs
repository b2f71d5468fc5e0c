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
pub(crate) struct RedisRevocations(pub(super) Tail);

/// One page of the stream.
pub(crate) struct Page {
    /// The first entry of it, whether it is read again or new.
    pub(crate) first: Option<String>,
    /// The last one, from which it goes on.
    pub(crate) last: Option<String>,
    /// What stands there and can be read.
    pub(crate) records: Vec<Record>,
    /// What stands there and cannot.
    pub(crate) unread: Option<Unread>,
    /// How many entries are new, whether or not they can be read.
    pub(crate) fresh: u64,
    /// How many the stream has, at the same moment.
    pub(crate) length: u64,
    pub(crate) more: bool,
}

/// That an entry is no revocation that is known here: by a newer version, or damaged. What it revokes nobody here can say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unread {
    /// The last entry before it; none where it is the first.
    pub(crate) before: Option<String>,
}

/// An entry of the stream: its id, and names and values in turn.
type Entry = (String, Vec<Vec<u8>>);

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

    /// Adds a revocation. When this answers the store has it, as the entry of this id.
    pub(crate) async fn add(&self, record: &Record) -> Result<String, StoreFault> {
        let json =
            serde_json::to_string(record).map_err(|_| StoreFault::Refused("a record without JSON".to_owned()))?;
        let (key, oldest) = (self.key(), record.at.saturating_sub(KEPT_S).saturating_mul(1000));
        let mut commands = ::redis::pipe();
        commands.cmd("XADD").arg(&key).arg("MINID").arg("~").arg(oldest).arg("*").arg("r").arg(json);
        commands.cmd("PEXPIRE").arg(&key).arg(KEPT_S.saturating_mul(1000)).ignore();
        let (id,) = self.0.ask(async |mut live: MultiplexedConnection| commands.query_async(&mut live).await).await?;
        Ok(id)
    }

    /// What stands there from this entry on, it included: that it is still there shows that nothing was lost meanwhile.
    pub(crate) async fn read(&self, from: Option<&str>) -> Result<Page, StoreFault> {
        let mut commands = ::redis::pipe();
        // At one moment: who counts along knows whether something before the page is gone.
        commands.atomic().cmd("XRANGE").arg(self.key()).arg(from.unwrap_or("-")).arg("+").arg("COUNT").arg(PAGE);
        commands.cmd("XLEN").arg(self.key());
        let ask = async |mut live: MultiplexedConnection| commands.query_async(&mut live).await;
        // As bytes: what is no text is one entry that cannot be read, and not a page.
        let (entries, length): (Vec<Entry>, u64) = self.0.ask(ask).await?;
        let (first, last) = (entries.first().map(|(id, _)| id.clone()), entries.last().map(|(id, _)| id.clone()));
        let more = entries.len() >= PAGE;
        let (mut fresh, mut records, mut unread, mut before) = (0_u64, Vec::new(), None, None);
        for (id, fields) in entries {
            if Some(id.as_str()) != from {
                fresh = fresh.saturating_add(1);
                match record(&fields) {
                    Some(record) => records.push(record),
                    None if unread.is_none() => {
                        told(&id);
                        unread = Some(Unread { before });
                    }
                    // One line says it of them all.
                    None => {}
                }
            }
            before = Some(id);
        }
        Ok(Page { first, last, records, unread, fresh, length, more })
    }
}

fn record(fields: &[Vec<u8>]) -> Option<Record> {
    fields.get(1).and_then(|json| serde_json::from_slice(json).ok())
}

fn told(entry: &str) {
    tracing::error!(
        event = "store.unreadable",
        entry,
        "a revocation in the shared store cannot be read, and refuses nothing here: routes are 503 once what is known is too \
         old; is it of a newer version?"
    );
}
