//! Shards that move, as the committer sees them: what a batch enters into their logs, and what
//! importers ask of them. One thread does both, so an entry's place is its place in the order of
//! commits, and nothing is entered beside a seal.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;
use valise_migration::real::{Digest, RealCursor, RealEntry, RealRequest};
use valise_migration::shard::Request;
use valise_migration::{Entry, Position, Record, Refusal, Shard, Stage};

use super::queue::Departure;
use super::{Append, Committer, Intake, Settle, Shared};
use crate::shards::{Entered, Shards};
use crate::store::{self, Logged, Removal, Seq, Step, StoreError};

/// Something that is asked of a shard, and who waits for the answer.
pub(super) struct Tell {
    pub(super) shard: u8,
    pub(super) request: RealRequest,
    pub(super) waiter: oneshot::Sender<Result<(), Refusal>>,
}

impl Committer {
    /// Asks something of a shard; it is so, and durable, when this returns.
    ///
    /// # Errors
    /// [`Refusal`]; `busy` also where the store has failed, and then nobody knows.
    pub async fn tell(&self, shard: u8, request: RealRequest) -> Result<(), Refusal> {
        let (waiter, answer) = oneshot::channel();
        {
            let shared = self.shared();
            let mut state = shared.state();
            if state.intake != Intake::Everything {
                return Err(Refusal::Busy);
            }
            if matches!(request, Request::Begin { .. }) {
                state.hasty = true;
                state.queue.ripen_all();
            }
            state.queue.tell(Tell { shard, request, waiter });
            shared.wake(state);
        }
        answer.await.unwrap_or(Err(Refusal::Busy))
    }

    /// The shards, where they can move.
    pub fn shards(&self) -> Option<&Arc<Shards>> {
        self.shared().shards.as_ref()
    }
}

/// What was asked and is being written.
pub(super) type Told = (u8, oneshot::Sender<Result<(), Refusal>>);

/// What is known between two batches.
#[derive(Default)]
pub(super) struct Moving {
    /// Where this batch has entered frames.
    places: HashMap<Seq, Position>,
    /// Up to where logs are on the disk when this batch is.
    ends: HashMap<u8, Position>,
    /// Frames that have left shards that nothing may be entered for. They stay on the disk: either
    /// the shard serves again, or it is the data centre's, and the device acknowledges there.
    held: HashMap<u8, Vec<Departure>>,
}

impl Moving {
    /// Enters a frame; the step that writes that, if there is a log.
    pub(super) fn append(
        &mut self,
        shards: &Shards,
        append: &Append,
    ) -> Result<Option<Step>, Refusal> {
        let frame = &append.frame;
        let entry = Entry::Appended {
            mailbox: *frame.mailbox.as_bytes(),
            frame: *frame.frame_id.as_bytes(),
        };
        self.enter(shards, shards.of_mailbox(&frame.mailbox), entry, Some(frame.seq))
    }

    /// Enters a step that is not about frames; the steps that write that.
    pub(super) fn write(&mut self, shards: &Shards, step: &Step) -> Result<Vec<Step>, Refusal> {
        let Some(shard) = shards.of_step(step) else { return Ok(Vec::new()) };
        let entries = store::entries(step);
        let steps = entries.into_iter().map(|entry| self.enter(shards, shard, entry, None));
        steps.filter_map(Result::transpose).collect()
    }

    /// Frames leave: the steps that write that, or it is held.
    pub(super) fn leave(
        &mut self,
        shared: &Shared,
        shards: &Shards,
        departure: Departure,
    ) -> Option<(Departure, Vec<Step>)> {
        let shard = shards.of_mailbox(&departure.removal.mailbox);
        let entries = match shards.report(shard).shard {
            Shard::Plain => return Some((departure, Vec::new())),
            Shard::Local { .. } => self.entries(shared, shard, &departure.removal),
            _ => Err(StoreError::Reopening),
        };
        let Ok(entries) = entries else {
            self.held.entry(shard).or_default().push(departure);
            return None;
        };
        let steps = entries.into_iter().map(|entry| self.enter(shards, shard, entry, None));
        let steps = steps.filter_map(|step| step.expect("the shard serves"));
        Some((departure, steps.collect()))
    }

    /// What a removal enters. A mailbox's frames are entered in their order, so everything up to the
    /// floor is before the place after the last of them.
    fn entries(
        &self,
        shared: &Shared,
        shard: u8,
        removal: &Removal,
    ) -> Result<Vec<RealEntry>, StoreError> {
        let mailbox = *removal.mailbox.as_bytes();
        let store = shared.store.get()?;
        let place = |seq: &Seq| match (self.places.get(seq), store.logs()) {
            (Some(place), _) => Ok(Some(*place)),
            (None, Some(logs)) => logs.place(shard, &removal.mailbox, *seq),
            (None, None) => Ok(None),
        };
        let below = removal.seqs.partition_point(|seq| *seq <= removal.floor);
        let (below, above) = removal.seqs.split_at(below);
        let mut entries = Vec::new();
        for seq in below.iter().rev() {
            // One that was never written was never entered.
            if let Some(at) = place(seq)? {
                entries.push(Entry::Acknowledged { mailbox, below: at.next() });
                break;
            }
        }
        for seq in above {
            if let Some(at) = place(seq)? {
                entries.push(Entry::Expired { mailbox, at });
            }
        }
        Ok(entries)
    }

