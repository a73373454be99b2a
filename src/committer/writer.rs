//! The committer's thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use valise_migration::shard::Request;

use super::moving::{Moving, Tell};
use super::queue::{Departure, Due, Entry};
use super::recovery::Recoveries;
use super::watchdog::InFlight;
use super::{Append, Intake, Shared, State, Status};
use crate::shards::Shards;
use crate::store::{Batch, Opened, RunningHours, Seq, Step, Store, StoreError, Totals};

/// Runs until the committer is closed or the store fails for good.
pub(super) fn run(shared: &Shared, opened: &Opened, mut recoveries: Recoveries) {
    let _ending = Ending(shared);
    let mut round = Round::new(opened);
    while round.turn(shared, &mut recoveries) {}
}

/// Gives back the room of what was removed, where that was asked for.
fn reclaim(shared: &Shared) -> Result<(), Failure> {
    let (asked, totals) = {
        let mut state = shared.state();
        (state.reclaim.take(), state.totals)
    };
    let Some(free) = asked else { return Ok(()) };
    let reclaimed = shared.store.get().and_then(|store| store.reclaim(totals.queued(), free));
    if reclaimed.map_err(Failure::Store)? {
        tracing::info!("what was removed has given back its room on the disk");
    }
    Ok(())
}

/// Why a batch was not made durable.
enum Failure {
    /// It returned when it had been given up: nobody waits any more.
    Hangs,
    /// What the store says.
    Store(StoreError),
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
    /// Batches in the store.
    commits: u64,
    moving: Moving,
}

impl Round {
    pub(super) fn new(opened: &Opened) -> Self {
        Self { persisted_hours: opened.hours, commits: opened.commits, ..Self::default() }
    }

    /// Waits until something is due and makes it durable; false when nothing comes after it.
    pub(super) fn turn(&mut self, shared: &Shared, recoveries: &mut Recoveries) -> bool {
        let go_on = self.collect(shared);
        self.fill(shared);
        let mut done = reclaim(shared).and_then(|()| self.commit(shared));
        while let Err(error) = done {
            let failed = match error {
                Failure::Hangs => return false,
                Failure::Store(error) => recoveries.recover(self, shared, error),
            };
            if let Err(reason) = failed {
                tracing::error!(%reason, "the store failed; nothing more is accepted");
                self.in_flight.fail();
                shared.fail(&reason);
                return false;
            }
            self.refill(shared);
            done = self.commit(shared);
        }
        recoveries.done(shared);
        self.settle(shared);
        go_on
    }

