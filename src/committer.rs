//! The one thread that makes things durable. Mailboxes hand it appends and removals; it takes what
//! waits, writes it as one batch with one sync, and tells each append's [`Settle`].
//!
//! ```text
//! append(None) ----------------> main queue --take--> batch --Store::commit--> durable()
//! append(UntilAcknowledged) -> patient queue --ripen--^          |
//!                                   '-- acknowledged in time: never written
//! ```

mod append;
mod clock;
mod current;
mod moving;
mod queue;
mod recovery;
mod stats;
mod watchdog;
mod writer;

#[cfg(test)]
mod hand;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use crate::limits::COMMIT_SECONDS_MAX;
use crate::shards::Shards;
use crate::store::{Removal, RunningHours, Seq, Step, Store, StoreError, Totals};
use current::Current;
use queue::{Departure, Due, Queue};
use recovery::Recoveries;
use watchdog::Watchdog;

pub use append::{Append, Settle};
pub(crate) use clock::Clock;
pub use current::InUse;
#[cfg(test)]
pub(crate) use hand::{Hand, Turned};
pub use recovery::{Recovery, Room};
pub use stats::CommitStats;

/// How long an append may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It goes into the next batch.
    None,
    /// The recipient has it and may acknowledge it before it has to be written: it waits for
    /// `limits::ACK_GRACE_MS`.
    UntilAcknowledged,
}

/// Too much waits for the disk, or the committer has ended: the post is answered `busy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much waits for the disk")]
pub struct QueueFull;

/// Nobody knows whether it is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store failed")]
pub struct CommitFailed;

/// How it stands with the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It takes what comes.
    Open,
    /// It failed, for this reason, and is being opened again: nothing is taken but removals.
    Recovering(String),
    /// It failed, for this reason, and nothing is written any more.
    Failed(String),
}

/// A handle to the committer. When the last one goes, the committer is closed.
#[derive(Clone)]
pub struct Committer(Arc<Owner>);

struct Owner {
    shared: Arc<Shared>,
    /// The one that commits and the one that watches it.
    threads: Mutex<Option<[JoinHandle<()>; 2]>>,
}

struct Shared {
    // static
    clock: Clock,
    started: Instant,
    hours_before: RunningHours,
    /// None where no shard can move.
    shards: Option<Arc<Shards>>,

    // written by anyone
    next_seq: AtomicU64,
    state: Mutex<State>,
    wake: Condvar,

    // written by the committer thread
    store: Current,
    stats: CommitStats,
    status: watch::Sender<Status>,
    watchdog: Watchdog,
}

/// Guarded by the one lock, which is never held during a commit.
struct State {
    queue: Queue,
    /// When the thread will look again by itself; `Due::Now` while it is awake.
    sleeps_until: Due,
    /// Persisted, and what is known early.
    totals: Totals,
    /// The totals know something that no batch has written.
    ahead: bool,
    intake: Intake,
    /// The store is to give back what room it can, with so many bytes free.
    reclaim: Option<u64>,
    /// Nothing waits for an acknowledgement: logs need each mailbox's frames in their order.
    hasty: bool,
}

/// What is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intake {
    /// Whatever comes.
    Everything,
    /// Only what frees space: the store is being opened again.
    Removals,
    /// Nothing more: closing, or failed.
    Nothing,
}

impl Committer {
    /// Starts the thread on what the store knows. When the store fails, that is the end.
    pub fn start(store: Arc<dyn Store>) -> Self {
        let limit = Duration::from_secs(COMMIT_SECONDS_MAX);
        Self::start_at(store, None, None, Instant::now(), limit)
    }

    /// The same, with a way to have the store back when it fails, and with shards, if they may move.
    pub fn start_with(
        store: Arc<dyn Store>,
        recovery: Recovery,
        shards: Option<Arc<Shards>>,
    ) -> Self {
        let limit = Duration::from_secs(COMMIT_SECONDS_MAX);
        Self::start_at(store, Some(recovery), shards, Instant::now(), limit)
    }

