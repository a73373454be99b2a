//! The time the committer goes by.

#[cfg(test)]
use std::sync::{Arc, Mutex};
#[cfg(test)]
use std::time::Duration;
use std::time::Instant;

/// The system's clock; in tests also one that stands still until it is moved.
#[derive(Clone, Default)]
pub(crate) struct Clock {
    #[cfg(test)]
    moved: Option<Arc<Mutex<Instant>>>,
}

impl Clock {
    /// Now.
    #[cfg_attr(
        not(test),
        expect(clippy::unused_self, reason = "a test's clock has a time of its own")
    )]
    pub(super) fn now(&self) -> Instant {
        #[cfg(test)]
        if let Some(moved) = &self.moved {
            return *moved.lock().expect("nothing panics while it holds the lock");
        }
        Instant::now()
    }
}

#[cfg(test)]
impl Clock {
    /// One that shows this until it is moved.
    pub(crate) fn standing_at(now: Instant) -> Self {
        Self { moved: Some(Arc::new(Mutex::new(now))) }
    }

    /// What it shows.
    pub(crate) fn shows(&self) -> Instant {
        self.now()
    }

    /// Moves it, and all its clones.
    pub(crate) fn pass(&self, time: Duration) {
        let moved = self.moved.as_ref().expect("the system's clock moves by itself");
        *moved.lock().expect("nothing panics while it holds the lock") += time;
    }
}
