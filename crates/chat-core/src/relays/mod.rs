//! All connections of one profile: its own mailbox, served for ever, and the relays of everyone it
//! writes to, connected while there is something to ask them.
//!
//! Nothing here is durable and nothing is retried: a request has one answer within its time limit,
//! and the engine's outbox repeats it with the same id where [`RelayError::is_retryable`] says so.

mod error;
mod event;
mod foreign;
mod known;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::timeout;
use valise_client::limits::CONNECT_WAIT;
use valise_client::proto::limits::{FAN_OUT_BYTES_MAX, SLOTS_MAX, TARGETS_MAX, TOKEN_DAYS_MAX};
use valise_client::proto::{
    FrameId, MailboxId, PublicationId, PutId, Reason, RelayAddress, SlotId, Token, TokenKind,
};
use valise_client::{
    AskError, Away, BundleItem, Client, Connection, Dial, Held, OwnerKeyPair, Publication,
    RequestError, SlotPut, SocksProxy, TransportKind,
};

pub use error::RelayError;
pub use event::RelayEvent;
use foreign::Foreign;
use known::Known;
pub use known::KnownRealm;
pub use valise_client::{Receipt, is_public_host as is_public};

/// Events the engine has not taken; above it nothing more is read from one's own relay.
const EVENTS_WAITING_MAX: usize = 16;

/// A request waits for the next try of a connection if it comes that soon; a pause that is longer
/// fails it at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// One's own mailbox.
#[derive(Debug, Clone)]
pub struct Own {
    /// Its relay.
    pub address: RelayAddress,
    /// Its key.
    pub owner: Arc<OwnerKeyPair>,
    /// The right to attach it.
    pub member_token: Token,
    /// The endpoint of its relay's realm to begin with, as [`RelayEvent::Prefers`] has told it.
    pub prefer: Option<String>,
}

/// How relays are reached.
#[derive(Debug, Clone)]
pub struct Options {
    /// Everything goes through this proxy, names included.
    pub proxy: Option<SocksProxy>,
    /// Raw, or WebSocket where only HTTPS gets through.
    pub transport: TransportKind,
    /// Relays of others may be in private networks, or on this machine.
    pub allow_private: bool,
    /// How long a connection may take to be opened.
    pub connect_limit: Duration,
    /// How long a request may take, from its start to its answer.
    pub request_limit: Duration,
    /// A relay of others is disconnected after so long without a request.
    pub idle: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            proxy: None,
            transport: TransportKind::Raw,
            allow_private: false,
            connect_limit: CONNECT_WAIT,
            request_limit: Duration::from_secs(20),
            idle: Duration::from_secs(60),
        }
    }
}

impl Options {
    fn dial(&self, relay: &RelayAddress) -> Dial {
        Dial {
            transport: self.transport,
            proxy: self.proxy.clone(),
            timeout: self.connect_limit,
            ..Dial::new(relay.clone())
        }
    }
}

/// The connections of one profile; cheap to clone. When the last clone is dropped they are closed.
#[derive(Clone)]
pub struct Relays(Arc<Inner>);

struct Inner {
    // Static after construction.
    options: Options,
    own: Own,
    mailbox: MailboxId,
    client: Client,
    // Guarded by its own lock, which is never held over a wait.
    foreign: Mutex<Foreign>,
}

/// Becomes a member of a relay, with an invite code where it asks for one. Returns the member
/// token.
///
/// # Errors
/// [`RelayError`]; refused with `code_required`, `code_spent`, `token_invalid` or `not_allowed` by
/// the relay's policy.
pub async fn enroll(
    relay: &RelayAddress,
    owner: &OwnerKeyPair,
    code: Option<&Token>,
    options: &Options,
) -> Result<Token, RelayError> {
    let dial = options.dial(relay);
    let enrolling = valise_client::enroll(&dial, owner, code, 0, 0);
    match timeout(options.connect_limit + options.request_limit, enrolling).await {
        Ok(enrolled) => Ok(enrolled?.member_token),
        // The same owner key may use a spent code again.
        Err(_) => Err(RelayError::Unknown(late(options))),
    }
}

