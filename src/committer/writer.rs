//! The committer's thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::queue::{Departure, Due, Entry};
use super::watchdog::InFlight;
use super::{Shared, State};
use crate::store::{Batch, RunningHours, Seq, Step, StoreError, Totals};

/// Runs until the committer is closed or the store fails.
pub(super) fn run(shared: &Shared) {
    let _ending = Ending(shared);
    let mut round = Round::new(shared);
    while round.turn(shared) {}
}

/// Whether anybody still waited for a commit when it returned.
enum Returned {
    InTime,
    TooLate,
}

/// One batch, from the queue to those who wait for it. Its memory is used again for the next one.
#[derive(Default)]
pub(super) struct Round {
    taken: Vec<Entry>,
    batch: Batch,
    /// What the batch adds to the totals.
    added: Totals,
    bytes: u64,
    in_flight: InFlight,
    /// A batch is written even if it has no steps.
    forced: bool,
    persisted_hours: RunningHours,
}

impl Round {
    pub(super) fn new(shared: &Shared) -> Self {
        Self { persisted_hours: shared.hours_before, ..Self::default() }
    }

    /// Waits until something is due and makes it durable; false when nothing comes after it.
    pub(super) fn turn(&mut self, shared: &Shared) -> bool {
        let go_on = self.collect(shared);
        self.fill(shared);
        match self.commit(shared) {
            Ok(Returned::InTime) => self.settle(),
            Ok(Returned::TooLate) => return false,
            Err(error) => {
                tracing::error!(%error, "the store failed; nothing more is accepted");
                self.in_flight.fail();
                shared.fail(&error.to_string());
                return false;
            }
        }
        go_on
    }

    /// When [`Self::turn`] has something to do; nothing when it has now.
    pub(super) fn idle_until(&self, shared: &Shared, state: &mut State) -> Option<Instant> {
        if state.ended || shared.hours() != self.persisted_hours {
            return None;
        }
        let now = shared.clock.now();
        state.queue.ripen(now);
        match state.queue.due().min(Due::At(shared.next_hour())) {
            Due::At(at) if at > now => Some(at),
            _ => None,
        }
    }

    /// Sleeps until something is due and takes it; false when this is the last of it.
    fn collect(&mut self, shared: &Shared) -> bool {
        let mut state = shared.state();
        while let Some(at) = self.idle_until(shared, &mut state) {
            state.sleeps_until = Due::At(at);
            let slept = shared.wake.wait_timeout(state, at - shared.clock.now());
            state = slept.expect("nothing panics while it holds the lock").0;
            state.sleeps_until = Due::Now;
        }
        if state.ended {
            state.queue.ripen_all();
        }
        state.queue.take(&mut self.taken);
        let last = state.ended && self.taken.is_empty();
        self.forced = shared.hours() != self.persisted_hours || (last && state.ahead);
        !last
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
                        self.in_flight.appends.push(append);
                    }
                }
                Entry::Remove(Departure { removal, acknowledged, expired, of }) => {
                    self.in_flight.left.push(of);
                    self.added.acknowledged += acknowledged;
                    self.added.expired += expired;
                    self.batch.steps.push(Step::Remove(removal));
                }
                Entry::Spend(code, waiter) => {
                    self.batch.steps.push(Step::Spend(code));
                    self.in_flight.waiters.push(waiter);
                }
            }
        }
        // Loaded after the appends were taken, so it is above every number in the batch.
        self.batch.next_seq = Seq(shared.next_seq.load(Ordering::Relaxed));
        self.batch.hours = shared.hours();
    }

    fn commit(&mut self, shared: &Shared) -> Result<Returned, StoreError> {
        if self.batch.steps.is_empty() && !self.forced {
            return Ok(Returned::InTime);
        }
        {
            let mut state = shared.state();
            state.ahead = false;
            self.batch.totals = sum(&state.totals, &self.added);
        }
        let before = Instant::now();
        shared.watchdog.begin(std::mem::take(&mut self.in_flight));
        let committed = shared.store.commit(&self.batch);
        let Some(in_flight) = shared.watchdog.returned() else { return Ok(Returned::TooLate) };
        self.in_flight = in_flight;
        committed?;
        shared.stats.committed(self.batch.steps.len(), self.bytes, before.elapsed());
        self.persisted_hours = self.batch.hours;
        let mut state = shared.state();
        state.totals = sum(&state.totals, &self.added);
        Ok(Returned::InTime)
    }

    fn settle(&mut self) {
        for append in self.in_flight.appends.drain(..) {
            append.settle_durable();
        }
        self.in_flight.left.clear();
        for waiter in self.in_flight.waiters.drain(..) {
            // Whoever stopped waiting does not want to know.
            let _ = waiter.send(());
        }
        self.batch.steps.clear();
        self.added = Totals::default();
        self.bytes = 0;
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
    pub(super) fn fail(&self, reason: &str) {
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

/// However this thread ends, nobody is left waiting for it.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the committer panicked");
            if let Some(mut in_flight) = self.0.watchdog.returned() {
                in_flight.fail();
            }
        }
        self.0.watchdog.ended();
    }
}

/// Runs beside [`run`] until that ends, or until a commit has taken too long.
pub(super) fn watch(shared: &Shared) {
    if let Some(mut in_flight) = shared.watchdog.watch() {
        let seconds = shared.watchdog.limit().as_secs_f32();
        let reason = format!("a commit has not returned for {seconds} s");
        tracing::error!(%reason, "the store failed; nothing more is accepted");
        shared.fail(&reason);
        in_flight.fail();
    }
}
