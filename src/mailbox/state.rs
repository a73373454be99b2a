//! What a mailbox's lock guards: the entries in order and who is served. No I/O, no clock.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use valise_proto::{FrameId, MailboxId};

use super::Pulled;
use super::retry::RetryMemory;
use crate::committer::Append;
use crate::doorbell::Doorbell;
use crate::rate::Buckets;
use crate::receipt::Waiter;
use crate::store::{Backlog, Removal, RunningHours, Seq};

/// One queued frame.
pub(super) struct Entry {
    pub(super) seq: Seq,
    frame_id: FrameId,
    bytes: u32,
    expires: RunningHours,
    /// Its outcome can no longer be lost with the process.
    pub(super) durable: bool,
    /// The commit that was to make it durable failed; nobody waits.
    in_doubt: bool,
    /// Its payload is in memory for the recipient.
    in_ring: bool,
    /// Held while undecided, and while in the ring.
    append: Option<Arc<Append>>,
    waiters: Vec<Waiter>,
}

impl Entry {
    pub(super) fn undecided(append: Arc<Append>, in_ring: bool, waiter: Waiter) -> Self {
        let frame = &append.frame;
        Self {
            seq: frame.seq,
            frame_id: frame.frame_id,
            bytes: u32::try_from(frame.payload.len()).expect("a payload has at most 64 KiB"),
            expires: frame.expires(),
            durable: false,
            in_doubt: false,
            in_ring,
            waiters: vec![waiter],
            append: Some(append),
        }
    }
}

/// Who is served.
pub(super) struct Served {
    pub(super) doorbell: Arc<Doorbell>,
    slot: u8,
    pub(super) number: u32,
    generation: u64,
}

/// The result of [`State::serve`].
pub(super) struct Generation {
    pub(super) number: u64,
    pub(super) replaced: bool,
}

/// What was taken out of the mailbox.
pub(super) struct Gone {
    pub(super) removal: Removal,
    pub(super) count: u64,
    /// Of those, the ones that never touch the disk.
    pub(super) unwritten: u32,
    /// Of those, the ones that were undecided until now.
    pub(super) accepted_early: u64,
    pub(super) waiters: Vec<Waiter>,
    /// By how many ids the retry memory grew.
    pub(super) remembered: isize,
}

impl Gone {
    fn nothing(mailbox: MailboxId, floor: Seq) -> Self {
        Self {
            removal: Removal { mailbox, seqs: Vec::new(), floor, emptied: false },
            count: 0,
            unwritten: 0,
            accepted_early: 0,
            waiters: Vec::new(),
            remembered: 0,
        }
    }
}

/// The mailbox behind its lock.
#[derive(Default)]
pub(super) struct State {
    pub(super) loaded: bool,
    pub(super) entries: VecDeque<Entry>,
    pub(super) retry: RetryMemory,
    pub(super) rates: Buckets<[u8; 8]>,
    /// Serials of its tokens that are revoked.
    pub(super) revoked: HashSet<[u8; 8]>,
    /// Payload bytes of all entries.
    pub(super) bytes: u64,
    /// Payload bytes of the entries in the ring.
    pub(super) ring_bytes: usize,
    /// Everything at or below is gone.
    pub(super) floor: Seq,
    /// The store may have a floor record: it must be told when the mailbox is empty.
    on_disk: bool,
    pub(super) served: Option<Served>,
    generations: u64,
    /// When it was last used.
    pub(super) touched: Option<Instant>,
}

impl State {
    pub(super) fn fill(&mut self, backlog: Backlog) {
        self.loaded = true;
        self.floor = backlog.floor;
        self.on_disk = backlog.kept;
        self.revoked.extend(backlog.revoked);
        for frame in backlog.frames {
            self.bytes += u64::from(frame.bytes);
            self.retry.queued(frame.frame_id);
            self.entries.push_back(Entry {
                seq: frame.seq,
                frame_id: frame.frame_id,
                bytes: frame.bytes,
                expires: frame.expires,
                durable: true,
                in_doubt: false,
                in_ring: false,
                append: None,
                waiters: Vec::new(),
            });
        }
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += u64::from(entry.bytes);
        self.retry.queued(entry.frame_id);
        self.entries.push_back(entry);
    }