impl Relays {
    /// Serves one's own mailbox from now on, with what is known of realms. Runs in a Tokio runtime.
    /// Whoever waits for anything else must go on reading the events.
    pub fn start(
        own: Own,
        known: Vec<KnownRealm>,
        options: Options,
    ) -> (Self, mpsc::Receiver<RelayEvent>) {
        let known = Known::new(known);
        let mut dial = Dial { prefer: own.prefer.clone(), ..options.dial(&own.address) };
        known.guide(&mut dial);
        let (client, updates) = Client::start(dial);
        let mailbox = client.serve(own.owner.clone(), own.member_token);
        let (sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
        let foreign = Mutex::new(Foreign::new(known, sender.downgrade()));
        // Ends with the client, or with its listener.
        tokio::spawn(event::hand_on(updates, own.address.realm, sender));
        (Self(Arc::new(Inner { options, own, mailbox, client, foreign })), events)
    }

    /// Puts one frame into the mailbox of each capability. Returns one outcome per capability,
    /// `None` for one that this version does not know. More targets than one post may have are
    /// several posts with the same frame id; if a later one fails, its targets are `busy`, or
    /// what the relay refused it with.
    ///
    /// # Errors
    /// [`RelayError`], if nothing was decided.
    pub async fn post(
        &self,
        relay: &RelayAddress,
        frame_id: FrameId,
        capabilities: &[Token],
        ttl_hours: u32,
        payload: Bytes,
    ) -> Result<Vec<Option<Reason>>, RelayError> {
        let mut outcomes = Vec::with_capacity(capabilities.len());
        for targets in capabilities.chunks(targets_max(payload.len())) {
            let payload = payload.clone();
            let posted = self.at(relay, |client| async move {
                client.post(PATIENCE, frame_id, targets, ttl_hours, payload).await
            });
            match posted.await {
                Ok(posted) if posted.outcomes.len() == targets.len() => {
                    outcomes.extend(posted.outcomes);
                }
                Ok(_) => return Err(RequestError::OtherAnswer.into()),
                Err(error) if outcomes.is_empty() => return Err(error),
                Err(RelayError::Refused { reason, .. }) => {
                    outcomes.extend(targets.iter().map(|_| reason));
                }
                Err(_) => {
                    // No relay to ask any more.
                    outcomes.resize(capabilities.len(), Some(Reason::Busy));
                    break;
                }
            }
        }
        Ok(outcomes)
    }

    /// Reaches attached mailboxes if there is a connection, or can be; never stored, never
    /// answered.
    ///
    /// # Errors
    /// [`RelayError`].
    pub async fn signal(
        &self,
        relay: &RelayAddress,
        capabilities: &[Token],
        payload: Bytes,
    ) -> Result<(), RelayError> {
        let signaled = self.ask(relay, |connection| {
            std::future::ready(Ok(connection.signal(capabilities, payload.clone())))
        });
        signaled.await?.map_err(RelayError::from)
    }

    /// Puts a value into a slot, if nothing is in it.
    ///
    /// # Errors
    /// [`RelayError`]; a retry with the same put id is right.
    pub async fn put_slot(
        &self,
        relay: &RelayAddress,
        slot_token: &Token,
        slot_id: SlotId,
        put_id: PutId,
        payload: Bytes,
    ) -> Result<SlotPut, RelayError> {
        self.ask(relay, |connection| {
            let payload = payload.clone();
            async move { connection.put_slot(slot_token, slot_id, put_id, payload).await }
        })
        .await
    }

    /// What slots hold, in order, `None` for a free one.
    ///
    /// # Errors
    /// [`RelayError`].
    pub async fn get_slots(
        &self,
        relay: &RelayAddress,
        slot_ids: &[SlotId],
    ) -> Result<Vec<Option<Bytes>>, RelayError> {
        let mut values = Vec::with_capacity(slot_ids.len());
        // The relay answers as many as fit one packet.
        while let Some(rest) = slot_ids.get(values.len()..).filter(|rest| !rest.is_empty()) {
            let asked = &rest[..rest.len().min(SLOTS_MAX)];
            let got = self
                .ask(relay, |connection| async move { connection.get_slots(asked).await })
                .await?;
            if got.is_empty() || got.len() > asked.len() {
                return Err(RequestError::OtherAnswer.into());
            }
            values.extend(got);
        }
        Ok(values)
    }

    /// Takes an item of somebody's bundle. An item whose answer is lost is lost: take another.
    ///
    /// # Errors
    /// [`RelayError`].
    pub async fn take_bundle(
        &self,
        relay: &RelayAddress,
        take_token: &Token,
    ) -> Result<BundleItem, RelayError> {
        self.ask(relay, |connection| async move { connection.take_bundle(take_token).await }).await
    }

    /// New tokens of one's own mailbox.
    ///
    /// # Errors
    /// [`RelayError`].
    pub async fn issue(
        &self,
        kind: TokenKind,
        count: u32,
        days: u32,
    ) -> Result<Vec<Token>, RelayError> {
        self.ask_own(|connection, attachment| async move {
            connection.issue(attachment, kind, count, days, 0).await
        })
        .await
    }

    /// Ends a token of one's own mailbox. Durable when it returns; repeating it is right.
    ///
    /// # Errors
    /// [`RelayError`].
    pub async fn revoke(&self, token: &Token) -> Result<(), RelayError> {
        self.ask_own(
            |connection, attachment| async move { connection.revoke(attachment, token).await },
        )
        .await
    }

    /// Adds to one's own bundle; returns how many one-time items it has then.
    ///
    /// # Errors
    /// [`RelayError`]; a retry with the same id, before any other publication, is right.
    pub async fn publish(
        &self,
        id: PublicationId,
        publication: Publication,
    ) -> Result<u32, RelayError> {
        self.ask_own(|connection, attachment| {
            let publication = publication.clone();
            async move { connection.publish_bundle(attachment, id, publication).await }
        })
        .await
    }

    /// A new member token, in use from the next connection on; to be kept for the next start.
    ///
    /// # Errors
    /// [`RelayError`].
    pub async fn renew_member(&self) -> Result<Token, RelayError> {
        let issued = self.issue(TokenKind::Member, 1, TOKEN_DAYS_MAX).await?;
        let token = *issued.first().ok_or(RequestError::OtherAnswer)?;
        self.0.client.renew(self.0.mailbox, token);
        Ok(token)
    }

    /// Says that a frame, and all that came before it, are committed here. If the connection it
    /// came on is gone, it comes again.
    pub fn acknowledge(&self, receipt: Receipt) {
        self.0.client.acknowledge(receipt);
    }

    /// Gives all connections up for fresh ones, and tries at once where it was paused: for a
    /// machine that has changed its network or was asleep.
    pub fn reconnect(&self) {
        self.0.client.reconnect();
        self.0.foreign().reconnect();
    }

    /// Writes what is queued and ends all connections. Every request fails from now on.
    pub async fn close(&self) {
        let mut closing = self.0.foreign().close();
        self.0.client.close().await;
        while closing.join_next().await.is_some() {}
    }

    /// Asks a relay something, within the time limit.
    async fn ask<T, F: Future<Output = Result<T, RequestError>>>(
        &self,
        relay: &RelayAddress,
        request: impl Fn(Connection) -> F,
    ) -> Result<T, RelayError> {
        self.at(relay, |client| async move { client.ask(PATIENCE, request).await }).await
    }

    /// As [`Self::ask`], in the client's own ways.
    async fn at<T, F: Future<Output = Result<T, AskError>>>(
        &self,
        relay: &RelayAddress,
        asking: impl FnOnce(Client) -> F,
    ) -> Result<T, RelayError> {
        let client = self.0.client(relay)?;
        let connected = async {
            let lent = client.connection(PATIENCE).await;
            lent.map_err(|away| self.0.away(relay, away))
        };
        let asking = asking(client.clone());
        // The connection is held until the answer is there.
        self.0
            .within_limit(connected, |held: Held| async move {
                let answer = asking.await;
                drop(held);
                answer
            })
            .await
    }

    /// As [`Self::ask`], of one's own mailbox once it is attached.
    async fn ask_own<T, F: Future<Output = Result<T, RequestError>>>(
        &self,
        request: impl Fn(Connection, u32) -> F,
    ) -> Result<T, RelayError> {
        let Inner { client, mailbox, .. } = &*self.0;
        let attached = async { Ok(client.attachment(*mailbox, PATIENCE).await?) };
        self.0
            .within_limit(attached, |attached| {
                // A mailbox does not move while its attachment is lent.
                drop(attached);
                client.ask_of(*mailbox, PATIENCE, request)
            })
            .await
    }
}

impl Inner {
    fn foreign(&self) -> MutexGuard<'_, Foreign> {
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client for a relay. One's own realm is always asked over one's own connection.
    fn client(&self, relay: &RelayAddress) -> Result<Client, RelayError> {
        if relay.realm == self.own.address.realm {
            return Ok(self.client.clone());
        }
        self.foreign().client(relay, &self.options)
    }

