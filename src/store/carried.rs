//! What goes with an entry of a shard's log from a supernode to a data centre: a record of the store,
//! with ages instead of hours, since the two count their hours from different moments.

use bytes::Bytes;
use valise_migration::Entry;
use valise_migration::real::RealEntry;
use valise_proto::{MailboxId, SlotId};

use super::{
    BundleHead, Frame, Revocation, RunningHours, Seq, Slot, SpentCode, StoreError, record,
};
use crate::payload::Payload;

/// What belongs to an entry. Hours in it are ages: how long ago something was accepted, written or
/// published.
#[derive(Debug, Clone)]
pub enum Carried {
    /// To `Appended`. Its sequence number says nothing.
    Frame(Frame),
    /// To `Put`.
    Slot(Slot),
    /// To `Offered`: the item, and its bundle's head as it was when this was read.
    Item(BundleHead, Payload),
    /// To `Taken` and `Withdrawn`: the bundle's head as it was when this was read.
    Head(BundleHead),
    /// To `Revoked`.
    Revoked(Revocation),
    /// To `Spent`.
    Spent(SpentCode),
}

const HEAD_BYTES: usize = 16 + 4 + 4 + 4 + 1 + 4;

impl Carried {
    /// The bytes.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Frame(frame) => record::encode_frame(frame),
            Self::Slot(slot) => record::encode_slot(slot),
            Self::Item(head, payload) => {
                [&record::encode_bundle(head)[..], &record::encode_item(payload)].concat().into()
            }
            Self::Head(head) => record::encode_bundle(head),
            Self::Revoked(revocation) => record::encode_revocation(revocation),
            Self::Spent(code) => record::encode_spent(code),
        }
    }

    /// Reads [`Self::encode`] back, for the entry that it belongs to.
    ///
    /// # Errors
    /// [`StoreError::Damaged`].
    pub fn decode(entry: &RealEntry, body: &Bytes) -> Result<Self, StoreError> {
        Ok(match *entry {
            Entry::Appended { mailbox, .. } => {
                Self::Frame(record::decode_frame(MailboxId::new(mailbox), Seq(0), body)?)
            }
            Entry::Put { slot, .. } => Self::Slot(record::decode_slot(&SlotId::new(slot), body)?),
            Entry::Offered { .. } => {
                if body.len() < HEAD_BYTES {
                    return Err(StoreError::Damaged { what: "carried item" });
                }
                let head = record::decode_bundle(&body[..HEAD_BYTES])?;
                Self::Item(head, record::decode_item(&body.slice(HEAD_BYTES..))?)
            }
            Entry::Taken { .. } | Entry::Withdrawn { .. } => {
                Self::Head(record::decode_bundle(body)?)
            }
            Entry::Revoked { mailbox, token } => Self::Revoked(Revocation {
                mailbox: MailboxId::new(mailbox),
                serial: token,
                last_day: record::decode_revocation(body)?,
            }),
            Entry::Spent { code } => {
                let (mailbox, last_day) = record::decode_spent(body)?;
                Self::Spent(SpentCode { serial: code, mailbox, last_day })
            }
            Entry::Acknowledged { .. } | Entry::Expired { .. } | Entry::Sealed => {
                return Err(StoreError::Damaged { what: "carried body" });
            }
        })
    }
}

/// How long ago this hour was, in whole hours.
pub fn age(now: RunningHours, then: RunningHours) -> RunningHours {
    RunningHours(now.0.saturating_sub(then.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract;

    #[test]
    fn what_is_carried_arrives() {
        let frame = contract::frame(1, 7, 512);
        let mailbox = [1; 16];
        let id = *frame.frame_id.as_bytes();
        let entry = Entry::Appended { mailbox, frame: id };
        let body = Carried::Frame(frame.clone()).encode();
        let Ok(Carried::Frame(read)) = Carried::decode(&entry, &body) else { panic!("a frame") };
        assert_eq!(record::encode_frame(&read), record::encode_frame(&frame));

        let slot = contract::slot(3, 512);
        let entry = Entry::Put { slot: [3; 32], put: [3; 16] };
        let body = Carried::Slot(slot.clone()).encode();
        let Ok(Carried::Slot(read)) = Carried::decode(&entry, &body) else { panic!("a slot") };
        assert_eq!(record::encode_slot(&read), record::encode_slot(&slot));

        let head = BundleHead {
            publication_id: valise_proto::PublicationId::new([9; 16]),
            published: RunningHours(4),
            first: 2,
            next: 5,
            last_resort: true,
        };
        let body = Carried::Item(head, slot.payload.clone()).encode();
        let entry = Entry::Offered { mailbox, item: 2 };
        let Ok(Carried::Item(read, item)) = Carried::decode(&entry, &body) else {
            panic!("an item")
        };
        assert_eq!((read, record::encode_item(&item)), (head, record::encode_item(&slot.payload)));
        assert!(Carried::decode(&entry, &body.slice(..HEAD_BYTES - 1)).is_err());
        let entry = Entry::Taken { mailbox, item: 2 };
        let body = Carried::Head(head).encode();
        assert!(matches!(Carried::decode(&entry, &body), Ok(Carried::Head(read)) if read == head));
        assert!(Carried::decode(&Entry::Sealed, &body).is_err());
    }
}
