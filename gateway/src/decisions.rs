//! The last decisions that refused something, by request id, for `portcullis explain`.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;

/// Decisions kept.
const KEPT_MAX: usize = 10_000;

/// A bounded memory of access lines of refused requests and shadow hits.
#[derive(Default)]
pub(crate) struct Decisions(Mutex<VecDeque<Kept>>);

/// A request id and its access line.
type Kept = (Box<str>, Arc<[u8]>);

impl Decisions {
    /// Keeps a line; the oldest goes when there are too many.
    pub(crate) fn keep(&self, request_id: &str, line: &[u8]) {
        let mut kept = self.0.lock();
        if kept.len() >= KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back((request_id.into(), line.into()));
    }

    /// The line of a request.
    #[must_use]
    pub(crate) fn find(&self, request_id: &str) -> Option<Arc<[u8]>> {
        self.0.lock().iter().rev().find(|(id, _)| &**id == request_id).map(|(_, line)| line.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_decision_goes_first() {
        let decisions = Decisions::default();
        for i in 0..=KEPT_MAX {
            decisions.keep(&i.to_string(), b"line");
        }
        assert!(decisions.find("0").is_none());
        assert!(decisions.find("1").is_some());
        assert!(decisions.find(&KEPT_MAX.to_string()).is_some());
    }
}
