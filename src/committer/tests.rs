//! The committer against a store whose disk can be stopped and broken.

mod recovery;

use std::sync::atomic::AtomicUsize;

use valise_proto::{MailboxId, SlotId};

use super::*;
use crate::limits;
use crate::payload::Payload;
use crate::store::contract::{frame, mailbox};
use crate::store::{
    Backlog, Batch, BundleHead, Cutoff, Frame, MemoryStore, Opened, Outdated, Slot, SpentCode,
    StoreError,
};

/// A memory store with a disk in front of it.
#[derive(Default)]
struct Disk {
    store: MemoryStore,
    /// What each commit wrote.
    log: Mutex<Vec<Vec<String>>>,
    stopped: Mutex<bool>,
    goes_on: Condvar,
    broken: Mutex<bool>,
    /// A broken disk writes all the same, and then says that it did not.
    lies: Mutex<bool>,
    forgot: Mutex<bool>,
    /// Commits that have begun.
    begun: AtomicUsize,
}

impl Disk {
    fn stop(&self) {
        *self.stopped.lock().unwrap() = true;
    }

    fn go_on(&self) {
        *self.stopped.lock().unwrap() = false;
        self.goes_on.notify_all();
    }

    fn break_down(&self) {
        *self.broken.lock().unwrap() = true;
    }

    /// Its commits are gone when it is opened again.
    fn forget(&self) {
        *self.forgot.lock().unwrap() = true;
    }

    fn repair(&self) {
        *self.broken.lock().unwrap() = false;
    }

    fn log(&self) -> Vec<Vec<String>> {
        self.log.lock().unwrap().clone()
    }

    fn wait_for_commits(&self, commits: usize) {
        eventually(|| self.begun.load(Ordering::SeqCst) >= commits);
    }
}

impl Store for Disk {
    fn opened(&self) -> Opened {
        let forgot = *self.forgot.lock().unwrap();
        if forgot { Opened::default() } else { self.store.opened() }
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        drop(self.goes_on.wait_while(self.stopped.lock().unwrap(), |stopped| *stopped).unwrap());
        let broken = *self.broken.lock().unwrap();
        if !broken || *self.lies.lock().unwrap() {
            self.store.commit(batch)?;
            let held = self.store.count()?;
            assert_eq!(batch.totals.queued(), held, "the totals hold after every batch");
            self.log.lock().unwrap().push(batch.steps.iter().map(describe).collect());
        }
        if broken { Err(StoreError::Damaged { what: "disk" }) } else { Ok(()) }
    }

    fn load(&self, mailbox: &MailboxId) -> Result<Backlog, StoreError> {
        self.store.load(mailbox)
    }

    fn read(
        &self,
        mailbox: &MailboxId,
        after: Seq,
        up_to: Seq,
        bytes_max: usize,
    ) -> Result<Vec<Frame>, StoreError> {
        self.store.read(mailbox, after, up_to, bytes_max)
    }

    fn spent(&self, serial: &[u8; 8]) -> Result<Option<MailboxId>, StoreError> {
        self.store.spent(serial)
    }

    fn slot(&self, id: &SlotId) -> Result<Option<Slot>, StoreError> {
        self.store.slot(id)
    }

    fn bundle(&self, mailbox: &MailboxId) -> Result<Option<BundleHead>, StoreError> {
        self.store.bundle(mailbox)
    }

    fn bundle_item(&self, mailbox: &MailboxId, number: u32) -> Result<Option<Payload>, StoreError> {
        self.store.bundle_item(mailbox, number)
    }

    fn outdated(&self, cutoff: &Cutoff, max: usize) -> Result<Vec<Outdated>, StoreError> {
        self.store.outdated(cutoff, max)
    }

    fn expired(&self, now: RunningHours) -> Result<Vec<MailboxId>, StoreError> {
        self.store.expired(now)
    }

    fn count(&self) -> Result<u64, StoreError> {
        self.store.count()
    }
}

