//! Frames and claims of mailboxes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER as HEX;
use serde_json::json;
use tokio::time::Instant;
use valise_proto::MailboxId;

use super::bus::{Bus, Found, FoundMany};
use super::standing::Revocations;
use super::subject::{self, Kind, RealmNames};
use super::{BusError, JetStream, alone, headers};
use crate::limits::{BUS_PATIENCE_MS, CLAIM_HOURS, STALE_READS_MAX, WINDOW_FRAMES_MAX};
use crate::store::{BundleHead, Frame, RunningHours, Seq, record};

/// What a replica knows of a mailbox that has seen a claim: nothing stored before it is missing.
#[derive(Debug)]
pub struct Certified {
    /// The newest claim; a later one than one's own has taken the mailbox over.
    pub claim: Seq,
    /// The newest frame.
    pub last: Option<Seq>,
    /// The revoked tokens.
    pub revoked: Revocations,
    /// The bundle.
    pub bundle: Option<BundleHead>,
}

/// Frames in their order.
#[derive(Debug, Default)]
pub struct Window {
    /// What was found.
    pub frames: Vec<Frame>,
    /// The replica has more.
    pub more: bool,
}

/// What is known of a mailbox that is served, when it is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Whose.
    pub mailbox: MailboxId,
    /// The newest claim.
    pub claim: Option<Seq>,
    /// The newest frame.
    pub last: Option<Seq>,
}

/// Hours since 1970-01-01 by the wall clock. In a data centre records carry these, and the bus
/// itself gives up what is over.
pub fn hours_now() -> RunningHours {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    RunningHours(u32::try_from(since.as_secs() / 3_600).unwrap_or(u32::MAX))
}

/// Mailboxes looked at in one request: two subjects each, and 1,024 are answered at most.
const SWEPT_TOGETHER: usize = 256;

impl JetStream {
    /// Stores a frame durably, once. Its sequence number is the bus's. Returns whether it was
    /// there already.
    ///
    /// # Errors
    /// [`BusError`]; unless it says that the frame was refused, it may be stored all the same.
    pub async fn append(&self, frame: &Frame) -> Result<bool, BusError> {
        let shard = self.shard(&frame.mailbox);
        let stored = append(&self.bus, self.names.realm(), shard, frame).await;
        stored.inspect_err(|error| {
            if error.is_stream_full() {
                self.is_full(shard);
            }
        })
    }