    /// A sender repeats a frame this mailbox has seen: it shares the earlier one's outcome.
    pub(super) fn join_earlier(&mut self, id: &FrameId, waiter: Waiter) {
        if self.retry.is_queued(id)
            && let Some(entry) = self.entries.iter_mut().find(|entry| entry.frame_id == *id)
            && !entry.durable
        {
            if entry.in_doubt {
                return waiter.decide(valise_proto::Reason::Busy);
            }
            return entry.waiters.push(waiter);
        }
        waiter.decide(valise_proto::Reason::Accepted);
    }

    pub(super) fn holds(&self, seq: Seq) -> bool {
        self.entries.binary_search_by_key(&seq, |entry| entry.seq).is_ok()
    }

    /// Whether it holds a frame with `after < seq <= up_to`.
    pub(super) fn holds_any(&self, after: Seq, up_to: Seq) -> bool {
        let first = self.entries.partition_point(|entry| entry.seq <= after);
        self.entries.get(first).is_some_and(|entry| entry.seq <= up_to)
    }

    pub(super) fn last_seq(&self) -> Seq {
        self.entries.back().map_or(self.floor, |entry| entry.seq)
    }

    pub(super) fn serve(&mut self, doorbell: &Arc<Doorbell>, slot: u8, number: u32) -> Generation {
        self.generations += 1;
        let generation = self.generations;
        let served = Served { doorbell: Arc::clone(doorbell), slot, number, generation };
        let earlier = self.served.replace(served);
        if let Some(earlier) = &earlier {
            earlier.doorbell.replaced(earlier.number);
        }
        Generation { number: generation, replaced: earlier.is_some() }
    }

    pub(super) fn is_served_by(&self, generation: u64) -> bool {
        self.served.as_ref().is_some_and(|served| served.generation == generation)
    }

    pub(super) fn ring_for_mail(&self) {
        if let Some(served) = &self.served {
            served.doorbell.mail(served.slot);
        }
    }

    /// Nobody is served any more: the ring is given up, and what waited in it for an
    /// acknowledgement must be written now. Returns that.
    pub(super) fn stop_serving(&mut self) -> Vec<Arc<Append>> {
        self.served = None;
        self.ring_bytes = 0;
        let mut waiting = Vec::new();
        for entry in self.entries.iter_mut().filter(|entry| entry.in_ring) {
            entry.in_ring = false;
            if entry.durable {
                entry.append = None;
            } else {
                waiting.extend(entry.append.clone());
            }
        }
        waiting
    }

    /// The waiters of an append that became durable; `None` when it was acknowledged meanwhile.
    pub(super) fn became_durable(&mut self, seq: Seq) -> Option<Vec<Waiter>> {
        self.on_disk = true;
        let at = self.entries.binary_search_by_key(&seq, |entry| entry.seq).ok()?;
        let entry = &mut self.entries[at];
        entry.durable = true;
        let waiters = std::mem::take(&mut entry.waiters);
        if !entry.in_ring {
            entry.append = None;
            self.ring_for_mail();
        }
        Some(waiters)
    }

    /// Nobody knows whether this frame is on the disk. It keeps its place until that is known, since
    /// its recipient may have it. Returns who waited for it.
    pub(super) fn doubt(&mut self, seq: Seq) -> Vec<Waiter> {
        let Ok(at) = self.entries.binary_search_by_key(&seq, |entry| entry.seq) else {
            return Vec::new();
        };
        self.entries[at].in_doubt = true;
        std::mem::take(&mut self.entries[at].waiters)
    }

    /// This frame is not on the disk: it is not queued, and a sender that repeats it is judged
    /// anew. Returns who waited for it; `None` when it was acknowledged meanwhile.
    pub(super) fn give_up(&mut self, seq: Seq) -> Option<Vec<Waiter>> {
        let at = self.entries.binary_search_by_key(&seq, |entry| entry.seq).ok()?;
        let entry = self.entries.remove(at)?;
        self.retry.forget(&entry.frame_id);
        self.bytes -= u64::from(entry.bytes);
        if entry.in_ring {
            self.ring_bytes -= entry.bytes as usize;
        }
        Some(entry.waiters)
    }

