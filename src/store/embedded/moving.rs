//! Shards that move: their logs, and what is read and removed by shard.

use std::ops::Range;

use ::fjall::{OwnedWriteBatch, Readable, Snapshot};
use bytes::Bytes;
use valise_migration::real::{Digest, RealCursor, RealLine, RealRecord};
use valise_migration::{Entry, Position, Record};
use valise_proto::{MailboxId, SlotId};

use super::{EmbeddedStore, Writer, read_frame};
use crate::store::changes::Changes;
use crate::store::{
    BundleHead, Carried, Existing, Frame, LAST_RESORT, Logged, Logs, Revocation, RunningHours, Seq,
    Slot, SpentCode, StoreError, age, record,
};

impl EmbeddedStore {
    /// Adds to a batch what its steps say of shards that move.
    pub(super) fn put_moving(
        &self,
        out: &mut OwnedWriteBatch,
        writer: &mut Writer,
        changes: &Changes<'_>,
    ) -> Result<(), StoreError> {
        for logged in &changes.logged {
            let Logged { shard, at, entry, frame, .. } = **logged;
            out.insert(&self.keyspace, record::log_key(shard, at), record::encode_logged(logged));
            if let (Entry::Appended { mailbox, .. }, Some(seq)) = (entry, frame) {
                let key = record::place_key(shard, &MailboxId::new(mailbox), seq);
                out.insert(&self.keyspace, key, record::encode_place(at));
            }
        }
        for (shard, state) in &changes.shards {
            let key = record::shard_key(*shard);
            match state {
                Record::Plain => {
                    self.remove_log(out, *shard)?;
                    out.remove(&self.keyspace, key);
                }
                Record::Gone { .. } => {
                    self.remove_shard(out, writer, *shard)?;
                    out.insert(&self.keyspace, key, record::encode_shard(state));
                }
                _ => out.insert(&self.keyspace, key, record::encode_shard(state)),
            }
        }
        Ok(())
    }

    fn remove_log(&self, out: &mut OwnedWriteBatch, shard: u8) -> Result<(), StoreError> {
        let moment = self.database.snapshot();
        for prefix in [record::log_of(shard), record::places_of(shard)] {
            for entry in moment.prefix(&self.keyspace, prefix) {
                out.remove(&self.keyspace, entry.key()?);
            }
        }
        Ok(())
    }

    /// Everything in a shard, its log included.
    fn remove_shard(
        &self,
        out: &mut OwnedWriteBatch,
        writer: &mut Writer,
        shard: u8,
    ) -> Result<(), StoreError> {
        self.remove_log(out, shard)?;
        let moment = self.database.snapshot();
        for frame in self.frames_of(&moment, shard) {
            let Frame { mailbox, seq, .. } = frame?;
            self.remove_frame(out, writer, shard, &mailbox, seq)?;
        }
        for slot in self.slots_of(&moment, shard) {
            let slot = slot?;
            out.remove(&self.keyspace, record::slot_age_key(slot.written, shard, &slot.id));
        }
        for kind in [
            record::FLOOR_KIND,
            record::SLOT_KIND,
            record::BUNDLE_KIND,
            record::ITEM_KIND,
            record::REVOCATION_KIND,
        ] {
            for entry in moment.prefix(&self.keyspace, [kind[0], shard]) {
                out.remove(&self.keyspace, entry.key()?);
            }
        }
        for code in self.codes_of(&moment, shard) {
            out.remove(&self.keyspace, record::spent_key(&code?.serial));
        }
        Ok(())
    }

    fn frames_of(
        &self,
        moment: &Snapshot,
        shard: u8,
    ) -> impl Iterator<Item = Result<Frame, StoreError>> {
        moment.prefix(&self.keyspace, [record::FRAME_KIND[0], shard]).map(read_frame)
    }

    fn slots_of(
        &self,
        moment: &Snapshot,
        shard: u8,
    ) -> impl Iterator<Item = Result<Slot, StoreError>> {
        moment.prefix(&self.keyspace, [record::SLOT_KIND[0], shard]).map(|entry| {
            let (key, found) = entry.into_inner()?;
            let id = SlotId::try_from(&key[2..]);
            let id = id.map_err(|_| StoreError::Damaged { what: "slot key" })?;
            record::decode_slot(&id, &Bytes::from(found))
        })
    }

