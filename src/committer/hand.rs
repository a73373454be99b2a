//! A committer without threads, for tests that decide when it does what.

use super::recovery::Recoveries;
use super::writer::Round;
use super::{Arc, Clock, Committer, Duration, Instant, Mutex, Owner, Recovery, Shared, Store};
use crate::shards::Shards;

/// Turns the committer by hand, one batch at a time.
pub(crate) struct Hand {
    shared: Arc<Shared>,
    round: Round,
    recoveries: Recoveries,
}

/// What turning it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turned {
    /// It has nothing to do before then.
    Idle(Instant),
    /// It wrote what was due.
    Once,
    /// It is closed and has written everything, or its store has failed.
    Ended,
}

impl Hand {
    /// A committer that does nothing but what the hand makes it do, at the time the clock shows.
    pub(crate) fn start(
        store: Arc<dyn Store>,
        recovery: Option<Recovery>,
        shards: Option<Arc<Shards>>,
        clock: Clock,
    ) -> (Committer, Self) {
        let started = clock.now();
        let round = Round::new(&store.opened());
        let shared = Arc::new(Shared::new(store, shards, clock, started, Duration::MAX));
        let owner = Owner { shared: Arc::clone(&shared), threads: Mutex::new(None) };
        let recoveries = Recoveries::new(recovery);
        (Committer(Arc::new(owner)), Self { shared, round, recoveries })
    }

    /// One turn of what the committer's thread does for ever, unless it would sleep first.
    pub(crate) fn turn(&mut self) -> Turned {
        let idle_until = self.round.idle_until(&self.shared, &mut self.shared.state());
        match idle_until {
            Some(at) => Turned::Idle(at),
            None if self.round.turn(&self.shared, &mut self.recoveries) => Turned::Once,
            None => Turned::Ended,
        }
    }

    /// The process has died: what waits is let go.
    pub(crate) fn give_up(&self) {
        self.shared.fail("killed");
    }
}
