//! What a relay owes: per mailbox the copies in the order in which they were accepted, and what has
//! become of each. Small enough to be seen to be right.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use valise_proto::limits::{MAILBOX_BYTES_MAX, MAILBOX_FRAMES_MAX, RETRY_MEMORY_SECONDS};

use crate::limits::RETRY_MEMORY_PER_MAILBOX;
use crate::store::Totals;

/// Nothing, or what is wrong.
pub(super) type Verdict<T = ()> = Result<T, String>;

macro_rules! ensure {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err(format!($($what)+));
        }
    };
}
pub(super) use ensure;

/// A frame, by the number from which its id follows.
pub(super) type Number = u32;

/// One copy of a frame in one mailbox: a frame that was given up and sent again has two of them.
pub(super) type Instance = u32;

/// One frame in one mailbox.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    pub(super) instance: Instance,
    pub(super) number: Number,
    pub(super) bytes: usize,
    /// The last hour of its time to live.
    pub(super) expires: u32,
    pub(super) fate: CopyFate,
}

#[derive(Debug, Clone, std::marker::Copy, PartialEq, Eq)]
pub(super) enum CopyFate {
    /// Its sender has not been told anything.
    Undecided,
    /// It is on the disk.
    Stored,
    /// Its commit failed, its sender was told `busy`, and nobody knows more yet.
    InDoubt,
    /// Acknowledged or expired; the disk may not know it yet.
    Gone,
}

impl Copy {
    /// What the disk knows of it.
    fn on_disk(&self) -> (Number, usize, u32) {
        (self.number, self.bytes, self.expires)
    }
}

/// What a sender must hear.
#[derive(Debug, Clone, std::marker::Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// `accepted`, whatever happens now.
    Accepted,
    /// The same, or `busy` where the mailbox is not in memory and cannot be read now.
    Known,
    /// `accepted` once this is durable or acknowledged.
    Once(usize, Instance),
    /// `mailbox_full`.
    Full,
    /// `busy`: the store has failed.
    Busy,
}

/// One mailbox.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) copies: Vec<Copy>,
    /// When frames left it, in this life of the relay.
    left: HashMap<Number, Instant>,
}

impl Shelf {
    pub(super) fn held(&self) -> impl Iterator<Item = &Copy> {
        self.copies.iter().filter(|copy| copy.fate != CopyFate::Gone)
    }

    fn find(&self, number: Number) -> Option<&Copy> {
        self.copies.iter().find(|copy| copy.number == number)
    }

    fn copy(&self, instance: Instance) -> Option<&Copy> {
        self.copies.iter().find(|copy| copy.instance == instance)
    }

    /// Whether it cannot be said if a retry of this would be recognised.
    fn may_have_forgotten(&self, number: Number, now: Instant, crowded: bool) -> bool {
        let memory = Duration::from_secs(RETRY_MEMORY_SECONDS.into());
        let many = self.left.len() >= RETRY_MEMORY_PER_MAILBOX;
        self.left
            .get(&number)
            .is_some_and(|at| crowded || many || now.duration_since(*at) >= memory)
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) shelves: Vec<Shelf>,
    pub(super) totals: Totals,
    /// The store has failed: nothing is accepted in this life.
    pub(super) failed: bool,
    /// The store has failed and is being opened again: nothing is accepted now.
    pub(super) reopening: bool,
    /// What senders were told `busy` of after it had been taken.
    refused: HashSet<Instance>,
    instances: Instance,
    /// Ids that have left may be forgotten at any time.
    crowded: bool,
}

impl Model {
    pub(super) fn new(mailboxes: u8, crowded: bool) -> Self {
        let shelves = (0..mailboxes).map(|_| Shelf::default()).collect();
        Self { shelves, crowded, ..Self::default() }
    }

    /// Whether the outcome of posting this is certain.
    pub(super) fn is_certain(&self, mailbox: usize, number: Number, now: Instant) -> bool {
        !self.shelves[mailbox].may_have_forgotten(number, now, self.crowded)
    }

