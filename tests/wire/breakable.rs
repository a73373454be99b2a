//! The memory store on a disk that can break or fill up.

use std::sync::Mutex;

use valise::payload::Payload;
use valise::store::{
    Backlog, Batch, BundleHead, Cutoff, Frame, MemoryStore, Opened, Outdated, RunningHours, Seq,
    Slot, Store, StoreError,
};
use valise_proto::{MailboxId, SlotId};

/// How it stands with the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Health {
    #[default]
    Healthy,
    /// Nothing can be written.
    Full,
    /// Nothing can be read or written.
    Broken,
}

/// The store.
#[derive(Default)]
pub struct Breakable {
    store: MemoryStore,
    health: Mutex<Health>,
}

impl Breakable {
    pub fn set(&self, health: Health) {
        *self.health.lock().unwrap() = health;
    }

    /// Whether it can be written to, as an opening finds out.
    pub fn write(&self) -> Result<(), StoreError> {
        match *self.health.lock().unwrap() {
            Health::Healthy => Ok(()),
            Health::Full => Err(error(std::io::ErrorKind::StorageFull.into())),
            Health::Broken => Err(error(std::io::Error::other("the disk is broken"))),
        }
    }

    fn read_at_all(&self) -> Result<(), StoreError> {
        let broken = *self.health.lock().unwrap() == Health::Broken;
        if broken { self.write() } else { Ok(()) }
    }
}

fn error(source: std::io::Error) -> StoreError {
    StoreError::Io { path: "disk".into(), source }
}

impl Store for Breakable {
    fn opened(&self) -> Opened {
        self.store.opened()
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        self.write().and_then(|()| self.store.commit(batch))
    }

    fn load(&self, mailbox: &MailboxId) -> Result<Backlog, StoreError> {
        self.read_at_all().and_then(|()| self.store.load(mailbox))
    }

    fn read(
        &self,
        mailbox: &MailboxId,
        after: Seq,
        up_to: Seq,
        bytes_max: usize,
    ) -> Result<Vec<Frame>, StoreError> {
        self.read_at_all().and_then(|()| self.store.read(mailbox, after, up_to, bytes_max))
    }

    fn spent(&self, serial: &[u8; 8]) -> Result<Option<MailboxId>, StoreError> {
        self.read_at_all().and_then(|()| self.store.spent(serial))
    }

    fn slot(&self, id: &SlotId) -> Result<Option<Slot>, StoreError> {
        self.read_at_all().and_then(|()| self.store.slot(id))
    }

    fn bundle(&self, mailbox: &MailboxId) -> Result<Option<BundleHead>, StoreError> {
        self.read_at_all().and_then(|()| self.store.bundle(mailbox))
    }

    fn bundle_item(&self, mailbox: &MailboxId, number: u32) -> Result<Option<Payload>, StoreError> {
        self.read_at_all().and_then(|()| self.store.bundle_item(mailbox, number))
    }

    fn outdated(&self, cutoff: &Cutoff, max: usize) -> Result<Vec<Outdated>, StoreError> {
        self.read_at_all().and_then(|()| self.store.outdated(cutoff, max))
    }

    fn expired(&self, now: RunningHours) -> Result<Vec<MailboxId>, StoreError> {
        self.read_at_all().and_then(|()| self.store.expired(now))
    }

    fn count(&self) -> Result<u64, StoreError> {
        self.read_at_all().and_then(|()| self.store.count())
    }
}
