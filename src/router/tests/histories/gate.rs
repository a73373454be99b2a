//! The store as the relay sees it: what it is asked to do goes as the history wants, and while it
//! is at it, other things happen.

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use valise_proto::{MailboxId, SlotId};

use super::history::{Fate, Within};
use super::model::Number;
use super::play::Play;
use super::stage::number_of;
use crate::payload::Payload;
use crate::store::{
    Backlog, Batch, BundleHead, Cutoff, Frame, Opened, Outdated, RunningHours, Seq, Slot, Step,
    Store, StoreError,
};

pub(super) struct Gate {
    /// Nothing while it is opened again.
    store: Mutex<Option<Arc<dyn Store>>>,
    play: Weak<Play>,
    script: Mutex<Script>,
}

/// What comes next.
struct Script {
    commit: (Within, Fate),
    read: Within,
    /// The frames of the last batch.
    committed: Option<Vec<(usize, Number)>>,
    died: bool,
}

impl Gate {
    pub(super) fn new(store: Arc<dyn Store>, play: &Arc<Play>) -> Self {
        let script =
            Script { commit: ((0, 0), Fate::Fine), read: (0, 0), committed: None, died: false };
        Self {
            store: Mutex::new(Some(store)),
            play: Arc::downgrade(play),
            script: Mutex::new(script),
        }
    }

    pub(super) fn expect_commit(&self, within: Within, fate: Fate) {
        let mut script = self.script();
        script.commit = (within, fate);
        script.committed = None;
    }

    pub(super) fn expect_read(&self, within: Within) {
        self.script().read = within;
    }

    /// The frames of the batch since then, if there was one.
    pub(super) fn committed(&self) -> Option<Vec<(usize, Number)>> {
        self.script().committed.take()
    }

    /// The frames of the batch that was written last.
    pub(super) fn batch(&self) -> Vec<(usize, Number)> {
        self.script().committed.clone().unwrap_or_default()
    }

    /// Lets the store go, and says how much happens until it is back.
    pub(super) fn close(&self) -> u8 {
        *self.store.lock().unwrap() = None;
        let ((_, while_closed), _) = self.script().commit;
        while_closed
    }

    /// The store is back, and what was removed while it failed is written next.
    pub(super) fn reopen(&self, store: Arc<dyn Store>) {
        *self.store.lock().unwrap() = Some(store);
        self.script().commit = ((0, 0), Fate::Fine);
    }

    fn store(&self) -> Arc<dyn Store> {
        self.store.lock().unwrap().clone().expect("nobody has a store that is opened again")
    }

    pub(super) fn has_died(&self) -> bool {
        self.script().died
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    fn some(&self, count: u8) {
        if let Some(play) = self.play.upgrade() {
            play.some(count);
        }
    }

    /// The relay dies now. Whatever is wrong with what it said is found with the rest.
    fn die(&self) {
        if let Some(play) = self.play.upgrade() {
            self.script().died = true;
            play.died();
        }
    }

    fn torn(&self, part: u8, batch: &Batch) -> Result<(), StoreError> {
        let Some(play) = self.play.upgrade() else { return Ok(()) };
        let mut written = Ok(());
        let torn = play.disk().tear(part, || written = self.store().commit(batch));
        written?;
        if let Some(torn) = torn {
            play.disk().put_back(torn);
        }
        Ok(())
    }
}

fn failure() -> StoreError {
    StoreError::Io { path: "disk".into(), source: std::io::Error::other("as the history wants") }
}

impl Store for Gate {
    fn opened(&self) -> Opened {
        self.store().opened()
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let ((before, after), fate) = self.script().commit;
        let appended = batch.steps.iter().filter_map(|step| match step {
            Step::Append { frame, .. } => {
                Some((usize::from(frame.mailbox.as_bytes()[0]) - 1, number_of(&frame.frame_id)))
            }
            _ => None,
        });
        self.script().committed.get_or_insert(appended.collect());
        self.some(before);
        match fate {
            Fate::Fine => {
                self.store().commit(batch)?;
                self.some(after);
                return Ok(());
            }
            Fate::Fails { written } | Fate::Killed { written } => {
                if written {
                    self.store().commit(batch)?;
                }
            }
            Fate::Torn { part } => self.torn(part, batch)?,
        }
        if !matches!(fate, Fate::Fails { .. }) {
            self.die();
        }
        Err(failure())
    }

    fn load(&self, mailbox: &MailboxId) -> Result<Backlog, StoreError> {
        self.store().load(mailbox)
    }

    fn read(
        &self,
        mailbox: &MailboxId,
        after: Seq,
        up_to: Seq,
        bytes_max: usize,
    ) -> Result<Vec<Frame>, StoreError> {
        let (first, then) = std::mem::take(&mut self.script().read);
        self.some(first);
        let read = self.store().read(mailbox, after, up_to, bytes_max);
        self.some(then);
        read
    }

    fn spent(&self, serial: &[u8; 8]) -> Result<Option<MailboxId>, StoreError> {
        self.store().spent(serial)
    }

    fn slot(&self, id: &SlotId) -> Result<Option<Slot>, StoreError> {
        self.store().slot(id)
    }

    fn bundle(&self, mailbox: &MailboxId) -> Result<Option<BundleHead>, StoreError> {
        self.store().bundle(mailbox)
    }

    fn bundle_item(&self, mailbox: &MailboxId, number: u32) -> Result<Option<Payload>, StoreError> {
        self.store().bundle_item(mailbox, number)
    }

    fn outdated(&self, cutoff: &Cutoff, max: usize) -> Result<Vec<Outdated>, StoreError> {
        self.store().outdated(cutoff, max)
    }

    fn expired(&self, now: RunningHours) -> Result<Vec<MailboxId>, StoreError> {
        self.store().expired(now)
    }

    fn count(&self) -> Result<u64, StoreError> {
        self.store().count()
    }
}
