//! What stands until its own time is over. Each change is made by comparing with the last one, at
//! the leader, so two nodes never both win.

use valise_proto::limits::{BUNDLE_HOURS, REVOCATION_DAYS_AFTER, SLOT_HOURS};
use valise_proto::{MailboxId, SlotId};

use super::bus::Found;
use super::frames::{hours_now, nonce_text};
use super::subject::Kind;
use super::{BusError, JetStream, after, alone, headers};
use crate::payload::Payload;
use crate::store::{BundleChange, BundleHead, Revocation, Slot, SpentCode, record};

/// The revoked tokens of a mailbox, and the place of the record that says so; 0 for none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// By which a change is compared.
    pub version: u64,
    /// Serials with the last days of their tokens, in days since 1970-01-01.
    pub serials: Vec<([u8; 8], u16)>,
}

/// A bundle's head, and the place of its record; 0 for none.
#[derive(Debug, Clone, Copy, Default)]
pub struct VersionedBundle {
    /// By which a change is compared.
    pub version: u64,
    /// The head; none where there is no bundle, or it was ended.
    pub head: Option<BundleHead>,
}

/// How a change by comparing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It is durable.
    Done,
    /// Somebody else has changed it first: look again.
    Outdated,
}

impl Changed {
    fn of<T>(stored: Result<T, BusError>) -> Result<Self, BusError> {
        match stored {
            Ok(_) => Ok(Self::Done),
            Err(error) if error.is_outdated() => Ok(Self::Outdated),
            Err(error) => Err(error),
        }
    }
}

impl Revocations {
    /// Whether this token is revoked.
    pub fn contains(&self, serial: &[u8; 8]) -> bool {
        self.serials.iter().any(|(revoked, _)| revoked == serial)
    }

    pub(super) fn read(found: &Found) -> Result<Self, BusError> {
        let serials = record::decode_revocations(&found.record)?;
        Ok(Self { version: found.seq, serials })
    }
}

/// Days since 1970-01-01.
fn today() -> u32 {
    hours_now().0 / 24
}

/// How long what is about a token is kept, from now.
pub(super) fn token_hours(last_day: u16) -> u32 {
    (u32::from(last_day) + REVOCATION_DAYS_AFTER + 1).saturating_sub(today()).max(1) * 24
}

