//! Which gateways there are for revocations, and up to which entry of the stream each has heard.

use std::{sync::LazyLock, time::Duration};

use ::redis::{Script, aio::MultiplexedConnection};
use portcullis_plugins::rate_limit::StoreFault;

use super::RedisRevocations;

static HEAR: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../hear.lua")));

/// Longer than any gateway counts as there.
const THERE_MAX: Duration = Duration::from_secs(600);

/// An entry of the stream, in the order of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry(u64, u64);

impl Entry {
    /// As Redis writes it, `MILLISECONDS-NUMBER`.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let (millis, number) = id.split_once('-')?;
        Some(Self(millis.parse().ok()?, number.parse().ok()?))
    }
}

/// A gateway that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hearing {
    pub(crate) gateway: String,
    /// The last entry that it has heard; none before the first.
    pub(crate) heard: Option<Entry>,
}

impl RedisRevocations {
    /// Says up to which entry this gateway has heard, and that it is there for so long.
    pub(crate) async fn say(&self, gateway: &str, heard: Option<&str>, there: Duration) -> Result<(), StoreFault> {
        self.hear(gateway, heard, there).await.map(drop)
    }

    /// Every gateway that is there.
    pub(crate) async fn gateways(&self) -> Result<Vec<Hearing>, StoreFault> {
        let there = self.hear("", None, Duration::ZERO).await?;
        let (pairs, _rest) = there.as_chunks::<2>();
        let hearing = |[gateway, heard]: &[String; 2]| Hearing { gateway: gateway.clone(), heard: Entry::parse(heard) };
        Ok(pairs.iter().map(hearing).collect())
    }

    /// Says that this gateway goes.
    pub(crate) async fn leave(&self, gateway: &str) {
        let mut command = ::redis::cmd("HDEL");
        command.arg(self.gateways_key()).arg(gateway);
        let ask = async |mut live: MultiplexedConnection| command.query_async::<u64>(&mut live).await;
        // Who does not hear it waits until it counts no more.
        drop(self.0.ask(ask).await);
    }

    async fn hear(&self, gateway: &str, heard: Option<&str>, there: Duration) -> Result<Vec<String>, StoreFault> {
        let mut call = HEAR.prepare_invoke();
        call.key(self.gateways_key()).arg("").arg(gateway).arg(heard.unwrap_or("-"));
        call.arg(there.min(THERE_MAX).as_micros().to_string()).arg(THERE_MAX.as_micros().to_string());
        self.0.ask(async |mut live: MultiplexedConnection| call.invoke_async(&mut live).await).await
    }

    fn gateways_key(&self) -> String {
        format!("{}{}:gateways", self.0.inner.keys, self.0.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_the_order_of_numbers_and_not_of_their_text() {
        let entry = |id| Entry::parse(id).unwrap();
        assert!(entry("9-0") < entry("10-0") && entry("10-9") < entry("10-10") && entry("10-10") < entry("11-0"));
        for bad in ["", "-", "1", "1-", "-1", "1-1-1", "a-1", "18446744073709551616-0"] {
            assert_eq!(Entry::parse(bad), None, "{bad}");
        }
    }
}
