//! The log of a shard that moves, as a store keeps it: see `valise_migration::entry`.

use std::ops::Range;

use valise_migration::real::{Digest, RealCursor, RealEntry, RealLine, RealRecord};
use valise_migration::{Entry, Position};
use valise_proto::MailboxId;

use super::{RunningHours, Seq, ShardKey, Step, StoreError};

/// Shards of a realm.
pub const SHARDS: usize = 256;

/// One entry in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logged {
    /// Of which shard's log.
    pub shard: u8,
    /// Its place there.
    pub at: Position,
    /// What happened.
    pub entry: RealEntry,
    /// Of the log up to here, this entry included.
    pub digest: Digest,
    /// The frame that was appended; none for other entries.
    pub frame: Option<Seq>,
}

/// Something that exists in a shard, as the first entries of its log say it.
pub type Existing = (RealEntry, Option<Seq>);

impl ShardKey {
    /// The shard that a step changes; none for what changes none, or all.
    pub fn of_step(&self, step: &Step) -> Option<u8> {
        match step {
            Step::Append { frame, .. } => Some(self.shard(&frame.mailbox)),
            Step::Remove(removal) => Some(self.shard(&removal.mailbox)),
            Step::Spend(code) => Some(self.serial_shard(&code.serial)),
            Step::Revoke(revocation) => Some(self.shard(&revocation.mailbox)),
            Step::Put(slot) => Some(self.slot_shard(&slot.id)),
            Step::Bundle(change) => Some(self.shard(&change.mailbox)),
            Step::Forget(_) | Step::Log(_) | Step::Shard(..) => None,
        }
    }
}

/// What a step that is not about frames enters into its shard's log.
pub fn entries(step: &Step) -> Vec<RealEntry> {
    match step {
        Step::Spend(code) => vec![Entry::Spent { code: code.serial }],
        Step::Revoke(revocation) => {
            let mailbox = *revocation.mailbox.as_bytes();
            vec![Entry::Revoked { mailbox, token: revocation.serial }]
        }
        Step::Put(slot) => {
            vec![Entry::Put { slot: *slot.id.as_bytes(), put: *slot.put_id.as_bytes() }]
        }
        // What is replaced is taken: the data centre is to forget it, whoever has it.
        Step::Bundle(change) => {
            let mailbox = *change.mailbox.as_bytes();
            let removed = change.removed.iter().map(|item| Entry::Taken { mailbox, item: *item });
            let stored =
                change.stored.iter().map(|(item, _)| Entry::Offered { mailbox, item: *item });
            removed.chain(stored).collect()
        }
        // What is outdated here is outdated there, by its own time.
        Step::Append { .. }
        | Step::Remove(_)
        | Step::Forget(_)
        | Step::Log(_)
        | Step::Shard(..) => Vec::new(),
    }
}

/// What a store keeps of shards that move. Implementations read as [`super::Store`] says, and
///
/// 1. MUST make an entry durable with the steps of its batch;
/// 2. MUST keep a log until its shard is plain again or gone.
pub trait Logs {
    /// The shards that are not plain, as the last batch left them.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read or are damaged.
    fn shards(&self) -> Result<Vec<(u8, RealRecord)>, StoreError>;

    /// The end of a shard's log.
    ///
    /// # Errors
    /// As above.
    fn log_end(&self, shard: u8) -> Result<RealCursor, StoreError>;

    /// The digest of a shard's log before this place; none beyond its end.
    ///
    /// # Errors
    /// As above.
    fn log_digest(&self, shard: u8, before: Position) -> Result<Option<Digest>, StoreError>;

    /// Entries in `range`, with what belongs to them as far as it is still there: at least one, then
    /// as many as `max` allows: lines, and bytes of bodies. Ages are counted from `now`.
    ///
    /// # Errors
    /// As above.
    fn log(
        &self,
        shard: u8,
        range: Range<Position>,
        max: (usize, usize),
        now: RunningHours,
    ) -> Result<Vec<RealLine>, StoreError>;

    /// Where a frame was entered.
    ///
    /// # Errors
    /// As above.
    fn place(
        &self,
        shard: u8,
        mailbox: &MailboxId,
        seq: Seq,
    ) -> Result<Option<Position>, StoreError>;

    /// Everything there is in a shard, of one moment; a mailbox's frames in their order.
    ///
    /// # Errors
    /// As above.
    fn existing(&self, shard: u8) -> Result<Vec<Existing>, StoreError>;
}
