//! Attaches that were asked for and never answered, because the connection was lost or given up. One may
//! have an effect all the same, later than an attach that was asked for after it: then the client
//! itself has taken its mailbox away, and not another device.

use tokio::time::Instant;

use crate::limits::ATTACH_DOUBT;

/// When each was given up.
#[derive(Default)]
pub(super) struct Doubts(Vec<Instant>);

impl Doubts {
    /// An attach was given up.
    pub(super) fn arise(&mut self) {
        self.0.retain(|since| since.elapsed() < ATTACH_DOUBT);
        self.0.push(Instant::now());
    }

    /// An attachment was replaced: whether it was the client's own doing, for all that is known. Each
    /// attach explains it once, so that two devices do not take a mailbox from each other without end.
    pub(super) fn resolve(&mut self) -> bool {
        self.0.retain(|since| since.elapsed() < ATTACH_DOUBT);
        self.0.pop().is_some()
    }
}