    /// Says that this node serves the mailbox now, on the connection that listens for it. The
    /// claim's place is the order of all claims.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn claim(&self, mailbox: &MailboxId, nonce: &[u8; 16]) -> Result<Seq, BusError> {
        let id = self.names.message_id(nonce, mailbox);
        let headers = alone(headers(&id, CLAIM_HOURS));
        let record = record::encode_claim(nonce);
        let subject = self.names.of(mailbox, Kind::Claim);
        let claim = Seq(self.bus.store(&subject, &headers, &record).await?.seq);
        self.bus.stats().claim();
        Ok(claim)
    }

    /// Withdraws a claim; a later one stays.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn withdraw(&self, mailbox: &MailboxId, claim: Seq) -> Result<(), BusError> {
        self.purge(mailbox, Kind::Claim, claim).await
    }

    /// Forgets the frames up to here.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn remove(&self, mailbox: &MailboxId, up_to: Seq) -> Result<(), BusError> {
        self.purge(mailbox, Kind::Frames, up_to).await
    }

    async fn purge(&self, mailbox: &MailboxId, kind: Kind, up_to: Seq) -> Result<(), BusError> {
        let subject = self.names.of(mailbox, kind);
        self.purge_subject(&self.stream_of(mailbox), &subject, up_to.0 + 1).await
    }

    pub(super) async fn purge_subject(
        &self,
        stream: &str,
        subject: &str,
        below: u64,
    ) -> Result<(), BusError> {
        let body = json!({ "filter": subject, "seq": below });
        self.bus.ask_patiently(&format!("STREAM.PURGE.{stream}"), &body).await?;
        self.bus.stats().purge();
        Ok(())
    }

    /// What a replica knows that has seen this claim.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn certify(&self, mailbox: &MailboxId, claim: Seq) -> Result<Certified, BusError> {
        const KINDS: [Kind; 4] = [Kind::Frames, Kind::Claim, Kind::Revoked, Kind::Bundle];
        let stream = self.stream_of(mailbox);
        let subjects = KINDS.map(|kind| self.names.of(mailbox, kind));
        let until = Instant::now() + Duration::from_millis(BUS_PATIENCE_MS);
        for tries in 1.. {
            let many = self.bus.read(&stream, &json!({ "multi_last": subjects })).await;
            match many.and_then(|many| certified(mailbox, claim, many)) {
                Ok(Some(certified)) => return Ok(certified),
                Ok(None) if tries < STALE_READS_MAX => self.bus.stats().stale_read(),
                Err(BusError::Damaged { what }) => return Err(BusError::Damaged { what }),
                Err(_) if tries < STALE_READS_MAX => {}
                Ok(None) | Err(_) => break,
            }
            if Instant::now() >= until {
                return Err(BusError::Silent);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // Every replica that answers is far behind: the leader is not.
        let mut many = FoundMany::default();
        for subject in &subjects {
            many.found.extend(self.bus.last(&stream, subject).await?);
        }
        certified(mailbox, claim, many)?.ok_or(BusError::Silent)
    }

    /// Frames after `after`, in order, as far as the replica that answers knows them: at least one
    /// if it has one, then about as many as fit into `bytes_max`.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn read(
        &self,
        mailbox: &MailboxId,
        after: Seq,
        bytes_max: usize,
    ) -> Result<Window, BusError> {
        let query = json!({
            "seq": after.0 + 1,
            "next_by_subj": self.names.of(mailbox, Kind::Frames),
            "batch": WINDOW_FRAMES_MAX,
            "max_bytes": bytes_max,
        });
        let many = self.bus.read(&self.stream_of(mailbox), &query).await?;
        let frames = many.found.iter().map(|found| frame(*mailbox, found));
        Ok(Window { frames: frames.collect::<Result<_, _>>()?, more: many.more })
    }

    /// The first frame after `after`, and the newest one, as the leader knows them.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn next_at_leader(
        &self,
        mailbox: &MailboxId,
        after: Seq,
    ) -> Result<(Option<Frame>, Option<Seq>), BusError> {
        let (stream, subject) = (self.stream_of(mailbox), self.names.of(mailbox, Kind::Frames));
        let query = json!({ "seq": after.0 + 1, "next_by_subj": subject });
        let next = self.bus.read_at_leader(&stream, &query).await?;
        let last = self.bus.last(&stream, &subject).await?.map(|found| Seq(found.seq));
        Ok((next.map(|found| frame(*mailbox, &found)).transpose()?, last))
    }

    /// Looks at mailboxes of one shard again. Nothing that was stored before the call is missing
    /// in what a replica with a claim of each says.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn look(&self, shard: u8, mailboxes: &[MailboxId]) -> Result<Vec<Seen>, BusError> {
        let stream = subject::stream(shard);
        let info = self.bus.ask_patiently(&format!("STREAM.INFO.{stream}"), &json!({})).await?;
        let stored = info["state"]["last_seq"].as_u64().unwrap_or_default();
        let mut seen = Vec::with_capacity(mailboxes.len());
        for some in mailboxes.chunks(SWEPT_TOGETHER) {
            seen.extend(self.look_together(&stream, stored, some).await?);
        }
        Ok(seen)
    }

    async fn look_together(
        &self,
        stream: &str,
        stored: u64,
        mailboxes: &[MailboxId],
    ) -> Result<Vec<Seen>, BusError> {
        let of = |mailbox| [Kind::Frames, Kind::Claim].map(|kind| self.names.of(mailbox, kind));
        let subjects: Vec<String> = mailboxes.iter().flat_map(of).collect();
        let query = json!({ "multi_last": subjects });
        for _ in 0..STALE_READS_MAX {
            let many = self.bus.read(stream, &query).await?;
            // One that has nothing of all this does not say how far it is.
            if many.up_to < stored && !many.found.is_empty() {
                self.bus.stats().stale_read();
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            }
            let last = |mailbox: &MailboxId, kind| {
                let is = |found: &&Found| subject::parse(&found.subject) == Some((*mailbox, kind));
                many.found.iter().find(is).map(|found| Seq(found.seq))
            };
            let see = |mailbox: &MailboxId| Seen {
                mailbox: *mailbox,
                claim: last(mailbox, Kind::Claim),
                last: last(mailbox, Kind::Frames),
            };
            return Ok(mailboxes.iter().map(see).collect());
        }
        Err(BusError::Silent)
    }

    pub(super) fn stream_of(&self, mailbox: &MailboxId) -> String {
        subject::stream(self.shard(mailbox))
    }
}

/// Stores a frame durably, once, in the shard of its mailbox. Returns whether it was there already.
pub(super) async fn append(
    bus: &Bus,
    names: &RealmNames,
    shard: u8,
    frame: &Frame,
) -> Result<bool, BusError> {
    let id = names.message_id(frame.frame_id.as_bytes(), &frame.mailbox);
    let subject = names.of(shard, &frame.mailbox, Kind::Frames);
    let record = record::encode_frame(frame);
    // It goes when the hour is over in which its time ends, as everywhere.
    let headers = headers(&id, u32::from(frame.ttl_hours) + 1);
    Ok(bus.store(&subject, &headers, &record).await?.repeated)
}

/// What the answer says, if it comes from a replica that has seen the claim.
fn certified(
    mailbox: &MailboxId,
    claim: Seq,
    many: FoundMany,
) -> Result<Option<Certified>, BusError> {
    let mut certified =
        Certified { claim: Seq(0), last: None, revoked: Revocations::default(), bundle: None };
    for found in many.found {
        match subject::parse(&found.subject) {
            Some((of, Kind::Frames)) if of == *mailbox => certified.last = Some(Seq(found.seq)),
            Some((of, Kind::Claim)) if of == *mailbox => certified.claim = Seq(found.seq),
            Some((of, Kind::Revoked)) if of == *mailbox => {
                certified.revoked = Revocations::read(&found)?;
            }
            Some((of, Kind::Bundle)) if of == *mailbox => {
                certified.bundle = super::standing::bundle(&found)?;
            }
            _ => return Err(BusError::Damaged { what: "answer" }),
        }
    }
    Ok(Some(certified).filter(|certified| certified.claim >= claim))
}

/// A frame of a stored message.
pub(super) fn frame(mailbox: MailboxId, found: &Found) -> Result<Frame, BusError> {
    Ok(record::decode_frame(mailbox, Seq(found.seq), &found.record)?)
}

/// A random nonce, for claims and batches.
pub(super) fn nonce_text(nonce: &[u8; 16]) -> String {
    HEX.encode(nonce)
}
