//! What other tasks leave at a connection's door: the one thing about a connection that others
//! hold. Leaving something wakes the connection's task, which takes everything at once and answers
//! with one flush.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::task::{Context, Waker};

use valise_proto::{Move, ServerPacket};

use crate::limits::SIGNAL_BYTES_WAITING_MAX;
use crate::payload::Payload;

/// The attachment slots of a connection that have mail, one bit each.
pub type SlotSet = u16;

/// A connection's door. Shared by its task and everyone who has something for it.
#[derive(Default)]
pub struct Doorbell(Mutex<Door>);

#[derive(Default)]
struct Door {
    left: Left,
    signal_bytes: usize,
    waker: Option<Waker>,
}

/// Everything that was left since the last look.
#[derive(Default)]
pub struct Left {
    /// Slots whose mailbox has something to pull.
    pub mail: SlotSet,
    /// Answers that were decided elsewhere.
    pub answers: Vec<ServerPacket<Payload>>,
    /// Attachments (by number) whose mailbox was attached elsewhere.
    pub replaced: Vec<u32>,
    /// Attachments (by number) whose mailbox's bundle has so few items.
    pub bundles_low: Vec<(u32, u32)>,
    /// Signals for attachments (by number), oldest first.
    pub signals: VecDeque<(u32, Payload)>,
    /// The connection is better served elsewhere.
    pub moved: Option<Box<Move>>,
    /// The relay shuts down.
    pub shutdown: bool,
}

impl Left {
    fn is_empty(&self) -> bool {
        self.mail == 0
            && self.answers.is_empty()
            && self.replaced.is_empty()
            && self.bundles_low.is_empty()
            && self.signals.is_empty()
            && self.moved.is_none()
            && !self.shutdown
    }
}

/// The connection has more unsent signals than it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowFull;

impl Doorbell {
    /// Takes what was left, or arranges to be woken when there is something. Signals stay at the door
    /// while the connection has no room for them: what does not fit there is dropped, and a peer that
    /// does not read holds no more than that.
    pub fn take(&self, cx: &Context<'_>, room_for_signals: bool) -> Option<Left> {
        let mut door = self.door();
        let held =
            if room_for_signals { VecDeque::new() } else { std::mem::take(&mut door.left.signals) };
        if door.left.is_empty() {
            door.left.signals = held;
            if !door.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                door.waker = Some(cx.waker().clone());
            }
            return None;
        }
        if room_for_signals {
            door.signal_bytes = 0;
        }
        let left = std::mem::take(&mut door.left);
        door.left.signals = held;
        Some(left)
    }

    /// Whether signals wait for room.
    pub fn has_signals(&self) -> bool {
        !self.door().left.signals.is_empty()
    }

    /// A mailbox served in this slot has something to pull.
    pub fn mail(&self, slot: u8) {
        self.leave(|left| left.mail |= 1 << slot);
    }

    /// A request was decided.
    pub fn answer(&self, packet: ServerPacket<Payload>) {
        self.leave(|left| left.answers.push(packet));
    }

    /// The mailbox of this attachment was attached elsewhere.
    pub fn replaced(&self, attachment: u32) {
        self.leave(|left| left.replaced.push(attachment));
    }

    /// The bundle of this attachment's mailbox has so few items; only the last word counts.
    pub fn bundle_low(&self, attachment: u32, items: u32) {
        self.leave(|left| {
            left.bundles_low.retain(|(earlier, _)| *earlier != attachment);
            left.bundles_low.push((attachment, items));
        });
    }

    /// The connection is better served elsewhere; only the last word counts.
    pub fn moved(&self, to: Move) {
        self.leave(|left| left.moved = Some(Box::new(to)));
    }

    /// The relay shuts down.
    pub fn shutdown(&self) {
        self.leave(|left| left.shutdown = true);
    }

    /// A signal for this attachment.
    ///
    /// # Errors
    /// [`WindowFull`] when the connection does not keep up; the signal is dropped, as signals may be.
    pub fn signal(&self, attachment: u32, payload: Payload) -> Result<(), WindowFull> {
        let waker = {
            let mut door = self.door();
            if door.signal_bytes + payload.len() > SIGNAL_BYTES_WAITING_MAX {
                return Err(WindowFull);
            }
            door.signal_bytes += payload.len();
            door.left.signals.push_back((attachment, payload));
            door.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    fn leave(&self, change: impl FnOnce(&mut Left)) {
        let waker = {
            let mut door = self.door();
            change(&mut door.left);
            door.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn door(&self) -> std::sync::MutexGuard<'_, Door> {
        self.0.lock().expect("no one panics while holding the door")
    }
}
