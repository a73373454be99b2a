//! The handle on one connection: what an application asks of a relay. The socket belongs to the
//! connection's task (`driver`); the two share a queue in each direction.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;
use valise_proto::{
    Attach, ClientPacket, FrameId, Hello, Issue, Join, MailboxId, PacketBuffer, Post, Posted,
    RealmRecord, Reason, Refused, ServerPacket, Signal, Token, TokenKind, VERSION, Welcome,
    statement,
};

use crate::driver::Driver;
use crate::event::{Ending, Incoming};
use crate::opening::Opened;
use crate::shared::{Facts, Outgoing, Shared, fits_a_packet};
use crate::until::until;
use crate::{Dial, OwnerKeyPair};

/// A packet was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The connection has ended, or is closing.
    #[error("the connection has ended")]
    Ended,
    /// Too much waits for the socket: wait for [`Connection::ready`].
    #[error("too many bytes wait for the socket already")]
    Full,
    /// The packet would be longer than packets may be.
    #[error("the capabilities and the payload do not fit one packet")]
    TooLarge,
}

/// A request has no answer, or the wrong one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The relay said no.
    #[error("the relay refused: {}", reason.map_or("for a reason this version does not know", Reason::name))]
    Refused {
        /// Why; `None` for a reason this version does not know.
        reason: Option<Reason>,
        /// When a retry makes sense, in milliseconds; 0: not as it stands.
        retry_after_ms: u32,
    },
    /// The connection ended first: whether the relay carried it out is unknown.
    #[error("no answer: {0}")]
    Closed(Ending),
    /// The answer was of another kind.
    #[error("the relay answered something else")]
    OtherAnswer,
}

impl RequestError {
    /// Whether what was asked is served at another place of the realm.
    pub(crate) fn is_moved(&self) -> bool {
        matches!(self, Self::Refused { reason: Some(Reason::Moved), .. })
    }
}

/// A connection whose relay has proven that it serves the realm. Cheap to clone; when the last
/// clone and the [`Incoming`] are dropped, the connection is closed.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    _handle: Arc<Handle>,
}

/// Closes the connection when the last holder is gone.
pub(crate) struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.begin_close();
    }
}

impl Connection {
    /// Starts the connection's task; its first packet is `Hello`.
    pub(crate) fn start(opened: Opened, group: &'static str, dial: &Dial) -> (Self, Incoming) {
        let mut packets = PacketBuffer::default();
        let hello = Hello {
            version: VERSION,
            features: 0,
            realm_epoch: dial.realm_epoch.max(opened.record.epoch),
            member_token: dial.member_token,
        };
        ClientPacket::<Bytes>::Hello(hello).encode(&mut packets);
        let Opened { transport, channel, welcome, record, early } = opened;
        let facts = Facts { realm: dial.address.realm, channel, welcome, record, group };
        let shared = Arc::new(Shared::new(facts, packets, dial.incoming_bytes_max));
        tokio::spawn(Driver::new(shared.clone(), transport, early));
        let handle = Arc::new(Handle(shared.clone()));
        let incoming = Incoming::new(shared.clone(), handle.clone());
        (Self { shared, _handle: handle }, incoming)
    }

    /// Asks for a member token for the owner's mailbox, with an invite code where the relay wants
    /// one.
    ///
    /// # Errors
    /// [`RequestError`]; refused with `code_required`, `code_spent` or `not_allowed` by policy.
    pub async fn join(
        &self,
        owner: &OwnerKeyPair,
        code: Option<&Token>,
    ) -> Result<Token, RequestError> {
        let Facts { realm, channel, welcome, .. } = &self.shared.facts;
        let signature = owner.sign(&statement::join(realm, channel, &welcome.nonce));
        let answer = self.ask(|_, request| {
            ClientPacket::Join(Box::new(Join {
                request,
                owner_key: owner.owner_key(),
                signature,
                join_token: code.copied(),
                without_channel: false,
            }))
        });
        match answer.await? {
            ServerPacket::Joined { member_token, .. } => Ok(member_token),
            other => Err(refusal(other)),
        }
    }

