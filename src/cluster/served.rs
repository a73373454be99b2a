//! A mailbox that is served by this node, as the bus and its connection share it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use valise_proto::MailboxId;

use super::account::Account;
use super::node::Node;
use super::serving::Serving;
use crate::doorbell::Doorbell;
use crate::mailbox::Pulled;
use crate::metrics::SignalDrop;
use crate::payload::Payload;
use crate::store::jetstream::{BusError, Seen};
use crate::store::{Frame, Seq, StoreError};

/// One attachment.
pub(super) struct Served {
    // Static after construction.
    pub(super) node: Arc<Node>,
    pub(super) account: Arc<Account>,
    pub(super) doorbell: Arc<Doorbell>,
    slot: u8,
    pub(super) number: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    serving: Serving,
    /// The own claim, once it is known.
    claim: Option<Seq>,
    /// The newest claim that was seen.
    claimed: Seq,
    /// Served elsewhere, or by nobody.
    over: bool,
    /// A record that was read is damaged.
    damaged: bool,
    /// Acknowledged and not yet removed.
    unremoved: u64,
    /// Somebody will remove them.
    removing: bool,
}

/// How often a replica may have nothing of what there is before the leader is asked.
const EMPTY_READS_MAX: u32 = 5;

impl Served {
    pub(super) fn new(
        node: Arc<Node>,
        account: Arc<Account>,
        (doorbell, slot, number): (Arc<Doorbell>, u8, u32),
    ) -> Self {
        Self { node, account, doorbell, slot, number, state: Mutex::default() }
    }

    pub(super) fn mailbox(&self) -> MailboxId {
        self.account.mailbox
    }

    /// The own claim has this place. Returns whether a later one has been seen.
    pub(super) fn claims(&self, claim: Seq) -> bool {
        let mut state = self.state();
        state.claim = Some(claim);
        state.over |= state.claimed > claim;
        state.over
    }

    /// Somebody claims it.
    pub(super) fn claimed(&self, claim: Seq) {
        let mut state = self.state();
        state.claimed = state.claimed.max(claim);
        if state.over || state.claim.is_none_or(|own| own >= claim) {
            return;
        }
        state.over = true;
        drop(state);
        self.node.metrics.attachment_replaced();
        self.doorbell.replaced(self.number);
    }

    /// A frame was stored, after `before` of this mailbox.
    pub(super) fn pushed(self: &Arc<Self>, frame: Frame, before: Seq) {
        let mut state = self.state();
        let more = state.serving.pushed(frame, before, self.node.ring_bytes);
        // Before the claim nobody knows where to begin.
        let read = state.claim.is_some() && state.serving.begin_reading(self.node.ring_bytes);
        self.went_on(state, more, read);
    }

    /// It was looked at.
    pub(super) fn seen(self: &Arc<Self>, seen: &Seen) {
        if let Some(claim) = seen.claim {
            self.claimed(claim);
        }
        let Some(last) = seen.last else { return };
        let mut state = self.state();
        state.serving.heard_of(last);
        let read = state.claim.is_some() && state.serving.begin_reading(self.node.ring_bytes);
        self.went_on(state, false, read);
    }

    /// Serves what comes after the floor; `newest` is in the store.
    pub(super) fn begin(self: &Arc<Self>, floor: Seq, newest: Seq) {
        let mut state = self.state();
        state.serving.begin(floor, newest);
        let read = state.serving.begin_reading(self.node.ring_bytes);
        self.went_on(state, false, read);
    }

    /// An item of its bundle was taken, and so few are left.
    pub(super) fn bundle_is_low(&self, items: u32) {
        if !self.is_over() {
            self.doorbell.bundle_low(self.number, items);
        }
    }

    /// A signal for whoever is attached.
    pub(super) fn signal(&self, payload: Payload) {
        if self.is_over() {
            self.node.metrics.signal_dropped(SignalDrop::NotAttached);
        } else if self.doorbell.signal(self.number, payload).is_err() {
            self.node.metrics.signal_dropped(SignalDrop::Window);
        }
    }

    /// Whether it is served no more.
    pub(super) fn is_over(&self) -> bool {
        self.state().over
    }

    /// Nobody is served any more. Returns the own claim and the floor.
    pub(super) fn end(&self) -> (Option<Seq>, Seq) {
        let mut state = self.state();
        state.over = true;
        (state.claim, state.serving.floor())
    }

