//! What makes a frame durable. [`Store`] is the contract, `embedded` and
//! `memory` keep it, and one suite of tests runs against both. Nothing here knows
//! connections or sessions: the committer hands it batches, the mailboxes read from it.

mod carried;
mod changes;
#[cfg(test)]
pub(crate) mod contract;
mod embedded;
mod error;
mod expiry;
mod high_water;
pub mod jetstream;
mod log;
mod memory;
mod record;
mod shard;

use std::sync::Arc;

use valise_migration::real::RealRecord;
use valise_proto::{FrameId, MailboxId, PublicationId, PutId, SlotId};

use crate::payload::Payload;

pub use carried::{Carried, age};
pub use embedded::{EmbeddedOptions, EmbeddedStore};
pub use error::StoreError;
pub use log::{Existing, Logged, Logs, SHARDS, entries};
pub use memory::MemoryStore;
pub use shard::ShardKey;

/// A position in the store-wide order of appends. Unique for the life of the store; never on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

/// Hours of the relay's own running time since the store was made. It only moves while the relay
/// runs, so a jumping clock expires nothing early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RunningHours(pub u32);

/// One frame of one mailbox.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Whose it is.
    pub mailbox: MailboxId,
    /// Its place in the order.
    pub seq: Seq,
    /// The sender's id for it.
    pub frame_id: FrameId,
    /// When it was accepted.
    pub accepted: RunningHours,
    /// How long it is kept, in running hours.
    pub ttl_hours: u16,
    /// What it is.
    pub payload: Payload,
}

impl Frame {
    /// The last hour of its time to live. It goes when that hour is over, since it may have been
    /// accepted at the end of its first one.
    pub fn expires(&self) -> RunningHours {
        RunningHours(self.accepted.0.saturating_add(self.ttl_hours.into()))
    }
}

/// Frames that left a mailbox.
#[derive(Debug, Clone)]
pub struct Removal {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The frames that are, or are about to be, on disk; ascending.
    pub seqs: Vec<Seq>,
    /// Everything at or below is gone: where the next scan begins.
    pub floor: Seq,
    /// Nothing is left: the mailbox costs zero bytes again.
    pub emptied: bool,
}

/// An invite code that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpentCode {
    /// The join token's serial.
    pub serial: [u8; 8],
    /// The mailbox that was joined with it, which may do so again.
    pub mailbox: MailboxId,
    /// The token's last day, in days since 1970-01-01; the entry dies 60 days later.
    pub last_day: u16,
}

/// A token that its owner has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation {
    /// Whose token it is.
    pub mailbox: MailboxId,
    /// The token's serial.
    pub serial: [u8; 8],
    /// The token's last day, in days since 1970-01-01.
    pub last_day: u16,
}

/// What was put into a slot.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Which.
    pub id: SlotId,
    /// By which put: it may be repeated.
    pub put_id: PutId,
    /// When.
    pub written: RunningHours,
    /// What.
    pub payload: Payload,
}

/// What is known of a bundle without its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleHead {
    /// The last publication that was carried out.
    pub publication_id: PublicationId,
    /// When.
    pub published: RunningHours,
    /// The number of the next item to hand out.
    pub first: u32,
    /// The number the next item to come will have.
    pub next: u32,
    /// Whether there is a last resort, as number [`LAST_RESORT`].
    pub last_resort: bool,
}

impl BundleHead {
    /// One-time items there are.
    pub fn items(&self) -> u32 {
        self.next - self.first
    }
}

/// The number of a bundle's last resort; items are numbered from 1.
pub const LAST_RESORT: u32 = 0;

/// What happens to one bundle.
#[derive(Debug, Clone)]
pub struct BundleChange {
    /// Whose it is.
    pub mailbox: MailboxId,
    /// The head from now on; `None` when the bundle is gone.
    pub head: Option<BundleHead>,
    /// Items to store, by number.
    pub stored: Vec<(u32, Payload)>,
    /// Numbers of items to forget, none of which is stored by this change.
    pub removed: Vec<u32>,
}