    fn enter(
        &mut self,
        shards: &Shards,
        shard: u8,
        entry: RealEntry,
        frame: Option<Seq>,
    ) -> Result<Option<Step>, Refusal> {
        match shards.enter(shard, &entry)? {
            Entered::Plain => Ok(None),
            Entered::Logged(end) => Ok(Some(self.logged(shard, entry, frame, end))),
        }
    }

    fn logged(&mut self, shard: u8, entry: RealEntry, frame: Option<Seq>, end: RealCursor) -> Step {
        let RealCursor { next, digest } = end;
        let at = Position(next.0 - 1);
        if let Some(seq) = frame {
            self.places.insert(seq, at);
        }
        self.ends.insert(shard, next);
        Step::Log(Box::new(Logged { shard, at, entry, digest, frame }))
    }

    /// Asks something of a shard: the steps that write what follows from it, none where nothing does,
    /// and how many frames they discard.
    pub(super) fn tell(
        &mut self,
        shared: &Shared,
        shards: &Shards,
        shard: u8,
        request: RealRequest,
    ) -> Result<(Vec<Step>, u64), Refusal> {
        let store = shared.store.get().map_err(|_| Refusal::Busy)?;
        let logs = store.logs().ok_or(Refusal::OutOfOrder)?;
        let (request, mut steps) = match request {
            Request::Begin { ledger, .. } => {
                let mut steps = Vec::new();
                let mut existing = RealCursor::start();
                if shards.report(shard).shard == Shard::Plain {
                    for (entry, frame) in logs.existing(shard).map_err(|_| Refusal::Busy)? {
                        existing = existing.after(&entry);
                        steps.push(self.logged(shard, entry, frame, existing));
                    }
                }
                (Request::Begin { ledger, existing }, steps)
            }
            Request::Show { ledger, .. } => {
                let own = match ledger.stage {
                    Stage::Importing(cursor) => own_digest(logs, shard, cursor.next)?,
                    _ => None,
                };
                (Request::Show { ledger, own }, Vec::new())
            }
            other => (other, Vec::new()),
        };
        let stepped = shards.step(shard, request);
        let Ok(Some(record)) = stepped else {
            // Nothing is begun: what was about to be entered is not.
            self.ends.remove(&shard);
            self.places.clear();
            return stepped.map(|_| (Vec::new(), 0));
        };
        if let (Record::Sealed(seal), Request::Seal { .. }) = (record, request) {
            // It may be sealed already, for an earlier version.
            if logs.log_end(shard).map_err(|_| Refusal::Busy)?.next < seal.end.next {
                steps.push(self.logged(shard, Entry::Sealed, None, seal.end));
            }
        }
        let mut discarded = 0;
        if let Record::Gone { .. } = record {
            let existing = logs.existing(shard).map_err(|_| Refusal::Busy)?;
            discarded = existing.iter().filter(|(_, frame)| frame.is_some()).count() as u64;
        }
        steps.push(Step::Shard(shard, record));
        Ok((steps, discarded))
    }

    /// The batch is on the disk.
    pub(super) fn durable(&mut self, shards: &Shards) {
        self.places.clear();
        for (shard, end) in self.ends.drain() {
            shards.durable(shard, end);
        }
    }

    /// What a shard is has been written: what was held for it is to be done now, or never.
    pub(super) fn settled(&mut self, shards: &Shards, shard: u8) -> Vec<Departure> {
        match shards.report(shard).shard {
            Shard::Plain | Shard::Local { .. } => self.held.remove(&shard).unwrap_or_default(),
            Shard::Forward { .. } | Shard::Gone { .. } => {
                self.held.remove(&shard);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The batch failed, and the store was opened again: nobody knows here who serves what moves.
    /// Takes the removals that have to wait out of the batch.
    pub(super) fn failed(&mut self, shards: &Shards, steps: &mut Vec<Step>) {
        self.places.clear();
        self.ends.clear();
        for step in std::mem::take(steps) {
            match step {
                Step::Remove(removal) => {
                    let shard = shards.of_mailbox(&removal.mailbox);
                    if shards.report(shard).shard == Shard::Plain {
                        steps.push(Step::Remove(removal));
                    } else {
                        // They are counted already.
                        let of = Arc::new(Nobody);
                        let held = Departure { removal, acknowledged: 0, expired: 0, of };
                        self.held.entry(shard).or_default().push(held);
                    }
                }
                Step::Log(_) | Step::Shard(..) => {}
                other => steps.push(other),
            }
        }
    }
}

fn own_digest(
    logs: &dyn store::Logs,
    shard: u8,
    before: Position,
) -> Result<Option<Digest>, Refusal> {
    logs.log_digest(shard, before).map_err(|_| Refusal::Busy)
}

/// Whose frames left does not matter any more.
struct Nobody;

impl Settle for Nobody {
    fn durable(&self, _: &Append) {}
    fn unknown(&self, _: &Append) {}
    fn failed(&self, _: &Append) -> bool {
        true
    }
}