fn describe(step: &Step) -> String {
    match step {
        Step::Append { frame, .. } => format!("+{}", frame.seq.0),
        Step::Remove(removal) => {
            removal.seqs.iter().map(|seq| format!("-{}", seq.0)).collect::<String>()
                + if removal.emptied { "!" } else { "" }
        }
        Step::Spend(code) => format!("spend {}", code.serial[0]),
        other => format!("{other:?}"),
    }
}

/// What a mailbox was told.
#[derive(Default)]
struct Told {
    durable: Mutex<Vec<u64>>,
    failed: Mutex<Vec<u64>>,
    unknown: Mutex<Vec<u64>>,
    /// Acknowledged while they were being written.
    acknowledged: Mutex<Vec<u64>>,
}

impl Told {
    fn durable(&self) -> Vec<u64> {
        self.durable.lock().unwrap().clone()
    }

    fn failed(&self) -> Vec<u64> {
        self.failed.lock().unwrap().clone()
    }
}

impl Settle for Told {
    fn durable(&self, append: &Append) {
        self.durable.lock().unwrap().push(append.frame.seq.0);
    }

    fn unknown(&self, append: &Append) {
        self.unknown.lock().unwrap().push(append.frame.seq.0);
    }

    fn failed(&self, append: &Append) -> bool {
        self.failed.lock().unwrap().push(append.frame.seq.0);
        !self.acknowledged.lock().unwrap().contains(&append.frame.seq.0)
    }
}

struct Rig {
    disk: Arc<Disk>,
    committer: Committer,
    told: Arc<Told>,
}

impl Rig {
    fn new() -> Self {
        let disk = Arc::new(Disk::default());
        let committer = Committer::start(Arc::clone(&disk) as Arc<dyn Store>);
        Self { disk, committer, told: Arc::default() }
    }

    /// One whose disk stands still in the middle of a commit of sequence number 1.
    fn busy() -> Self {
        let rig = Self::new();
        rig.disk.stop();
        rig.post(1, Patience::None);
        rig.disk.wait_for_commits(1);
        rig
    }

    fn make(&self, number: u8, bytes: usize) -> Arc<Append> {
        let seq = self.committer.next_seq();
        let frame = Arc::new(frame(number, seq.0, bytes));
        Append::new(frame, Seq(0), Arc::clone(&self.told) as Arc<dyn Settle>)
    }

    fn post(&self, number: u8, patience: Patience) -> Arc<Append> {
        let append = self.make(number, 512);
        self.committer.append(Arc::clone(&append), patience).unwrap();
        append
    }

    fn acknowledge(&self, number: u8, seqs: &[u64], emptied: bool) {
        self.committer.remove(removal(number, seqs, emptied), 0, self.told.clone());
    }
}

fn removal(number: u8, seqs: &[u64], emptied: bool) -> Removal {
    let seqs: Vec<Seq> = seqs.iter().copied().map(Seq).collect();
    let floor = seqs.last().copied().unwrap_or_default();
    Removal { mailbox: mailbox(number), seqs, floor, emptied }
}

fn eventually(mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < until, "it does not come");
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn what_waits_is_one_batch_in_order() {
    let rig = Rig::busy();
    for number in 1..=3 {
        rig.post(number, Patience::None);
    }
    rig.acknowledge(1, &[1], false);
    rig.post(1, Patience::None);
    assert!(rig.told.durable().is_empty(), "nothing is settled before it is durable");
    rig.disk.go_on();
    eventually(|| rig.told.durable().len() == 5);
    assert_eq!(rig.told.durable(), [1, 2, 3, 4, 5]);
    assert_eq!(rig.disk.log(), [vec!["+1"], vec!["+2", "+3", "+4", "-1", "+5"]]);
    assert_eq!(rig.committer.stats().commits(), 2);
    assert_eq!(rig.committer.stats().steps(), 6);
    assert_eq!(rig.committer.stats().synced_bytes(), 5 * 512);
}

