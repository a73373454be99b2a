//! The messages of one imported stretch. Pure: ages in, hours of the wall clock out.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use bytes::Bytes;
use valise_migration::plan::Write;
use valise_migration::real::{Real, RealEntry, RealLine};
use valise_migration::{Entry, Migration, Position};
use valise_proto::limits::{BUNDLE_HOURS, SLOT_HOURS};
use valise_proto::{MailboxId, SlotId};

use crate::store::jetstream::frames::hours_now;
use crate::store::jetstream::standing::token_hours;
use crate::store::jetstream::subject::{Kind, RealmNames, Removable};
use crate::store::jetstream::{BusError, alone};
use crate::store::{BundleHead, Carried, RunningHours, record};

/// The header by which an imported message is known: `<migration>.<place in the log>`.
pub(super) const IMPORT: &str = "Valise-Import";

/// Messages in one atomic batch, of which the servers take 1,000.
const MESSAGES_MAX: usize = 1_000;

/// One message.
pub(super) struct Imported {
    pub(super) subject: String,
    pub(super) headers: HeaderMap,
    pub(super) record: Bytes,
    /// What it is, if it may have to be removed again.
    pub(super) removable: Option<(Removable, Position)>,
}

/// The messages of a batch, so far without the revocations: those are read first.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) messages: Vec<Imported>,
    pub(super) revoked: BTreeMap<[u8; 16], Vec<([u8; 8], u16)>>,
}

/// As many of these lines, from the first one on, as fit into one batch with what goes with them.
#[must_use]
pub fn fitting(mut lines: Vec<RealLine>) -> Vec<RealLine> {
    // The ledger is one of them.
    let mut room = MESSAGES_MAX - 1;
    let mut fits = 0;
    for line in &lines {
        // At most: a mailbox's head and its revocations are written once.
        let messages = match line.entry {
            Entry::Offered { .. } => 2,
            _ => 1,
        };
        if messages > room {
            break;
        }
        room -= messages;
        fits += 1;
    }
    lines.truncate(fits);
    lines
}

/// The last head of each mailbox in a stretch.
pub(super) fn heads(lines: &[RealLine]) -> Result<BTreeMap<[u8; 16], BundleHead>, BusError> {
    let mut heads = BTreeMap::new();
    for line in lines {
        let Some(body) = &line.body else { continue };
        let (Entry::Offered { mailbox, .. }
        | Entry::Taken { mailbox, .. }
        | Entry::Withdrawn { mailbox, .. }) = line.entry
        else {
            continue;
        };
        if let Carried::Item(head, _) | Carried::Head(head) = Carried::decode(&line.entry, body)? {
            heads.insert(mailbox, head);
        }
    }
    Ok(heads)
}

impl Batch {
    /// What is to be written, and these heads.
    pub(super) fn of(
        names: &RealmNames,
        shard: u8,
        migration: Migration,
        writes: &[Write<Real, Bytes>],
        heads: &BTreeMap<[u8; 16], BundleHead>,
    ) -> Result<Self, BusError> {
        let mut batch = Self::default();
        for write in writes {
            let Some(body) = &write.body else { continue };
            let carried = Carried::decode(&write.entry, body)?;
            batch.take(names, (shard, migration), write.at, &write.entry, carried);
        }
        for (mailbox, head) in heads {
            let Some(hours) = left(BUNDLE_HOURS + 1, head.published) else { continue };
            let head = BundleHead { published: ago(head.published), ..*head };
            batch.messages.push(Imported {
                subject: names.of(shard, &MailboxId::new(*mailbox), Kind::Bundle),
                headers: alone(kept_for(hours)),
                record: record::encode_bundle(&head),
                removable: None,
            });
        }
        Ok(batch)
    }

