//! A store that forgets everything with its process: for tests, and the model the embedded store
//! is compared with.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard};

use valise_proto::MailboxId;

use super::{
    Backlog, BacklogEntry, Batch, Frame, Opened, RunningHours, Seq, Step, Store, StoreError,
};

/// Frames in a map. Whoever opens a second relay over the same value finds what the first one
/// left, as if it had been on a disk.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Contents>);

#[derive(Debug, Default)]
struct Contents {
    mailboxes: BTreeMap<MailboxId, Queue>,
    spent: BTreeMap<[u8; 8], MailboxId>,
    opened: Opened,
}

#[derive(Debug, Default)]
struct Queue {
    floor: Seq,
    frames: BTreeMap<Seq, Frame>,
}

impl MemoryStore {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Mailboxes that cost anything.
    pub fn mailboxes(&self) -> usize {
        self.contents().mailboxes.len()
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().expect("nothing panics while it holds the lock")
    }
}

impl Store for MemoryStore {
    fn opened(&self) -> Opened {
        self.contents().opened
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut contents = self.contents();
        for step in &batch.steps {
            contents.apply(step);
        }
        contents.opened =
            Opened { totals: batch.totals, next_seq: batch.next_seq, hours: batch.hours };
        Ok(())
    }

    fn load(&self, mailbox: &MailboxId) -> Result<Backlog, StoreError> {
        let contents = self.contents();
        Ok(contents.mailboxes.get(mailbox).map_or_else(Backlog::default, |queue| Backlog {
            kept: true,
            floor: queue.floor,
            frames: queue.above(queue.floor).map(BacklogEntry::from).collect(),
        }))
    }

    fn read(
        &self,
        mailbox: &MailboxId,
        after: Seq,
        up_to: Seq,
        bytes_max: usize,
    ) -> Result<Vec<Frame>, StoreError> {
        let contents = self.contents();
        let mut frames = Vec::new();
        let mut room = bytes_max;
        let Some(queue) = contents.mailboxes.get(mailbox) else { return Ok(frames) };
        for frame in queue.above(after) {
            let bytes = frame.payload.len();
            if frame.seq > up_to || (bytes > room && !frames.is_empty()) {
                break;
            }
            room = room.saturating_sub(bytes);
            frames.push(frame.clone());
        }
        Ok(frames)
    }

    fn spent(&self, serial: &[u8; 8]) -> Result<Option<MailboxId>, StoreError> {
        Ok(self.contents().spent.get(serial).copied())
    }

    fn expired(&self, now: RunningHours) -> Result<Vec<MailboxId>, StoreError> {
        let contents = self.contents();
        let expired = contents.mailboxes.iter().filter(|(_, queue)| {
            queue.frames.is_empty() || queue.above(queue.floor).any(|frame| frame.expires() < now)
        });
        Ok(expired.map(|(mailbox, _)| *mailbox).collect())
    }

    fn count(&self) -> Result<u64, StoreError> {
        Ok(self.contents().mailboxes.values().map(|queue| queue.frames.len() as u64).sum())
    }
}

impl Queue {
    fn above(&self, after: Seq) -> impl Iterator<Item = &Frame> {
        self.frames.range((Bound::Excluded(after), Bound::Unbounded)).map(|(_, frame)| frame)
    }
}

impl Contents {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Append { frame, floor } => {
                let queue = self.mailboxes.entry(frame.mailbox).or_default();
                queue.floor = *floor;
                queue.frames.insert(frame.seq, Frame::clone(frame));
            }
            Step::Remove(removal) if removal.emptied => {
                self.mailboxes.remove(&removal.mailbox);
            }
            Step::Remove(removal) => {
                let queue = self.mailboxes.entry(removal.mailbox).or_default();
                queue.floor = removal.floor;
                for seq in &removal.seqs {
                    queue.frames.remove(seq);
                }
            }
            Step::Spend(code) => {
                self.spent.insert(code.serial, code.mailbox);
            }
        }
    }
}