    pub(super) fn post(&mut self, mailbox: usize, mut copy: Copy) -> Outcome {
        let closed = self.failed || self.reopening;
        let known = if self.reopening { Outcome::Known } else { Outcome::Accepted };
        let shelf = &mut self.shelves[mailbox];
        match shelf.find(copy.number).map(|copy| (copy.fate, copy.instance)) {
            Some((CopyFate::Undecided, _)) if closed => return Outcome::Busy,
            Some((CopyFate::Undecided, instance)) => return Outcome::Once(mailbox, instance),
            Some((CopyFate::InDoubt, _)) => return Outcome::Busy,
            Some((CopyFate::Stored | CopyFate::Gone, _)) => return known,
            None if shelf.left.contains_key(&copy.number) => return known,
            None => {}
        }
        let bytes: usize = shelf.held().map(|copy| copy.bytes).sum();
        if shelf.held().count() >= MAILBOX_FRAMES_MAX as usize
            || (bytes + copy.bytes) as u64 > MAILBOX_BYTES_MAX
        {
            return Outcome::Full;
        }
        if closed {
            return Outcome::Busy;
        }
        self.instances += 1;
        copy.instance = self.instances;
        shelf.copies.push(copy);
        Outcome::Once(mailbox, self.instances)
    }

    /// A batch with this frame was committed.
    pub(super) fn stored(&mut self, mailbox: usize, number: Number) -> Verdict {
        let copy = self.shelves[mailbox].copies.iter_mut().find(|copy| copy.number == number);
        let copy =
            copy.ok_or_else(|| format!("{number} was written to {mailbox} out of nowhere"))?;
        if matches!(copy.fate, CopyFate::Undecided | CopyFate::InDoubt) {
            copy.fate = CopyFate::Stored;
            self.totals.accepted += 1;
        }
        Ok(())
    }

    /// The store failed over this batch: what is in it is in doubt, and what waited for a later one
    /// is given up.
    pub(super) fn doubt(&mut self, batch: &[(usize, Number)]) {
        self.reopening = true;
        for (mailbox, shelf) in self.shelves.iter_mut().enumerate() {
            for copy in &mut shelf.copies {
                if copy.fate == CopyFate::Undecided {
                    copy.fate = CopyFate::InDoubt;
                    self.refused.insert(copy.instance);
                }
            }
            shelf.copies.retain(|copy| {
                copy.fate != CopyFate::InDoubt || batch.contains(&(mailbox, copy.number))
            });
        }
    }

    /// The store is back. What is still in doubt is not in it.
    pub(super) fn reopened(&mut self) {
        self.reopening = false;
        for shelf in &mut self.shelves {
            shelf.copies.retain(|copy| copy.fate != CopyFate::InDoubt);
        }
    }

    /// The copy that is there.
    pub(super) fn instance(&self, mailbox: usize, number: Number) -> Verdict<Instance> {
        let copy = self.shelves[mailbox].find(number);
        let copy = copy.ok_or_else(|| format!("{number} came from {mailbox} out of nowhere"))?;
        Ok(copy.instance)
    }

    /// A sender was told that it is accepted.
    pub(super) fn told(&self, mailbox: usize, instance: Instance) -> Verdict {
        let copy = self.shelves[mailbox].copy(instance);
        let early = copy.filter(|copy| !matches!(copy.fate, CopyFate::Stored | CopyFate::Gone));
        ensure!(early.is_none(), "accepted and neither durable nor acknowledged: {early:?}");
        Ok(())
    }

    /// Whether a sender may have been told `busy` of it.
    pub(super) fn may_be_refused(&self, instance: Instance) -> bool {
        self.failed || self.refused.contains(&instance)
    }

    /// The recipient acknowledged these, and with them everything before.
    pub(super) fn acknowledged(&mut self, mailbox: usize, up_to: &[Instance], now: Instant) {
        let failed = self.failed;
        let shelf = &mut self.shelves[mailbox];
        let end = shelf.copies.iter().rposition(|copy| up_to.contains(&copy.instance));
        // They may have been given up, or expired and been buried since.
        let Some(end) = end else { return };
        for copy in &mut shelf.copies[..=end] {
            if copy.fate == CopyFate::Gone || (failed && copy.fate == CopyFate::Undecided) {
                continue;
            }
            if matches!(copy.fate, CopyFate::Undecided | CopyFate::InDoubt) {
                self.totals.accepted += 1;
            }
            self.totals.acknowledged += 1;
            copy.fate = CopyFate::Gone;
            shelf.left.insert(copy.number, now);
        }
    }

    /// Whether a mailbox may, and whether it must, be found to hold something that has expired, or
    /// nothing and yet be kept.
    pub(super) fn has_expired(&self, mailbox: usize, hour: u32) -> (bool, bool) {
        let copies = &self.shelves[mailbox].copies;
        let stored = copies.iter().any(|copy| copy.fate == CopyFate::Stored);
        let mut old = copies.iter().filter(|copy| copy.expires < hour);
        (!stored || old.clone().next().is_some(), old.any(|copy| copy.fate == CopyFate::Stored))
    }