    /// What has outlived its time on the way is left out: it would go at once.
    fn take(
        &mut self,
        names: &RealmNames,
        (shard, migration): (u8, Migration),
        at: Position,
        entry: &RealEntry,
        carried: Carried,
    ) {
        let message = match carried {
            Carried::Frame(mut frame) => {
                let lives = u32::from(frame.ttl_hours) + 1;
                let Some(hours) = left(lives, frame.accepted) else { return };
                frame.accepted = ago(frame.accepted);
                let subject = names.of(shard, &frame.mailbox, Kind::Frames);
                let removable = Some((Removable::Frame(frame.mailbox), at));
                (subject, kept_for(hours), record::encode_frame(&frame), removable)
            }
            Carried::Slot(mut slot) => {
                let Some(hours) = left(SLOT_HOURS, slot.written) else { return };
                slot.written = ago(slot.written);
                let subject = names.slot(shard, &SlotId::new(*slot.id.as_bytes()));
                (subject, alone(kept_for(hours)), record::encode_slot(&slot), None)
            }
            Carried::Item(head, item) => {
                let Entry::Offered { mailbox, item: number } = *entry else { return };
                let Some(hours) = left(BUNDLE_HOURS + 1, head.published) else { return };
                let mailbox = MailboxId::new(mailbox);
                let subject = names.item(shard, &mailbox, number);
                let removable = Some((Removable::Item(mailbox, number), at));
                (subject, alone(kept_for(hours)), record::encode_item(&item), removable)
            }
            Carried::Revoked(revocation) => {
                let of = self.revoked.entry(*revocation.mailbox.as_bytes()).or_default();
                return of.push((revocation.serial, revocation.last_day));
            }
            Carried::Spent(code) => {
                let headers = alone(kept_for(token_hours(code.last_day)));
                (names.code(shard, &code.serial), headers, record::encode_spent(&code), None)
            }
            Carried::Head(_) => return,
        };
        let (subject, mut headers, record, removable) = message;
        headers.insert(IMPORT, format!("{}.{}", migration.0, at.0));
        self.messages.push(Imported { subject, headers, record, removable });
    }
}

/// The place of an imported message, if it is of this migration.
pub(super) fn place(headers: Option<&HeaderMap>, migration: Migration) -> Option<Position> {
    let header = headers?.get_last(IMPORT)?;
    let (of, at) = header.as_str().split_once('.')?;
    (of.parse() == Ok(migration.0)).then_some(Position(at.parse().ok()?))
}

/// Without a message id: a batch that holds one the stream knows is refused as a whole.
fn kept_for(hours: u32) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-TTL", format!("{hours}h"));
    headers
}

/// The headers of a mailbox's revocations.
pub(super) fn revocation_headers(serials: &[([u8; 8], u16)]) -> HeaderMap {
    let longest = serials.iter().map(|(_, last)| *last).max().unwrap_or_default();
    alone(kept_for(token_hours(longest)))
}

/// What is left of so many hours, for something of this age.
fn left(hours: u32, age: RunningHours) -> Option<u32> {
    hours.checked_sub(age.0).filter(|hours| *hours > 0)
}

/// The hour of the wall clock that was so long ago.
fn ago(age: RunningHours) -> RunningHours {
    RunningHours(hours_now().0.saturating_sub(age.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract;
    use valise_migration::Line;
    use valise_proto::RealmId;

    fn names() -> RealmNames {
        RealmNames::new(&RealmId::new([9; 20]))
    }

    fn batch_of(age: u32, ttl_hours: u16) -> Batch {
        let mut frame = contract::frame(1, 7, 512);
        (frame.accepted, frame.ttl_hours) = (RunningHours(age), ttl_hours);
        let entry = Entry::Appended { mailbox: [1; 16], frame: *frame.frame_id.as_bytes() };
        let body = Some(Carried::Frame(frame).encode());
        let write = Write { at: Position(5), entry, body };
        Batch::of(&names(), 3, Migration(2), &[write], &BTreeMap::new()).unwrap()
    }

    #[test]
    fn what_is_left_of_its_time_is_kept() {
        let batch = batch_of(10, 24);
        let headers = &batch.messages[0].headers;
        assert_eq!(headers.get("Nats-TTL").unwrap().as_str(), "15h");
        assert_eq!(headers.get(IMPORT).unwrap().as_str(), "2.5");
        assert!(headers.get("Nats-Msg-Id").is_none());
        assert_eq!(place(Some(headers), Migration(2)), Some(Position(5)));
        assert_eq!(place(Some(headers), Migration(1)), None);
        assert_eq!(batch_of(24, 24).messages.len(), 1, "its last hour is not over");
        assert!(batch_of(25, 24).messages.is_empty(), "its time is over");
    }

    #[test]
    fn a_stretch_fits_into_a_batch() {
        let line = |entry| Line { entry, body: None };
        let offered: Vec<_> =
            (0..900).map(|item| line(Entry::Offered { mailbox: [1; 16], item })).collect();
        assert_eq!(fitting(offered).len(), 499);
        let codes = vec![line(Entry::Spent { code: [1; 8] }); 2_000];
        assert_eq!(fitting(codes).len(), 999);
    }
}
