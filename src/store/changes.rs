//! What a batch comes down to. The engine gives a whole batch one sequence number of its own and
//! would keep two writes of one key in no particular order, so each key is written at most once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use valise_migration::real::RealRecord;
use valise_proto::{MailboxId, SlotId};

use super::{
    Batch, BundleChange, Frame, Logged, Outdated, Revocation, Seq, ShardKey, Slot, SpentCode, Step,
};

/// The net effect of a batch's steps.
#[derive(Debug, Default)]
pub(super) struct Changes<'a> {
    /// By sequence number, which is unique in the whole store.
    pub(super) frames: HashMap<Seq, FrameChange<'a>>,
    /// Each mailbox that was touched.
    pub(super) mailboxes: HashMap<MailboxId, MailboxChange>,
    /// By serial; `None` goes.
    pub(super) spent: HashMap<[u8; 8], Option<&'a SpentCode>>,
    /// By mailbox and serial; `None` goes.
    pub(super) revoked: HashMap<(MailboxId, [u8; 8]), Option<&'a Revocation>>,
    /// By id; `None` goes.
    pub(super) slots: HashMap<SlotId, Option<&'a Slot>>,
    /// At most one for each mailbox, since whoever changes a bundle waits for the disk.
    pub(super) bundles: Vec<&'a BundleChange>,
    /// Entries of logs, each in a place of its own.
    pub(super) logged: Vec<&'a Logged>,
    /// At most one for each shard.
    pub(super) shards: Vec<(u8, &'a RealRecord)>,
}

/// What happens to one mailbox.
#[derive(Debug, Clone, Copy)]
pub(super) struct MailboxChange {
    /// Where its keys are.
    pub(super) shard: u8,
    /// Its last floor, or nothing where it was emptied.
    pub(super) floor: Option<Seq>,
}

/// What happens to one frame.
#[derive(Debug)]
pub(super) enum FrameChange<'a> {
    /// It is written.
    Stored(&'a Frame),
    /// It was written by an earlier batch and goes.
    Removed(MailboxId),
}

impl<'a> Changes<'a> {
    /// Applies the steps in their order. A frame that is appended and removed in one batch leaves
    /// nothing at all: no record, and no mark of its removal.
    pub(super) fn of(batch: &'a Batch, shards: &ShardKey) -> Self {
        let mut changes = Self::default();
        changes.frames.reserve(batch.steps.len());
        for step in &batch.steps {
            match step {
                Step::Append { frame, floor } => {
                    changes.frames.insert(frame.seq, FrameChange::Stored(frame));
                    changes.touch(frame.mailbox, Some(*floor), shards);
                }
                Step::Remove(removal) => {
                    removal.seqs.iter().for_each(|seq| changes.remove(removal.mailbox, *seq));
                    let floor = (!removal.emptied).then_some(removal.floor);
                    changes.touch(removal.mailbox, floor, shards);
                }
                Step::Spend(code) => {
                    changes.spent.insert(code.serial, Some(code));
                }
                Step::Revoke(revocation) => {
                    let key = (revocation.mailbox, revocation.serial);
                    changes.revoked.insert(key, Some(revocation));
                }
                Step::Put(slot) => {
                    changes.slots.insert(slot.id, Some(slot));
                }
                Step::Bundle(change) => changes.bundles.push(change),
                Step::Forget(Outdated::Slot(id)) => {
                    changes.slots.insert(*id, None);
                }
                Step::Forget(Outdated::Revocation(mailbox, serial)) => {
                    changes.revoked.insert((*mailbox, *serial), None);
                }
                Step::Forget(Outdated::Code(serial)) => {
                    changes.spent.insert(*serial, None);
                }
                // It has items that only a change of it names.
                Step::Forget(Outdated::Bundle(_)) => {}
                Step::Log(logged) => changes.logged.push(logged),
                Step::Shard(shard, record) => changes.shards.push((*shard, record)),
            }
        }
        changes
    }

    /// Keys written, but for the expiry index.
    pub(super) fn len(&self) -> usize {
        let items = |change: &&BundleChange| 1 + change.stored.len() + change.removed.len();
        self.frames.len()
            + self.mailboxes.len()
            + self.spent.len()
            + self.revoked.len()
            + 2 * self.slots.len()
            + 2 * self.logged.len()
            + self.shards.len()
            + self.bundles.iter().map(items).sum::<usize>()
    }

    /// The shard of a mailbox that a step of the batch names.
    pub(super) fn shard(&self, mailbox: &MailboxId) -> u8 {
        self.mailboxes[mailbox].shard
    }

    fn touch(&mut self, mailbox: MailboxId, floor: Option<Seq>, shards: &ShardKey) {
        self.mailboxes
            .entry(mailbox)
            .or_insert_with(|| MailboxChange { shard: shards.shard(&mailbox), floor })
            .floor = floor;
    }

    fn remove(&mut self, mailbox: MailboxId, seq: Seq) {
        match self.frames.entry(seq) {
            Entry::Occupied(entry) => {
                if matches!(entry.get(), FrameChange::Stored(_)) {
                    entry.remove();
                }
            }
            Entry::Vacant(entry) => {
                entry.insert(FrameChange::Removed(mailbox));
            }
        }
    }
}