    /// Starts as if it had run since then, with this patience for a commit.
    fn start_at(
        store: Arc<dyn Store>,
        recovery: Option<Recovery>,
        shards: Option<Arc<Shards>>,
        started: Instant,
        limit: Duration,
    ) -> Self {
        let opened = store.opened();
        let shared = Arc::new(Shared::new(store, shards, Clock::default(), started, limit));
        let recoveries = Recoveries::new(recovery);
        let threads = [
            spawn("committer", &shared, move |shared| writer::run(shared, &opened, recoveries)),
            spawn("committer-watch", &shared, writer::watch),
        ];
        Self(Arc::new(Owner { shared, threads: Mutex::new(Some(threads)) }))
    }

    /// The store it writes to, for reading now.
    ///
    /// # Errors
    /// [`StoreError::Reopening`] while there is none.
    pub fn store(&self) -> Result<InUse<'_>, StoreError> {
        self.shared().store.get()
    }

    /// Gives out the next sequence number of the store-wide order.
    pub fn next_seq(&self) -> Seq {
        Seq(self.shared().next_seq.fetch_add(1, Ordering::Relaxed))
    }

    /// The relay's running time. What an hour had when the process ended is forgotten.
    pub fn hours(&self) -> RunningHours {
        self.shared().hours()
    }

    /// Takes an append; may be called with the mailbox locked, since nothing is settled here. The
    /// main queue keeps the order of the calls.
    ///
    /// # Errors
    /// [`QueueFull`]; the append is then not known here.
    pub fn append(&self, append: Arc<Append>, patience: Patience) -> Result<(), QueueFull> {
        let shared = self.shared();
        let now = shared.clock.now();
        let mut state = shared.state();
        if state.intake != Intake::Everything {
            return Err(QueueFull);
        }
        match patience {
            Patience::UntilAcknowledged if !state.hasty => state.queue.push_patient(append, now)?,
            Patience::UntilAcknowledged | Patience::None => state.queue.push(append)?,
        }
        shared.wake(state);
        Ok(())
    }

    /// Those that still wait for their acknowledgement go to the main queue now, in this order.
    pub fn hurry(&self, appends: &[Arc<Append>]) {
        let shared = self.shared();
        let mut state = shared.state();
        if state.intake == Intake::Everything {
            state.queue.hurry(appends);
            shared.wake(state);
        }
    }

    /// Frames were acknowledged: those named in the removal, and `unwritten` copies for which
    /// [`Append::acknowledge`] said true. A removal that names none and empties nothing only
    /// counts; whoever has never written for a mailbox need not empty it. `of` is held until the
    /// removal is durable.
    pub fn remove(&self, removal: Removal, unwritten: u32, of: Arc<dyn Settle>) {
        let acknowledged = removal.seqs.len() as u64;
        self.depart(Departure { removal, acknowledged, expired: 0, of }, unwritten);
    }

    /// The time to live of the named frames has ended. `of` is held until that is durable.
    pub fn expire(&self, removal: Removal, of: Arc<dyn Settle>) {
        let expired = removal.seqs.len() as u64;
        self.depart(Departure { removal, acknowledged: 0, expired, of }, 0);
    }

    /// Carries out a step that is not about frames; durable when it returns. Dropping the future
    /// does not stop it. It is never refused as a full queue would: each waits for its answer, so
    /// there are no more than a few for each connection.
    ///
    /// # Errors
    /// [`CommitFailed`] when the store has failed or the committer is closed.
    pub async fn write(&self, step: Step) -> Result<(), CommitFailed> {
        let (waiter, answer) = oneshot::channel();
        {
            let shared = self.shared();
            let mut state = shared.state();
            if state.intake != Intake::Everything {
                return Err(CommitFailed);
            }
            state.queue.write(step, waiter);
            shared.wake(state);
        }
        answer.await.map_err(|_| CommitFailed)
    }

    /// Lets the store give back what room it can, with so many bytes free. Nothing is committed
    /// meanwhile, so this is for a disk on which nothing is accepted either.
    pub fn reclaim(&self, free: u64) {
        let shared = self.shared();
        let mut state = shared.state();
        state.reclaim = Some(free);
        state.sleeps_until = Due::Now;
        drop(state);
        shared.wake.notify_one();
    }

    /// What has been persisted, plus what is known early.
    pub fn totals(&self) -> Totals {
        self.shared().state().totals
    }

    /// What the thread has done.
    pub fn stats(&self) -> &CommitStats {
        &self.shared().stats
    }

    /// How it stands with the store; also told whenever it can be read again.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared().status.subscribe()
    }

    /// Waits until nothing is written any more, and says why. Cancel-safe.
    pub async fn failed(&self) -> String {
        let mut status = self.status();
        match status.wait_for(|status| matches!(status, Status::Failed(_))).await.as_deref() {
            Ok(Status::Failed(reason)) => reason.clone(),
            _ => unreachable!("it is waited for, and the sender is here"),
        }
    }

    /// Takes nothing more, writes everything that waits, and ends the thread. It blocks until that
    /// is done or has taken too long; calling it again does nothing.
    pub fn close(&self) {
        self.0.close();
    }

    fn depart(&self, departure: Departure, unwritten: u32) {
        let shared = self.shared();
        let mut state = shared.state();
        if state.intake == Intake::Nothing {
            return;
        }
        if unwritten > 0 {
            state.totals.accepted += u64::from(unwritten);
            state.totals.acknowledged += u64::from(unwritten);
            state.ahead = true;
            shared.stats.skip(unwritten);
        }
        if !departure.removal.seqs.is_empty() || departure.removal.emptied {
            state.queue.remove(departure, shared.clock.now());
            shared.wake(state);
        }
    }

    fn shared(&self) -> &Shared {
        &self.0.shared
    }
}

