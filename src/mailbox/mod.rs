//! One mailbox: the order of its frames, the head of them in memory, its quota, and who is served.
//!
//! Every queued frame has an entry here while the mailbox is live, whether its payload is in
//! memory (the *ring*) or on disk only (*spilled*). The recipient's connection pulls along the
//! entries, so order never depends on where a payload is. An append is decided at
//! min(durable, acknowledged): a frame its recipient acknowledges before it is written never
//! touches the disk.

mod attachment;
mod retry;
mod state;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use valise_proto::limits::{MAILBOX_FRAMES_MAX, RETRY_MEMORY_SECONDS};
use valise_proto::{FrameId, MailboxId, Reason};

use crate::committer::{Append, Committer, Patience, Settle};
use crate::disk::Allowed;
use crate::doorbell::{Doorbell, WindowFull};
use crate::limits::{FULL_RETRY_MS, RINGS_BYTES_MAX};
use crate::metrics::Metrics;
use crate::payload::Payload;
use crate::rate::{Rate, RateClasses};
use crate::receipt::Waiter;
use crate::store::{Frame, RunningHours, Seq, StoreError};
use state::{Entry, State};

pub use attachment::Attachment;

/// What all mailboxes of a relay share.
pub struct Surroundings {
    /// Makes frames durable.
    pub committer: Committer,
    /// What the disk allows.
    pub disk: Allowed,
    /// Counts.
    pub metrics: Metrics,
    /// Payload bytes in all rings.
    pub ring_bytes: AtomicUsize,
    /// Frame ids remembered in all mailboxes after their frames have left.
    pub remembered: AtomicUsize,
}

impl Surroundings {
    /// Frames left a mailbox: so many bytes of its ring are free, and its memory of frame ids has
    /// changed by so much.
    fn freed(&self, ring_bytes: usize, remembered: isize) {
        self.ring_bytes.fetch_sub(ring_bytes, Ordering::Relaxed);
        if remembered >= 0 {
            self.remembered.fetch_add(remembered.unsigned_abs(), Ordering::Relaxed);
        } else {
            self.remembered.fetch_sub(remembered.unsigned_abs(), Ordering::Relaxed);
        }
    }
}

/// One mailbox that is attached, or was used lately.
pub struct Mailbox {
    id: MailboxId,
    around: Arc<Surroundings>,
    state: Mutex<State>,
}

/// A frame on its way into a mailbox.
pub struct Incoming {
    /// The sender's id for it.
    pub frame_id: FrameId,
    /// The frame.
    pub payload: Payload,
    /// How long to keep it, in hours.
    pub ttl_hours: u16,
    /// The capability's serial and class, for its rate.
    pub serial: [u8; 8],
    /// See there.
    pub class: u8,
}

/// What a capability's rate and a mailbox's ring allow; changed by a reload.
#[derive(Debug, Clone)]
pub struct Allowance {
    /// Posts and signals per capability, by its class.
    pub posts: RateClasses,
    /// Payload bytes in one ring.
    pub ring_bytes: usize,
    /// Payload bytes put into slots on the account of one mailbox.
    pub slot_bytes: Rate,
    /// Items taken with one take token.
    pub takes: Rate,
}

/// A frame pulled for delivery.
pub struct Pulled {
    /// Its place in the order.
    pub seq: Seq,
    /// The sender's id for it.
    pub frame_id: FrameId,
    /// The frame.
    pub payload: Payload,
}

/// Why a signal went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalDropped {
    /// Nobody is attached.
    NotAttached,
    /// The recipient does not keep up.
    Window,
    /// The capability is used too often.
    RateLimited,
    /// Its owner has revoked the capability.
    Revoked,
}

/// Why a mailbox is not served.
#[derive(Debug, thiserror::Error)]
pub enum NotServed {
    /// Its owner has revoked the member token.
    #[error("the token is revoked")]
    Revoked,
    /// The realm is being moved, and it is served at another endpoint.
    #[error("the mailbox is served elsewhere")]
    Moved,
    /// What it holds cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Mailbox {
    /// A mailbox nothing is known of yet; it is loaded when it is first used.
    pub fn new(id: MailboxId, around: Arc<Surroundings>) -> Self {
        Self { id, around, state: Mutex::default() }
    }

