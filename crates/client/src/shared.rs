//! What a connection's handles and its task share: a queue in each direction, and the end.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use valise_proto::limits::PACKET_BYTES_MAX;
use valise_proto::{
    Channel, ClientPacket, PacketBuffer, RealmId, RealmRecord, ServerPacket, Token, Welcome,
};

use crate::Closed;
use crate::event::{Ending, Event};
use crate::limits::{OUTGOING_BYTES_MAX, OUTGOING_BYTES_READY};

pub(crate) struct Shared {
    /// Static after construction.
    pub(crate) facts: Facts,
    /// There is room in the outgoing queue again, or the connection has ended.
    pub(crate) changed: Notify,
    /// Set once, before anyone is told.
    ending: OnceLock<Ending>,
    /// Bytes of events above which nothing more is read. Static.
    incoming_bytes_max: usize,
    // Each guarded by its own lock; never both at once.
    outgoing: Mutex<Outgoing>,
    incoming: Mutex<Arrivals>,
}

/// What the opening has found.
pub(crate) struct Facts {
    pub(crate) realm: RealmId,
    pub(crate) channel: Channel,
    pub(crate) welcome: Welcome,
    pub(crate) record: RealmRecord,
    /// The TLS key exchange group.
    pub(crate) group: &'static str,
}

/// From the application to the socket.
#[derive(Default)]
pub(crate) struct Outgoing {
    /// Encoded packets.
    packets: PacketBuffer,
    /// Acknowledgements are cumulative, so the highest of each attachment is enough.
    acks: Vec<(u32, u64)>,
    /// Bytes the driver has taken and not yet written.
    in_write: usize,
    /// Requests someone waits for.
    waiting: HashMap<u32, oneshot::Sender<ServerPacket<Bytes>>>,
    was_answered: bool,
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
struct Arrivals {
    events: VecDeque<Event>,
    bytes: usize,
    discarded: bool,
    application: Option<Waker>,
    /// Set while the driver does not read because the queue is full.
    driver: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum State {
    #[default]
    Open,
    /// Write what is queued, then end.
    Closing,
    /// End at once.
    Aborting,
    Ended,
}

impl Shared {
    /// An open connection with these packets to be written first.
    pub(crate) fn new(facts: Facts, packets: PacketBuffer, incoming_bytes_max: usize) -> Self {
        Self {
            facts,
            incoming_bytes_max,
            changed: Notify::new(),
            ending: OnceLock::new(),
            outgoing: Mutex::new(Outgoing { packets, ..Outgoing::default() }),
            incoming: Mutex::default(),
        }
    }

    pub(crate) fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn incoming(&self) -> MutexGuard<'_, Arrivals> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `put` queue something, then wakes the driver if it sleeps: one wake per batch.
    pub(crate) fn send<T>(
        &self,
        put: impl FnOnce(&mut Outgoing) -> Result<T, Closed>,
    ) -> Result<T, Closed> {
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

    /// Lets the driver write what is queued, then end.
    pub(crate) fn begin_close(&self) {
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

    /// Lets the driver end without another word.
    pub(crate) fn begin_abort(&self) {
        let mut outgoing = self.outgoing();
        if matches!(outgoing.state, State::Open | State::Closing) {
            outgoing.state = State::Aborting;
            outgoing.packets = PacketBuffer::default();
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
        outgoing.put(&packet(request));
    }

    /// What the application wants of the connection.
    pub(crate) fn state(&self) -> State {
        self.outgoing().state
    }

    /// How the connection ended, if it has.
    pub(crate) fn ending(&self) -> Option<&Ending> {
        self.ending.get()
    }

    /// Whether it has.
    pub(crate) fn has_ended(&self) -> bool {
        self.ending().is_some()
    }

    /// Who waits for this answer, if anyone.
    pub(crate) fn waiter(&self, request: u32) -> Option<oneshot::Sender<ServerPacket<Bytes>>> {
        let mut outgoing = self.outgoing();
        outgoing.was_answered = true;
        if outgoing.waiting.is_empty() { None } else { outgoing.waiting.remove(&request) }
    }

    /// Whether the application has left enough room; if not, `waker` is woken once it has.
    pub(crate) fn may_read(&self, waker: &Waker) -> bool {
        let mut incoming = self.incoming();
        let may = incoming.bytes < self.incoming_bytes_max;
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

/// Whether a post of so many capabilities and payload bytes is no longer than a packet may be. The
/// relay would close the connection at the first byte of a longer one.
pub(crate) fn fits_a_packet(capabilities: usize, payload: usize) -> bool {
    const FIELD: usize = Token::LEN + 2;
    const REST: usize = 64;
    capabilities * FIELD + payload + REST <= PACKET_BYTES_MAX
}

impl Outgoing {
    /// Bytes not yet handed to the socket.
    pub(crate) fn queued(&self) -> usize {
        self.packets.len() + self.in_write
    }

    /// Whether a post or a signal may still be queued.
    pub(crate) fn has_room(&self, capabilities: usize, payload: usize) -> Result<(), Closed> {
        if !fits_a_packet(capabilities, payload) {
            return Err(Closed::TooLarge);
        }
        let has_room = self.queued() + payload <= OUTGOING_BYTES_MAX;
        if has_room { Ok(()) } else { Err(Closed::Full) }
    }

    /// Whether there is comfortable room, or none ever again; if not, `changed` will tell.
    pub(crate) fn want_room(&mut self) -> bool {
        self.room_wanted = true;
        self.state == State::Ended || self.queued() < OUTGOING_BYTES_READY
    }

    /// Whether the relay has answered a request.
    pub(crate) fn was_answered(&self) -> bool {
        self.was_answered
    }

    /// The number for a new request.
    pub(crate) fn next_request(&mut self) -> u32 {
        self.last_request = self.last_request.wrapping_add(1);
        self.last_request
    }

    /// How many attaches were made before; counts one more.
    pub(crate) fn next_attach(&mut self) -> u32 {
        self.attaches += 1;
        self.attaches - 1
    }

    pub(crate) fn put(&mut self, packet: &ClientPacket<Bytes>) {
        packet.encode(&mut self.packets);
    }

    /// Sends the answer to the request there.
    pub(crate) fn wait_for(&mut self, request: u32, sender: oneshot::Sender<ServerPacket<Bytes>>) {
        self.waiting.insert(request, sender);
    }

    pub(crate) fn ack(&mut self, attachment: u32, n: u64) {
        match self.acks.iter_mut().find(|(number, _)| *number == attachment) {
            Some((_, highest)) => *highest = n.max(*highest),
            None => self.acks.push((attachment, n)),
        }
    }

    /// Puts the acknowledgements among the packets.
    pub(crate) fn encode_acks(&mut self) {
        for (attachment, n) in std::mem::take(&mut self.acks) {
            self.put(&ClientPacket::Ack { attachment, n });
        }
    }
}
