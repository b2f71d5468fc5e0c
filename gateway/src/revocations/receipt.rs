//! On which gateways a revocation holds: asked of each by what it says that it has heard.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Shared;
use crate::stores::redis::{Entry, Hearing};

/// How long is waited for the others.
const WAIT: Duration = Duration::from_secs(2);
/// Between two questions.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// Where a revocation holds, and where that is not known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// Gateways on which it holds, this one first.
    pub(crate) holds: Vec<String>,
    /// Gateways that are there and have not said so.
    pub(crate) lagging: Vec<String>,
    /// Whether the store told who is there.
    pub(crate) told: bool,
}

impl Receipt {
    /// Of a gateway that is alone.
    pub(super) fn alone(name: &str) -> Self {
        Self { holds: vec![name.to_owned()], lagging: Vec::new(), told: true }
    }

    /// Whether it holds on every gateway.
    pub(crate) const fn is_whole(&self) -> bool {
        self.told && self.lagging.is_empty()
    }

    fn of(own: &str, entry: Entry, there: Vec<Hearing>) -> Self {
        let mut receipt = Self::alone(own);
        for Hearing { gateway, heard } in there.into_iter().filter(|hearing| hearing.gateway != own) {
            let holds = heard.is_some_and(|heard| heard >= entry);
            if holds { &mut receipt.holds } else { &mut receipt.lagging }.push(gateway);
        }
        receipt.lagging.sort();
        receipt
    }
}

impl Shared {
    /// Waits until all gateways have heard this entry, for 2 s at most.
    pub(super) async fn receipt(&self, entry: &str) -> Receipt {
        let began = Instant::now();
        let mut receipt = Receipt { told: false, ..Receipt::alone(&self.name) };
        let Some(entry) = Entry::parse(entry) else { return receipt };
        loop {
            // While the store does not answer the last that it said stands.
            if let Ok(there) = self.store.gateways().await {
                receipt = Receipt::of(&self.name, entry, there);
            }
            if receipt.is_whole() || began.elapsed() >= WAIT {
                return receipt;
            }
            sleep(ASK_INTERVAL).await;
        }
    }
}

/// What this gateway is called among the others: its host and process.
pub(super) fn name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(char::is_ascii_graphic).take(64).collect();
    let host = if host.is_empty() { "gateway" } else { &host };
    format!("{host}/{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_not_heard_the_entry_lags_and_who_asks_does_not() {
        let entry = |id| Entry::parse(id).unwrap();
        let hearing = |gateway: &str, heard| Hearing { gateway: gateway.to_owned(), heard };
        let there = vec![
            hearing("own", None),
            hearing("late", Some(entry("9-9"))),
            hearing("there", Some(entry("10-0"))),
            hearing("ahead", Some(entry("11-0"))),
            hearing("fresh", None),
        ];
        let receipt = Receipt::of("own", entry("10-0"), there);
        assert_eq!(
            (receipt.holds.as_slice(), receipt.is_whole()),
            (&["own", "there", "ahead"].map(str::to_owned)[..], false)
        );
        assert_eq!(receipt.lagging, ["fresh", "late"]);
        assert!(Receipt::alone("own").is_whole());
        assert!(!Receipt { told: false, ..Receipt::alone("own") }.is_whole(), "nobody said who is there");
    }
}
