//! The live mailboxes by id. The map's guards never leave this file: it hands out clones.

use std::sync::Arc;
use std::time::Instant;

use dashmap::DashMap;
use valise_proto::MailboxId;

use crate::mailbox::{Mailbox, Surroundings};

/// Every mailbox that is attached or was used lately. All others cost nothing here.
#[derive(Default)]
pub struct Mailboxes {
    live: DashMap<MailboxId, Arc<Mailbox>>,
}

impl Mailboxes {
    /// The mailbox, if it is live.
    pub fn get(&self, id: &MailboxId) -> Option<Arc<Mailbox>> {
        self.live.get(id).map(|mailbox| Arc::clone(&mailbox))
    }

    /// The mailbox; it comes to life if it was not. There is never a second one for the same id.
    pub fn get_or_insert(&self, id: &MailboxId, around: &Arc<Surroundings>) -> Arc<Mailbox> {
        if let Some(mailbox) = self.get(id) {
            return mailbox;
        }
        let mailbox =
            self.live.entry(*id).or_insert_with(|| Arc::new(Mailbox::new(*id, Arc::clone(around))));
        Arc::clone(&mailbox)
    }

    /// Forgets the mailboxes that are idle and that nobody holds.
    /// While the map's entry is locked nobody can get hold of one, so none is ever there twice.
    pub fn forget_idle(&self, now: Instant) {
        self.live.retain(|_, mailbox| Arc::strong_count(mailbox) > 1 || !mailbox.is_idle(now));
        if self.live.capacity() > 4 * self.live.len() {
            self.live.shrink_to_fit();
        }
    }

    /// Every mailbox in memory, as it is now.
    pub fn all(&self) -> Vec<Arc<Mailbox>> {
        self.live.iter().map(|mailbox| Arc::clone(&mailbox)).collect()
    }

    /// Mailboxes in memory.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }
}
