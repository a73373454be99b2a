//! When something is due on a connection. Pure: every function takes `now`.

use std::time::{Duration, Instant};

use crate::limits::DRAIN_OUTCOMES_MS;
use crate::relay::Patience;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Neither attached nor posted in time.
    Establishment,
    /// Nothing heard for too long.
    Idle,
    /// The peer takes nothing of what waits for it.
    Stall,
    /// A client that sent too fast may be read again.
    HeldBack,
    /// The relay shuts down and has waited long enough for outcomes.
    Leaving,
}

/// The deadlines of one connection.
#[derive(Debug)]
pub(super) struct Deadlines {
    patience: Patience,
    establish_by: Option<Instant>,
    heard: Instant,
    stalled: Option<Instant>,
    held_back_until: Option<Instant>,
    leave_by: Option<Instant>,
}

impl Deadlines {
    pub(super) fn new(accepted: Instant, patience: Patience) -> Self {
        Self {
            patience,
            establish_by: Some(accepted + patience.establishment),
            heard: accepted,
            stalled: None,
            held_back_until: None,
            leave_by: None,
        }
    }

    /// The next thing that is due, and when.
    pub(super) fn next(&self) -> (Instant, Due) {
        let idle = (self.heard + self.patience.idle, Due::Idle);
        let stall = self.patience.stall;
        [
            self.establish_by.map(|at| (at, Due::Establishment)),
            self.stalled.map(|since| (since + stall, Due::Stall)),
            self.held_back_until.map(|at| (at, Due::HeldBack)),
            self.leave_by.map(|at| (at, Due::Leaving)),
        ]
        .into_iter()
        .flatten()
        .fold(idle, |first, other| if other.0 < first.0 { other } else { first })
    }

    /// The client has attached or posted, or has shown that it may wait.
    pub(super) fn established(&mut self) {
        self.establish_by = None;
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// The peer took everything.
    pub(super) fn taken(&mut self) {
        self.stalled = None;
    }

    /// Something waits for the peer; `progress` when it took a part just now.
    pub(super) fn stalled(&mut self, now: Instant, progress: bool) {
        if progress || self.stalled.is_none() {
            self.stalled = Some(now);
        }
    }

    pub(super) fn hold_back(&mut self, until: Option<Instant>) {
        self.held_back_until = until;
    }

    /// The relay shuts down: the connection ends once its outcomes are out, or soon.
    pub(super) fn leave(&mut self, now: Instant) {
        self.leave_by.get_or_insert(now + Duration::from_millis(DRAIN_OUTCOMES_MS));
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leave_by.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_next() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut deadlines = Deadlines::new(start, Patience::default());
        assert_eq!(deadlines.next(), (after(10), Due::Establishment));
        deadlines.established();
        assert_eq!(deadlines.next(), (after(90), Due::Idle));
        deadlines.heard(after(5));
        assert_eq!(deadlines.next(), (after(95), Due::Idle));
        deadlines.stalled(after(6), false);
        assert_eq!(deadlines.next(), (after(66), Due::Stall));
        deadlines.stalled(after(7), false);
        assert_eq!(deadlines.next(), (after(66), Due::Stall), "no progress, no more time");
        deadlines.stalled(after(8), true);
        assert_eq!(deadlines.next(), (after(68), Due::Stall));
        deadlines.taken();
        deadlines.hold_back(Some(after(9)));
        assert_eq!(deadlines.next(), (after(9), Due::HeldBack));
        deadlines.hold_back(None);
        deadlines.leave(after(20));
        assert_eq!(deadlines.next(), (after(21), Due::Leaving));
    }
}