/// Something whose time is over, and which is then to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outdated {
    /// A slot's value.
    Slot(SlotId),
    /// A mailbox's bundle.
    Bundle(MailboxId),
    /// A revocation.
    Revocation(MailboxId, [u8; 8]),
    /// A used invite code.
    Code([u8; 8]),
}

/// The moment by which things are outdated.
#[derive(Debug, Clone, Copy)]
pub struct Cutoff {
    /// Slots written before this hour.
    pub slots: RunningHours,
    /// Bundles published before this hour.
    pub bundles: RunningHours,
    /// Revocations and used codes of tokens whose last day is before this one.
    pub tokens: u16,
}

/// One step of a batch. Steps take effect in their order.
#[derive(Debug, Clone)]
pub enum Step {
    /// Stores a frame.
    Append {
        /// The frame.
        frame: Arc<Frame>,
        /// Everything of this mailbox at or below is gone.
        floor: Seq,
    },
    /// Forgets frames.
    Remove(Removal),
    /// Remembers a used invite code.
    Spend(SpentCode),
    /// Remembers an ended token.
    Revoke(Revocation),
    /// Puts a value into a slot.
    Put(Slot),
    /// Changes a bundle.
    Bundle(BundleChange),
    /// Removes what is outdated; bundles go by [`Step::Bundle`].
    Forget(Outdated),
    /// Adds an entry to the log of a shard that moves.
    Log(Box<Logged>),
    /// A shard is this from now on. One that is plain has no log, and of one that is gone nothing is
    /// left. In a batch there is nothing else about the shard but what its log begins or ends with.
    Shard(u8, RealRecord),
}

/// Copies counted since the store was made. `accepted = acknowledged + expired + discarded + queued`
/// holds after every batch; the consistency check compares `queued` with what is really there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Accepted, those that were acknowledged before they were written included.
    pub accepted: u64,
    /// Acknowledged by the recipient's device.
    pub acknowledged: u64,
    /// Given up because their time to live ended.
    pub expired: u64,
    /// Given up for another reason.
    pub discarded: u64,
}

impl Totals {
    /// Copies that should be in the store.
    pub fn queued(&self) -> u64 {
        self.accepted - self.acknowledged - self.expired - self.discarded
    }
}

/// What becomes durable together.
#[derive(Debug, Default)]
pub struct Batch {
    /// In order.
    pub steps: Vec<Step>,
    /// The totals once the batch is written.
    pub totals: Totals,
    /// The first sequence number that was never given out.
    pub next_seq: Seq,
    /// The running time.
    pub hours: RunningHours,
}

/// What is known of a mailbox without its payloads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backlog {
    /// The store keeps a floor for it. After a kill that may be all there is: the frames that came
    /// after it had not been written.
    pub kept: bool,
    /// Everything at or below is gone.
    pub floor: Seq,
    /// The frames above the floor, in order.
    pub frames: Vec<BacklogEntry>,
    /// The serials of its tokens that are revoked, in order.
    pub revoked: Vec<[u8; 8]>,
}

/// One frame of a [`Backlog`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BacklogEntry {
    /// Its place in the order.
    pub seq: Seq,
    /// The sender's id for it.
    pub frame_id: FrameId,
    /// The payload's length.
    pub bytes: u32,
    /// The last hour of its time to live.
    pub expires: RunningHours,
}

impl From<&Frame> for BacklogEntry {
    fn from(frame: &Frame) -> Self {
        Self {
            seq: frame.seq,
            frame_id: frame.frame_id,
            bytes: u32::try_from(frame.payload.len()).unwrap_or(u32::MAX),
            expires: frame.expires(),
        }
    }
}

