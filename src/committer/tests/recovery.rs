//! A store that fails and is had back.

use super::super::*;
use super::*;
use crate::limits::REOPEN_TRIES_MAX;

/// A rig whose store can be opened again.
struct Rescue {
    rig: Rig,
    opened: Arc<AtomicUsize>,
    room: Arc<Mutex<Room>>,
}

impl Rescue {
    fn new() -> Self {
        let disk = Arc::new(Disk::default());
        let opened = Arc::<AtomicUsize>::default();
        let room = Arc::new(Mutex::new(Room::Some));
        let recovery = Recovery {
            open: {
                let (disk, opened) = (Arc::clone(&disk), Arc::clone(&opened));
                let room = Arc::clone(&room);
                Box::new(move || {
                    if *room.lock().unwrap() == Room::None {
                        return Err(StoreError::Reopening);
                    }
                    opened.fetch_add(1, Ordering::SeqCst);
                    Ok(Arc::clone(&disk) as Arc<dyn Store>)
                })
            },
            make_room: {
                let room = Arc::clone(&room);
                Box::new(move |_| *room.lock().unwrap())
            },
        };
        let store = Arc::clone(&disk) as Arc<dyn Store>;
        let committer = Committer::start_with(store, recovery, None);
        Self { rig: Rig { disk, committer, told: Arc::default() }, opened, room }
    }

    /// One that fails in the middle of a commit of sequence number 1.
    fn failing(lies: bool) -> Self {
        let rescue = Self::new();
        let disk = &rescue.rig.disk;
        disk.stop();
        rescue.rig.post(1, Patience::None);
        disk.wait_for_commits(1);
        disk.break_down();
        *disk.lies.lock().unwrap() = lies;
        *rescue.room.lock().unwrap() = Room::None;
        rescue
    }

    /// The commit fails now; there is no room before `back` is called.
    fn fail(&self) {
        self.rig.disk.go_on();
        eventually(|| self.is(|status| matches!(status, Status::Recovering(_))));
    }

    fn back(&self) {
        self.rig.disk.repair();
        *self.room.lock().unwrap() = Room::Some;
        let committer = &self.rig.committer;
        eventually(|| committer.stats().times_reopened() == 1);
        eventually(|| self.is(|status| *status == Status::Open));
    }

    fn is(&self, wanted: impl Fn(&Status) -> bool) -> bool {
        wanted(&self.rig.committer.status().borrow())
    }

    fn unknown(&self) -> Vec<u64> {
        self.rig.told.unknown.lock().unwrap().clone()
    }

    /// Nothing is lost or made: in memory, in the store, and in its totals.
    fn check(&self, accepted: u64, acknowledged: u64) {
        let totals = Totals { accepted, acknowledged, ..Totals::default() };
        assert_eq!(self.rig.committer.totals(), totals);
        self.rig.committer.close();
        assert_eq!(self.rig.disk.opened().totals, totals);
        assert_eq!(self.rig.disk.count().unwrap(), totals.queued());
    }
}

