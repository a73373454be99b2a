//! A store that forgets everything with its process: for tests, and the model the embedded store
//! is compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard};

use valise_proto::{MailboxId, SlotId};

use super::{
    Backlog, BacklogEntry, Batch, BundleChange, BundleHead, Cutoff, Frame, Opened, Outdated,
    Revocation, RunningHours, Seq, Slot, SpentCode, Step, Store, StoreError,
};
use crate::payload::Payload;

/// Frames in a map. Whoever opens a second relay over the same value finds what the first one
/// left, as if it had been on a disk.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Contents>);

#[derive(Debug, Default)]
struct Contents {
    mailboxes: BTreeMap<MailboxId, Queue>,
    spent: BTreeMap<[u8; 8], SpentCode>,
    revoked: BTreeMap<(MailboxId, [u8; 8]), Revocation>,
    slots: BTreeMap<SlotId, Slot>,
    bundles: BTreeMap<MailboxId, Bundle>,
    opened: Opened,
}

#[derive(Debug)]
struct Bundle {
    head: BundleHead,
    items: BTreeMap<u32, Payload>,
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
        contents.opened = Opened {
            totals: batch.totals,
            next_seq: batch.next_seq,
            hours: batch.hours,
            commits: contents.opened.commits + 1,
        };
        Ok(())
    }

    fn load(&self, mailbox: &MailboxId) -> Result<Backlog, StoreError> {
        let contents = self.contents();
        let revoked = contents.revoked.range((*mailbox, [0; 8])..=(*mailbox, [u8::MAX; 8]));
        let revoked = revoked.map(|((_, serial), _)| *serial).collect();
        Ok(match contents.mailboxes.get(mailbox) {
            Some(queue) => Backlog {
                kept: true,
                floor: queue.floor,
                frames: queue.above(queue.floor).map(BacklogEntry::from).collect(),
                revoked,
            },
            None => Backlog { revoked, ..Backlog::default() },
        })
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
        Ok(self.contents().spent.get(serial).map(|code| code.mailbox))
    }

    fn slot(&self, id: &SlotId) -> Result<Option<Slot>, StoreError> {
        Ok(self.contents().slots.get(id).cloned())
    }

    fn bundle(&self, mailbox: &MailboxId) -> Result<Option<BundleHead>, StoreError> {
        Ok(self.contents().bundles.get(mailbox).map(|bundle| bundle.head))
    }

    fn bundle_item(&self, mailbox: &MailboxId, number: u32) -> Result<Option<Payload>, StoreError> {
        let contents = self.contents();
        Ok(contents.bundles.get(mailbox).and_then(|bundle| bundle.items.get(&number).cloned()))
    }

    fn outdated(&self, cutoff: &Cutoff, max: usize) -> Result<Vec<Outdated>, StoreError> {
        let contents = self.contents();
        let slots = contents.slots.values().filter(|slot| slot.written < cutoff.slots);
        let bundles = contents.bundles.iter().filter(|(_, b)| b.head.published < cutoff.bundles);
        let revoked = contents.revoked.values().filter(|r| r.last_day < cutoff.tokens);
        let codes = contents.spent.values().filter(|code| code.last_day < cutoff.tokens);
        let found = slots
            .map(|slot| Outdated::Slot(slot.id))
            .chain(bundles.map(|(mailbox, _)| Outdated::Bundle(*mailbox)))
            .chain(revoked.map(|r| Outdated::Revocation(r.mailbox, r.serial)))
            .chain(codes.map(|code| Outdated::Code(code.serial)));
        // What a set gives in order, the other store finds in the order of its keys.
        Ok(found.collect::<BTreeSet<_>>().into_iter().take(max).collect())
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
                self.spent.insert(code.serial, *code);
            }
            Step::Revoke(revocation) => {
                self.revoked.insert((revocation.mailbox, revocation.serial), *revocation);
            }
            Step::Put(slot) => {
                self.slots.insert(slot.id, slot.clone());
            }
            Step::Bundle(change) => self.change_bundle(change),
            Step::Forget(outdated) => self.forget(outdated),
            // It keeps no logs, so nobody begins one.
            Step::Log(_) | Step::Shard(..) => {}
        }
    }

    fn change_bundle(&mut self, change: &BundleChange) {
        let earlier = self.bundles.remove(&change.mailbox);
        let Some(head) = change.head else { return };
        let mut items = earlier.map(|bundle| bundle.items).unwrap_or_default();
        change.removed.iter().for_each(|number| {
            items.remove(number);
        });
        items.extend(change.stored.iter().cloned());
        self.bundles.insert(change.mailbox, Bundle { head, items });
    }

    fn forget(&mut self, outdated: &Outdated) {
        match outdated {
            Outdated::Slot(id) => {
                self.slots.remove(id);
            }
            Outdated::Revocation(mailbox, serial) => {
                self.revoked.remove(&(*mailbox, *serial));
            }
            Outdated::Code(serial) => {
                self.spent.remove(serial);
            }
            // It goes by a change of it.
            Outdated::Bundle(_) => {}
        }
    }
}
