//! A store that is away, that hangs or that is asked too often.

use std::sync::atomic::{AtomicUsize, Ordering};

use portcullis_api::{Issues, Secret};
use portcullis_plugins::login::{Failed, Keys, Numbers, Settings};

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

impl SharedLogins for Silent {
    fn fail(&self, _: Failure) -> Asking<'_, Failed> {
        self.answer()
    }
    fn succeed(&self, _: Keys, _: Micros, _: Micros) -> Asking<'_, ()> {
        self.answer()
    }
    fn knows(&self, _: Keys, _: Micros) -> Asking<'_, bool> {
        self.answer()
    }
    fn lift(&self, _: LockKey, _: Micros) -> Asking<'_, bool> {
        self.answer()
    }
    fn changes<'a>(&'a self, _: Option<&'a Cursor>) -> Asking<'a, Changes<LockKey>> {
        self.answer()
    }
}

fn lockouts(away: bool) -> (Arc<Lockouts>, Arc<Silent>) {
    let store = Arc::new(Silent { asked: AtomicUsize::new(0), away });
    let locks = Arc::new(Locks::new(Some(&Secret::new(vec![7; 32]))));
    let (clock, metrics) = (Arc::new(SystemClock::start()), Arc::new(Metrics::new().unwrap()));
    let needs = login::Needs { locks, shared: Some(store.clone()), clock: clock.clone() };
    (Arc::new(Lockouts::new(needs, clock, metrics)), store)
}

/// One account from one network.
fn failure() -> Failure {
    let key = |n: u8| format!("{n:032x}").parse().unwrap();
    let numbers = Numbers::compile(&Settings::default(), &mut Issues::default()).unwrap();
    Failure { keys: Keys { pair: key(1), account: key(2), network: key(3) }, numbers: Arc::new(numbers) }
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_a_store_that_is_away_cannot_count_is_counted_here() {
    let (lockouts, _store) = lockouts(true);
    for counted in 1..=5 {
        assert_eq!(lockouts.list().0.len(), 0);
        lockouts.failed(failure(), ());
        until(|| lockouts.metrics.login_alone.get() == counted).await;
    }
    assert_eq!(lockouts.list().0.len(), 3, "the pair, the account and the network");
}

#[tokio::test]
async fn a_login_is_under_way_until_its_failure_is_counted_also_by_a_store_that_hangs() {
    let (lockouts, store) = lockouts(false);
    let held = Arc::new(());
    for _ in 0..UNDER_WAY_MAX {
        lockouts.failed(failure(), held.clone());
    }
    until(|| store.asked.load(Ordering::SeqCst) == UNDER_WAY_MAX).await;
    assert_eq!((Arc::strong_count(&held), lockouts.metrics.login_alone.get()), (UNDER_WAY_MAX + 1, 0));
    // More than may be on their way are counted here at once.
    for _ in 0..5 {
        lockouts.failed(failure(), held.clone());
    }
    assert_eq!((lockouts.metrics.login_alone.get(), lockouts.list().0.len()), (5, 3));
    assert_eq!(Arc::strong_count(&held), UNDER_WAY_MAX + 1);
}

#[tokio::test]
async fn a_lift_that_no_other_gateway_heard_of_says_so() {
    let (lockouts, _store) = lockouts(true);
    for _ in 0..5 {
        lockouts.locks.fail(&failure(), lockouts.clock.now_micros());
    }
    let lifting = Lifting::Key(failure().keys.account);
    let refused = lockouts.lift(lifting.clone()).await.unwrap_err().to_string();
    assert_eq!(refused, "it is lifted on this gateway only (the store is away): lift it again when the store answers");
    let refused = lockouts.lift(lifting).await.unwrap_err().to_string();
    assert!(refused.starts_with("it is not locked on this gateway, and no other could be told"), "{refused}");
}

#[tokio::test]
async fn a_lift_of_an_account_ends_all_of_its_locks_here_though_no_other_gateway_heard_of_it() {
    let (lockouts, _store) = lockouts(true);
    let (realm, account) = ("host:host".to_owned(), Account::Named(login::AccountName::parse("ann").unwrap()));
    let own = lockouts.locks.account_key(&realm, &account);
    for network in ["192.0.2.1", "192.0.2.2"] {
        let network = lockouts.locks.network_key(network.parse().unwrap());
        // The first half of a pair's key is the account's.
        let own_text = own.to_string();
        let pair = format!("{}{:016x}", own_text.split_at(16).0, network.network_part()).parse().unwrap();
        for _ in 0..5 {
            let keys = Keys { pair, account: own, network };
            lockouts.locks.fail(&Failure { keys, ..failure() }, lockouts.clock.now_micros());
        }
    }
    assert_eq!(lockouts.list().0.len(), 5, "two pairs, the account and two networks");
    let refused = lockouts.lift(Lifting::Account { realm, account }).await.unwrap_err().to_string();
    assert!(refused.starts_with("it is lifted on this gateway only"), "{refused}");
    let left = lockouts.list().0;
    assert!(left.iter().all(|lock| lock.scope == login::Scope::Network) && left.len() == 2, "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_keeps_no_gateway_from_starting() {
    let (lockouts, _store) = lockouts(false);
    let start = tokio::time::Instant::now();
    drop(crate::follow::catch_up(&lockouts).await);
    assert_eq!(start.elapsed(), crate::follow::CATCH_UP_MAX);
}
