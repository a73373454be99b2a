//! Slots: write-once registers.

use std::time::Instant;

use valise_proto::limits::SLOTS_BYTES_MAX;
use valise_proto::{MailboxId, PutSlot, Reason, SlotId};

use super::{Refusal, Standing};
use crate::payload::Payload;
use crate::rate::Rate;
use crate::store::{Slot, Step};

/// What came of a put.
#[derive(Debug)]
pub enum Put {
    /// The slot holds what was put.
    Stored,
    /// Another put was first.
    Taken(Payload),
}

impl Standing {
    /// Puts a value into a slot, on the account of a mailbox, if nothing is in it. Durable when it
    /// returns.
    ///
    /// # Errors
    /// `rate_limited` or `busy`.
    pub async fn put_slot(
        &self,
        put: PutSlot<Payload>,
        account: &MailboxId,
        bytes_a_second: &Rate,
        now: Instant,
    ) -> Result<Put, Refusal> {
        let _waiting = self.wait_with(put.payload.len())?;
        let _turn = self.turns.of(put.slot_id.as_bytes()).await;
        if let Some(slot) = self.committer.store()?.slot(&put.slot_id)? {
            return Ok(if slot.put_id == put.put_id {
                Put::Stored
            } else {
                Put::Taken(slot.payload)
            });
        }
        self.accounts.charge(account, put.payload.len(), bytes_a_second, now)?;
        let slot = Slot {
            id: put.slot_id,
            put_id: put.put_id,
            written: self.committer.hours(),
            payload: put.payload,
        };
        self.write(Step::Put(slot)).await?;
        Ok(Put::Stored)
    }

    /// What the first of these slots hold: as many as have 64 KiB together, one at least.
    ///
    /// # Errors
    /// `busy` when they cannot be read.
    pub fn get_slots(&self, ids: &[SlotId]) -> Result<Vec<Option<Payload>>, Reason> {
        let mut payloads = Vec::new();
        let mut room = SLOTS_BYTES_MAX;
        for id in ids {
            let slot = self.committer.store().and_then(|store| store.slot(id));
            let slot = slot.map_err(|_| Reason::Busy)?;
            let payload = slot.map(|slot| slot.payload);
            let bytes = payload.as_ref().map_or(0, Payload::len);
            if bytes > room {
                break;
            }
            room -= bytes;
            payloads.push(payload);
        }
        Ok(payloads)
    }
}