impl Owner {
    fn close(&self) {
        {
            let mut state = self.shared.state();
            state.intake = Intake::Nothing;
            state.sleeps_until = Due::Now;
        }
        self.shared.wake.notify_one();
        let threads = self.threads.lock().expect("nothing panics while it holds the lock").take();
        let here = std::thread::current().id();
        if let Some(threads) = threads
            // A mailbox that goes in the middle of being told may own the last handle.
            && threads.iter().all(|thread| thread.thread().id() != here)
            // One that hangs in the store is left there.
            && self.shared.watchdog.wait_for_the_end()
        {
            for thread in threads {
                // A panic of the thread was published as its failure.
                let _ = thread.join();
            }
        }
    }
}

fn spawn(
    name: &str,
    shared: &Arc<Shared>,
    life: impl FnOnce(&Shared) + Send + 'static,
) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || life(&shared))
        .expect("a relay that cannot start a thread at its start cannot run")
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn new(
        store: Arc<dyn Store>,
        shards: Option<Arc<Shards>>,
        clock: Clock,
        started: Instant,
        limit: Duration,
    ) -> Self {
        let opened = store.opened();
        let hasty = shards.as_ref().is_some_and(|shards| shards.is_moving());
        Self {
            store: Current::new(store),
            shards,
            clock,
            started,
            hours_before: opened.hours,
            // Zero is the floor of a mailbox that never held anything.
            next_seq: AtomicU64::new(opened.next_seq.0.max(1)),
            state: Mutex::new(State {
                queue: Queue::new(started),
                sleeps_until: Due::Now,
                totals: opened.totals,
                ahead: false,
                intake: Intake::Everything,
                reclaim: None,
                hasty,
            }),
            wake: Condvar::new(),
            stats: CommitStats::default(),
            status: watch::Sender::new(Status::Open),
            watchdog: Watchdog::new(limit),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }

    /// Wakes the thread if it would sleep past what is due. Waking costs the caller a system call.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        if state.queue.due() < state.sleeps_until {
            state.sleeps_until = Due::Now;
            drop(state);
            self.wake.notify_one();
        }
    }

    fn hours(&self) -> RunningHours {
        let hours = u32::try_from(self.hours_here()).unwrap_or(u32::MAX);
        RunningHours(self.hours_before.0.saturating_add(hours))
    }

    /// When [`Self::hours`] next says something new.
    fn next_hour(&self) -> Instant {
        self.started + Duration::from_secs((self.hours_here() + 1) * 3600)
    }

    /// Whole hours since the start of this process.
    fn hours_here(&self) -> u64 {
        self.clock.now().duration_since(self.started).as_secs() / 3600
    }
}

#[cfg(test)]
mod tests;
