//! Keys with the times of what happened to them, and what that began: violations and a block, failures and a lock. A key has
//! one of a fixed number of places, and the one of which the least is lost makes room for another.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use portcullis_api::Micros;

/// Places that keys share which fall together.
pub(crate) const WAYS: usize = 8;

/// What begins, and ends by itself.
pub(crate) trait Timed: Copy {
    /// When it began.
    fn since(&self) -> Micros;
    /// When it ends.
    fn until(&self) -> Micros;
}

/// The place of one key.
#[derive(Debug)]
pub(crate) struct Place<K, T> {
    pub(crate) key: K,
    /// Times of what happened, oldest first.
    pub(crate) stamps: VecDeque<Micros>,
    /// What began last; it may have ended.
    pub(crate) begun: Option<T>,
}

impl<K, T: Timed> Place<K, T> {
    /// What is on.
    pub(crate) fn active(&self, now: Micros) -> Option<T> {
        self.begun.filter(|begun| now < begun.until())
    }

    pub(crate) fn forget_before(&mut self, window: Micros, now: Micros) {
        while self.stamps.front().is_some_and(|stamp| now.saturating_sub(*stamp) >= window) {
            self.stamps.pop_front();
        }
    }

    /// What is lost if it goes: the end of what is on, then what happened, then how fresh that is.
    pub(crate) fn worth(&self, now: Micros) -> (Micros, usize, Micros) {
        let until = self.active(now).map_or(0, |begun| begun.until());
        (until, self.stamps.len(), self.stamps.back().copied().unwrap_or(0))
    }
}

/// At most [`WAYS`] places.
#[derive(Debug)]
pub(crate) struct Places<K, T>(Vec<Place<K, T>>);

impl<K, T> Default for Places<K, T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Eq + Copy, T: Timed> Places<K, T> {
    /// Places that are in use.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn find(&mut self, key: K) -> Option<&mut Place<K, T>> {
        self.0.iter_mut().find(|place| place.key == key)
    }

    /// The place of a key, and one of its own where it has none. `lost` counts what is on and has to go for that.
    pub(crate) fn find_or_add(
        &mut self,
        key: K,
        window: Micros,
        now: Micros,
        lost: &AtomicU64,
    ) -> Option<&mut Place<K, T>> {
        self.0.iter_mut().for_each(|place| place.forget_before(window, now));
        if let Some(known) = self.0.iter().position(|place| place.key == key) {
            return self.0.get_mut(known);
        }
        if self.0.len() >= WAYS {
            let (least, _) = self.0.iter().enumerate().min_by_key(|(_, place)| place.worth(now))?;
            if self.0.swap_remove(least).active(now).is_some() {
                lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.0.push(Place { key, stamps: VecDeque::new(), begun: None });
        self.0.last_mut()
    }

    /// Ends what began and forgets what happened before `lifted`. Answers with what was ended.
    pub(crate) fn lift_before(&mut self, key: K, lifted: Micros) -> Option<T> {
        let known = self.0.iter().position(|place| place.key == key)?;
        let place = self.0.get_mut(known)?;
        place.stamps.retain(|stamp| *stamp >= lifted);
        let ended = place.begun.take_if(|begun| begun.since() < lifted);
        if place.begun.is_none() && place.stamps.is_empty() {
            self.0.swap_remove(known);
        }
        ended
    }

    /// All that is on.
    pub(crate) fn active(&self, now: Micros) -> Vec<T> {
        self.0.iter().filter_map(|place| place.active(now)).collect()
    }
}
