//! By which mailbox a connection is steered to the node that serves it best: by the first one it
//! serves.

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
        let first = served.min_by_key(|(number, _)| *number);
        let number = first.map(|(number, _)| number);
        if self.steered_by != number {
            self.steered_by = number;
            steered.by(first.map(|(_, attachment)| attachment.mailbox()));
        }
    }
}
