//! Tokens are taken ahead behind the traffic: now and then, for all buckets of which more is wanted, in one run of the script.

use std::{sync::Arc, time::Duration};

use portcullis_api::Micros;
use tokio::time::sleep;

use super::{Inner, Miss, call::Ask, settle::PAGE};

/// Between two looks at what is wanted, at least.
const PAUSE: Micros = 40_000;

/// And at most so much more, by chance: a gateway that always came right after another would find what that one has left.
const PAUSE_MORE: Micros = 20_000;

/// Asks for what is wanted, as long as there is a store.
pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        let more = inner.now().checked_rem(PAUSE_MORE).unwrap_or(0);
        sleep(Duration::from_micros(PAUSE.saturating_add(more))).await;
        let mut due = inner.leases.due(inner.instances());
        while !due.is_empty() {
            let page = Ask::ahead(due.split_off(due.len().saturating_sub(PAGE)));
            let result = match inner.live.load_full().filter(|_| !inner.breaker.is_open()) {
                None => Err(Miss::Gone("not connected".to_owned())),
                Some(live) => {
                    let result = inner.call(&live, &[&page], None).await;
                    inner.note(&live, &result.as_ref().map(|_| ()).map_err(Clone::clone));
                    result.map(|mut given| given.pop().unwrap_or_default())
                }
            };
            // Without an answer whoever needs a token asks by himself.
            drop(inner.heard(&page, result));
        }
    }
}
