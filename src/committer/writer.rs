//! The committer's thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::oneshot;

use super::queue::{Departure, Due, Entry};
use super::{Append, Shared};
use crate::store::{Batch, RunningHours, Seq, Step, StoreError, Totals};

/// Runs until the committer is closed or the store fails.
pub(super) fn run(shared: &Shared, persisted_hours: RunningHours) {
    let _published = PublishPanic(shared);
    let mut round = Round { persisted_hours, ..Round::default() };
    loop {
        let go_on = round.collect(shared);
        round.fill(shared);
        if let Err(error) = round.commit(shared) {
            tracing::error!(%error, "the store failed; nothing more is accepted");
            round.fail();
            shared.fail(&error.to_string());
            return;
        }
        round.settle();
        if !go_on {
            return;
        }
    }
}

/// One batch, from the queue to those who wait for it. Its memory is used again for the next one.
#[derive(Default)]
struct Round {
    taken: Vec<Entry>,
    batch: Batch,
    /// What the batch adds to the totals.
    added: Totals,
    bytes: u64,
    appends: Vec<Arc<Append>>,
    waiters: Vec<oneshot::Sender<()>>,
    /// A batch is written even if it has no steps.
    forced: bool,
    persisted_hours: RunningHours,
}

impl Round {
    /// Sleeps until something is due and takes it; false when this is the last of it.
    fn collect(&mut self, shared: &Shared) -> bool {
        let mut state = shared.state();
        loop {
            let now = Instant::now();
            let new_hour = shared.hours() != self.persisted_hours;
            if state.ended {
                state.queue.ripen_all();
            } else {
                state.queue.ripen(now);
                if let Due::At(at) = state.queue.due().min(Due::At(shared.next_hour()))
                    && at > now
                    && !new_hour
                {
                    state.sleeps_until = Due::At(at);
                    let slept = shared.wake.wait_timeout(state, at - now);
                    state = slept.expect("nothing panics while it holds the lock").0;
                    state.sleeps_until = Due::Now;
                    continue;
                }
            }
            state.queue.take(&mut self.taken);
            let last = state.ended && self.taken.is_empty();
            self.forced = new_hour || (last && state.ahead);
            return !last;
        }
    }

    /// Makes the batch of what was taken, without the appends that were acknowledged in time.
    fn fill(&mut self, shared: &Shared) {
        for entry in self.taken.drain(..) {
            match entry {
                Entry::Append(append) => {
                    if append.begin() {
                        let (frame, floor) = (Arc::clone(&append.frame), append.floor);
                        self.bytes += frame.payload.len() as u64;
                        self.added.accepted += 1;
                        self.batch.steps.push(Step::Append { frame, floor });
                        self.appends.push(append);
                    }
                }
                Entry::Remove(Departure { removal, acknowledged, expired }) => {
                    self.added.acknowledged += acknowledged;
                    self.added.expired += expired;
                    self.batch.steps.push(Step::Remove(removal));
                }
                Entry::Write(step, waiter) => {
                    self.batch.steps.push(step);
                    self.waiters.push(waiter);
                }
            }
        }
        // Loaded after the appends were taken, so it is above every number in the batch.
        self.batch.next_seq = Seq(shared.next_seq.load(Ordering::Relaxed));
        self.batch.hours = shared.hours();
    }

    fn commit(&mut self, shared: &Shared) -> Result<(), StoreError> {
        if self.batch.steps.is_empty() && !self.forced {
            return Ok(());
        }
        {
            let mut state = shared.state();
            state.ahead = false;
            self.batch.totals = sum(&state.totals, &self.added);
        }
        let before = Instant::now();
        shared.store.commit(&self.batch)?;
        shared.stats.committed(self.batch.steps.len(), self.bytes, before.elapsed());
        self.persisted_hours = self.batch.hours;
        let mut state = shared.state();
        state.totals = sum(&state.totals, &self.added);
        Ok(())
    }

    fn settle(&mut self) {
        for append in self.appends.drain(..) {
            append.settle_durable();
        }
        for waiter in self.waiters.drain(..) {
            // Whoever stopped waiting does not want to know.
            let _ = waiter.send(());
        }
        self.batch.steps.clear();
        self.added = Totals::default();
        self.bytes = 0;
    }

    fn fail(&mut self) {
        for append in self.appends.drain(..) {
            append.settle_failed();
        }
        self.waiters.clear();
    }
}

fn sum(totals: &Totals, added: &Totals) -> Totals {
    Totals {
        accepted: totals.accepted + added.accepted,
        acknowledged: totals.acknowledged + added.acknowledged,
        expired: totals.expired + added.expired,
        discarded: totals.discarded + added.discarded,
    }
}

impl Shared {
    /// Nothing more is taken; everything that waits is told.
    fn fail(&self, reason: &str) {
        let taken = {
            let mut state = self.state();
            state.ended = true;
            state.queue.take_all()
        };
        self.failure.send_replace(Some(reason.to_owned()));
        for entry in taken {
            if let Entry::Append(append) = entry {
                append.settle_failed();
            }
        }
    }
}

/// A panic on this thread must not leave the relay waiting for ever.
struct PublishPanic<'a>(&'a Shared);

impl Drop for PublishPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the committer panicked");
        }
    }
}
