//! The store of a relay that runs alone: one fjall database with one keyspace. A batch of steps is
//! one write batch and one `fdatasync` of its journal.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable};
use bytes::Bytes;
use valise_proto::{MailboxId, SlotId};

use super::changes::{Changes, FrameChange};
use super::expiry::{Entry, ExpiryIndex};
use super::high_water::HighWater;
use super::record;
use super::{
    Backlog, BacklogEntry, Batch, BundleHead, Cutoff, Frame, Logs, Opened, Outdated, RunningHours,
    Seq, ShardKey, Slot, Store, StoreError,
};
use crate::payload::Payload;

/// What an operator may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// The cache for blocks read from tables, in bytes.
    pub cache_bytes: u64,
    /// The journals on disk at most, in bytes; at least 64 MiB.
    pub journal_bytes: u64,
    /// Commits the operator has decided to go on without.
    pub accept_missing_commits: u64,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, journal_bytes: 256 << 20, accept_missing_commits: 0 }
    }
}

/// Frames in a directory on a local disk.
pub struct EmbeddedStore {
    // static after opening
    shards: ShardKey,
    opened: Opened,
    database: Database,
    keyspace: Keyspace,

    // owned by whoever commits; nobody else takes the lock
    writer: Mutex<Writer>,
}

struct Writer {
    commits: u64,
    expiry: ExpiryIndex,
    high_water: HighWater,
    /// A commit failed: what is on the disk is not known any more.
    finished: bool,
}

impl EmbeddedStore {
    /// Opens the store in this directory, or makes one.
    ///
    /// # Errors
    /// [`StoreError`]: every reason why this process must not serve from it.
    pub fn open(
        dir: &Path,
        shards: ShardKey,
        options: EmbeddedOptions,
    ) -> Result<Self, StoreError> {
        wait_until_closed(dir)?;
        let (database, keyspace) = open_engine(dir, options)?;
        check_format(&database, &keyspace)?;
        let opened = match keyspace.get(record::STATE_KEY)? {
            Some(found) => record::decode_state(&found)?,
            None => Opened::default(),
        };
        let high_water = HighWater::open(dir, opened.commits, options.accept_missing_commits)?;
        let indexed = keyspace.prefix(record::EXPIRY_KIND).next().is_some();
        let unknown_below = if indexed { opened.next_seq } else { Seq(0) };
        let writer = Mutex::new(Writer {
            commits: opened.commits,
            expiry: ExpiryIndex::new(unknown_below),
            high_water,
            finished: false,
        });
        Ok(Self { shards, opened, database, keyspace, writer })
    }

    /// All keys in the store, whatever they are.
    #[cfg(test)]
    pub(crate) fn keys(&self) -> Vec<Vec<u8>> {
        self.keyspace.iter().map(|entry| entry.key().expect("healthy").to_vec()).collect()
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().expect("nothing panics while it holds the lock")
    }

    fn write(&self, writer: &mut Writer, batch: &Batch) -> Result<(), StoreError> {
        let changes = Changes::of(batch, &self.shards);
        let mut out = OwnedWriteBatch::with_capacity(self.database.clone(), changes.len() + 1)
            .durability(Some(PersistMode::SyncData));
        for (seq, change) in &changes.frames {
            match change {
                FrameChange::Stored(frame) => {
                    let shard = changes.shard(&frame.mailbox);
                    self.put_frame(&mut out, writer, shard, frame, batch.next_seq);
                }
                FrameChange::Removed(mailbox) => {
                    let shard = changes.shard(mailbox);
                    self.remove_frame(&mut out, writer, shard, mailbox, *seq)?;
                }
            }
        }
        for (mailbox, change) in &changes.mailboxes {
            let key = record::floor_key(change.shard, mailbox);
            match change.floor {
                Some(floor) => out.insert(&self.keyspace, key, record::encode_floor(floor)),
                None => out.remove(&self.keyspace, key),
            }
        }
        self.put_standing(&mut out, &changes)?;
        self.put_moving(&mut out, writer, &changes)?;
        let state = Opened {
            totals: batch.totals,
            next_seq: batch.next_seq,
            hours: batch.hours,
            commits: writer.commits + 1,
        };
        out.insert(&self.keyspace, record::STATE_KEY, record::encode_state(&state));
        self.wait_for_flushes()?;
        out.commit()?;
        writer.commits = state.commits;
        writer.high_water.record(state.commits)
    }

