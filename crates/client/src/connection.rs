//! The handle on one connection: what an application asks of a relay. The socket belongs to the
//! connection's task (`driver`); the two share a queue in each direction.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use valise_proto::limits::PAYLOAD_BYTES_MAX;
use valise_proto::{
    Attach, Channel, ClientPacket, FrameId, Hello, Issue, Join, MailboxId, PacketBuffer, Post,
    Posted, RealmId, RealmRecord, Reason, Refused, ServerPacket, Signal, Token, TokenKind, VERSION,
    Welcome, statement,
};

use crate::driver::Driver;
use crate::event::{Ending, Event, Incoming};
use crate::limits::{INCOMING_BYTES_MAX, OUTGOING_BYTES_MAX, OUTGOING_BYTES_READY};
use crate::opening::Opened;
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

/// A connection whose relay has proven that it serves the realm. Cheap to clone; when the last
/// clone and the [`Incoming`] are dropped, the connection is closed.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    _handle: Arc<Handle>,
}

/// What handles and driver share.
pub(crate) struct Shared {
    // Static after construction.
    realm: RealmId,
    channel: Channel,
    welcome: Welcome,
    record: RealmRecord,
    group: &'static str,
    /// Set once, before anyone is told.
    ending: OnceLock<Ending>,
    /// There is room in the outgoing queue again, or the connection has ended.
    changed: Notify,
    // Each guarded by its own lock; never both at once.
    outgoing: Mutex<Outgoing>,
    incoming: Mutex<Arrivals>,
}

/// From the application to the socket.
pub(crate) struct Outgoing {
    /// Encoded packets.
    packets: PacketBuffer,
    /// Acknowledgements are cumulative, so the highest of each attachment is enough.
    acks: Vec<(u32, u64)>,
    /// Bytes the driver has taken and not yet written.
    in_write: usize,
    /// Requests someone waits for.
    waiting: HashMap<u32, oneshot::Sender<ServerPacket<Bytes>>>,
    last_request: u32,
    attaches: u32,
    state: State,
    room_wanted: bool,
    /// The driver's waker, and whether it sleeps with nothing to write.
    driver: Option<Waker>,
    driver_sleeps: bool,
}