#[test]
fn a_batch_is_bounded() {
    let rig = Rig::busy();
    for _ in 0..limits::COMMIT_OPERATIONS_MAX + 10 {
        rig.post(1, Patience::None);
    }
    rig.disk.go_on();
    rig.committer.close();
    let sizes: Vec<_> = rig.disk.log().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, limits::COMMIT_OPERATIONS_MAX, 10]);

    let rig = Rig::busy();
    for _ in 0..200 {
        rig.committer.append(rig.make(1, 64 * 1024), Patience::None).unwrap();
    }
    rig.disk.go_on();
    rig.committer.close();
    let sizes: Vec<_> = rig.disk.log().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 64, 64, 64, 8]);
}

#[test]
fn a_frame_acknowledged_in_time_is_never_written() {
    let rig = Rig::busy();
    let queued = rig.post(1, Patience::None);
    let patient = rig.post(1, Patience::UntilAcknowledged);
    assert!(queued.acknowledge());
    assert!(patient.acknowledge());
    assert!(!patient.acknowledge(), "only once");
    rig.committer.remove(removal(1, &[], false), 2, rig.told.clone());
    let last = rig.post(1, Patience::None);
    rig.disk.go_on();
    eventually(|| rig.told.durable().len() == 2);
    assert!(!last.acknowledge(), "it is written");
    rig.committer.close();
    assert_eq!(rig.disk.log(), [["+1"], ["+4"]]);
    assert_eq!(rig.told.durable(), [1, 4]);
    let totals = rig.committer.totals();
    assert_eq!((totals.accepted, totals.acknowledged, totals.queued()), (4, 2, 2));
    assert_eq!(rig.disk.opened().totals, totals);
    assert_eq!(rig.committer.stats().skipped(), 2);
}

#[test]
fn an_append_that_is_being_written_cannot_be_taken_back() {
    let rig = Rig::new();
    rig.disk.stop();
    let append = rig.post(1, Patience::None);
    rig.disk.wait_for_commits(1);
    assert!(!append.acknowledge());
    rig.acknowledge(1, &[1], true);
    rig.disk.go_on();
    rig.committer.close();
    assert_eq!(rig.disk.log(), [["+1"], ["-1!"]]);
    let expected = Totals { accepted: 1, acknowledged: 1, ..Totals::default() };
    assert_eq!(rig.disk.opened().totals, expected);
    assert_eq!(rig.disk.store.mailboxes(), 0);
}

#[test]
fn patience_ends_after_the_grace() {
    let rig = Rig::new();
    let before = Instant::now();
    rig.post(1, Patience::UntilAcknowledged);
    rig.post(2, Patience::UntilAcknowledged);
    eventually(|| rig.told.durable().len() == 2);
    assert!(before.elapsed() >= Duration::from_millis(limits::ACK_GRACE_MS));
    assert_eq!(rig.disk.log().concat(), ["+1", "+2"]);
}

#[test]
fn an_urgent_append_does_not_take_patient_ones_along() {
    let rig = Rig::busy();
    let patient = rig.post(1, Patience::UntilAcknowledged);
    rig.post(2, Patience::None);
    assert!(patient.acknowledge());
    rig.disk.go_on();
    rig.committer.close();
    assert_eq!(rig.disk.log(), [["+1"], ["+3"]]);
}

#[test]
fn hurrying_keeps_the_given_order() {
    let rig = Rig::busy();
    let first = rig.post(1, Patience::UntilAcknowledged);
    let second = rig.post(1, Patience::UntilAcknowledged);
    let third = rig.post(1, Patience::UntilAcknowledged);
    assert!(second.acknowledge());
    rig.committer.hurry(&[third, second, first]);
    rig.post(1, Patience::None);
    std::thread::sleep(Duration::from_millis(2 * limits::ACK_GRACE_MS));
    rig.disk.go_on();
    rig.committer.close();
    assert_eq!(rig.disk.log(), [vec!["+1"], vec!["+4", "+2", "+5"]], "each of them once");
}

