//! By which mailboxes a connection is steered to where it is served best: by those that it serves.

use super::{Link, Phase};
use crate::transport::Transport;

impl<T: Transport> Link<T> {
    /// Something was attached, or is attached no more.
    pub(super) fn steer(&mut self) {
        let (Some(steered), Phase::Open(session)) = (&self.steered, &mut self.phase) else {
            return;
        };
        let slots = self.slots.iter().zip(0..);
        let served = slots.filter_map(|(attachment, slot)| {
            let (number, _) = session.serving(slot)?;
            Some((number, attachment.as_ref()?))
        });
        let mut served: Vec<_> = served.collect();
        served.sort_by_key(|(number, _)| *number);
        if !served.iter().map(|(number, _)| number).eq(&self.steered_by) {
            self.steered_by = served.iter().map(|(number, _)| *number).collect();
            steered.serves(served.iter().map(|(_, attachment)| attachment.mailbox()));
        }
    }
}
