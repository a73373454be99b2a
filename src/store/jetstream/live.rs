//! What is pushed to this node as it is stored, and signals.

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all};
use valise_proto::MailboxId;

use super::bus::{Found, number};
use super::frames::frame;
use super::standing::Revocations;
use super::subject::{self, Kind};
use super::{BusError, JetStream};
use crate::payload::Payload;
use crate::store::{Frame, Seq, record};

/// Something that has happened to a mailbox.
#[derive(Debug)]
pub enum Live {
    /// A frame was stored, after this one of its mailbox; none is left where that is 0.
    Frame(Frame, Seq),
    /// It was claimed.
    Claimed(MailboxId, Seq),
    /// Its tokens were revoked.
    Revoked(MailboxId, Revocations),
    /// An item of its bundle was taken, and so few are left.
    BundleLow(MailboxId, u32),
    /// A signal; it was not stored.
    Signal(MailboxId, Payload),
}

/// What happens to the mailboxes that are listened to. Dropped, nobody listens any more.
pub struct LiveFrames(SelectAll<Subscriber>);

impl LiveFrames {
    /// The next thing. What cannot be read is left out: whoever needs it reads it from the store,
    /// and is told there. Cancel-safe.
    pub async fn next(&mut self) -> Option<Live> {
        loop {
            let message = self.0.next().await?;
            match live(message) {
                Ok(Some(live)) => return Some(live),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "the bus: something pushed was left out"),
            }
        }
    }
}

impl JetStream {
    /// Listens to what happens to the mailboxes of a shard.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn listen(&self, shard: u8) -> Result<LiveFrames, BusError> {
        Ok(LiveFrames(select_all([
            self.bus.subscribe(self.names.live(shard, Kind::Frames)).await?,
            self.bus.subscribe(self.names.live(shard, Kind::Claim)).await?,
            self.bus.subscribe(self.names.signals(shard)).await?,
        ])))
    }

    /// Listens to the revocations of the realm.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn listen_to_revocations(&self) -> Result<LiveFrames, BusError> {
        Ok(LiveFrames(select_all([self.bus.subscribe(self.names.live_revoked()).await?])))
    }

    /// Passes a signal to the node that serves the mailbox, if one does.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn signal(&self, mailbox: &MailboxId, payload: &Payload) -> Result<(), BusError> {
        self.bus.publish(self.names.signal(mailbox), record::encode_item(payload)).await
    }
}

impl JetStream {
    /// Tells the node that serves the mailbox, if one does, that its bundle has few items left.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn tell_low(&self, mailbox: &MailboxId, items: u32) -> Result<(), BusError> {
        self.bus.publish(self.names.low(mailbox, items), bytes::Bytes::new()).await
    }
}

fn live(message: Message) -> Result<Option<Live>, BusError> {
    if message.subject.starts_with("eph.") {
        return Ok(match subject::parse_signal(&message.subject) {
            Some((mailbox, None)) => {
                Some(Live::Signal(mailbox, record::decode_item(&message.payload)?))
            }
            Some((mailbox, Some(items))) => Some(Live::BundleLow(mailbox, items)),
            None => None,
        });
    }
    let Some((mailbox, kind)) = subject::parse(&message.subject) else { return Ok(None) };
    let headers = message.headers.as_ref();
    let before = number(headers, "Nats-Last-Sequence");
    let found = Found {
        subject: message.subject.to_string(),
        seq: number(headers, "Nats-Sequence"),
        record: message.payload,
        headers: None,
    };
    Ok(Some(match kind {
        Kind::Frames => Live::Frame(frame(mailbox, &found)?, Seq(before)),
        Kind::Claim => Live::Claimed(mailbox, Seq(found.seq)),
        Kind::Revoked => Live::Revoked(mailbox, Revocations::read(&found)?),
        Kind::Bundle => return Ok(None),
    }))
}
