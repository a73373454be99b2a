//! What waits for the committer: a pure data structure of `(now, input)`.
//!
//! The *main* queue is committed in its order. The *patient* queue holds appends that a live
//! recipient may still acknowledge; those that ripen move to the end of the main queue.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use valise_proto::MailboxId;

use super::{Append, QueueFull};
use crate::limits;
use crate::store::{Removal, SpentCode};

/// Patient appends ripen together in ticks, so that a stream of them wakes the committer 800 times
/// a second at most. It delays an append by one tick at most.
const TICK: Duration = Duration::from_micros(limits::ACK_GRACE_MS * 1000 / 4);

/// Both queues.
pub(super) struct Queue {
    main: VecDeque<Entry>,
    patient: VecDeque<(Instant, Arc<Append>)>,
    /// Where ticks are counted from.
    origin: Instant,
    /// The position of the main queue's first entry, counted since the start.
    first: u64,
    /// For each mailbox whose last entry in the main queue is a removal: its position.
    removals: HashMap<MailboxId, u64>,
    /// Since when removals have waited in the main queue.
    removals_since: Option<Instant>,
    /// Entries of the main queue for which somebody waits.
    urgent: usize,
    /// Payload bytes in both queues.
    bytes: usize,
}

/// One entry of the main queue.
pub(super) enum Entry {
    /// A frame, unless it was acknowledged in time.
    Append(Arc<Append>),
    /// Frames that left.
    Remove(Departure),
    /// A used invite code, and who waits for it.
    Spend(SpentCode, oneshot::Sender<()>),
}

/// A removal and why its frames left.
pub(super) struct Departure {
    pub(super) removal: Removal,
    pub(super) acknowledged: u64,
    pub(super) expired: u64,
}

/// When the committer has to do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// At once.
    Now,
    /// Then.
    At(Instant),
    /// Not before something is added.
    Never,
}

impl Queue {
    pub(super) fn new(origin: Instant) -> Self {
        Self {
            main: VecDeque::new(),
            patient: VecDeque::new(),
            origin,
            first: 0,
            removals: HashMap::new(),
            removals_since: None,
            urgent: 0,
            bytes: 0,
        }
    }

    /// Adds an append to the main queue.
    pub(super) fn push(&mut self, append: Arc<Append>) -> Result<(), QueueFull> {
        self.admit(&append)?;
        self.enqueue(append);
        Ok(())
    }

    /// Adds an append to the patient queue.
    pub(super) fn push_patient(
        &mut self,
        append: Arc<Append>,
        now: Instant,
    ) -> Result<(), QueueFull> {
        self.admit(&append)?;
        self.bytes += append.frame.payload.len();
        self.patient.push_back((self.ripens(now), append));
        Ok(())
    }

    /// Moves patient appends to the main queue at once, in this order. Their old places are
    /// skipped when they ripen.
    pub(super) fn hurry(&mut self, appends: &[Arc<Append>]) {
        for append in appends {
            self.enqueue(Arc::clone(append));
        }
    }

    /// Adds a removal, to the mailbox's last entry where that is one too.
    pub(super) fn remove(&mut self, departure: Departure, now: Instant) {
        let mailbox = departure.removal.mailbox;
        if let Some(at) = self.removals.get(&mailbox)
            && let Some(Entry::Remove(last)) = self.main.get_mut((at - self.first) as usize)
        {
            last.merge(departure);
            return;
        }
        self.removals.insert(mailbox, self.first + self.main.len() as u64);
        self.main.push_back(Entry::Remove(departure));
        self.removals_since.get_or_insert(now);
    }

    /// Adds a used code.
    pub(super) fn spend(&mut self, code: SpentCode, waiter: oneshot::Sender<()>) {
        self.urgent += 1;
        self.main.push_back(Entry::Spend(code, waiter));
    }