    /// With four memtables waiting for their tables the engine waits inside a commit, and for ever if
    /// the thread that writes tables has died of a full disk. Here the same wait sees that.
    fn wait_for_flushes(&self) -> Result<(), StoreError> {
        while self.database.outstanding_flushes() >= FLUSHES_WAITING_MAX {
            // It syncs nothing; it only fails where a commit would.
            self.database.persist(PersistMode::Buffer)?;
            std::thread::sleep(FLUSH_LOOK);
        }
        Ok(())
    }

    fn put_frame(
        &self,
        out: &mut OwnedWriteBatch,
        writer: &mut Writer,
        shard: u8,
        frame: &Frame,
        next_seq: Seq,
    ) {
        let key = record::frame_key(shard, &frame.mailbox, frame.seq);
        out.insert(&self.keyspace, key, record::encode_frame(frame));
        if ExpiryIndex::wants(frame) {
            let key = record::expiry_key(frame.expires(), shard, &frame.mailbox, frame.seq);
            out.insert(&self.keyspace, key, record::encode_expiry());
            writer.expiry.insert(frame, next_seq);
        }
    }

    fn remove_frame(
        &self,
        out: &mut OwnedWriteBatch,
        writer: &mut Writer,
        shard: u8,
        mailbox: &MailboxId,
        seq: Seq,
    ) -> Result<(), StoreError> {
        let key = record::frame_key(shard, mailbox, seq);
        let indexed = match writer.expiry.remove(seq) {
            Entry::Absent => None,
            Entry::At(expires) => Some(expires),
            Entry::Unknown => self.indexed(mailbox, seq, &key)?,
        };
        if let Some(expires) = indexed {
            out.remove(&self.keyspace, record::expiry_key(expires, shard, mailbox, seq));
        }
        // Not `remove_weak`, which would be safe for a key written once: it saved nothing that could
        // be measured, and the engine calls it experimental.
        out.remove(&self.keyspace, key);
        Ok(())
    }

    /// The hour a frame on disk has in the expiry index.
    fn indexed(
        &self,
        mailbox: &MailboxId,
        seq: Seq,
        key: &[u8],
    ) -> Result<Option<RunningHours>, StoreError> {
        let Some(found) = self.keyspace.get(key)? else { return Ok(None) };
        let frame = record::decode_frame(*mailbox, seq, &Bytes::from(found))?;
        Ok(ExpiryIndex::wants(&frame).then(|| frame.expires()))
    }

    /// Whether the first frame with the default time to live has expired, or there is no frame.
    fn usual_expired(
        &self,
        moment: &::fjall::Snapshot,
        mailbox: &MailboxId,
        floor: Seq,
        now: RunningHours,
    ) -> Result<bool, StoreError> {
        let mut empty = true;
        for frame in self.scan(moment, mailbox, floor, Seq(u64::MAX)) {
            let frame = frame?;
            if !ExpiryIndex::wants(&frame) {
                return Ok(frame.expires() < now);
            }
            empty = false;
        }
        Ok(empty)
    }

    /// The frames of a mailbox with `after < seq <= up_to`, of one moment in time.
    fn scan(
        &self,
        moment: &::fjall::Snapshot,
        mailbox: &MailboxId,
        after: Seq,
        up_to: Seq,
    ) -> impl Iterator<Item = Result<Frame, StoreError>> {
        let shard = self.shards.shard(mailbox);
        let first = Seq(after.0.saturating_add(1));
        let entries = (first <= up_to).then(|| {
            let first = record::frame_key(shard, mailbox, first);
            moment.range(&self.keyspace, first..=record::frame_key(shard, mailbox, up_to))
        });
        entries.into_iter().flatten().map(read_frame)
    }
}

