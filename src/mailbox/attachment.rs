//! A mailbox as a connection serves it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use valise_proto::{MailboxId, Reason};

use super::{Mailbox, Pulled};
use crate::committer::Settle;
use crate::store::{Seq, StoreError};

/// A mailbox served by a connection. Dropping it detaches.
pub struct Attachment {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) generation: u64,
    /// Everything at or below is acknowledged: where delivery begins.
    pub floor: Seq,
    /// The newest frame when the attachment began: once delivered, the client has caught up.
    pub last: Seq,
}

impl Attachment {
    /// The mailbox.
    pub fn mailbox(&self) -> &MailboxId {
        &self.mailbox.id
    }

    /// Frames after `after`, in order: at least one if one can be read now, then as many as fit
    /// into `bytes_max`. Empty when there is nothing (more will ring), or when the mailbox is
    /// served elsewhere by now.
    ///
    /// # Errors
    /// [`StoreError`] when spilled frames cannot be read.
    pub fn pull(&self, mut after: Seq, bytes_max: usize) -> Result<Vec<Pulled>, StoreError> {
        loop {
            let spilled_up_to = {
                let state = self.mailbox.state();
                if !state.is_served_by(self.generation) {
                    return Ok(Vec::new());
                }
                match state.pull_from_ring(after, bytes_max) {
                    Ok(pulled) => return Ok(pulled),
                    Err(spilled_up_to) => spilled_up_to,
                }
            };
            let store = match self.mailbox.around.committer.store() {
                // It rings when there is a store again.
                Err(StoreError::Reopening) => return Ok(Vec::new()),
                store => store?,
            };
            let frames = store.read(&self.mailbox.id, after, spilled_up_to, bytes_max)?;
            drop(store);
            let Some(last) = frames.last() else { return Ok(Vec::new()) };
            after = last.seq;
            // The store may still have what has expired a moment ago.
            let state = self.mailbox.state();
            let pulled: Vec<_> = frames
                .into_iter()
                .filter(|frame| state.holds(frame.seq))
                .map(|frame| Pulled {
                    seq: frame.seq,
                    frame_id: frame.frame_id,
                    payload: frame.payload,
                })
                .collect();
            if !pulled.is_empty() {
                return Ok(pulled);
            }
        }
    }

    /// Whether no frame is left with `after < seq <= up_to`. False when the mailbox is served
    /// elsewhere by now.
    pub fn has_nothing_between(&self, after: Seq, up_to: Seq) -> bool {
        let state = self.mailbox.state();
        state.is_served_by(self.generation) && !state.holds_any(after, up_to)
    }

    /// The recipient's device has committed everything up to here.
    pub fn acknowledge(&self, up_to: Seq, now: Instant) {
        let around = &self.mailbox.around;
        let mut state = self.mailbox.state();
        if !state.is_served_by(self.generation) {
            return;
        }
        state.touched = Some(now);
        let ring_before = state.ring_bytes;
        let room = around.remembered.load(Ordering::Relaxed);
        let gone = state.acknowledge(self.mailbox.id, up_to, room, now);
        around.freed(ring_before - state.ring_bytes, gone.remembered);
        around.metrics.frames_accepted(gone.accepted_early);
        around.metrics.frames_acknowledged(gone.count);
        let of = Arc::clone(&self.mailbox) as Arc<dyn Settle>;
        around.committer.remove(gone.removal, gone.unwritten, of);
        drop(state);
        gone.waiters.into_iter().for_each(|waiter| waiter.decide(Reason::Accepted));
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let around = &self.mailbox.around;
        let mut state = self.mailbox.state();
        around.metrics.attachment_ended();
        if !state.is_served_by(self.generation) {
            return;
        }
        around.ring_bytes.fetch_sub(state.ring_bytes, Ordering::Relaxed);
        let waiting = state.stop_serving();
        around.committer.hurry(&waiting);
    }
}