    /// When [`Self::turn`] has something to do; nothing when it has now.
    pub(super) fn idle_until(&self, shared: &Shared, state: &mut State) -> Option<Instant> {
        let new_hour = shared.hours() != self.persisted_hours;
        if state.intake == Intake::Nothing || new_hour || state.reclaim.is_some() {
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
        if state.intake == Intake::Nothing {
            state.queue.ripen_all();
        }
        state.queue.take(&mut self.taken);
        let last = state.intake == Intake::Nothing && self.taken.is_empty();
        self.forced = shared.hours() != self.persisted_hours || (last && state.ahead);
        !last
    }

    /// Makes the batch of what was taken, without the appends that were acknowledged in time.
    fn fill(&mut self, shared: &Shared) {
        let moving = shared.shards.clone().filter(|shards| shards.is_moving());
        let moving = moving.as_deref();
        let mut refused = Vec::new();
        let mut taken = std::mem::take(&mut self.taken);
        for entry in taken.drain(..) {
            match entry {
                Entry::Append(append) => {
                    if append.begin() && !self.append(moving, &append) {
                        refused.push(append);
                    }
                }
                Entry::Remove(departure) => self.leave(shared, moving, departure),
                Entry::Write(step, waiter) => {
                    let logged = moving.map_or(Ok(Vec::new()), |on| self.moving.write(on, &step));
                    // Whoever asked for something that may not be entered loses its answer.
                    let Ok(logged) = logged else { continue };
                    self.batch.steps.push(step);
                    self.batch.steps.extend(logged);
                    self.in_flight.waiters.push(waiter);
                }
                Entry::Tell(tell) => self.tell(shared, tell),
            }
        }
        self.taken = taken;
        if !refused.is_empty() {
            let acknowledged = refused.iter().filter(|append| append.settle_failed()).count();
            shared.state().totals.accepted += acknowledged as u64;
        }
        // Loaded after the appends were taken, so it is above every number in the batch.
        self.batch.next_seq = Seq(shared.next_seq.load(Ordering::Relaxed));
        self.batch.hours = shared.hours();
    }

    /// False where its shard may not enter it.
    fn append(&mut self, moving: Option<&Shards>, append: &Arc<Append>) -> bool {
        let logged = moving.map_or(Ok(None), |shards| self.moving.append(shards, append));
        let Ok(logged) = logged else { return false };
        let (frame, floor) = (Arc::clone(&append.frame), append.floor);
        self.bytes += frame.payload.len() as u64;
        self.added.accepted += 1;
        self.batch.steps.push(Step::Append { frame, floor });
        self.batch.steps.extend(logged);
        self.in_flight.appends.push(Arc::clone(append));
        true
    }

    fn leave(&mut self, shared: &Shared, moving: Option<&Shards>, departure: Departure) {
        let left = match moving {
            None => Some((departure, Vec::new())),
            Some(shards) => self.moving.leave(shared, shards, departure),
        };
        let Some((departure, logged)) = left else { return };
        let Departure { removal, acknowledged, expired, of } = departure;
        self.in_flight.left.push(of);
        self.added.acknowledged += acknowledged;
        self.added.expired += expired;
        self.batch.steps.push(Step::Remove(removal));
        self.batch.steps.extend(logged);
    }

    fn tell(&mut self, shared: &Shared, tell: Tell) {
        let Tell { shard, request, waiter } = tell;
        let Some(shards) = shared.shards.as_deref() else { return };
        match self.moving.tell(shared, shards, shard, request) {
            Ok((steps, discarded)) => {
                self.batch.steps.extend(steps);
                self.added.discarded += discarded;
                self.in_flight.told.push((shard, waiter));
            }
            Err(refusal) => {
                // Whoever stopped waiting does not want to know.
                let _ = waiter.send(Err(refusal));
            }
        }
    }

    /// Takes everything that waits into a batch that is written in any case: the first one of a
    /// store that was opened again.
    fn refill(&mut self, shared: &Shared) {
        self.taken = shared.state().queue.take_all();
        self.fill(shared);
        self.forced = true;
    }

    fn commit(&mut self, shared: &Shared) -> Result<(), Failure> {
        if self.batch.steps.is_empty() && !self.forced {
            return Ok(());
        }
        {
            let mut state = shared.state();
            state.ahead = false;
            self.batch.totals = sum(&state.totals, &self.added);
        }
        let before = Instant::now();
        shared.watchdog.begin(std::mem::take(&mut self.in_flight));
        let committed = shared.store.get().and_then(|store| store.commit(&self.batch));
        self.in_flight = shared.watchdog.returned().ok_or(Failure::Hangs)?;
        committed.map_err(Failure::Store)?;
        shared.stats.committed(self.batch.steps.len(), self.bytes, before.elapsed());
        self.made(shared);
        Ok(())
    }

    /// The batch is durable.
    fn made(&mut self, shared: &Shared) {
        self.commits += 1;
        self.persisted_hours = self.batch.hours;
        let mut state = shared.state();
        state.totals = sum(&state.totals, &self.added);
    }

    fn settle(&mut self, shared: &Shared) {
        for append in self.in_flight.appends.drain(..) {
            append.settle_durable();
        }
        self.in_flight.left.clear();
        for waiter in self.in_flight.waiters.drain(..) {
            // Whoever stopped waiting does not want to know.
            let _ = waiter.send(());
        }
        if let Some(shards) = shared.shards.as_deref() {
            self.settle_shards(shared, shards);
        }
        self.batch.steps.clear();
        self.added = Totals::default();
        self.bytes = 0;
    }

    fn settle_shards(&mut self, shared: &Shared, shards: &Shards) {
        self.moving.durable(shards);
        let told = std::mem::take(&mut self.in_flight.told);
        let was_asked = !told.is_empty();
        for (shard, waiter) in told {
            // Where nothing had to be written, there is nothing to settle.
            let _ = shards.step(shard, Request::Written);
            let now = shared.clock.now();
            for departure in self.moving.settled(shards, shard) {
                shared.state().queue.remove(departure, now);
            }
            let _ = waiter.send(Ok(()));
        }
        if was_asked && !shards.is_moving() {
            let mut state = shared.state();
            // The next migration may wait already.
            state.hasty = state.queue.asks();
        }
    }

    /// The batch failed; those who wait for it are told that nobody knows.
    pub(super) fn tell_unknown(&mut self) {
        self.in_flight.appends.iter().for_each(|append| append.settle_unknown());
        self.in_flight.waiters.clear();
        self.in_flight.told.clear();
    }

    /// The store has been opened again and counts its batches: so the one that failed is in it, or
    /// it is not. What it would have removed is then removed by the next one, and all else in it
    /// was refused.
    ///
    /// # Errors
    /// The store has lost batches that were made, or somebody else wrote to it.
    pub(super) fn resolve(&mut self, store: &dyn Store, shared: &Shared) -> Result<(), String> {
        let commits = store.opened().commits;
        if commits == self.commits + 1 {
            self.made(shared);
            self.settle(shared);
        } else if commits == self.commits {
            let acknowledged =
                self.in_flight.appends.drain(..).filter(|append| append.settle_failed()).count();
            shared.state().totals.accepted += acknowledged as u64;
            self.batch.steps.retain(|step| matches!(step, Step::Remove(_)));
            self.added.accepted = 0;
            self.bytes = 0;
        } else {
            let known = self.commits;
            return Err(format!("the store came back with {commits} commits, not {known}"));
        }
        if let (Some(shards), Some(logs)) = (shared.shards.as_deref(), store.logs()) {
            shards.restart(logs).map_err(|error| error.to_string())?;
            self.moving.failed(shards, &mut self.batch.steps);
        }
        Ok(())
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
    /// The store failed: all that waits is given up, but for removals, and only they are taken.
    pub(super) fn take_removals_only(&self, reason: &str) {
        let taken = {
            let mut state = self.state();
            if state.intake == Intake::Everything {
                state.intake = Intake::Removals;
            }
            state.queue.take_all_but_removals(Instant::now())
        };
        self.status.send_replace(Status::Recovering(reason.to_owned()));
        // What was acknowledged meanwhile was accepted; its removal waits.
        let acknowledged = give_up(taken);
        self.state().totals.accepted += acknowledged;
    }

    /// The store is back, and has made a commit.
    pub(super) fn take_everything(&self) {
        {
            let mut state = self.state();
            if state.intake == Intake::Removals {
                state.intake = Intake::Everything;
            }
        }
        tracing::warn!("the store is back");
        self.status.send_replace(Status::Open);
    }

    /// Nothing more is taken; everything that waits is told.
    pub(super) fn fail(&self, reason: &str) {
        let taken = {
            let mut state = self.state();
            state.intake = Intake::Nothing;
            state.queue.take_all()
        };
        self.status.send_replace(Status::Failed(reason.to_owned()));
        give_up(taken);
    }
}

/// Returns how many of the appends had been acknowledged too late to be taken back. Whoever waits
/// for something else hears of it by the loss of its sender.
fn give_up(entries: Vec<Entry>) -> u64 {
    let appends = entries.into_iter().filter_map(|entry| match entry {
        Entry::Append(append) => Some(append),
        Entry::Remove(_) | Entry::Write(..) | Entry::Tell(_) => None,
    });
    appends.filter(|append| append.settle_failed()).count() as u64
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