    /// Codes are not kept by shard: there are few.
    fn codes_of(
        &self,
        moment: &Snapshot,
        shard: u8,
    ) -> impl Iterator<Item = Result<SpentCode, StoreError>> {
        let codes = moment.prefix(&self.keyspace, record::SPENT_KIND).map(|entry| {
            let (key, found) = entry.into_inner()?;
            let serial = record::parse_spent_key(&key)?;
            let (mailbox, last_day) = record::decode_spent(&found)?;
            Ok(SpentCode { serial, mailbox, last_day })
        });
        let is_of = move |code: &Result<SpentCode, StoreError>| {
            code.as_ref().map_or(true, |code| self.shards.serial_shard(&code.serial) == shard)
        };
        codes.filter(is_of)
    }

    fn revocations_of(
        &self,
        moment: &Snapshot,
        shard: u8,
    ) -> impl Iterator<Item = Result<Revocation, StoreError>> {
        moment.prefix(&self.keyspace, [record::REVOCATION_KIND[0], shard]).map(|entry| {
            let (key, found) = entry.into_inner()?;
            let (mailbox, serial) = record::parse_revocation_key(&key)?;
            Ok(Revocation { mailbox, serial, last_day: record::decode_revocation(&found)? })
        })
    }

    fn bundles_of(
        &self,
        moment: &Snapshot,
        shard: u8,
    ) -> impl Iterator<Item = Result<(MailboxId, BundleHead), StoreError>> {
        moment.prefix(&self.keyspace, [record::BUNDLE_KIND[0], shard]).map(|entry| {
            let (key, found) = entry.into_inner()?;
            Ok((record::parse_bundle_key(&key)?, record::decode_bundle(&found)?))
        })
    }

    /// What belongs to an entry, if it is still there.
    fn carried(
        &self,
        moment: &Snapshot,
        logged: &Logged,
        now: RunningHours,
    ) -> Result<Option<Carried>, StoreError> {
        let get = |key: &[u8]| moment.get(&self.keyspace, key);
        let shard = logged.shard;
        Ok(match logged.entry {
            Entry::Appended { mailbox, .. } => {
                let mailbox = MailboxId::new(mailbox);
                let seq = logged.frame.unwrap_or_default();
                let found = get(&record::frame_key(shard, &mailbox, seq))?;
                let frame = found
                    .map(|found| record::decode_frame(mailbox, seq, &Bytes::from(found)))
                    .transpose()?;
                frame.map(|frame| {
                    Carried::Frame(Frame { accepted: age(now, frame.accepted), ..frame })
                })
            }
            Entry::Put { slot, .. } => {
                let id = SlotId::new(slot);
                let found = get(&record::slot_key(shard, &id))?;
                let slot =
                    found.map(|found| record::decode_slot(&id, &Bytes::from(found))).transpose()?;
                slot.map(|slot| Carried::Slot(Slot { written: age(now, slot.written), ..slot }))
            }
            Entry::Offered { mailbox, item } => {
                let mailbox = MailboxId::new(mailbox);
                let found = get(&record::item_key(shard, &mailbox, item))?;
                let item =
                    found.map(|found| record::decode_item(&Bytes::from(found))).transpose()?;
                let head = self.head(moment, shard, &mailbox, now)?;
                head.zip(item).map(|(head, item)| Carried::Item(head, item))
            }
            Entry::Taken { mailbox, .. } | Entry::Withdrawn { mailbox, .. } => {
                self.head(moment, shard, &MailboxId::new(mailbox), now)?.map(Carried::Head)
            }
            Entry::Revoked { mailbox, token } => {
                let mailbox = MailboxId::new(mailbox);
                let found = get(&record::revocation_key(shard, &mailbox, &token))?;
                let last_day = found.map(|found| record::decode_revocation(&found)).transpose()?;
                last_day.map(|last_day| {
                    Carried::Revoked(Revocation { mailbox, serial: token, last_day })
                })
            }
            Entry::Spent { code } => {
                let found = get(&record::spent_key(&code))?;
                let spent = found.map(|found| record::decode_spent(&found)).transpose()?;
                spent.map(|(mailbox, last_day)| {
                    Carried::Spent(SpentCode { serial: code, mailbox, last_day })
                })
            }
            Entry::Acknowledged { .. } | Entry::Expired { .. } | Entry::Sealed => None,
        })
    }