    /// Takes a frame in, or says why not. The waiter hears of it once, now or later.
    pub fn append(
        self: &Arc<Self>,
        incoming: Incoming,
        allowance: &Allowance,
        now: Instant,
        waiter: Waiter,
    ) {
        let mut state = self.state();
        if self.load(&mut state).is_err() {
            return waiter.decide(Reason::Busy);
        }
        state.touched = Some(now);
        // Before anything else, also for a frame that is known: a node could not say otherwise.
        if state.revoked.contains(&incoming.serial) {
            return waiter.decide(Reason::TokenRevoked);
        }
        if state.retry.knows(&incoming.frame_id) {
            self.around.metrics.frame_repeated();
            return state.join_earlier(&incoming.frame_id, waiter);
        }
        let rate = allowance.posts.of(incoming.class);
        if let Err(wait) = state.rates.take(incoming.serial, rate, now) {
            let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
            return waiter.decide_with_retry(Reason::RateLimited, retry_after_ms);
        }
        // Whoever is attached is refused like whoever is not.
        if !self.around.disk.takes() {
            return waiter.decide(Reason::Busy);
        }
        let len = incoming.payload.len();
        let full = state.entries.len() >= MAILBOX_FRAMES_MAX as usize
            || state.bytes + len as u64 > self.around.disk.mailbox_bytes_max();
        if full {
            return waiter.decide_with_retry(Reason::MailboxFull, FULL_RETRY_MS);
        }
        self.admit(&mut state, incoming, allowance, waiter);
    }

    fn admit(
        self: &Arc<Self>,
        state: &mut State,
        incoming: Incoming,
        allowance: &Allowance,
        waiter: Waiter,
    ) {
        let committer = &self.around.committer;
        let len = incoming.payload.len();
        let frame = Arc::new(Frame {
            mailbox: self.id,
            seq: committer.next_seq(),
            frame_id: incoming.frame_id,
            accepted: committer.hours(),
            ttl_hours: incoming.ttl_hours,
            payload: incoming.payload,
        });
        if state.entries.is_empty() {
            // Nothing before it is left, so later scans begin at it and not among tombstones.
            state.floor = Seq(frame.seq.0.saturating_sub(1));
        }
        let rings = self.around.ring_bytes.load(Ordering::Relaxed);
        let in_ring = state.served.is_some()
            && state.ring_bytes + len <= allowance.ring_bytes
            && rings + len <= RINGS_BYTES_MAX;
        let append = Append::new(frame, state.floor, Arc::clone(self) as Arc<dyn Settle>);
        let patience = if in_ring { Patience::UntilAcknowledged } else { Patience::None };
        if committer.append(Arc::clone(&append), patience).is_err() {
            return waiter.decide(Reason::Busy);
        }
        state.push(Entry::undecided(append, in_ring, waiter));
        if in_ring {
            self.around.ring_bytes.fetch_add(len, Ordering::Relaxed);
            state.ring_bytes += len;
            state.ring_for_mail();
        } else if state.served.is_some() {
            self.around.metrics.frame_spilled();
        }
    }

    /// Serves the mailbox through this slot of a connection; whoever was served before is told.
    ///
    /// # Errors
    /// [`NotServed`].
    pub fn attach(
        self: &Arc<Self>,
        serial: &[u8; 8],
        doorbell: &Arc<Doorbell>,
        slot: u8,
        number: u32,
        now: Instant,
    ) -> Result<Attachment, NotServed> {
        let mut state = self.state();
        self.load(&mut state)?;
        state.touched = Some(now);
        if state.revoked.contains(serial) {
            return Err(NotServed::Revoked);
        }
        let generation = state.serve(doorbell, slot, number);
        if generation.replaced {
            self.around.metrics.attachment_replaced();
        }
        let (floor, last) = (state.floor, state.last_seq());
        drop(state);
        self.around.metrics.attachment_began();
        Ok(Attachment { mailbox: Arc::clone(self), generation: generation.number, floor, last })
    }

    /// There may be something to pull that could not be read before.
    pub fn ring(&self) {
        self.state().ring_for_mail();
    }

