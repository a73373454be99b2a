//! Attaches that were asked for and never answered, because the connection was lost or given up. One may
//! have an effect all the same, later than an attach that was asked for after it: then the client
//! itself has taken its mailbox away, and not another device.

use tokio::time::Instant;
use valise_proto::MailboxId;

use crate::limits::ATTACH_DOUBT;

/// When each was given up.
#[derive(Default)]
pub(super) struct Doubts(Vec<(MailboxId, Instant)>);

impl Doubts {
    /// An attach was given up.
    pub(super) fn arise(&mut self, mailbox: MailboxId) {
        self.0.retain(|(_, since)| since.elapsed() < ATTACH_DOUBT);
        self.0.push((mailbox, Instant::now()));
    }

    /// An attachment was replaced: whether it was the client's own doing, for all that is known. Each
    /// attach explains it once, so that two devices do not take a mailbox from each other without end.
    pub(super) fn resolve(&mut self, mailbox: &MailboxId) -> bool {
        self.0.retain(|(_, since)| since.elapsed() < ATTACH_DOUBT);
        let doubt = self.0.iter().position(|(of, _)| of == mailbox);
        doubt.map(|doubt| self.0.swap_remove(doubt)).is_some()
    }
}
