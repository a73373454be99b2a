//! One frame on its way to the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::store::{Frame, Seq};

/// A frame that a mailbox has accepted into its order and not yet answered for.
pub struct Append {
    /// The frame.
    pub frame: Arc<Frame>,
    /// Everything of its mailbox at or below is gone.
    pub floor: Seq,

    stage: AtomicU8,
    settle: Arc<dyn Settle>,
}

/// Told about appends on the committer thread, in commit order, with no lock of the committer held.
pub trait Settle: Send + Sync {
    /// The frame is on the disk. Not called for a frame that was acknowledged in time.
    fn durable(&self, append: &Append);

    /// The store failed; nobody knows yet whether the frame is on the disk. One of the others
    /// follows, unless the relay ends.
    fn unknown(&self, append: &Append);

    /// The frame is not on the disk and will not be, or the relay ends. Returns whether it was
    /// still there to be given up: false where its recipient had acknowledged it.
    fn failed(&self, append: &Append) -> bool;
}

/// How far an append has come. It only moves down this list, and skips what it does not pass.
const WAITING: u8 = 0;
const QUEUED: u8 = 1;
const ACKNOWLEDGED: u8 = 2;
const WRITING: u8 = 3;
const SETTLED: u8 = 4;

impl Append {
    /// An append that the committer does not know yet.
    pub fn new(frame: Arc<Frame>, floor: Seq, settle: Arc<dyn Settle>) -> Arc<Self> {
        Arc::new(Self { frame, floor, stage: AtomicU8::new(WAITING), settle })
    }

    /// Its mailbox.
    pub fn of(&self) -> Arc<dyn Settle> {
        Arc::clone(&self.settle)
    }

    /// The recipient acknowledged it. True: it will never touch the disk. False: it is being
    /// written or is written, and must be named in a `Removal`.
    pub fn acknowledge(&self) -> bool {
        self.advance(WAITING, ACKNOWLEDGED) || self.advance(QUEUED, ACKNOWLEDGED)
    }

    /// From the patient to the main queue; false where it is no longer waiting.
    pub(super) fn queue(&self) -> bool {
        self.advance(WAITING, QUEUED)
    }

    /// From the main queue into a batch; false where it was acknowledged in time.
    pub(super) fn begin(&self) -> bool {
        self.advance(QUEUED, WRITING)
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.stage.load(Ordering::Relaxed) == WAITING
    }

    /// Its batch is durable.
    pub(super) fn settle_durable(&self) {
        self.stage.store(SETTLED, Ordering::Release);
        self.settle.durable(self);
    }

    /// Its batch failed.
    pub(super) fn settle_unknown(&self) {
        self.settle.unknown(self);
    }

    /// It will not be written; those acknowledged in time have nothing to fear. True where it was
    /// acknowledged too late for that: then a removal counts it as acknowledged.
    pub(super) fn settle_failed(&self) -> bool {
        let failed = [WAITING, QUEUED, WRITING].into_iter().any(|from| self.advance(from, SETTLED));
        failed && !self.settle.failed(self)
    }

    fn advance(&self, from: u8, to: u8) -> bool {
        self.stage.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}