#[test]
fn what_was_not_written_is_given_up_and_the_next_is_accepted() {
    let rescue = Rescue::failing(false);
    let Rig { committer, told, disk } = &rescue.rig;
    rescue.rig.post(1, Patience::None);
    rescue.rig.post(2, Patience::UntilAcknowledged);
    let early = rescue.rig.post(2, Patience::UntilAcknowledged);
    assert!(early.acknowledge());
    committer.remove(removal(2, &[], false), 1, told.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let code = || Step::Spend(SpentCode { serial: [1; 8], mailbox: mailbox(1), last_day: 1 });
    runtime.block_on(async {
        let failing = async { rescue.fail() };
        assert_eq!(tokio::join!(committer.write(code()), failing).0, Err(CommitFailed));
        assert_eq!(committer.write(code()).await, Err(CommitFailed));
    });
    assert_eq!(committer.append(rescue.rig.make(1, 512), Patience::None), Err(QueueFull));
    eventually(|| told.failed() == [2, 3]);
    assert_eq!(rescue.unknown(), [1], "it may be there");
    assert_eq!(rescue.opened.load(Ordering::SeqCst), 0, "there is no room to open it");

    rescue.back();
    assert_eq!(told.failed(), [2, 3, 1]);
    assert_eq!(committer.stats().times_reopened(), 1);
    rescue.rig.post(1, Patience::None);
    eventually(|| told.durable().len() == 1);
    runtime.block_on(committer.write(code())).unwrap();
    assert_eq!(disk.log()[0], [] as [String; 0], "the first commit shows that it works");
    rescue.check(2, 1);
}

#[test]
fn what_was_written_after_all_is_durable() {
    let rescue = Rescue::failing(true);
    rescue.fail();
    eventually(|| rescue.unknown() == [1]);
    assert!(rescue.rig.told.durable().is_empty());
    rescue.back();
    assert_eq!(rescue.rig.told.durable(), [1]);
    assert!(rescue.rig.told.failed().is_empty());
    rescue.check(1, 0);
}

/// The recipient had it all the time, and acknowledges it while nobody knows whether it is written.
#[test]
fn what_is_acknowledged_in_doubt_was_accepted() {
    for lies in [false, true] {
        let rescue = Rescue::failing(lies);
        rescue.fail();
        eventually(|| rescue.unknown() == [1]);
        rescue.rig.told.acknowledged.lock().unwrap().push(1);
        rescue.rig.acknowledge(1, &[1], true);
        rescue.back();
        rescue.check(1, 1);
    }
}

#[test]
fn removals_of_the_failed_batch_are_not_lost() {
    for lies in [false, true] {
        let rescue = Rescue::new();
        let Rig { disk, told, .. } = &rescue.rig;
        rescue.rig.post(1, Patience::None);
        rescue.rig.post(2, Patience::None);
        eventually(|| told.durable().len() == 2);
        disk.stop();
        let commits = disk.begun.load(Ordering::SeqCst);
        rescue.rig.acknowledge(1, &[1], true);
        disk.wait_for_commits(commits + 1);
        disk.break_down();
        *disk.lies.lock().unwrap() = lies;
        disk.go_on();
        rescue.rig.acknowledge(2, &[2], true);
        eventually(|| rescue.opened.load(Ordering::SeqCst) > 0);
        rescue.back();
        rescue.check(2, 2);
        assert_eq!(disk.store.mailboxes(), 0);
    }
}

/// The disk is full for long: it is opened again and again, and nothing else comes of it.
#[test]
fn it_is_tried_until_there_is_room() {
    let rescue = Rescue::failing(false);
    *rescue.room.lock().unwrap() = Room::Some;
    rescue.fail();
    eventually(|| rescue.opened.load(Ordering::SeqCst) > REOPEN_TRIES_MAX as usize + 1);
    assert!(rescue.is(|status| matches!(status, Status::Recovering(_))));
    rescue.back();
    rescue.rig.post(1, Patience::None);
    eventually(|| rescue.rig.told.durable().len() == 1);
    rescue.check(1, 0);
}

#[test]
fn a_store_that_fails_for_another_reason_is_given_up() {
    let rescue = Rescue::failing(false);
    *rescue.room.lock().unwrap() = Room::Enough;
    rescue.rig.disk.go_on();
    eventually(|| rescue.is(|status| matches!(status, Status::Failed(_))));
    assert_eq!(rescue.opened.load(Ordering::SeqCst), REOPEN_TRIES_MAX as usize);
    assert_eq!(rescue.rig.told.failed(), [1]);
    let append = rescue.rig.make(1, 512);
    assert_eq!(rescue.rig.committer.append(append, Patience::None), Err(QueueFull));
}

/// It counts its commits: one that has fewer than were made has lost some.
#[test]
fn a_store_that_comes_back_with_less_is_not_taken() {
    let rescue = Rescue::new();
    rescue.rig.post(1, Patience::None);
    eventually(|| rescue.rig.told.durable() == [1]);
    rescue.rig.disk.forget();
    rescue.rig.disk.break_down();
    rescue.rig.post(1, Patience::None);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let reason = runtime.block_on(rescue.rig.committer.failed());
    assert_eq!(reason, "the store came back with 0 commits, not 1");
}

#[test]
fn closing_does_not_wait_for_room() {
    let rescue = Rescue::failing(false);
    rescue.fail();
    let before = Instant::now();
    rescue.rig.committer.close();
    assert!(before.elapsed() < Duration::from_secs(5));
    assert!(rescue.is(|status| matches!(status, Status::Failed(_))));
}
