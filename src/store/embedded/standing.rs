//! Slots, bundles, revocations and spent codes in the embedded store.

use bytes::Bytes;
use fjall::{Keyspace, OwnedWriteBatch, Readable, Snapshot};
use valise_proto::MailboxId;

use super::EmbeddedStore;
use crate::store::changes::Changes;
use crate::store::record;
use crate::store::{BundleChange, Cutoff, Outdated, Slot, StoreError};

impl EmbeddedStore {
    /// Adds to a batch what its steps say of everything but frames.
    pub(super) fn put_standing(
        &self,
        out: &mut OwnedWriteBatch,
        changes: &Changes<'_>,
    ) -> Result<(), StoreError> {
        for (serial, code) in &changes.spent {
            let key = record::spent_key(serial);
            match code {
                Some(code) => out.insert(&self.keyspace, key, record::encode_spent(code)),
                None => out.remove(&self.keyspace, key),
            }
        }
        for ((mailbox, serial), revocation) in &changes.revoked {
            let key = record::revocation_key(self.shards.shard(mailbox), mailbox, serial);
            match revocation {
                Some(revocation) => {
                    out.insert(&self.keyspace, key, record::encode_revocation(revocation));
                }
                None => out.remove(&self.keyspace, key),
            }
        }
        for (id, slot) in &changes.slots {
            match slot {
                Some(slot) => self.put_slot(out, slot),
                None => self.remove_slot(out, id)?,
            }
        }
        changes.bundles.iter().for_each(|change| self.put_bundle(out, change));
        Ok(())
    }

    fn put_slot(&self, out: &mut OwnedWriteBatch, slot: &Slot) {
        let shard = self.shards.slot_shard(&slot.id);
        let key = record::slot_key(shard, &slot.id);
        out.insert(&self.keyspace, key, record::encode_slot(slot));
        let key = record::slot_age_key(slot.written, shard, &slot.id);
        out.insert(&self.keyspace, key, record::encode_slot_age());
    }

    fn remove_slot(
        &self,
        out: &mut OwnedWriteBatch,
        id: &valise_proto::SlotId,
    ) -> Result<(), StoreError> {
        let shard = self.shards.slot_shard(id);
        let key = record::slot_key(shard, id);
        if let Some(found) = self.keyspace.get(&key)? {
            let slot = record::decode_slot(id, &Bytes::from(found))?;
            out.remove(&self.keyspace, record::slot_age_key(slot.written, shard, id));
        }
        out.remove(&self.keyspace, key);
        Ok(())
    }

    fn put_bundle(&self, out: &mut OwnedWriteBatch, change: &BundleChange) {
        let shard = self.shards.shard(&change.mailbox);
        let key = record::bundle_key(shard, &change.mailbox);
        match &change.head {
            Some(head) => out.insert(&self.keyspace, key, record::encode_bundle(head)),
            None => out.remove(&self.keyspace, key),
        }
        for (number, payload) in &change.stored {
            let key = record::item_key(shard, &change.mailbox, *number);
            out.insert(&self.keyspace, key, record::encode_item(payload));
        }
        for number in &change.removed {
            out.remove(&self.keyspace, record::item_key(shard, &change.mailbox, *number));
        }
    }

    /// The serials of a mailbox's revoked tokens.
    pub(super) fn revoked(
        &self,
        moment: &Snapshot,
        mailbox: &MailboxId,
    ) -> Result<Vec<[u8; 8]>, StoreError> {
        let keys = record::revocations(self.shards.shard(mailbox), mailbox);
        moment
            .prefix(&self.keyspace, keys)
            .map(|entry| Ok(record::parse_revocation_key(&entry.key()?)?.1))
            .collect()
    }
}

/// Up to `max` things that are outdated. Slots have an index by age; of the others there are few.
pub(super) fn outdated(
    moment: &Snapshot,
    keyspace: &Keyspace,
    cutoff: &Cutoff,
    max: usize,
) -> Result<Vec<Outdated>, StoreError> {
    let ages = record::SLOT_AGE_KIND.to_vec()..record::slot_ages_end(cutoff.slots);
    let slots = moment
        .range(keyspace, ages)
        .map(|entry| Ok(Some(Outdated::Slot(record::parse_slot_age_key(&entry.key()?)?))));
    let bundles = moment.prefix(keyspace, record::BUNDLE_KIND).map(|entry| {
        let (key, head) = entry.into_inner()?;
        let over = record::decode_bundle(&head)?.published < cutoff.bundles;
        Ok(over.then_some(Outdated::Bundle(record::parse_bundle_key(&key)?)))
    });
    let revocations = moment.prefix(keyspace, record::REVOCATION_KIND).map(|entry| {
        let (key, last_day) = entry.into_inner()?;
        let over = record::decode_revocation(&last_day)? < cutoff.tokens;
        let (mailbox, serial) = record::parse_revocation_key(&key)?;
        Ok(over.then_some(Outdated::Revocation(mailbox, serial)))
    });
    let codes = moment.prefix(keyspace, record::SPENT_KIND).map(|entry| {
        let (key, code) = entry.into_inner()?;
        let over = record::decode_spent(&code)?.1 < cutoff.tokens;
        Ok(over.then_some(Outdated::Code(record::parse_spent_key(&key)?)))
    });
    // No more is read, and none is gathered, than is asked for.
    let found = slots.chain(bundles).chain(revocations).chain(codes);
    found.filter_map(Result::transpose).take(max).collect()
}