    fn head(
        &self,
        moment: &Snapshot,
        shard: u8,
        mailbox: &MailboxId,
        now: RunningHours,
    ) -> Result<Option<BundleHead>, StoreError> {
        let found = moment.get(&self.keyspace, record::bundle_key(shard, mailbox))?;
        let head = found.map(|found| record::decode_bundle(&found)).transpose()?;
        Ok(head.map(|head| BundleHead { published: age(now, head.published), ..head }))
    }
}

impl Logs for EmbeddedStore {
    fn shards(&self) -> Result<Vec<(u8, RealRecord)>, StoreError> {
        let moment = self.database.snapshot();
        let shards = moment.prefix(&self.keyspace, record::SHARD_KIND).map(|entry| {
            let (key, found) = entry.into_inner()?;
            Ok((record::parse_shard_key(&key)?, record::decode_shard(&found)?))
        });
        shards.collect()
    }

    fn log_end(&self, shard: u8) -> Result<RealCursor, StoreError> {
        let moment = self.database.snapshot();
        let Some(last) = moment.prefix(&self.keyspace, record::log_of(shard)).next_back() else {
            return Ok(RealCursor::start());
        };
        let (key, found) = last.into_inner()?;
        let Logged { at, digest, .. } = record::decode_logged(&key, &found)?;
        Ok(RealCursor { next: at.next(), digest })
    }

    fn log_digest(&self, shard: u8, before: Position) -> Result<Option<Digest>, StoreError> {
        let Some(last) = before.0.checked_sub(1) else { return Ok(Some(Digest::default())) };
        let key = record::log_key(shard, Position(last));
        let found = self.keyspace.get(key)?;
        let logged = found.map(|found| record::decode_logged(&key, &found)).transpose()?;
        Ok(logged.map(|logged| logged.digest))
    }

    fn log(
        &self,
        shard: u8,
        range: Range<Position>,
        (lines_max, bytes_max): (usize, usize),
        now: RunningHours,
    ) -> Result<Vec<RealLine>, StoreError> {
        let moment = self.database.snapshot();
        let keys = record::log_key(shard, range.start)..record::log_key(shard, range.end);
        let mut lines: Vec<RealLine> = Vec::new();
        let mut bytes = 0;
        for entry in moment.range(&self.keyspace, keys).take(lines_max) {
            let (key, found) = entry.into_inner()?;
            let logged = record::decode_logged(&key, &found)?;
            let body = self.carried(&moment, &logged, now)?.map(|carried| carried.encode());
            bytes += body.as_ref().map_or(0, Bytes::len);
            if bytes > bytes_max && !lines.is_empty() {
                break;
            }
            lines.push(RealLine { entry: logged.entry, body });
        }
        Ok(lines)
    }

    fn place(
        &self,
        shard: u8,
        mailbox: &MailboxId,
        seq: Seq,
    ) -> Result<Option<Position>, StoreError> {
        let found = self.keyspace.get(record::place_key(shard, mailbox, seq))?;
        found.map(|found| record::decode_place(&found)).transpose()
    }

    fn existing(&self, shard: u8) -> Result<Vec<Existing>, StoreError> {
        let moment = self.database.snapshot();
        let mut found: Vec<Existing> = Vec::new();
        for frame in self.frames_of(&moment, shard) {
            let Frame { mailbox, seq, frame_id, .. } = frame?;
            let (mailbox, frame) = (*mailbox.as_bytes(), *frame_id.as_bytes());
            found.push((Entry::Appended { mailbox, frame }, Some(seq)));
        }
        for revocation in self.revocations_of(&moment, shard) {
            let Revocation { mailbox, serial, .. } = revocation?;
            found.push((Entry::Revoked { mailbox: *mailbox.as_bytes(), token: serial }, None));
        }
        for slot in self.slots_of(&moment, shard) {
            let Slot { id, put_id, .. } = slot?;
            let (slot, put) = (*id.as_bytes(), *put_id.as_bytes());
            found.push((Entry::Put { slot, put }, None));
        }
        for bundle in self.bundles_of(&moment, shard) {
            let (mailbox, head) = bundle?;
            let mailbox = *mailbox.as_bytes();
            let last_resort = head.last_resort.then_some(LAST_RESORT);
            let items = last_resort.into_iter().chain(head.first..head.next);
            found.extend(items.map(|item| (Entry::Offered { mailbox, item }, None)));
        }
        for code in self.codes_of(&moment, shard) {
            found.push((Entry::Spent { code: code?.serial }, None));
        }
        Ok(found)
    }
}