    /// Serves the owner's mailbox on this connection and returns the attachment's number. What is
    /// stored comes as [`Event::Deliver`](crate::Event::Deliver) from the oldest unacknowledged frame on, then
    /// [`Event::CaughtUp`](crate::Event::CaughtUp); the first may come before this returns.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn attach(
        &self,
        owner: &OwnerKeyPair,
        member_token: &Token,
    ) -> Result<u32, RequestError> {
        let Facts { realm, channel, welcome, .. } = &self.shared.facts;
        let mailbox = owner.mailbox(realm);
        // The signature covers how many came before, so number, signature and place in the queue
        // are decided under one lock.
        let answer = self.ask(|outgoing, request| {
            let before = outgoing.next_attach();
            let statement = statement::attach(realm, channel, &welcome.nonce, &mailbox, before);
            ClientPacket::Attach(Box::new(Attach {
                request,
                member_token: *member_token,
                owner_key: owner.owner_key(),
                signature: owner.sign(&statement),
                without_channel: false,
            }))
        });
        match answer.await? {
            ServerPacket::Attached { attachment, .. } => Ok(attachment),
            other => Err(refusal(other)),
        }
    }

    /// Stops serving a mailbox. Unacknowledged frames stay at the relay.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn detach(&self, attachment: u32) -> Result<(), RequestError> {
        let answer = self.ask(|outgoing, request| {
            // An acknowledgement after the detach would be of nothing.
            outgoing.encode_acks();
            ClientPacket::Detach { request, attachment }
        });
        match answer.await? {
            ServerPacket::Detached { .. } => Ok(()),
            other => Err(refusal(other)),
        }
    }

    /// Asks for tokens of an attached mailbox: `Post` capabilities for correspondents, or a new
    /// `Member` token.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn issue(
        &self,
        attachment: u32,
        kind: TokenKind,
        count: u32,
        days: u32,
        rate_class: u32,
    ) -> Result<Vec<Token>, RequestError> {
        let answer = self.ask(|_, request| {
            let kind = Some(kind);
            ClientPacket::Issue(Issue { request, kind, attachment, count, days, rate_class })
        });
        match answer.await? {
            ServerPacket::Issued { tokens, .. } => Ok(tokens),
            other => Err(refusal(other)),
        }
    }

    /// Puts one frame into the mailbox of each capability and waits for the outcomes, one per
    /// capability. The payload has exactly one of the padded sizes; 0 hours are the default. What
    /// does not fit a packet is refused here, with `too_large`.
    ///
    /// # Errors
    /// [`RequestError`]; after `Closed` the outcome is unknown, and a retry with the same frame id
    /// is right.
    pub async fn post(
        &self,
        frame_id: FrameId,
        capabilities: &[Token],
        ttl_hours: u32,
        payload: Bytes,
    ) -> Result<Posted, RequestError> {
        if !fits_a_packet(capabilities.len(), payload.len()) {
            let reason = Some(Reason::TooLarge);
            return Err(RequestError::Refused { reason, retry_after_ms: 0 });
        }
        self.ready().await;
        let answer = self.ask(|_, request| {
            let capabilities = capabilities.to_vec();
            ClientPacket::Post(Post { request, frame_id, capabilities, ttl_hours, payload })
        });
        match answer.await? {
            ServerPacket::Posted(posted) => Ok(posted),
            other => Err(refusal(other)),
        }
    }

    /// As [`Self::post`], without waiting: the answer comes as [`Event::Posted`](crate::Event::Posted) or
    /// [`Event::Refused`](crate::Event::Refused) with the request's number.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn post_later(
        &self,
        frame_id: FrameId,
        capabilities: &[Token],
        ttl_hours: u32,
        payload: Bytes,
    ) -> Result<u32, Closed> {
        self.shared.send(|outgoing| {
            outgoing.has_room(capabilities.len(), payload.len())?;
            let request = outgoing.next_request();
            let capabilities = capabilities.to_vec();
            let post = Post { request, frame_id, capabilities, ttl_hours, payload };
            outgoing.put(&ClientPacket::Post(post));
            Ok(request)
        })
    }

    /// Reaches attached mailboxes only; never stored, never answered.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn signal(&self, capabilities: &[Token], payload: Bytes) -> Result<(), Closed> {
        self.shared.send(|outgoing| {
            outgoing.has_room(capabilities.len(), payload.len())?;
            let signal = Signal { capabilities: capabilities.to_vec(), payload };
            outgoing.put(&ClientPacket::Signal(signal));
            Ok(())
        })
    }

    /// Says that the deliveries of an attachment up to `n` are committed here.
    ///
    /// # Errors
    /// [`Closed::Ended`].
    pub fn ack(&self, attachment: u32, n: u64) -> Result<(), Closed> {
        self.shared.send(|outgoing| {
            outgoing.ack(attachment, n);
            Ok(())
        })
    }

    /// The time to the relay and back.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn ping(&self) -> Result<Duration, RequestError> {
        let start = Instant::now();
        match self.ask(|_, request| ClientPacket::Ping { request }).await? {
            ServerPacket::Pong { .. } => Ok(start.elapsed()),
            other => Err(refusal(other)),
        }
    }

    /// Bytes not yet handed to the socket.
    pub fn queued_bytes(&self) -> usize {
        self.shared.outgoing().queued()
    }

    /// Waits until there is comfortable room in the outgoing queue, or the connection has ended.
    pub async fn ready(&self) {
        until(&self.shared.changed, || self.shared.outgoing().want_room()).await;
    }

    /// Writes what is queued, ends the connection, and waits until it has ended.
    pub async fn close(&self) {
        self.shared.begin_close();
        until(&self.shared.changed, || self.shared.has_ended()).await;
    }

    /// Drops the socket where it stands, as when the network is known to be gone: nothing is written
    /// any more, and the relay is not told. What was posted has no outcome.
    pub fn abort(&self) {
        self.shared.begin_abort();
    }

    /// How the connection ended, if it has.
    pub fn ending(&self) -> Option<&Ending> {
        self.shared.ending()
    }

    /// Whether these are handles on one connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Whether the relay has answered a request.
    pub(crate) fn was_answered(&self) -> bool {
        self.shared.outgoing().was_answered()
    }

    /// What the relay introduced itself with, verified.
    pub fn welcome(&self) -> &Welcome {
        &self.shared.facts.welcome
    }

    /// The realm's record, verified.
    pub fn record(&self) -> &RealmRecord {
        &self.shared.facts.record
    }

    /// The mailbox an owner has in this connection's realm.
    pub fn mailbox(&self, owner: &OwnerKeyPair) -> MailboxId {
        owner.mailbox(&self.shared.facts.realm)
    }

    /// The TLS key exchange group that was negotiated, such as `X25519MLKEM768`.
    pub fn key_exchange_group(&self) -> &'static str {
        self.shared.facts.group
    }

    /// Queues a request at once, and waits for its answer when polled.
    pub(crate) fn ask(
        &self,
        packet: impl FnOnce(&mut Outgoing, u32) -> ClientPacket<Bytes>,
    ) -> impl Future<Output = Result<ServerPacket<Bytes>, RequestError>> {
        let (sender, answer) = oneshot::channel();
        // Not queued: the sender is dropped with the closure.
        self.shared
            .send(|outgoing| {
                let request = outgoing.next_request();
                let packet = packet(outgoing, request);
                outgoing.put(&packet);
                outgoing.wait_for(request, sender);
                Ok(())
            })
            .ok();
        async {
            answer
                .await
                .map_err(|_| RequestError::Closed(self.ending().cloned().unwrap_or(Ending::Ours)))
        }
    }
}

pub(crate) fn refusal(answer: ServerPacket<Bytes>) -> RequestError {
    match answer {
        ServerPacket::Refused(Refused { reason, retry_after_ms, .. }) => {
            RequestError::Refused { reason, retry_after_ms }
        }
        _ => RequestError::OtherAnswer,
    }
}