    /// Passes a signal to whoever is attached.
    ///
    /// # Errors
    /// [`SignalDropped`] says why it went nowhere; nobody is told.
    pub fn signal(
        &self,
        (serial, class): ([u8; 8], u8),
        payload: Payload,
        allowance: &Allowance,
        now: Instant,
    ) -> Result<(), SignalDropped> {
        let mut state = self.state();
        if state.revoked.contains(&serial) {
            return Err(SignalDropped::Revoked);
        }
        if state.rates.take(serial, allowance.posts.of(class), now).is_err() {
            return Err(SignalDropped::RateLimited);
        }
        let served = state.served.as_ref().ok_or(SignalDropped::NotAttached)?;
        served.doorbell.signal(served.number, payload).map_err(|WindowFull| SignalDropped::Window)
    }

    /// How many of its tokens are revoked, and whether this one is.
    ///
    /// # Errors
    /// [`StoreError`] when that cannot be read.
    pub fn revocations(&self, serial: &[u8; 8]) -> Result<(usize, bool), StoreError> {
        let mut state = self.state();
        self.load(&mut state)?;
        Ok((state.revoked.len(), state.revoked.contains(serial)))
    }

    /// A token of this serial is durably revoked.
    pub fn revoked(&self, serial: [u8; 8]) {
        self.state().revoked.insert(serial);
    }

    /// Tells whoever is attached that its bundle has few items left.
    pub fn bundle_low(&self, items: u32) {
        if let Some(served) = &self.state().served {
            served.doorbell.bundle_low(served.number, items);
        }
    }

    /// Gives up the frames whose time to live has ended before this hour of running time.
    ///
    /// # Errors
    /// [`StoreError`] when what it holds cannot be read.
    pub fn expire(self: &Arc<Self>, hour: RunningHours, now: Instant) -> Result<(), StoreError> {
        let around = &self.around;
        let mut state = self.state();
        self.load(&mut state)?;
        let ring_before = state.ring_bytes;
        let room = around.remembered.load(Ordering::Relaxed);
        let gone = state.expire(self.id, hour, room, now);
        if gone.count > 0 {
            // Whoever waited for them has caught up now.
            state.ring_for_mail();
        }
        around.freed(ring_before - state.ring_bytes, gone.remembered);
        around.metrics.frames_expired(gone.count);
        around.committer.expire(gone.removal, Arc::clone(self) as Arc<dyn Settle>);
        Ok(())
    }

    /// Whether the mailbox can be forgotten: nobody is attached and nothing happened lately. What
    /// it holds is on disk.
    pub fn is_idle(&self, now: Instant) -> bool {
        let mut state = self.state();
        let forgotten = state.retry.forget_old(now);
        self.around.remembered.fetch_sub(forgotten, Ordering::Relaxed);
        state.rates.forget_full(now);
        let quiet = Duration::from_secs(RETRY_MEMORY_SECONDS.into());
        state.served.is_none()
            && state.touched.is_none_or(|at| now.duration_since(at) >= quiet)
            && state.retry.has_no_memory()
            && state.rates.is_empty()
            && state.entries.iter().all(|entry| entry.durable)
    }

    fn load(&self, state: &mut State) -> Result<(), StoreError> {
        if !state.loaded {
            let backlog = self.around.committer.store()?.load(&self.id)?;
            state.fill(backlog);
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no one panics while changing a mailbox")
    }
}

impl Settle for Mailbox {
    fn durable(&self, append: &Append) {
        let mut state = self.state();
        let Some(waiters) = state.became_durable(append.frame.seq) else { return };
        drop(state);
        self.around.metrics.frames_accepted(1);
        waiters.into_iter().for_each(|waiter| waiter.decide(Reason::Accepted));
    }

    fn unknown(&self, append: &Append) {
        let waiters = self.state().doubt(append.frame.seq);
        waiters.into_iter().for_each(|waiter| waiter.decide(Reason::Busy));
    }

    fn failed(&self, append: &Append) -> bool {
        let mut state = self.state();
        let ring_before = state.ring_bytes;
        let Some(waiters) = state.give_up(append.frame.seq) else { return false };
        self.around.ring_bytes.fetch_sub(ring_before - state.ring_bytes, Ordering::Relaxed);
        if let Some(removal) = state.emptied(self.id) {
            self.around.committer.remove(removal, 0, append.of());
        }
        drop(state);
        waiters.into_iter().for_each(|waiter| waiter.decide(Reason::Busy));
        true
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        let state = self.state.get_mut().expect("no one panics while changing a mailbox");
        self.around.remembered.fetch_sub(state.retry.len_left(), Ordering::Relaxed);
    }
}