/// What a store knows when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Opened {
    /// The totals of the last batch.
    pub totals: Totals,
    /// The first sequence number that was never given out.
    pub next_seq: Seq,
    /// The running time at the last batch.
    pub hours: RunningHours,
    /// Batches since the store was made. A batch that failed was made if this counts it.
    pub commits: u64,
}

/// A durable queue of frames per mailbox. Implementations
///
/// 1. MUST have made a whole batch durable, or none of it, when [`Store::commit`] returns;
///    after an error nothing may be committed again.
/// 2. MUST apply the steps of a batch in their order: what a later step says of a key wins.
/// 3. MUST show a batch to [`Store::load`] and [`Store::read`] no later than when `commit` returns.
/// 4. MUST return frames in ascending order of [`Seq`], and each at most once.
/// 5. MUST check each record it reads and report damage instead of skipping it.
/// 6. MUST keep nothing of a mailbox that a removal has emptied.
/// 7. MUST be usable from many threads; `commit` is only ever called by one.
/// 8. MUST find every frame that has expired, whatever its time to live, and every floor that is
///    kept without a frame.
/// 9. MUST NOT block longer than a local disk read in `load`, `read`, `spent`, `slot`, `bundle` and
///    `bundle_item`.
/// 10. MUST keep what is not a frame until it is removed: no expiry of its own.
pub trait Store: Send + Sync + 'static {
    /// What was known at opening.
    fn opened(&self) -> Opened;

    /// Makes the batch durable.
    ///
    /// # Errors
    /// [`StoreError`]; the store is then finished.
    fn commit(&self, batch: &Batch) -> Result<(), StoreError>;

    /// What a mailbox holds, without payloads.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read or is damaged.
    fn load(&self, mailbox: &MailboxId) -> Result<Backlog, StoreError>;

    /// Frames with `after < seq <= up_to` in order: at least one if there is one, then as many as
    /// fit into `bytes_max` payload bytes.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read or are damaged.
    fn read(
        &self,
        mailbox: &MailboxId,
        after: Seq,
        up_to: Seq,
        bytes_max: usize,
    ) -> Result<Vec<Frame>, StoreError>;

    /// The mailbox an invite code was used for.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    fn spent(&self, serial: &[u8; 8]) -> Result<Option<MailboxId>, StoreError>;

    /// What was put into a slot.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read or is damaged.
    fn slot(&self, id: &SlotId) -> Result<Option<Slot>, StoreError>;

    /// A mailbox's bundle.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read or is damaged.
    fn bundle(&self, mailbox: &MailboxId) -> Result<Option<BundleHead>, StoreError>;

    /// The item of this number in a mailbox's bundle.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read or is damaged.
    fn bundle_item(&self, mailbox: &MailboxId, number: u32) -> Result<Option<Payload>, StoreError>;

    /// Up to `max` things that are outdated.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read or is damaged.
    fn outdated(&self, cutoff: &Cutoff, max: usize) -> Result<Vec<Outdated>, StoreError>;

    /// The mailboxes that hold a frame whose time to live has ended before this hour, or no frame
    /// and yet a floor; each once.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read or is damaged.
    fn expired(&self, now: RunningHours) -> Result<Vec<MailboxId>, StoreError>;

    /// What it keeps of shards that move; none where no shard can.
    fn logs(&self) -> Option<&dyn Logs> {
        None
    }

    /// Gives back the room of what was removed, if that is much and there is `free` room enough to do
    /// so, in bytes; `queued` frames are to stay. Blocks for as long as that takes. Returns whether
    /// anything was done, which is never where nothing is kept of what was removed.
    ///
    /// # Errors
    /// [`StoreError`]; as after a failed commit, the store is then finished.
    fn reclaim(&self, _queued: u64, _free: u64) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Counts the frames that are really there, by reading them all: for the consistency check.
    ///
    /// # Errors
    /// [`StoreError`] when one cannot be read or is damaged.
    fn count(&self) -> Result<u64, StoreError>;
}