impl Store for EmbeddedStore {
    fn opened(&self) -> Opened {
        self.opened
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut writer = self.writer();
        if writer.finished {
            return Err(::fjall::Error::Poisoned.into());
        }
        let result = self.write(&mut writer, batch);
        writer.finished = result.is_err();
        result
    }

    fn load(&self, mailbox: &MailboxId) -> Result<Backlog, StoreError> {
        let moment = self.database.snapshot();
        let key = record::floor_key(self.shards.shard(mailbox), mailbox);
        let revoked = self.revoked(&moment, mailbox)?;
        let Some(floor) = moment.get(&self.keyspace, key)? else {
            return Ok(Backlog { revoked, ..Backlog::default() });
        };
        let floor = record::decode_floor(&floor)?;
        let frames = self
            .scan(&moment, mailbox, floor, Seq(u64::MAX))
            .map(|frame| frame.map(|frame| BacklogEntry::from(&frame)));
        Ok(Backlog { kept: true, floor, frames: frames.collect::<Result<_, _>>()?, revoked })
    }

    fn read(
        &self,
        mailbox: &MailboxId,
        after: Seq,
        up_to: Seq,
        bytes_max: usize,
    ) -> Result<Vec<Frame>, StoreError> {
        let moment = self.database.snapshot();
        let mut frames = Vec::new();
        let mut room = bytes_max;
        for frame in self.scan(&moment, mailbox, after, up_to) {
            let frame = frame?;
            let bytes = frame.payload.len();
            if bytes > room && !frames.is_empty() {
                break;
            }
            room = room.saturating_sub(bytes);
            frames.push(frame);
        }
        Ok(frames)
    }

    fn spent(&self, serial: &[u8; 8]) -> Result<Option<MailboxId>, StoreError> {
        let found = self.keyspace.get(record::spent_key(serial))?;
        found.map(|found| record::decode_spent(&found).map(|(mailbox, _)| mailbox)).transpose()
    }

    fn slot(&self, id: &SlotId) -> Result<Option<Slot>, StoreError> {
        let key = record::slot_key(self.shards.slot_shard(id), id);
        let found = self.keyspace.get(key)?;
        found.map(|found| record::decode_slot(id, &Bytes::from(found))).transpose()
    }

    fn bundle(&self, mailbox: &MailboxId) -> Result<Option<BundleHead>, StoreError> {
        let key = record::bundle_key(self.shards.shard(mailbox), mailbox);
        let found = self.keyspace.get(key)?;
        found.map(|found| record::decode_bundle(&found)).transpose()
    }

    fn bundle_item(&self, mailbox: &MailboxId, number: u32) -> Result<Option<Payload>, StoreError> {
        let key = record::item_key(self.shards.shard(mailbox), mailbox, number);
        let found = self.keyspace.get(key)?;
        found.map(|found| record::decode_item(&Bytes::from(found))).transpose()
    }

    fn outdated(&self, cutoff: &Cutoff, max: usize) -> Result<Vec<Outdated>, StoreError> {
        let moment = self.database.snapshot();
        standing::outdated(&moment, &self.keyspace, cutoff, max)
    }

    /// The index knows the frames of unusual lives. Of the others in a mailbox the first expires
    /// first, so one frame of each mailbox is read.
    fn expired(&self, now: RunningHours) -> Result<Vec<MailboxId>, StoreError> {
        let moment = self.database.snapshot();
        let mut expired = BTreeSet::new();
        let index = record::EXPIRY_KIND.to_vec()..record::expiry_keys_end(now);
        for entry in moment.range(&self.keyspace, index) {
            expired.insert(record::parse_expiry_key(&entry.key()?)?);
        }
        for entry in moment.prefix(&self.keyspace, record::FLOOR_KIND) {
            let (key, floor) = entry.into_inner()?;
            let mailbox = record::parse_floor_key(&key)?;
            let floor = record::decode_floor(&floor)?;
            if !expired.contains(&mailbox) && self.usual_expired(&moment, &mailbox, floor, now)? {
                expired.insert(mailbox);
            }
        }
        Ok(expired.into_iter().collect())
    }

