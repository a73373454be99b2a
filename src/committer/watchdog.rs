//! Watches the thread that commits. An engine can wait for ever inside a commit (fjall does, for a
//! background thread that died of a full disk), and a disk can hang: then nobody must wait with it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::moving::Told;
use super::{Append, Settle};

/// Who waits for a commit.
#[derive(Default)]
pub(super) struct InFlight {
    pub(super) appends: Vec<Arc<Append>>,
    pub(super) waiters: Vec<oneshot::Sender<()>>,
    pub(super) told: Vec<Told>,
    /// The mailboxes that frames have left: held until they have.
    pub(super) left: Vec<Arc<dyn Settle>>,
}

impl InFlight {
    /// Nobody will ever know whether it is on the disk: the relay ends.
    pub(super) fn fail(&mut self) {
        for append in self.appends.drain(..) {
            append.settle_failed();
        }
        self.waiters.clear();
        self.told.clear();
        self.left.clear();
    }
}

/// What the committing thread and the watching one share.
pub(super) struct Watchdog {
    // static
    limit: Duration,

    watched: Mutex<Watched>,
    changed: Condvar,
}

#[derive(Default)]
struct Watched {
    /// Since when a commit runs, and who waits for it.
    running: Option<(Instant, InFlight)>,
    given_up: bool,
    ended: bool,
}

impl Watchdog {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, watched: Mutex::default(), changed: Condvar::new() }
    }

    /// A commit begins.
    pub(super) fn begin(&self, in_flight: InFlight) {
        self.watched().running = Some((Instant::now(), in_flight));
    }

    /// The commit returned, if there was one. `None` when that was too late: nothing may be
    /// committed or settled any more.
    pub(super) fn returned(&self) -> Option<InFlight> {
        let mut watched = self.watched();
        if watched.given_up {
            return None;
        }
        Some(watched.running.take().map_or_else(InFlight::default, |(_, in_flight)| in_flight))
    }

    /// The committing thread ends.
    pub(super) fn ended(&self) {
        self.watched().ended = true;
        self.changed.notify_all();
    }

    /// Waits for that. False when the thread was given up.
    pub(super) fn wait_for_the_end(&self) -> bool {
        let going_on = |watched: &mut Watched| !watched.ended && !watched.given_up;
        let watched = self.changed.wait_while(self.watched(), going_on);
        watched.expect("nothing panics while it holds the lock").ended
    }

    /// Watches until the committing thread ends, or gives it up after a commit has taken too long:
    /// then returns who waited for that.
    pub(super) fn watch(&self) -> Option<InFlight> {
        let mut watched = self.watched();
        while !watched.ended {
            // Beginning a commit wakes nobody, so an idle look comes as often as a late one.
            let began = watched.running.as_ref().map(|(began, _)| *began);
            let left = began.map_or(self.limit, |began| self.limit.saturating_sub(began.elapsed()));
            if left.is_zero() {
                watched.given_up = true;
                self.changed.notify_all();
                return watched.running.take().map(|(_, in_flight)| in_flight);
            }
            let waited = self.changed.wait_timeout(watched, left);
            watched = waited.expect("nothing panics while it holds the lock").0;
        }
        None
    }

    /// How long a commit may take.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().expect("nothing panics while it holds the lock")
    }
}