    pub(super) fn expire(&mut self, mailbox: usize, hour: u32, now: Instant) {
        let shelf = &mut self.shelves[mailbox];
        for copy in &mut shelf.copies {
            if copy.fate == CopyFate::Stored && copy.expires < hour {
                self.totals.expired += 1;
                copy.fate = CopyFate::Gone;
                shelf.left.insert(copy.number, now);
            }
        }
    }

    /// An attachment that has seen `delivered` is given this one.
    pub(super) fn delivered(
        &self,
        mailbox: usize,
        delivered: &HashSet<Instance>,
        instance: Instance,
        bytes: usize,
    ) -> Verdict {
        let shelf = &self.shelves[mailbox];
        let at = shelf.copies.iter().position(|copy| copy.instance == instance);
        let at = at.ok_or_else(|| format!("{instance} is not in {mailbox}"))?;
        let number = shelf.copies[at].number;
        let copy = &shelf.copies[at];
        ensure!(copy.fate != CopyFate::Gone, "{number} came from {mailbox} after it was gone");
        ensure!(copy.bytes == bytes, "{number} has {bytes} bytes and not {}", copy.bytes);
        ensure!(!delivered.contains(&instance), "{number} came twice from {mailbox}");
        let owed = |copy: &&Copy| self.owes(mailbox, copy.instance);
        let missed =
            shelf.copies[..at].iter().filter(owed).find(|copy| !delivered.contains(&copy.instance));
        if let Some(missed) = missed {
            return Err(format!("{number} came from {mailbox} before {}", missed.number));
        }
        Ok(())
    }

    /// Everything was written: what is gone is forgotten, and what is left must be on the disk.
    pub(super) fn settle(&mut self, mailbox: usize, on_disk: &[Copy]) -> Verdict {
        let shelf = &mut self.shelves[mailbox];
        shelf.copies.retain(|copy| copy.fate != CopyFate::Gone);
        let held = &shelf.copies;
        let same = held.iter().map(Copy::on_disk).eq(on_disk.iter().map(Copy::on_disk))
            && held.iter().all(|copy| copy.fate == CopyFate::Stored);
        ensure!(same, "{mailbox} holds {held:?} and the disk {on_disk:?}");
        Ok(())
    }

    /// The relay was killed, and this is what the disk had of a mailbox: all that somebody was told
    /// of, nothing that had gone for good, in its order.
    pub(super) fn killed(&mut self, mailbox: usize, on_disk: &[Copy]) -> Verdict {
        let shelf = &mut self.shelves[mailbox];
        let mut rest = on_disk.iter().peekable();
        for copy in &shelf.copies {
            let found = rest.next_if(|found| found.on_disk() == copy.on_disk());
            let lost = found.is_none() && copy.fate == CopyFate::Stored;
            ensure!(!lost, "{mailbox} has lost {copy:?}; the disk has {on_disk:?}");
        }
        if let Some(found) = rest.next() {
            let copies = &shelf.copies;
            return Err(format!("{mailbox} was given {found:?}, having had {copies:?}"));
        }
        *shelf = Shelf { copies: on_disk.to_vec(), left: HashMap::new() };
        for copy in &mut shelf.copies {
            self.instances += 1;
            copy.instance = self.instances;
        }
        Ok(())
    }

    /// The relay ended in order: memory of what has left is gone, nothing else.
    pub(super) fn restarted(&mut self, mailbox: usize, on_disk: &[Copy]) -> Verdict {
        self.settle(mailbox, on_disk)?;
        self.shelves[mailbox].left.clear();
        Ok(())
    }

    /// Whether an attachment is owed this frame: it is held, and not given up with a failed store.
    pub(super) fn owes(&self, mailbox: usize, instance: Instance) -> bool {
        let fate = self.shelves[mailbox].copy(instance).map_or(CopyFate::Gone, |copy| copy.fate);
        match fate {
            CopyFate::Stored | CopyFate::InDoubt => true,
            CopyFate::Undecided => !self.failed,
            CopyFate::Gone => false,
        }
    }

    pub(super) fn queued(&self) -> usize {
        self.shelves.iter().map(|shelf| shelf.held().count()).sum()
    }
}
