//! After a failed commit the store is closed, opened again on the same directory, and asked whether
//! it has that commit. Nothing is ever synced again through the handle that failed.
//!
//! ```text
//! commit fails -> waiters told busy -> room made -> closed -> opened -> resolved -> first commit -> open
//!                                        ^                      |                       |
//!                                        '------ again, later --'-----------------------'
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::writer::Round;
use super::{Intake, Shared, Status};
use crate::limits::{REOPEN_TRIES_MAX, REOPEN_WAIT_MS_MAX, REOPEN_WAIT_MS_MIN};
use crate::store::{Store, StoreError};

/// How a store is had back. Made by whoever knows which store runs, and where.
pub struct Recovery {
    /// Opens it again. The earlier one is closed by then.
    pub open: Box<dyn FnMut() -> Result<Arc<dyn Store>, StoreError> + Send>,
    /// Makes room if the failure was for want of it, and says how it stands.
    pub make_room: Box<dyn FnMut(&StoreError) -> Room + Send>,
}

/// Room for the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// The store did not fail for want of room.
    Enough,
    /// It did, and there is some now.
    Some,
    /// It did, and there is still none. Opening it again costs much and helps only if it then removes
    /// what it had begun to write.
    None,
}

/// The way back from failures, and how often it has been tried.
pub(super) struct Recoveries {
    way: Option<Recovery>,
    /// Since the last commit that was made.
    attempts: u32,
    /// Of those, the ones that were not about room.
    other_failures: u32,
}

impl Recoveries {
    pub(super) fn new(way: Option<Recovery>) -> Self {
        Self { way, attempts: 0, other_failures: 0 }
    }

    /// A commit was made.
    pub(super) fn done(&mut self, shared: &Shared) {
        if self.attempts > 0 {
            self.attempts = 0;
            self.other_failures = 0;
            shared.stats.reopened();
            shared.take_everything();
        }
    }

    /// Returns with a store that has been opened again, and a round that knows what is in it.
    ///
    /// # Errors
    /// Why there is none, and will be none.
    pub(super) fn recover(
        &mut self,
        round: &mut Round,
        shared: &Shared,
        mut error: StoreError,
    ) -> Result<(), String> {
        let Some(way) = &mut self.way else { return Err(error.to_string()) };
        tracing::error!(%error, "the store failed; it is opened again");
        round.tell_unknown();
        shared.take_removals_only(&error.to_string());
        loop {
            let room = (way.make_room)(&error);
            if room == Room::Enough {
                self.other_failures += 1;
                if self.other_failures > REOPEN_TRIES_MAX {
                    return Err(error.to_string());
                }
            }
            shared.pause(wait(self.attempts))?;
            let attempt = self.attempts;
            self.attempts = self.attempts.saturating_add(1);
            if room == Room::None && !attempt.is_multiple_of(WITHOUT_ROOM_EVERY) {
                continue;
            }
            drop(shared.store.take());
            match (way.open)() {
                Ok(store) => {
                    round.resolve(&*store, shared)?;
                    shared.store.put(store);
                    // Whoever waits to read can do so again.
                    shared.status.send_replace(Status::Recovering(error.to_string()));
                    return Ok(());
                }
                Err(failed) => {
                    tracing::error!(error = %failed, "the store does not open");
                    error = failed;
                }
            }
        }
    }
}

/// Without room the store is opened at the first attempt and then at every so-manieth.
const WITHOUT_ROOM_EVERY: u32 = 8;

/// How long to wait before a store is opened for the nth time: at first not at all.
fn wait(attempts: u32) -> Duration {
    let Some(doubled) = attempts.checked_sub(1) else { return Duration::ZERO };
    let wait = REOPEN_WAIT_MS_MIN.saturating_mul(1 << doubled.min(16));
    Duration::from_millis(wait.min(REOPEN_WAIT_MS_MAX))
}

impl Shared {
    /// Sleeps on the committer thread.
    ///
    /// # Errors
    /// The committer is being closed: the store will not be had back.
    fn pause(&self, wait: Duration) -> Result<(), String> {
        let until = Instant::now() + wait;
        let mut state = self.state();
        loop {
            if state.intake == Intake::Nothing {
                return Err("closed before the store could be opened again".to_owned());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let slept = self.wake.wait_timeout(state, left);
            state = slept.expect("nothing panics while it holds the lock").0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_at_once_and_then_ever_more_patiently() {
        let waits: Vec<u64> = (0..9).map(|n| wait(n).as_millis() as u64).collect();
        assert_eq!(waits, [0, 50, 100, 200, 400, 800, 1_000, 1_000, 1_000]);
        assert_eq!(wait(u32::MAX), Duration::from_millis(REOPEN_WAIT_MS_MAX));
    }
}
