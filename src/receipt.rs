//! The answer to one post, while its targets are being decided.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use valise_proto::{FrameId, Posted, Reason, ServerPacket};

use crate::doorbell::Doorbell;
use crate::limits::BUSY_RETRY_MS;

/// Collects one outcome per target; the last one sends the answer to the sender's connection.
pub struct Receipt {
    // Static after construction.
    request: u32,
    frame_id: FrameId,
    sender: Arc<Doorbell>,
    // Guarded by the mutex; the counter only falls.
    outcomes: Mutex<Outcomes>,
    undecided: AtomicUsize,
}

struct Outcomes {
    outcomes: Vec<Option<Reason>>,
    retry_after_ms: u32,
}

impl Receipt {
    /// A receipt for a post with this many targets, none of them decided.
    pub fn new(request: u32, frame_id: FrameId, targets: usize, sender: Arc<Doorbell>) -> Self {
        let outcomes = Outcomes { outcomes: vec![None; targets], retry_after_ms: 0 };
        Self {
            request,
            frame_id,
            sender,
            outcomes: Mutex::new(outcomes),
            undecided: AtomicUsize::new(targets),
        }
    }

    /// Decides one target; each is decided exactly once.
    pub fn decide(&self, target: u16, outcome: Reason, retry_after_ms: u32) {
        let mut outcomes = self.outcomes.lock().expect("no one panics while deciding");
        let slot = &mut outcomes.outcomes[usize::from(target)];
        debug_assert!(slot.is_none(), "a target is decided once");
        *slot = Some(outcome);
        outcomes.retry_after_ms = outcomes.retry_after_ms.max(retry_after_ms);
        if self.undecided.fetch_sub(1, Ordering::AcqRel) == 1 {
            let posted = Posted {
                request: self.request,
                frame_id: self.frame_id,
                outcomes: std::mem::take(&mut outcomes.outcomes),
                retry_after_ms: outcomes.retry_after_ms,
            };
            drop(outcomes);
            self.sender.answer(ServerPacket::Posted(posted));
        }
    }
}

/// One target of a receipt: whoever holds it owes the sender an outcome. Dropped undecided, it says
/// `busy`, so no path through the relay can forget to answer.
pub struct Waiter {
    receipt: Arc<Receipt>,
    target: u16,
    decided: bool,
}

impl Waiter {
    /// The claim of one target on its receipt.
    pub fn new(receipt: Arc<Receipt>, target: u16) -> Self {
        Self { receipt, target, decided: false }
    }

    /// Tells the outcome.
    pub fn decide(self, outcome: Reason) {
        self.decide_with_retry(outcome, if outcome == Reason::Busy { BUSY_RETRY_MS } else { 0 });
    }

    /// Tells the outcome and when to retry.
    pub fn decide_with_retry(mut self, outcome: Reason, retry_after_ms: u32) {
        self.decided = true;
        self.receipt.decide(self.target, outcome, retry_after_ms);
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if !self.decided {
            self.receipt.decide(self.target, Reason::Busy, BUSY_RETRY_MS);
        }
    }
}
