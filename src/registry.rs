//! What is known of live mailboxes, by id. The map's guards never leave this file: it hands out
//! clones.

use std::sync::Arc;

use dashmap::DashMap;
use valise_proto::MailboxId;

/// Something of every mailbox that is attached or was used lately. All others cost nothing here.
pub struct Mailboxes<T> {
    live: DashMap<MailboxId, Arc<T>>,
}

impl<T> Default for Mailboxes<T> {
    fn default() -> Self {
        Self { live: DashMap::default() }
    }
}

impl<T> Mailboxes<T> {
    /// The mailbox, if it is live.
    pub fn get(&self, id: &MailboxId) -> Option<Arc<T>> {
        self.live.get(id).map(|mailbox| Arc::clone(&mailbox))
    }

    /// The mailbox; it comes to life if it was not. There is never a second one for the same id.
    pub fn get_or_insert_with(&self, id: &MailboxId, make: impl FnOnce() -> T) -> Arc<T> {
        if let Some(mailbox) = self.get(id) {
            return mailbox;
        }
        let mailbox = self.live.entry(*id).or_insert_with(|| Arc::new(make()));
        Arc::clone(&mailbox)
    }

    /// Forgets the mailboxes that are idle and that nobody holds.
    /// While the map's entry is locked nobody can get hold of one, so none is ever there twice.
    pub fn forget(&self, is_idle: impl Fn(&T) -> bool) {
        self.live.retain(|_, mailbox| Arc::strong_count(mailbox) > 1 || !is_idle(mailbox));
        if self.live.capacity() > 4 * self.live.len() {
            self.live.shrink_to_fit();
        }
    }

    /// Every mailbox in memory, as it is now.
    pub fn all(&self) -> Vec<Arc<T>> {
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
