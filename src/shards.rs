//! The shards of a supernode's realm: which of them it serves, and which are on their way to a data
//! centre. What a shard is, is decided by `valise_migration::shard`; here it is held, and asked on
//! the way of every post. Only the committer changes it, between two batches.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::watch;
use valise_migration::importer::Report;
use valise_migration::real::{Real, RealCursor, RealEntry, RealRequest, RealShard};
use valise_migration::realm::{Census, Realm};
use valise_migration::shard::Admitted;
use valise_migration::{Boot, Epoch, Migration, Position, Record, Refusal, Shard};
use valise_proto::{MailboxId, SlotId};

use crate::store::{Logs, SHARDS, ShardKey, Step, StoreError};

/// Whether a shard is served here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// It is.
    Serves,
    /// Nobody may answer for it just now.
    Busy,
    /// By the data centre; posts are passed on.
    Forward,
    /// By the data centre.
    Moved,
}

impl Mode {
    const ALL: [Self; 4] = [Self::Serves, Self::Busy, Self::Forward, Self::Moved];

    /// A shard whose log is being begun serves: what is entered meanwhile waits for the next batch.
    fn of(shard: RealShard) -> Self {
        match shard {
            Shard::Plain | Shard::Local { .. } => Self::Serves,
            Shard::Writing { to: Record::Plain | Record::Local { .. }, .. } => Self::Serves,
            Shard::Unsure { .. } | Shard::Writing { .. } | Shard::Sealed(_) => Self::Busy,
            Shard::Forward { .. } => Self::Forward,
            Shard::Gone { .. } => Self::Moved,
        }
    }
}

/// All shards of a realm.
pub struct Shards {
    // Static after construction.
    key: ShardKey,
    boot: Boot,
    // Read by everyone.
    /// Some shard is not plain.
    moving: AtomicBool,
    modes: [AtomicU8; SHARDS],
    // Written by the committer.
    held: Mutex<Held>,
    changes: watch::Sender<u64>,
}

struct Held {
    shards: Vec<At>,
    realm: Realm,
}

#[derive(Clone, Copy)]
struct At {
    shard: RealShard,
    /// The first place of its log that is not on the disk.
    durable: Position,
}

/// What came of entering something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// There is no log.
    Plain,
    /// It is the log's newest entry, and this is the log's end now.
    Logged(RealCursor),
}

impl Shards {
    /// The shards of a realm whose record has this epoch, in a process that has just started. `boot`
    /// is drawn at random.
    pub fn new(key: ShardKey, boot: Boot, epoch: Epoch) -> Self {
        let plain = At { shard: Shard::Plain, durable: Position(0) };
        let held = Held { shards: vec![plain; SHARDS], realm: Realm::Active(epoch) };
        Self {
            key,
            boot,
            moving: AtomicBool::new(false),
            modes: [const { AtomicU8::new(Mode::Serves as u8) }; SHARDS],
            held: Mutex::new(held),
            changes: watch::Sender::new(0),
        }
    }

    /// What the disk says, after a start or when the store was opened again. What was serving is
    /// unsure.
    ///
    /// # Errors
    /// [`StoreError`] when that cannot be read.
    pub fn restart(&self, logs: &dyn Logs) -> Result<(), StoreError> {
        let mut shards = vec![At { shard: Shard::Plain, durable: Position(0) }; SHARDS];
        for (number, record) in logs.shards()? {
            let log = logs.log_end(number)?;
            let shard = Shard::restart(record, log);
            shards[usize::from(number)] = At { shard, durable: log.next };
        }
        self.held().shards = shards;
        for shard in 0..=u8::MAX {
            self.changed(shard);
        }
        Ok(())
    }

    /// This life of the process.
    pub fn boot(&self) -> Boot {
        self.boot
    }

    /// The shard of a mailbox.
    pub fn of_mailbox(&self, mailbox: &MailboxId) -> u8 {
        self.key.shard(mailbox)
    }

    /// The shard of a slot.
    pub fn of_slot(&self, slot: &SlotId) -> u8 {
        self.key.slot_shard(slot)
    }

    /// The shard of an invite code.
    pub fn of_code(&self, serial: &[u8; 8]) -> u8 {
        self.key.serial_shard(serial)
    }

    /// The shard that a step changes; none for what changes none.
    pub fn of_step(&self, step: &Step) -> Option<u8> {
        self.key.of_step(step)
    }

    /// Whether a migration is under way, or done.
    #[inline]
    pub fn is_moving(&self) -> bool {
        self.moving.load(Ordering::Acquire)
    }

    /// Whether a shard is served here.
    pub fn mode(&self, shard: u8) -> Mode {
        Mode::ALL[usize::from(self.modes[usize::from(shard)].load(Ordering::Acquire))]
    }

    /// How a shard is.
    pub fn report(&self, shard: u8) -> Report<Real> {
        let At { shard, durable } = self.held().shards[usize::from(shard)];
        Report { boot: self.boot, shard, durable }
    }

    /// The phase of the realm.
    pub fn phase(&self) -> Realm {
        self.held().realm
    }

    /// Rises whenever whether a shard is served here has changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A signed record of this epoch is about.
    pub fn hello(&self, heard: Epoch) {
        {
            let mut held = self.held();
            held.realm = held.realm.hello(heard);
            if held.realm.serves().is_ok() {
                return;
            }
        }
        // Nobody is served any more.
        (0..=u8::MAX).for_each(|shard| self.changed(shard));
    }

    /// Enters something, if it may be. The committer's alone.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn enter(&self, shard: u8, entry: &RealEntry) -> Result<Entered, Refusal> {
        let mut held = self.held();
        let at = &mut held.shards[usize::from(shard)];
        let (longer, admitted) = at.shard.enter(entry)?;
        at.shard = longer;
        match (admitted, longer) {
            (Admitted::Store, _) => Ok(Entered::Plain),
            (Admitted::Log(_), Shard::Local { log, .. }) => Ok(Entered::Logged(log)),
            // What is passed on is not written here.
            _ => Err(Refusal::Moved),
        }
    }

    /// Takes a step. The committer's alone.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed.
    pub(crate) fn step(
        &self,
        shard: u8,
        request: RealRequest,
    ) -> Result<Option<valise_migration::real::RealRecord>, Refusal> {
        let record = {
            let mut held = self.held();
            let at = &mut held.shards[usize::from(shard)];
            let (next, record) = at.shard.step(self.boot, request)?;
            at.shard = next;
            record
        };
        self.changed(shard);
        Ok(record)
    }

    /// Its log is on the disk up to here.
    pub(crate) fn durable(&self, shard: u8, up_to: Position) {
        self.held().shards[usize::from(shard)].durable = up_to;
    }

    fn changed(&self, shard: u8) {
        let mut held = self.held();
        let mode = Mode::of(held.shards[usize::from(shard)].shard);
        let migration = held.shards.iter().find_map(|at| at.shard.migration());
        if let Ok(census) = Census::of(held.shards.iter().map(|at| at.shard)) {
            held.realm = held.realm.observe(census, migration.unwrap_or(Migration(0)));
        }
        let is_fenced = held.realm.serves().is_err();
        drop(held);
        let mode = if is_fenced { Mode::Moved } else { mode } as u8;
        self.moving.store(migration.is_some() || is_fenced, Ordering::Release);
        if self.modes[usize::from(shard)].swap(mode, Ordering::AcqRel) != mode {
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("nothing panics while it holds the lock")
    }
}