#[test]
fn removals_wait_for_company() {
    let grace = Duration::from_millis(limits::REMOVAL_GRACE_MS);
    // Again where this thread stood still between the two.
    loop {
        let rig = Rig::new();
        rig.post(1, Patience::None);
        rig.post(1, Patience::None);
        eventually(|| rig.told.durable().len() == 2);
        let commits = rig.disk.begun.load(Ordering::SeqCst);
        let before = Instant::now();
        rig.acknowledge(1, &[1], false);
        rig.acknowledge(1, &[2], true);
        let stood_still = before.elapsed() >= grace / 2;
        rig.disk.wait_for_commits(commits + 1);
        assert!(before.elapsed() >= grace);
        rig.committer.close();
        if !stood_still {
            let log = rig.disk.log();
            assert_eq!(log.last().unwrap(), &["-1-2!"], "one entry for one mailbox");
            return;
        }
    }
}

#[test]
fn a_removal_stays_behind_the_append_it_follows() {
    let rig = Rig::busy();
    rig.acknowledge(1, &[1], true);
    rig.post(1, Patience::None);
    rig.acknowledge(1, &[2], true);
    rig.disk.go_on();
    rig.committer.close();
    assert_eq!(rig.disk.log(), [vec!["+1"], vec!["-1!", "+2", "-2!"]]);
}

#[test]
fn a_full_queue_refuses_appends_and_takes_removals() {
    let rig = Rig::busy();
    let fits = limits::COMMIT_QUEUE_BYTES_MAX / (64 * 1024);
    for at in 0..fits {
        let patience = [Patience::None, Patience::UntilAcknowledged][at % 2];
        rig.committer.append(rig.make(1, 64 * 1024), patience).unwrap();
    }
    for patience in [Patience::None, Patience::UntilAcknowledged] {
        assert_eq!(rig.committer.append(rig.make(1, 512), patience), Err(QueueFull));
    }
    rig.acknowledge(1, &[1], false);
    rig.disk.go_on();
    eventually(|| rig.told.durable().len() == 1 + fits);
    rig.post(1, Patience::None);
    rig.committer.close();
    assert_eq!(rig.told.durable().len(), 2 + fits);
}

#[test]
fn the_queue_is_bounded_in_operations() {
    let rig = Rig::busy();
    let template = frame(1, 1, 0);
    let mut refused = 0;
    for _ in 0..limits::COMMIT_QUEUE_OPERATIONS_MAX + 5 {
        let frame = Frame { seq: rig.committer.next_seq(), ..template.clone() };
        let settle = Arc::clone(&rig.told) as Arc<dyn Settle>;
        let append = Append::new(Arc::new(frame), Seq(0), settle);
        refused += usize::from(rig.committer.append(append, Patience::None).is_err());
    }
    assert_eq!(refused, 5);
    rig.disk.go_on();
}

#[test]
fn a_failed_store_fails_everything_once() {
    let rig = Rig::busy();
    rig.post(1, Patience::None);
    rig.post(2, Patience::UntilAcknowledged);
    let acknowledged = rig.post(2, Patience::UntilAcknowledged);
    assert!(acknowledged.acknowledge());
    rig.disk.break_down();
    assert_eq!(*rig.committer.status().borrow(), Status::Open);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let committer = rig.committer.clone();
    let spend = SpentCode { serial: [1; 8], mailbox: mailbox(1), last_day: 1 };
    runtime.block_on(async {
        let waits = committer.write(Step::Spend(spend));
        let (result, reason) = tokio::join!(waits, async {
            rig.disk.go_on();
            committer.failed().await
        });
        assert_eq!(result, Err(CommitFailed));
        assert!(reason.contains("disk"), "{reason}");
        assert_eq!(committer.write(Step::Spend(spend)).await, Err(CommitFailed));
    });
    eventually(|| rig.told.failed().len() == 3);
    assert_eq!(rig.told.failed(), [1, 2, 3]);
    assert!(rig.told.durable().is_empty());
    assert_eq!(rig.committer.append(rig.make(1, 1), Patience::None), Err(QueueFull));
    assert!(matches!(*rig.committer.status().borrow(), Status::Failed(_)));
    let begun = rig.disk.begun.load(Ordering::SeqCst);
    rig.committer.close();
    assert_eq!(rig.disk.begun.load(Ordering::SeqCst), begun, "nothing is tried again");
    assert_eq!(rig.committer.totals(), Totals::default());
}