    fn reclaim(&self, queued: u64, free: u64) -> Result<bool, StoreError> {
        self.merge_everything(queued, free)
    }

    fn logs(&self) -> Option<&dyn Logs> {
        Some(self)
    }

    fn count(&self) -> Result<u64, StoreError> {
        let moment = self.database.snapshot();
        let mut frames = 0;
        for entry in moment.prefix(&self.keyspace, record::FRAME_KIND) {
            read_frame(entry)?;
            frames += 1;
        }
        Ok(frames)
    }
}

impl Drop for EmbeddedStore {
    /// The guard's last second; a failure here costs only its sharpness.
    fn drop(&mut self) {
        if let Ok(writer) = self.writer.get_mut() {
            let _ = writer.high_water.sync();
        }
    }
}

fn read_frame(entry: ::fjall::Guard) -> Result<Frame, StoreError> {
    let (key, found) = entry.into_inner()?;
    let (mailbox, seq) = record::parse_frame_key(&key)?;
    record::decode_frame(mailbox, seq, &Bytes::from(found))
}

/// Opens the engine with the only settings it is ever opened with.
fn open_engine(dir: &Path, options: EmbeddedOptions) -> Result<(Database, Keyspace), StoreError> {
    let database = Database::builder(dir)
        .worker_threads(1)
        .cache_size(options.cache_bytes)
        .max_journaling_size(options.journal_bytes.max(JOURNAL_BYTES_MIN))
        .open()
        .map_err(|error| match error {
            ::fjall::Error::Locked => StoreError::Locked(PathBuf::from(dir)),
            error => error.into(),
        })?;
    let keyspace = database.keyspace("valise", || {
        KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES)
    })?;
    Ok((database, keyspace))
}

/// Waits until this process has no file of the store open. The engine's own thread may hold its
/// journal a moment longer than its lock, and writes the rest of it when it lets go.
fn wait_until_closed(dir: &Path) -> Result<(), StoreError> {
    // A store that does not exist yet is closed; so is one on a system that cannot say.
    let Ok(dir) = dir.canonicalize() else { return Ok(()) };
    let until = Instant::now() + CLOSING_MAX;
    while is_open_here(&dir) {
        if Instant::now() >= until {
            return Err(StoreError::Locked(dir));
        }
        std::thread::sleep(FLUSH_LOOK);
    }
    Ok(())
}

fn is_open_here(dir: &Path) -> bool {
    let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") else { return false };
    descriptors
        .flatten()
        .any(|descriptor| descriptor.path().read_link().is_ok_and(|file| file.starts_with(dir)))
}

/// How long that may take.
const CLOSING_MAX: Duration = Duration::from_secs(2);

/// The engine asserts it.
const JOURNAL_BYTES_MIN: u64 = 64 << 20;

/// Memtables that wait to be written before a commit begins: it seals one more at most, and the
/// engine itself waits at four.
const FLUSHES_WAITING_MAX: usize = 3;

/// How often it is looked whether one of them was written.
const FLUSH_LOOK: Duration = Duration::from_millis(5);

/// What the engine gathers in memory before it writes a table.
const MEMTABLE_BYTES: u64 = 32 << 20;

/// Refuses a store of a newer version, and marks a new or an older one with ours.
fn check_format(database: &Database, keyspace: &Keyspace) -> Result<(), StoreError> {
    let found = match keyspace.get(record::FORMAT_KEY)? {
        Some(found) => record::decode_format(&found)?,
        None => 0,
    };
    if found > record::FORMAT {
        return Err(StoreError::NewerFormat { found, known: record::FORMAT });
    }
    if found < record::FORMAT {
        let mut out = database.batch().durability(Some(PersistMode::SyncAll));
        out.insert(keyspace, record::FORMAT_KEY, record::encode_format(record::FORMAT));
        out.commit()?;
    }
    Ok(())
}

mod moving;
mod reclaim;
mod standing;
#[cfg(test)]
mod tests;