impl JetStream {
    /// The revoked tokens of a mailbox.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn revocations(&self, mailbox: &MailboxId) -> Result<Revocations, BusError> {
        let subject = self.names.of(mailbox, Kind::Revoked);
        let found = self.bus.last(&self.stream_of(mailbox), &subject).await?;
        found.as_ref().map_or_else(|| Ok(Revocations::default()), Revocations::read)
    }

    /// Adds a token to those that were revoked; those whose time is over are left out.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn revoke(
        &self,
        revocation: Revocation,
        earlier: &Revocations,
    ) -> Result<Changed, BusError> {
        let Revocation { mailbox, serial, last_day } = revocation;
        let still =
            |(_, last): &&([u8; 8], u16)| u32::from(*last) + REVOCATION_DAYS_AFTER >= today();
        let mut serials: Vec<_> = earlier.serials.iter().filter(still).copied().collect();
        serials.push((serial, last_day));
        let longest = serials.iter().map(|(_, last)| *last).max().unwrap_or(last_day);
        let id = self.names.message_id(&serial, &mailbox);
        let id = format!("{id}.{}", earlier.version);
        let headers = alone(after(headers(&id, token_hours(longest)), earlier.version));
        let record = record::encode_revocations(&serials);
        let subject = self.names.of(&mailbox, Kind::Revoked);
        Changed::of(self.bus.store(&subject, &headers, &record).await)
    }

    /// Uses an invite code for a mailbox, and returns whose it is then: the first one's. None while
    /// somebody else's use is on its way.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn spend(&self, code: SpentCode) -> Result<Option<MailboxId>, BusError> {
        let (subject, stream) = self.names.code(&code.serial);
        let id = self.names.message_id(&code.serial, &code.mailbox);
        let headers = after(headers(&id, token_hours(code.last_day)), 0);
        let record = record::encode_spent(&code);
        if Changed::of(self.bus.store(&subject, &headers, &record).await)? == Changed::Done {
            return Ok(Some(code.mailbox));
        }
        let found = self.bus.last(&stream, &subject).await?;
        let owner = found.map(|found| record::decode_spent(&found.record));
        Ok(owner.transpose()?.map(|(owner, _)| owner))
    }

    /// What was put into a slot.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn slot(&self, id: &SlotId) -> Result<Option<Slot>, BusError> {
        let (subject, stream) = self.names.slot(id);
        let found = self.bus.last(&stream, &subject).await?;
        Ok(found.map(|found| record::decode_slot(id, &found.record)).transpose()?)
    }

    /// Puts a value into a slot in which nothing is.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn put_slot(&self, slot: &Slot) -> Result<Changed, BusError> {
        let (subject, _) = self.names.slot(&slot.id);
        // The realm is in the subject: a stream serves several, and knows an id once.
        let id = format!("{}.{subject}", nonce_text(slot.put_id.as_bytes()));
        let headers = after(headers(&id, SLOT_HOURS), 0);
        Changed::of(self.bus.store(&subject, &headers, &record::encode_slot(slot)).await)
    }

    /// A mailbox's bundle.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn bundle(&self, mailbox: &MailboxId) -> Result<VersionedBundle, BusError> {
        let subject = self.names.of(mailbox, Kind::Bundle);
        let found = self.bus.last(&self.stream_of(mailbox), &subject).await?;
        let Some(found) = found else { return Ok(VersionedBundle::default()) };
        Ok(VersionedBundle { version: found.seq, head: bundle(&found)? })
    }

    /// An item of a bundle.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn bundle_item(
        &self,
        mailbox: &MailboxId,
        number: u32,
    ) -> Result<Option<Payload>, BusError> {
        let subject = self.names.item(mailbox, number);
        let found = self.bus.last(&self.stream_of(mailbox), &subject).await?;
        Ok(found.map(|found| record::decode_item(&found.record)).transpose()?)
    }

    /// Changes a bundle that is still at this version: the items that come and the head in one
    /// batch, the head last. What goes is forgotten afterwards; nobody finds it without the head.
    ///
    /// # Errors
    /// [`BusError`]; after [`BusError::Silent`] it may be changed all the same.
    pub async fn change_bundle(
        &self,
        change: BundleChange,
        version: u64,
        nonce: &[u8; 16],
    ) -> Result<Changed, BusError> {
        let BundleChange { mailbox, head, stored, removed } = change;
        let batch = nonce_text(nonce);
        let mut records = Vec::with_capacity(stored.len() + 1);
        for (number, payload) in stored {
            let headers = headers(&format!("{batch}.{number}"), BUNDLE_HOURS + 1);
            let record = record::encode_item(&payload);
            records.push((self.names.item(&mailbox, number), headers, record));
        }
        // What has neither items nor a last resort stands for a bundle that was ended: there is no
        // comparing with nothing.
        let head = head.unwrap_or_else(ended);
        let hours = (head.published.0 + BUNDLE_HOURS + 1).saturating_sub(hours_now().0).max(1);
        let head_headers = alone(after(headers(&format!("{batch}.head"), hours), version));
        let subject = self.names.of(&mailbox, Kind::Bundle);
        records.push((subject, head_headers, record::encode_bundle(&head)));
        let head = match self.bus.store_together(&batch, records).await {
            Ok(head) => head,
            Err(error) => return Changed::of(Err::<(), _>(error)),
        };
        let stream = self.stream_of(&mailbox);
        for number in removed {
            let subject = self.names.item(&mailbox, number);
            // Only what was there before: a number may come again. Without an answer its time is
            // over by itself.
            let _ = self.purge_subject(&stream, &subject, head.seq).await;
        }
        Ok(Changed::Done)
    }
}

pub(super) fn ended() -> BundleHead {
    BundleHead {
        publication_id: valise_proto::PublicationId::new([0; 16]),
        published: hours_now(),
        first: 1,
        next: 1,
        last_resort: false,
    }
}

/// The head in a stored message.
pub(super) fn bundle(found: &Found) -> Result<Option<BundleHead>, BusError> {
    let head = record::decode_bundle(&found.record)?;
    let ended =
        head.publication_id.as_bytes() == &[0; 16] && head.items() == 0 && !head.last_resort;
    Ok(Some(head).filter(|_| !ended))
}