#[test]
fn a_panic_of_a_mailbox_is_a_failure() {
    struct Clumsy;
    impl Settle for Clumsy {
        fn durable(&self, _: &Append) {
            panic!("on purpose");
        }
        fn unknown(&self, _: &Append) {}
        fn failed(&self, _: &Append) -> bool {
            true
        }
    }
    let rig = Rig::new();
    let append = Append::new(Arc::new(frame(1, 1, 1)), Seq(0), Arc::new(Clumsy));
    rig.committer.append(append, Patience::None).unwrap();
    eventually(|| matches!(*rig.committer.status().borrow(), Status::Failed(_)));
    assert_eq!(rig.committer.append(rig.make(1, 1), Patience::None), Err(QueueFull));
}

#[test]
fn closing_writes_everything_that_waits() {
    let rig = Rig::busy();
    rig.post(1, Patience::None);
    rig.post(2, Patience::UntilAcknowledged);
    let unwritten = rig.post(3, Patience::UntilAcknowledged);
    assert!(unwritten.acknowledge());
    rig.acknowledge(1, &[1], false);
    std::thread::scope(|scope| {
        scope.spawn(|| rig.committer.close());
        eventually(|| rig.committer.shared().state().intake == Intake::Nothing);
        rig.disk.go_on();
    });
    assert_eq!(rig.disk.log().concat(), ["+1", "+2", "-1", "+3"]);
    assert_eq!(rig.told.durable(), [1, 2, 3]);
    rig.committer.close();
}

#[test]
fn early_totals_are_written_at_the_end() {
    let rig = Rig::new();
    assert!(rig.post(1, Patience::UntilAcknowledged).acknowledge());
    rig.committer.remove(removal(1, &[], false), 1, rig.told.clone());
    let expected = Totals { accepted: 1, acknowledged: 1, ..Totals::default() };
    assert_eq!(rig.committer.totals(), expected);
    rig.committer.close();
    assert_eq!(rig.disk.opened().totals, expected);
    assert_eq!(rig.disk.log(), [[] as [String; 0]]);
}

/// The disk hangs in the middle of a commit: nobody hangs with it, and when it comes back nothing is
/// said that was denied before.
#[test]
fn a_commit_that_does_not_return_is_given_up() {
    let disk = Arc::new(Disk::default());
    let store = Arc::clone(&disk) as Arc<dyn Store>;
    let limit = Duration::from_secs(1);
    let rig = Rig {
        disk,
        committer: Committer::start_at(store, None, None, Instant::now(), limit),
        told: Arc::default(),
    };
    rig.post(1, Patience::None);
    eventually(|| rig.told.durable() == [1]);
    // Commits that return do not add up.
    std::thread::sleep(2 * limit);
    rig.disk.stop();
    let began = Instant::now();
    rig.post(1, Patience::None);
    rig.disk.wait_for_commits(2);
    rig.post(2, Patience::None);
    rig.post(3, Patience::UntilAcknowledged);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let reason = runtime.block_on(rig.committer.failed());
    assert_eq!(reason, "a commit has not returned for 1 s");
    assert!(began.elapsed() >= limit);
    eventually(|| rig.told.failed().len() == 3);
    assert!(rig.committer.append(rig.make(1, 512), Patience::None).is_err());
    rig.committer.close();
    rig.disk.go_on();
    eventually(|| rig.disk.log().len() == 2);
    std::thread::sleep(limit);
    assert_eq!(rig.told.durable(), [1]);
    assert_eq!(rig.disk.log().len(), 2, "nothing is committed after it");
}

