//! What waits for the committer: a pure data structure of `(now, input)`.
//!
//! The *main* queue is committed in its order. The *patient* queue holds appends that a live
//! recipient may still acknowledge; those that ripen move to the end of the main queue.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use valise_proto::MailboxId;

use super::moving::Tell;
use super::{Append, QueueFull, Settle};
use crate::limits;
use crate::store::{Removal, Step};

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
    /// A step that is not about frames, and who waits for it.
    Write(Step, oneshot::Sender<()>),
    /// Something that is asked of a shard. It goes into batches of its like: what is entered before
    /// is on the disk by then.
    Tell(Tell),
}

/// A removal and why its frames left.
pub(super) struct Departure {
    pub(super) removal: Removal,
    pub(super) acknowledged: u64,
    pub(super) expired: u64,
    /// The mailbox. Were it forgotten before this is durable, it would find its frames again.
    pub(super) of: Arc<dyn Settle>,
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
        self.drop_acknowledged();
        self.bytes += append.frame.payload.len();
        self.patient.push_back((self.ripens(now), append));
        Ok(())
    }

    /// Gives up the memory of the oldest patient appends that no longer wait: two for each one
    /// that comes, so that they leave while their memory is still in the processor's cache.
    fn drop_acknowledged(&mut self) {
        for _ in 0..2 {
            match self.patient.front() {
                Some((_, append)) if !append.is_waiting() => {
                    self.bytes -= append.frame.payload.len();
                    self.patient.pop_front();
                }
                _ => return,
            }
        }
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

    /// Adds a step that is not about frames.
    pub(super) fn write(&mut self, step: Step, waiter: oneshot::Sender<()>) {
        self.urgent += 1;
        self.main.push_back(Entry::Write(step, waiter));
    }

    /// Adds something that is asked of a shard.
    pub(super) fn tell(&mut self, tell: Tell) {
        self.urgent += 1;
        self.main.push_back(Entry::Tell(tell));
    }

    /// Whether something is to be asked of a shard.
    pub(super) fn asks(&self) -> bool {
        self.main.iter().any(|entry| matches!(entry, Entry::Tell(_)))
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
        let asked = |entry: Option<&Entry>| matches!(entry, Some(Entry::Tell(_)));
        let tells = asked(self.main.front());
        while asked(self.main.front()) == tells
            && into.len() < limits::COMMIT_OPERATIONS_MAX
            && bytes < limits::COMMIT_BYTES_MAX
        {
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
                Entry::Write(..) | Entry::Tell(_) => self.urgent -= 1,
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

    /// Takes everything but the removals.
    pub(super) fn take_all_but_removals(&mut self, now: Instant) -> Vec<Entry> {
        let (removals, taken): (Vec<Entry>, _) =
            self.take_all().into_iter().partition(|entry| matches!(entry, Entry::Remove(_)));
        for removal in removals {
            if let Entry::Remove(departure) = removal {
                self.remove(departure, now);
            }
        }
        taken
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Seq;
    use crate::store::contract::{frame, mailbox};

    struct Nobody;

    impl Settle for Nobody {
        fn durable(&self, _: &Append) {}
        fn unknown(&self, _: &Append) {}
        fn failed(&self, _: &Append) -> bool {
            true
        }
    }

    fn append(number: u8, seq: u64) -> Arc<Append> {
        Append::new(Arc::new(frame(number, seq, 512)), Seq(0), Arc::new(Nobody))
    }

    fn departure(number: u8, seqs: &[u64], emptied: bool) -> Departure {
        let seqs: Vec<Seq> = seqs.iter().copied().map(Seq).collect();
        let (acknowledged, floor) = (seqs.len() as u64, Seq(seqs.len() as u64));
        let removal = Removal { mailbox: mailbox(number), seqs, floor, emptied };
        Departure { removal, acknowledged, expired: 1, of: Arc::new(Nobody) }
    }

    fn milliseconds(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    fn taken(queue: &mut Queue) -> Vec<Entry> {
        let mut entries = Vec::new();
        queue.take(&mut entries);
        entries
    }

    #[test]
    fn a_stream_of_patient_appends_is_due_in_ticks() {
        let now = Instant::now();
        let mut queue = Queue::new(now);
        assert_eq!(queue.due(), Due::Never);
        let mut ripened = Vec::new();
        let mut wakes = 0;
        for at in (0..1_000_000).step_by(100).map(Duration::from_micros) {
            if queue.due() <= Due::At(now + at) {
                wakes += 1;
                queue.ripen(now + at);
                ripened.extend(taken(&mut queue));
            }
            queue.push_patient(append(1, 1), now + at).unwrap();
            let Due::At(due) = queue.due() else { panic!("none of them hurries") };
            assert!(due <= now + at + milliseconds(limits::ACK_GRACE_MS) + TICK);
        }
        assert!((790..=800).contains(&wakes), "{wakes}");
        assert!(ripened.len() > 9_900);
    }

    #[test]
    fn acknowledged_appends_keep_nobody_awake() {
        let now = Instant::now();
        let mut queue = Queue::new(now);
        let appends: Vec<_> = (1..=3).map(|seq| append(1, seq)).collect();
        for append in &appends {
            queue.push_patient(Arc::clone(append), now).unwrap();
            assert!(append.acknowledge());
        }
        queue.ripen(now);
        assert_eq!(queue.due(), Due::Never);
        assert_eq!(queue.bytes, 0);
        assert!(taken(&mut queue).is_empty());
    }

    #[test]
    fn removals_of_one_mailbox_share_an_entry_until_an_append_comes_between() {
        let now = Instant::now();
        let mut queue = Queue::new(now);
        for seq in 1..=1000 {
            queue.remove(departure((seq % 3) as u8, &[seq], false), now + milliseconds(seq));
        }
        assert_eq!(queue.main.len(), 3);
        assert_eq!(queue.due(), Due::At(now + milliseconds(1 + limits::REMOVAL_GRACE_MS)));
        queue.push(append(1, 1001)).unwrap();
        queue.remove(departure(1, &[1001], true), now);
        queue.remove(departure(2, &[7, 3], false), now);
        assert_eq!(queue.due(), Due::Now);
        assert_eq!(queue.main.len(), 5);

        let entries = taken(&mut queue);
        assert!(queue.removals.is_empty());
        assert_eq!(queue.due(), Due::Never);
        let Entry::Remove(merged) = &entries[1] else { panic!("the second mailbox") };
        assert_eq!(merged.removal.mailbox, mailbox(2));
        assert!(merged.removal.seqs.is_sorted());
        assert_eq!((merged.acknowledged, merged.expired), (335, 334));
        assert_eq!(merged.removal.floor, Seq(2), "the last one's");
        let Entry::Remove(last) = &entries[4] else { panic!("after the append") };
        assert!(last.removal.emptied);
        queue.remove(departure(1, &[1], false), now);
        assert_eq!(queue.main.len(), 1, "what was taken is not added to");
    }

    #[test]
    fn every_slot_gives_back_what_it_took() {
        let now = Instant::now();
        let mut queue = Queue::new(now);
        let hurried = append(1, 1);
        queue.push_patient(Arc::clone(&hurried), now).unwrap();
        queue.push(append(1, 2)).unwrap();
        queue.hurry(&[Arc::clone(&hurried), hurried]);
        assert_eq!(taken(&mut queue).len(), 2, "once each");
        queue.ripen_all();
        assert!(taken(&mut queue).is_empty());
        assert_eq!((queue.bytes, queue.urgent), (0, 0));
    }
}