    /// Takes frames out for delivery.
    ///
    /// # Errors
    /// [`StoreError`] when the next one cannot be read.
    pub(super) fn pull(self: &Arc<Self>, bytes_max: usize) -> Result<Vec<Pulled>, StoreError> {
        let mut state = self.state();
        if state.over {
            return Ok(Vec::new());
        }
        let pulled = state.serving.pull(bytes_max);
        if pulled.is_empty() && state.damaged {
            return Err(StoreError::Damaged { what: "frame" });
        }
        let read = state.serving.begin_reading(self.node.ring_bytes);
        self.went_on(state, false, read);
        Ok(pulled)
    }

    pub(super) fn has_nothing_between(&self, after: Seq, up_to: Seq) -> bool {
        let state = self.state();
        !state.over && state.serving.has_nothing_between(after, up_to)
    }

    /// Everything up to here is acknowledged. Returns whether somebody has to be sent to remove it
    /// in a while, or at once.
    pub(super) fn acknowledge(&self, up_to: Seq, frames_max: u64) -> Option<Removal> {
        let mut state = self.state();
        if state.over {
            return None;
        }
        let count = state.serving.acknowledge(up_to);
        if count == 0 {
            return None;
        }
        self.node.metrics.frames_acknowledged(count);
        state.unremoved += count;
        if state.unremoved >= frames_max {
            state.unremoved = 0;
            return Some(Removal::AtOnce);
        }
        let first = !std::mem::replace(&mut state.removing, true);
        first.then_some(Removal::Soon)
    }

    /// What is to be removed now, if anything is.
    pub(super) fn take_removal(&self) -> Option<Seq> {
        let mut state = self.state();
        state.removing = false;
        let some = std::mem::take(&mut state.unremoved) > 0;
        some.then(|| state.serving.floor())
    }

    fn went_on(self: &Arc<Self>, state: MutexGuard<'_, State>, more: bool, read: bool) {
        drop(state);
        if more {
            self.doorbell.mail(self.slot);
        }
        if read {
            tokio::spawn(Arc::clone(self).read());
        }
    }

    /// Reads what was not pushed, window after window, while there is room.
    async fn read(self: Arc<Self>) {
        let mut empty = 0;
        while let Some((after, room)) = self.read_on() {
            match self.node.streams.read(&self.mailbox(), after, room).await {
                Ok(window) if window.frames.is_empty() => empty += 1,
                Ok(window) => {
                    empty = 0;
                    self.found(window.frames);
                }
                Err(error) if error.is_passing() => wait(100).await,
                Err(error) => return self.cannot_read(&error),
            }
            if empty > EMPTY_READS_MAX {
                empty = 0;
                if let Err(error) = self.ask_the_leader(after).await {
                    if !error.is_passing() {
                        return self.cannot_read(&error);
                    }
                    wait(100).await;
                }
            } else if empty > 0 {
                wait(2).await;
            }
        }
    }

    fn read_on(&self) -> Option<(Seq, usize)> {
        let mut state = self.state();
        if state.over {
            return None;
        }
        state.serving.read_on(self.node.ring_bytes)
    }

    fn found(&self, frames: Vec<Frame>) {
        if self.state().serving.found(frames) {
            self.doorbell.mail(self.slot);
        }
    }

    /// What is known to have been there is not found: a replica is behind, or it is gone.
    async fn ask_the_leader(&self, after: Seq) -> Result<(), BusError> {
        let newest = self.state().serving.newest();
        let (next, last) = self.node.streams.next_at_leader(&self.mailbox(), after).await?;
        let none = next.is_none() && last.is_none_or(|last| last <= after);
        self.found(next.into_iter().collect());
        if none {
            self.state().serving.nothing_up_to(newest);
            // Whoever waited for it has caught up now.
            self.doorbell.mail(self.slot);
        }
        Ok(())
    }

    fn cannot_read(&self, error: &BusError) {
        tracing::error!(%error, "a mailbox cannot be read");
        self.state().damaged = true;
        self.doorbell.mail(self.slot);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no one panics while changing what is served")
    }
}

/// When acknowledged frames are to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    AtOnce,
    Soon,
}

async fn wait(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}