    /// What the store has to be told when the last frame was given up.
    pub(super) fn emptied(&mut self, mailbox: MailboxId) -> Option<Removal> {
        let emptied = self.entries.is_empty() && std::mem::take(&mut self.on_disk);
        emptied.then(|| Removal { mailbox, seqs: Vec::new(), floor: self.floor, emptied })
    }

    /// Frames after `after` from the ring; or, where the next one is spilled, up to which sequence
    /// number the store may be read before the ring is needed again.
    pub(super) fn pull_from_ring(&self, after: Seq, bytes_max: usize) -> Result<Vec<Pulled>, Seq> {
        let start = self.entries.partition_point(|entry| entry.seq <= after);
        let next = self.entries.range(start..);
        if next.clone().next().is_some_and(|entry| !entry.in_ring && entry.durable) {
            let spilled = next.take_while(|entry| !entry.in_ring && entry.durable);
            return Err(spilled.last().expect("the first one is spilled").seq);
        }
        let mut pulled = Vec::new();
        let mut bytes = 0;
        for entry in next {
            bytes += entry.bytes as usize;
            let Some(append) = entry.append.as_ref().filter(|_| entry.in_ring) else { break };
            if !pulled.is_empty() && bytes > bytes_max {
                break;
            }
            pulled.push(Pulled {
                seq: entry.seq,
                frame_id: entry.frame_id,
                payload: append.frame.payload.clone(),
            });
        }
        Ok(pulled)
    }

    pub(super) fn acknowledge(
        &mut self,
        mailbox: MailboxId,
        up_to: Seq,
        remembered_in_all: usize,
        now: Instant,
    ) -> Gone {
        let mut gone = Gone::nothing(mailbox, self.floor);
        while self.entries.front().is_some_and(|entry| entry.seq <= up_to) {
            let entry = self.entries.pop_front().expect("there is a front");
            self.leave(entry, &mut gone, remembered_in_all, now);
        }
        self.floor = self.floor.max(up_to);
        self.settle_floor(&mut gone);
        gone
    }

    /// Takes out what is durable and was to be kept until before this hour. What is undecided is
    /// younger than any time to live.
    pub(super) fn expire(
        &mut self,
        mailbox: MailboxId,
        hour: RunningHours,
        remembered_in_all: usize,
        now: Instant,
    ) -> Gone {
        let mut gone = Gone::nothing(mailbox, self.floor);
        for entry in std::mem::take(&mut self.entries) {
            if entry.durable && entry.expires < hour {
                if self.entries.is_empty() {
                    self.floor = entry.seq;
                }
                self.leave(entry, &mut gone, remembered_in_all, now);
            } else {
                self.entries.push_back(entry);
            }
        }
        self.settle_floor(&mut gone);
        gone
    }

    fn settle_floor(&mut self, gone: &mut Gone) {
        gone.removal.floor = self.floor;
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
            gone.removal.emptied = self.on_disk || !gone.removal.seqs.is_empty();
            self.on_disk = false;
        }
    }

    fn leave(&mut self, entry: Entry, gone: &mut Gone, remembered_in_all: usize, now: Instant) {
        gone.count += 1;
        self.bytes -= u64::from(entry.bytes);
        if entry.in_ring {
            self.ring_bytes -= entry.bytes as usize;
        }
        if entry.durable {
            gone.removal.seqs.push(entry.seq);
        } else {
            gone.accepted_early += 1;
            if entry.append.as_ref().is_some_and(|append| append.acknowledge()) {
                gone.unwritten += 1;
            } else {
                gone.removal.seqs.push(entry.seq);
            }
        }
        gone.waiters.extend(entry.waiters);
        gone.remembered += self.retry.left(entry.frame_id, now, remembered_in_all);
    }
}