/// From the socket to the application.
#[derive(Default)]
pub(crate) struct Arrivals {
    events: VecDeque<Event>,
    bytes: usize,
    discarded: bool,
    application: Option<Waker>,
    /// Set while the driver does not read because the queue is full.
    driver: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    /// Write what is queued, then end.
    Closing,
    Ended,
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
        let shared = Arc::new(Shared {
            realm: dial.address.realm,
            channel: opened.channel,
            welcome: opened.welcome,
            record: opened.record,
            group,
            ending: OnceLock::new(),
            changed: Notify::new(),
            outgoing: Mutex::new(Outgoing {
                packets,
                acks: Vec::new(),
                in_write: 0,
                waiting: HashMap::new(),
                last_request: 0,
                attaches: 0,
                state: State::Open,
                room_wanted: false,
                driver: None,
                driver_sleeps: false,
            }),
            incoming: Mutex::default(),
        });
        tokio::spawn(Driver::new(shared.clone(), opened.transport, opened.early));
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
        let Shared { realm, channel, welcome, .. } = &*self.shared;
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
    /// stored comes as [`Event::Deliver`] from the oldest unacknowledged frame on, then
    /// [`Event::CaughtUp`]; the first may come before this returns.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn attach(
        &self,
        owner: &OwnerKeyPair,
        member_token: &Token,
    ) -> Result<u32, RequestError> {
        let Shared { realm, channel, welcome, .. } = &*self.shared;
        let mailbox = owner.mailbox(realm);
        // The signature covers how many came before, so number, signature and place in the queue
        // are decided under one lock.
        let answer = self.ask(|outgoing, request| {
            let before = outgoing.attaches;
            outgoing.attaches += 1;
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
    /// capability. The payload has exactly one of the padded sizes; 0 hours are the default.
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

    /// As [`Self::post`], without waiting: the answer comes as [`Event::Posted`] or
    /// [`Event::Refused`] with the request's number.
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
            outgoing.has_room(payload.len())?;
            let request = outgoing.next_request();
            let capabilities = capabilities.to_vec();
            let post = Post { request, frame_id, capabilities, ttl_hours, payload };
            ClientPacket::Post(post).encode(&mut outgoing.packets);
            Ok(request)
        })
    }

    /// Reaches attached mailboxes only; never stored, never answered.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn signal(&self, capabilities: &[Token], payload: Bytes) -> Result<(), Closed> {
        self.shared.send(|outgoing| {
            outgoing.has_room(payload.len())?;
            let signal = Signal { capabilities: capabilities.to_vec(), payload };
            ClientPacket::Signal(signal).encode(&mut outgoing.packets);
            Ok(())
        })
    }

    /// Says that the deliveries of an attachment up to `n` are committed here.
    ///
    /// # Errors
    /// [`Closed::Ended`].
    pub fn ack(&self, attachment: u32, n: u64) -> Result<(), Closed> {
        self.shared.send(|outgoing| {
            match outgoing.acks.iter_mut().find(|(number, _)| *number == attachment) {
                Some((_, highest)) => *highest = n.max(*highest),
                None => outgoing.acks.push((attachment, n)),
            }
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
        until(&self.shared.changed, || {
            let mut outgoing = self.shared.outgoing();
            outgoing.room_wanted = true;
            outgoing.state == State::Ended || outgoing.queued() < OUTGOING_BYTES_READY
        })
        .await;
    }

    /// Writes what is queued, ends the connection, and waits until it has ended.
    pub async fn close(&self) {
        self.shared.begin_close();
        until(&self.shared.changed, || self.shared.has_ended()).await;
    }

    /// How the connection ended, if it has.
    pub fn ending(&self) -> Option<&Ending> {
        self.shared.ending.get()
    }

    /// What the relay introduced itself with, verified.
    pub fn welcome(&self) -> &Welcome {
        &self.shared.welcome
    }

    /// The realm's record, verified.
    pub fn record(&self) -> &RealmRecord {
        &self.shared.record
    }

    /// The mailbox an owner has in this connection's realm.
    pub fn mailbox(&self, owner: &OwnerKeyPair) -> MailboxId {
        owner.mailbox(&self.shared.realm)
    }

    /// The TLS key exchange group that was negotiated, such as `X25519MLKEM768`.
    pub fn key_exchange_group(&self) -> &'static str {
        self.shared.group
    }

    /// Queues a request at once, and waits for its answer when polled.
    fn ask(
        &self,
        packet: impl FnOnce(&mut Outgoing, u32) -> ClientPacket<Bytes>,
    ) -> impl Future<Output = Result<ServerPacket<Bytes>, RequestError>> {
        let (sender, answer) = oneshot::channel();
        // Not queued: the sender is dropped with the closure.
        self.shared
            .send(|outgoing| {
                let request = outgoing.next_request();
                let packet = packet(outgoing, request);
                packet.encode(&mut outgoing.packets);
                outgoing.waiting.insert(request, sender);
                Ok(())
            })
            .ok();
        async {
            answer.await.map_err(|_| {
                RequestError::Closed(self.shared.ending.get().cloned().unwrap_or(Ending::Ours))
            })
        }
    }
}

fn refusal(answer: ServerPacket<Bytes>) -> RequestError {
    match answer {
        ServerPacket::Refused(Refused { reason, retry_after_ms, .. }) => {
            RequestError::Refused { reason, retry_after_ms }
        }
        _ => RequestError::OtherAnswer,
    }
}

impl Outgoing {
    fn queued(&self) -> usize {
        self.packets.len() + self.in_write
    }

    fn has_room(&self, payload: usize) -> Result<(), Closed> {
        let room = self.queued() + payload.min(PAYLOAD_BYTES_MAX) <= OUTGOING_BYTES_MAX;
        if room { Ok(()) } else { Err(Closed::Full) }
    }

    fn next_request(&mut self) -> u32 {
        self.last_request = self.last_request.wrapping_add(1);
        self.last_request
    }

    fn encode_acks(&mut self) {
        for (attachment, n) in std::mem::take(&mut self.acks) {
            ClientPacket::<Bytes>::Ack { attachment, n }.encode(&mut self.packets);
        }
    }
}

impl Shared {
    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn incoming(&self) -> MutexGuard<'_, Arrivals> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `put` queue something, then wakes the driver if it sleeps: one wake per batch.
    fn send<T>(&self, put: impl FnOnce(&mut Outgoing) -> Result<T, Closed>) -> Result<T, Closed> {
        let mut outgoing = self.outgoing();
        if outgoing.state != State::Open {
            return Err(Closed::Ended);
        }
        let sent = put(&mut outgoing)?;
        let sleeps = std::mem::take(&mut outgoing.driver_sleeps);
        let driver = if sleeps { outgoing.driver.clone() } else { None };
        drop(outgoing);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(sent)
    }

