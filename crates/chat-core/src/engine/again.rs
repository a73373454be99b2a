//! Being let in again: what a group's rows were is replaced by what the Welcome brings, and what the
//! user had written and others have not got is said anew.

use prost::Message as _;

use super::core::Core;
use super::delivery::reached;
use super::fault::Fault;
use super::records::state;
use crate::api::{Event, MessageState};
use crate::vault::Transaction;
use crate::wire::{self, content::Body};

impl Core {
    /// A new state of a group takes the place of an old one. Returns what was said and is not with
    /// everybody, in order: it belongs to a stream that is over.
    pub(super) fn take_place(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        old: state::Group,
        new: state::Group,
    ) -> Result<Vec<state::Outgoing>, Fault> {
        let unsent = self.unsent(tx, row)?;
        self.drop_frames(tx, row)?;
        for (_, target) in tx.children::<state::Target>(row)? {
            self.requeue(tx, row, &target.device)?;
        }
        tx.remove_all::<state::Target>(row)?;
        tx.remove_all::<state::Outgoing>(row)?;
        tx.remove_all::<state::MlsEntry>(row)?;
        tx.remove_all::<state::Epoch>(row)?;
        tx.remove_all::<state::PendingCommit>(row)?;
        tx.remove_all::<state::MessagePart>(row)?;
        if !old.active {
            // What was said while this device was no member is no gap.
            tx.remove_all::<state::Stream>(row)?;
        }
        // Receipts for what was said last may still come.
        for (id, progress) in tx.children::<state::Progress>(row)? {
            if progress.stream != old.stream {
                tx.remove::<state::Progress>(id)?;
            }
        }
        // Others may still post to where this device was reached.
        self.revoke_later(tx, old.own_capability, super::upkeep::OLD_ADDRESS_MS)?;
        self.keys.retain(|(group, _)| *group != row);
        self.committing.remove(&row);
        self.halves.remove(&row);
        let stored = state::Group {
            conversation: old.conversation,
            rejoin_ms: old.rejoin_ms,
            rejoin_packages: old.rejoin_packages,
            late_ms: old.late_ms,
            ..new
        };
        tx.put(row, &stored)?;
        Ok(unsent)
    }

    /// What was said and has not reached every other account yet.
    fn unsent(&self, tx: &Transaction<'_>, row: i64) -> Result<Vec<state::Outgoing>, Fault> {
        let mut through = Vec::new();
        for (id, frame) in tx.children::<state::Frame>(row)? {
            let is_last = frame.parts == 0 || frame.part + 1 == frame.parts;
            let deliveries = tx.children::<state::Delivery>(id)?;
            let state = reached(&self.me.account, deliveries.iter().map(|(_, found)| found));
            if is_last && state == MessageState::Relayed {
                through.push(frame.first_counter..frame.end_counter);
            }
        }
        let said = tx.children::<state::Outgoing>(row)?.into_iter().map(|(_, outgoing)| outgoing);
        let is_through = |outgoing: &state::Outgoing| {
            through.iter().any(|counters| counters.contains(&outgoing.counter))
        };
        let mut unsent: Vec<_> = said.filter(|outgoing| !is_through(outgoing)).collect();
        unsent.sort_by_key(|outgoing| outgoing.counter);
        Ok(unsent)
    }

    /// Frames under the old keys are not posted any more. Greetings are under none.
    fn drop_frames(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        for (id, _) in tx.children::<state::Frame>(row)? {
            let mut is_empty = true;
            for (delivery, found) in tx.children::<state::Delivery>(id)? {
                if found.relay.is_empty() {
                    tx.remove::<state::Delivery>(delivery)?;
                } else {
                    is_empty = false;
                }
            }
            if is_empty {
                tx.remove::<state::Frame>(id)?;
            }
        }
        Ok(())
    }

    /// What is left in a device's lane stays there, in order.
    fn requeue(&mut self, tx: &Transaction<'_>, row: i64, device: &[u8]) -> Result<(), Fault> {
        let key = (row, device.to_vec());
        for id in self.lanes.remove(&key) {
            if tx.get::<state::Delivery>(id)?.is_some() {
                self.lanes.push(key.clone(), id);
            }
        }
        Ok(())
    }

    /// Says again what was not with everybody, in the new stream.
    pub(super) fn say_again(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        unsent: Vec<state::Outgoing>,
    ) -> Result<(), Fault> {
        for outgoing in unsent {
            let content = wire::Content::decode(outgoing.content.as_slice());
            let content = content.map_err(|_| Fault::damaged("what waits to be said"))?;
            // Where this device was reached is told by its new leaf.
            if matches!(content.body, Some(Body::Address(_))) {
                continue;
            }
            let counter = self.say(tx, row, &content, outgoing.message)?;
            let Some(mut message) = tx.get::<state::Message>(outgoing.message)? else { continue };
            let group: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
            (message.stream, message.counter) = (group.stream, counter);
            message.state = MessageState::Sending as u32;
            tx.put(outgoing.message, &message)?;
            let (conversation, state) = (message.conversation, MessageState::Sending);
            let message = outgoing.message;
            self.emit(Event::MessageState { conversation, message, state });
        }
        Ok(())
    }
}
