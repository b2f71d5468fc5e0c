//! A store that is away, that hangs or that is asked too often.

use std::{
    hash::RandomState,
    sync::atomic::{AtomicUsize, Ordering},
};

use portcullis_api::Secret;
use portcullis_plugins::waf::Violations;

use super::*;

/// A store that answers nothing, or that it is away.
struct Silent {
    asked: AtomicUsize,
    away: bool,
}

impl Silent {
    fn answer<T: Send>(&self) -> Asking<'_, T> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let away = self.away;
        Box::pin(async move { if away { Err(StoreFault::Away) } else { std::future::pending().await } })
    }
}

impl SharedBans for Silent {
    fn strike(&self, _: Strike) -> Asking<'_, Struck> {
        self.answer()
    }

    fn lift(&self, _: ClientKey, _: Micros) -> Asking<'_, bool> {
        self.answer()
    }

    fn changes<'a>(&'a self, _: Option<&'a Cursor>) -> Asking<'a, Changes> {
        self.answer()
    }
}

fn bans(away: bool) -> (Arc<Bans>, Arc<Silent>) {
    let store = Arc::new(Silent { asked: AtomicUsize::new(0), away });
    let table = BanTable::shared(&Violations::default(), RandomState::new(), &Secret::new(vec![7; 32]));
    let (clock, metrics) = (Arc::new(SystemClock::start()), Arc::new(Metrics::new().unwrap()));
    let pseudonyms = Arc::new(Pseudonyms::new(None).unwrap());
    (Arc::new(Bans::new(Arc::new(table), Some(store.clone()), clock, metrics, pseudonyms)), store)
}

fn client() -> IpAddr {
    "192.0.2.1".parse().unwrap()
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_a_store_that_is_away_cannot_count_is_counted_here() {
    let (bans, store) = bans(true);
    for counted in 1..=10 {
        assert_eq!(bans.list().0.len(), 0);
        bans.record(client(), "waf.urls");
        until(|| bans.metrics.violations_alone.get() == counted).await;
    }
    assert_eq!(bans.list().0.len(), 1);
    bans.record(client(), "waf.urls");
    tokio::task::yield_now().await;
    assert_eq!(store.asked.load(Ordering::SeqCst), 10, "during a block nothing is counted");
}

#[tokio::test]
async fn more_than_may_be_under_way_are_counted_here_at_once() {
    let (bans, store) = bans(false);
    for _ in 0..UNDER_WAY_MAX {
        bans.record(client(), "waf.urls");
    }
    until(|| store.asked.load(Ordering::SeqCst) == UNDER_WAY_MAX).await;
    assert_eq!(bans.metrics.violations_alone.get(), 0);
    for _ in 0..10 {
        bans.record(client(), "waf.urls");
    }
    assert_eq!((bans.metrics.violations_alone.get(), bans.list().0.len()), (10, 1));
}

#[tokio::test]
async fn a_lift_that_no_other_gateway_heard_of_says_so() {
    let (bans, _store) = bans(true);
    for _ in 0..10 {
        bans.table.record(client(), "waf.urls", bans.clock.now_micros());
    }
    let refused = bans.lift(Client::Address(client())).await.unwrap_err().to_string();
    assert_eq!(refused, "it is lifted on this gateway only (the store is away): lift it again when the store answers");
    let refused = bans.lift(Client::Address(client())).await.unwrap_err().to_string();
    assert!(refused.starts_with("it is not blocked on this gateway, and no other could be told"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_keeps_no_gateway_from_starting() {
    let (bans, _store) = bans(false);
    let start = tokio::time::Instant::now();
    drop(crate::follow::catch_up(&bans).await);
    assert_eq!(start.elapsed(), crate::follow::CATCH_UP_MAX);
}