    fn begin_close(&self) {
        let mut outgoing = self.outgoing();
        if outgoing.state == State::Open {
            outgoing.state = State::Closing;
            let driver = outgoing.driver.clone();
            drop(outgoing);
            if let Some(driver) = driver {
                driver.wake();
            }
        }
    }

    // ------------------------------------------------ the driver's side

    /// Takes everything that waits, if anything does; else notes that the driver sleeps. Returns
    /// the state as of now.
    pub(crate) fn take_packets(&self, into: &mut PacketBuffer, waker: &Waker) -> State {
        let mut outgoing = self.outgoing();
        outgoing.encode_acks();
        std::mem::swap(into, &mut outgoing.packets);
        outgoing.in_write = into.len();
        outgoing.driver_sleeps = into.is_empty();
        if !outgoing.driver.as_ref().is_some_and(|driver| driver.will_wake(waker)) {
            outgoing.driver = Some(waker.clone());
        }
        let roomy = outgoing.queued() < OUTGOING_BYTES_READY;
        let notify = roomy && std::mem::take(&mut outgoing.room_wanted);
        let state = outgoing.state;
        drop(outgoing);
        if notify {
            self.changed.notify_waiters();
        }
        state
    }

    /// Queues a packet of the connection's own.
    pub(crate) fn put_packet(&self, packet: impl FnOnce(u32) -> ClientPacket<Bytes>) {
        let mut outgoing = self.outgoing();
        let request = outgoing.next_request();
        packet(request).encode(&mut outgoing.packets);
    }

    /// Whether the application wants the connection to end.
    pub(crate) fn is_closing(&self) -> bool {
        self.outgoing().state == State::Closing
    }

    /// Whether everyone has been told of the end.
    pub(crate) fn has_ended(&self) -> bool {
        self.ending.get().is_some()
    }

    /// Who waits for this answer, if anyone.
    pub(crate) fn waiter(&self, request: u32) -> Option<oneshot::Sender<ServerPacket<Bytes>>> {
        let mut outgoing = self.outgoing();
        if outgoing.waiting.is_empty() { None } else { outgoing.waiting.remove(&request) }
    }

    /// Whether the application has left enough room; if not, `waker` is woken once it has.
    pub(crate) fn may_read(&self, waker: &Waker) -> bool {
        let mut incoming = self.incoming();
        let may = incoming.bytes < INCOMING_BYTES_MAX;
        incoming.driver = if may { None } else { Some(waker.clone()) };
        may
    }

    /// Hands a batch of events over with one wake.
    pub(crate) fn put_events(&self, events: &mut Vec<Event>) {
        let mut incoming = self.incoming();
        if incoming.discarded {
            events.clear();
            return;
        }
        incoming.bytes += events.iter().map(Event::cost).sum::<usize>();
        incoming.events.extend(events.drain(..));
        let application = incoming.application.take();
        drop(incoming);
        if let Some(application) = application {
            application.wake();
        }
    }

    /// The end, told to everyone who waits.
    pub(crate) fn end(&self, ending: Ending) {
        self.ending.set(ending.clone()).ok();
        let mut outgoing = self.outgoing();
        outgoing.state = State::Ended;
        outgoing.packets = PacketBuffer::default();
        outgoing.acks = Vec::new();
        outgoing.in_write = 0;
        outgoing.driver = None;
        let waiting = std::mem::take(&mut outgoing.waiting);
        drop(outgoing);
        drop(waiting);
        self.put_events(&mut vec![Event::Closed(ending)]);
        self.changed.notify_waiters();
    }

    // ------------------------------------------------ the application's side

    /// All events at once; none: `waker` is woken when there are some.
    pub(crate) fn take_events(&self, waker: Option<&Waker>) -> Option<VecDeque<Event>> {
        let mut incoming = self.incoming();
        if incoming.events.is_empty() {
            if let Some(waker) = waker {
                incoming.application = Some(waker.clone());
            }
            return None;
        }
        let events = std::mem::take(&mut incoming.events);
        incoming.bytes = 0;
        let driver = incoming.driver.take();
        drop(incoming);
        if let Some(driver) = driver {
            driver.wake();
        }
        Some(events)
    }

    /// From now on events are thrown away.
    pub(crate) fn discard_events(&self) {
        let mut incoming = self.incoming();
        let driver = incoming.driver.take();
        *incoming = Arrivals { discarded: true, ..Arrivals::default() };
        drop(incoming);
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}