    /// Its client lends no connection.
    fn away(&self, relay: &RelayAddress, away: Away) -> RelayError {
        if relay.realm == self.own.address.realm {
            return away.into();
        }
        self.foreign().away(relay, away)
    }

    /// The time limit counts from the start, but what it cuts off decides what is known.
    async fn within_limit<C, T, F: Future<Output = Result<T, AskError>>>(
        &self,
        connecting: impl Future<Output = Result<C, RelayError>>,
        asking: impl FnOnce(C) -> F,
    ) -> Result<T, RelayError> {
        let until = tokio::time::Instant::now() + self.options.request_limit;
        let late = |_| late(&self.options);
        let connected = tokio::time::timeout_at(until, connecting).await;
        let connected = connected.map_err(late).map_err(RelayError::Unreachable)??;
        let answer = tokio::time::timeout_at(until, asking(connected)).await;
        Ok(answer.map_err(late).map_err(RelayError::Unknown)??)
    }
}

fn late(options: &Options) -> String {
    format!("nothing came within {} s", options.request_limit.as_secs())
}

/// Targets of one post of a payload of so many bytes. A payload that is too large for any goes to
/// one, for the relay to refuse.
fn targets_max(payload: usize) -> usize {
    FAN_OUT_BYTES_MAX.checked_div(payload).unwrap_or(TARGETS_MAX).clamp(1, TARGETS_MAX)
}