#[test]
fn the_next_committer_goes_on_where_this_one_ended() {
    let rig = Rig::new();
    rig.post(1, Patience::None);
    rig.post(1, Patience::None);
    let given_out = rig.committer.next_seq();
    eventually(|| rig.told.durable().len() == 2);
    rig.committer.expire(removal(1, &[1], false), rig.told.clone());
    rig.committer.close();
    let next = Committer::start(Arc::clone(&rig.disk) as Arc<dyn Store>);
    assert!(next.next_seq() >= given_out);
    assert_eq!(next.totals(), Totals { accepted: 2, expired: 1, ..Totals::default() });
    assert_eq!(next.hours(), RunningHours(0));
    next.close();
}

#[test]
fn a_new_hour_is_written_even_if_nothing_happens() {
    let disk = Arc::new(Disk::default());
    let before = Batch { hours: RunningHours(41), ..Batch::default() };
    disk.store.commit(&before).unwrap();
    let soon = Duration::from_secs(3600 - 2);
    let store = Arc::clone(&disk) as Arc<dyn Store>;
    let limit = Duration::from_secs(20);
    let committer = Committer::start_at(store, None, None, Instant::now() - soon, limit);
    assert_eq!(committer.hours(), RunningHours(41));
    eventually(|| committer.hours() == RunningHours(42));
    eventually(|| disk.opened().hours == RunningHours(42));
    committer.close();
    assert_eq!(disk.log(), [[] as [String; 0]]);
}

#[test]
fn a_spent_code_is_durable_when_it_returns() {
    let rig = Rig::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let code = SpentCode { serial: [7; 8], mailbox: mailbox(1), last_day: 1 };
    runtime.block_on(rig.committer.write(Step::Spend(code))).unwrap();
    assert_eq!(rig.disk.spent(&[7; 8]).unwrap(), Some(mailbox(1)));
    assert_eq!(rig.disk.log(), [["spend 7"]]);
}

#[test]
fn the_last_handle_closes() {
    let Rig { disk, committer, told } = Rig::new();
    let frame = Arc::new(frame(1, 1, 1));
    let append = Append::new(frame, Seq(0), Arc::clone(&told) as Arc<dyn Settle>);
    committer.append(append, Patience::UntilAcknowledged).unwrap();
    drop(committer);
    assert_eq!(told.durable(), [1]);
    assert_eq!(Arc::strong_count(&disk), 1, "the thread is gone");
}

/// Many mailboxes at once, each acknowledging at another moment: every copy is accounted for, and
/// each mailbox is told in its order.
#[test]
fn totals_conserve_under_load() {
    const FRAMES: usize = 3_000;
    let rig = Rig::new();
    std::thread::scope(|scope| {
        for number in 1..=4u8 {
            let rig = &rig;
            scope.spawn(move || {
                let told = Arc::new(Told::default());
                let mut held = Vec::new();
                for at in 0..FRAMES {
                    let seq = rig.committer.next_seq();
                    let settle = Arc::clone(&told) as Arc<dyn Settle>;
                    let append = Append::new(Arc::new(frame(number, seq.0, 16)), Seq(0), settle);
                    let patience =
                        [Patience::None, Patience::UntilAcknowledged][usize::from(at % 3 == 0)];
                    rig.committer.append(Arc::clone(&append), patience).unwrap();
                    held.push(append);
                    if at % 7 == usize::from(number) {
                        // The older half.
                        let gone: Vec<_> = held.drain(..held.len().div_ceil(2)).collect();
                        let written: Vec<u64> = gone
                            .iter()
                            .filter(|append| !append.acknowledge())
                            .map(|append| append.frame.seq.0)
                            .collect();
                        let unwritten = (gone.len() - written.len()) as u32;
                        rig.committer.remove(
                            removal(number, &written, false),
                            unwritten,
                            rig.told.clone(),
                        );
                    }
                }
                drop(held);
            });
        }
    });
    rig.committer.close();
    let totals = rig.committer.totals();
    assert_eq!(totals.accepted, 4 * FRAMES as u64);
    assert_eq!(totals.queued(), rig.disk.count().unwrap());
    assert_eq!(rig.disk.opened().totals, totals);
}