    /// Moves what has waited long enough to the main queue, and forgets what was acknowledged.
    pub(super) fn ripen(&mut self, now: Instant) {
        while let Some((ripens, append)) = self.patient.front() {
            if *ripens > now && append.is_waiting() {
                break;
            }
            if let Some((_, append)) = self.patient.pop_front() {
                self.bytes -= append.frame.payload.len();
                self.enqueue(append);
            }
        }
    }

    /// Moves everything patient to the main queue.
    pub(super) fn ripen_all(&mut self) {
        while let Some((_, append)) = self.patient.pop_front() {
            self.bytes -= append.frame.payload.len();
            self.enqueue(append);
        }
    }

    /// When something has to be done.
    pub(super) fn due(&self) -> Due {
        if self.urgent > 0 || self.main.len() >= limits::COMMIT_OPERATIONS_MAX {
            return Due::Now;
        }
        let grace = Duration::from_millis(limits::REMOVAL_GRACE_MS);
        let removals = self.removals_since.map_or(Due::Never, |since| Due::At(since + grace));
        let patient = self.patient.front().map_or(Due::Never, |(ripens, _)| Due::At(*ripens));
        removals.min(patient)
    }

    /// Takes what one commit may hold from the head of the main queue.
    pub(super) fn take(&mut self, into: &mut Vec<Entry>) {
        let mut bytes = 0;
        while into.len() < limits::COMMIT_OPERATIONS_MAX && bytes < limits::COMMIT_BYTES_MAX {
            let Some(entry) = self.main.pop_front() else { break };
            match &entry {
                Entry::Append(append) => {
                    self.urgent -= 1;
                    self.bytes -= append.frame.payload.len();
                    bytes += append.frame.payload.len();
                }
                Entry::Remove(departure) => {
                    let mailbox = &departure.removal.mailbox;
                    if self.removals.get(mailbox) == Some(&self.first) {
                        self.removals.remove(mailbox);
                    }
                }
                Entry::Spend(..) => self.urgent -= 1,
            }
            self.first += 1;
            into.push(entry);
        }
        if self.main.is_empty() {
            self.removals_since = None;
        }
    }

    /// Takes everything from both queues.
    pub(super) fn take_all(&mut self) -> Vec<Entry> {
        self.ripen_all();
        let main = std::mem::take(&mut self.main);
        *self = Self::new(self.origin);
        main.into()
    }

    fn enqueue(&mut self, append: Arc<Append>) {
        if append.queue() {
            self.urgent += 1;
            self.bytes += append.frame.payload.len();
            if !self.removals.is_empty() {
                self.removals.remove(&append.frame.mailbox);
            }
            self.main.push_back(Entry::Append(append));
        }
    }

    fn admit(&self, append: &Append) -> Result<(), QueueFull> {
        let operations = self.main.len() + self.patient.len();
        let bytes = self.bytes + append.frame.payload.len();
        let full = operations >= limits::COMMIT_QUEUE_OPERATIONS_MAX
            || bytes > limits::COMMIT_QUEUE_BYTES_MAX;
        if full { Err(QueueFull) } else { Ok(()) }
    }

    /// The first tick that is a whole grace away.
    fn ripens(&self, now: Instant) -> Instant {
        let at = now.duration_since(self.origin) + Duration::from_millis(limits::ACK_GRACE_MS);
        let ticks = at.as_micros().div_ceil(TICK.as_micros()) as u64;
        self.origin + Duration::from_micros(ticks * TICK.as_micros() as u64)
    }
}

impl Departure {
    fn merge(&mut self, later: Self) {
        let Removal { mailbox: _, seqs, floor, emptied } = later.removal;
        let sorted = self.removal.seqs.last() < seqs.first();
        self.removal.seqs.extend(seqs);
        if !sorted {
            self.removal.seqs.sort_unstable();
        }
        self.removal.floor = floor;
        self.removal.emptied = emptied;
        self.acknowledged += later.acknowledged;
        self.expired += later.expired;
    }
}
