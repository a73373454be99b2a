//! One established connection: a single task that reads packets, lets the session judge them,
//! carries out the actions, delivers mail, and writes everything with one flush per wake-up.

mod act;
mod deadlines;
mod deliver;
mod door;
mod operate;
mod steer;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::{Sleep, sleep_until};
use valise_proto::{ClientPacket, CloseReason, FramingError, PacketBuffer, ServerPacket};

use crate::doorbell::{Doorbell, SlotSet};
use crate::engines::{Attachment, Steered, Waiting};
use crate::limits::{OPERATIONS_PER_CONNECTION, OUTBOX_BYTES, READS_PER_TURN};
use crate::payload::Payload;
use crate::prefix::Prefix;
use crate::rate::Bucket;
use crate::relay::{Ended, Relay};
use crate::router::{Moment, Place};
use crate::session::{Greeting, Session};
use crate::transport::{Transport, TransportError};
use deadlines::{Deadlines, Due};

/// The long life of a connection, after TLS. A future; its output says how the connection ended.
pub struct Link<T> {
    // Static after construction.
    relay: Arc<Relay>,
    prefix: Prefix,
    doorbell: Arc<Doorbell>,
    steered: Option<Steered>,
    // Owned by the task.
    transport: T,
    /// Packets that came in and wait for room in the outbox, and what ended the stream after them.
    unread: VecDeque<Bytes>,
    broken: Option<TransportError>,
    phase: Phase,
    slots: Vec<Option<Attachment>>,
    /// The attachments (by number) that the connection is steered by, where it is.
    steered_by: Vec<u32>,
    /// An attach that waits for others.
    attaching: Option<(u32, Place, Waiting)>,
    /// Attachments that were replaced meanwhile: told after it.
    replaced: Vec<u32>,
    out: PacketBuffer,
    /// Slots whose mailbox may have something.
    mail: SlotSet,
    /// Where the round robin goes on.
    next_slot: u8,
    /// Mail did not fit beside signals, and goes before them now: in turns.
    mail_first: bool,
    packets: Bucket,
    /// Requests whose answer will be left at the door.
    undecided: u32,
    /// Of those, the ones that wait for their turn and the disk.
    operations: u32,
    deadlines: Deadlines,
    timer: Pin<Box<Sleep>>,
    timer_is_set: bool,
    ending: Option<Ended>,
    finish_by: Option<Instant>,
}

/// How long a connection that ends may take to hand over its last packets.
const FINISH: Duration = Duration::from_secs(1);

/// How a turn of reading ended.
enum Reading {
    /// The transport will wake the task, or nothing more is wanted.
    Nothing,
    /// There may be more: others first.
    TurnOver,
    /// There may be more, once the outbox is written.
    OutboxFull,
}

enum Phase {
    Greeted(Greeting),
    Open(Session),
}

impl<T: Transport> Link<T> {
    /// A connection that is greeted now and must have said `Hello` and attached or posted within
    /// the establishment deadline, which began at `accepted`.
    pub fn new(
        relay: Arc<Relay>,
        prefix: Prefix,
        transport: T,
        greeting: Greeting,
        accepted: Instant,
    ) -> Self {
        let deadlines = Deadlines::new(accepted, relay.settings().patience);
        let timer = Box::pin(sleep_until(deadlines.next().0.into()));
        let doorbell = Arc::default();
        let mut link = Self {
            steered: relay.router.connected(&doorbell),
            steered_by: Vec::new(),
            doorbell,
            transport,
            unread: VecDeque::new(),
            broken: None,
            phase: Phase::Greeted(greeting),
            slots: Vec::new(),
            attaching: None,
            replaced: Vec::new(),
            out: PacketBuffer::default(),
            mail: 0,
            next_slot: 0,
            mail_first: false,
            packets: Bucket::default(),
            undecided: 0,
            operations: 0,
            deadlines,
            timer,
            timer_is_set: false,
            ending: None,
            finish_by: None,
            prefix,
            relay,
        };
        let welcome = link.relay.welcome(&greeting.channel, greeting.nonce);
        link.send(ServerPacket::Welcome(Box::new(welcome)));
        link
    }

    /// Where others leave things for this connection.
    pub fn doorbell(&self) -> &Arc<Doorbell> {
        &self.doorbell
    }

    fn send(&mut self, packet: ServerPacket<Payload>) {
        self.relay.metrics.packet_sent(packet.name());
        packet.encode(&mut self.out);
    }

    /// Ends the connection with a reason the client is told.
    fn close(&mut self, reason: CloseReason) {
        if self.ending.is_none() {
            self.send(ServerPacket::Closing(Some(reason)));
            self.ending = Some(Ended::Closed(reason));
        }
    }

    /// Bytes that wait for the peer.
    fn waiting(&self) -> usize {
        self.out.len() + self.transport.waiting()
    }

    /// Whether something must be answered before more is read.
    fn is_occupied(&self) -> bool {
        self.attaching.is_some() || self.operations >= OPERATIONS_PER_CONNECTION
    }

    fn outbox_is_full(&self) -> bool {
        self.waiting() >= OUTBOX_BYTES
    }

    /// Reads until there is nothing, the outbox is full, or the turn is over.
    fn read(&mut self, cx: &mut Context<'_>, moment: Moment) -> Reading {
        for _ in 0..READS_PER_TURN {
            if self.ending.is_some() || self.is_held_back(moment.now) {
                return Reading::Nothing;
            }
            if self.outbox_is_full() {
                return Reading::OutboxFull;
            }
            if self.is_occupied() {
                return Reading::Nothing;
            }
            if self.unread.is_empty() && self.broken.is_none() {
                let Poll::Ready(received) = self.transport.poll_receive(cx, &mut self.unread)
                else {
                    return Reading::Nothing;
                };
                self.deadlines.heard(moment.now);
                self.broken = received.err();
            }
            self.receive_unread(moment);
            if self.unread.is_empty()
                && let Some(error) = self.broken.take()
            {
                self.lost(error);
            }
        }
        Reading::TurnOver
    }

    /// Small requests can have large answers, so the outbox is looked at before each of them.
    fn receive_unread(&mut self, moment: Moment) {
        while !self.outbox_is_full()
            && !self.is_occupied()
            && let Some(packet) = self.unread.pop_front()
        {
            if let Err(reason) = self.receive(packet, moment) {
                self.close(reason);
            }
            if self.ending.is_some() {
                self.unread.clear();
            }
        }
        if self.unread.is_empty() {
            self.unread = VecDeque::new();
        }
    }

    fn receive(&mut self, packet: Bytes, moment: Moment) -> Result<(), CloseReason> {
        self.relay.metrics.bytes_received(packet.len());
        let packet = ClientPacket::decode(packet).map_err(|_| CloseReason::Malformed)?;
        self.relay.metrics.packet_received(packet.name());
        let settings = self.relay.settings();
        self.packets.charge(&settings.packets, 1, moment.now);
        let session = match &mut self.phase {
            Phase::Open(session) => session,
            Phase::Greeted(greeting) => {
                let ClientPacket::Hello(hello) = packet else {
                    return Err(CloseReason::OutOfOrder);
                };
                let epoch = hello.realm_epoch;
                let opened = greeting.answer(hello)?;
                self.relay.heard_of_epoch(epoch);
                let may_wait = opened
                    .member_token
                    .is_some_and(|token| self.relay.router.may_wait(&token, moment.today));
                if may_wait {
                    self.deadlines.established();
                }
                self.phase = Phase::Open(Session::new(*greeting));
                return Ok(());
            }
        };
        let action = session.step(&self.relay.router, packet, moment.today)?;
        self.act(action, moment)
    }

    /// Whether the client sends faster than it may: it is read again later, nothing is lost.
    fn is_held_back(&mut self, now: Instant) -> bool {
        let wait = self.packets.wait(&self.relay.settings().packets, now);
        self.deadlines.hold_back((!wait.is_zero()).then(|| now + wait));
        !wait.is_zero()
    }

    fn lost(&mut self, error: TransportError) {
        match error {
            TransportError::Framing(FramingError::TooLarge { .. }) => {
                self.close(CloseReason::PacketTooLarge);
            }
            TransportError::Framing(_) | TransportError::WebSocket => {
                self.close(CloseReason::Malformed);
            }
            TransportError::Ended => {
                self.ending.get_or_insert(Ended::Peer);
            }
            TransportError::Io(error) => {
                tracing::debug!(%error, "connection lost");
                self.ending.get_or_insert(Ended::Transport);
            }
        }
    }

    /// Writes what waits. Returns whether the peer took all of it.
    fn write(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let before = self.waiting();
        let sent = self.transport.poll_send(cx, &mut self.out);
        let taken = before - self.waiting();
        self.relay.metrics.bytes_sent(taken);
        match sent {
            Poll::Ready(Ok(())) => {
                self.deadlines.taken();
                true
            }
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "connection lost");
                self.ending.get_or_insert(Ended::Transport);
                self.out = PacketBuffer::default();
                true
            }
            Poll::Pending => {
                self.deadlines.stalled(now, taken > 0);
                // A peer that takes nothing may not wake this task either.
                self.wake_at(cx, self.deadlines.next().0, now);
                false
            }
        }
    }

    fn check_deadlines(&mut self, cx: &mut Context<'_>, now: Instant) {
        if self.deadlines.is_leaving() && self.undecided == 0 {
            self.close(CloseReason::Restarting);
        }
        while self.ending.is_none() {
            let (at, due) = self.deadlines.next();
            if at > now {
                return self.wake_at(cx, at, now);
            }
            match due {
                Due::Establishment => self.close(CloseReason::EstablishmentTimeout),
                Due::Idle => self.close(CloseReason::Idle),
                Due::Leaving => self.close(CloseReason::Restarting),
                Due::Stall => {
                    self.ending = Some(Ended::Closed(CloseReason::TooSlow));
                    self.out = PacketBuffer::default();
                }
                // Nothing is due; it was only time to read again.
                Due::HeldBack => {
                    self.deadlines.hold_back(None);
                    cx.waker().wake_by_ref();
                }
            }
        }
    }

    /// Makes sure the task runs at `at`. The timer may go off earlier, because moving it at every
    /// packet would cost more than looking at it once a minute; it must never be late.
    fn wake_at(&mut self, cx: &mut Context<'_>, at: Instant, now: Instant) {
        let set = self.timer.deadline().into_std();
        if self.timer_is_set && now < set && set <= at {
            return;
        }
        self.timer.as_mut().reset(at.into());
        self.timer_is_set = true;
        if self.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    /// Hands the last packets over and says goodbye, then waits a moment for the peer to close, so
    /// that what it was told is not lost to a reset. All of it is bounded.
    fn finish(&mut self, cx: &mut Context<'_>, now: Instant, ended: Ended) -> Poll<Ended> {
        let by = *self.finish_by.get_or_insert(now + FINISH);
        let told = self.out.is_empty() && self.transport.poll_close(cx).is_ready();
        let listens = told && matches!(ended, Ended::Closed(_));
        if now >= by || told && !listens {
            return Poll::Ready(ended);
        }
        self.wake_at(cx, by, now);
        if listens {
            let mut discarded = VecDeque::new();
            for _ in 0..READS_PER_TURN {
                match self.transport.poll_receive(cx, &mut discarded) {
                    Poll::Ready(Ok(())) => discarded.clear(),
                    Poll::Ready(Err(_)) => return Poll::Ready(ended),
                    Poll::Pending => return Poll::Pending,
                }
            }
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl<T: Transport> Future for Link<T> {
    type Output = Ended;

    /// In this order: read, so that answers join the same flush; what others left; mail; deadlines;
    /// one flush. Again where the flush has made room.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let link = self.get_mut();
        let moment = link.relay.moment();
        loop {
            // What was waited for before what came after it.
            link.go_on_attaching(cx);
            let reading = link.read(cx, moment);
            // One that began just now has to be polled to wake this task; then there may be more.
            if link.go_on_attaching(cx) {
                cx.waker().wake_by_ref();
            }
            let signals_wait = link.look_at_the_door(cx, moment);
            let mail_waits = link.deliver();
            link.mail_first = mail_waits && !link.mail_first;
            link.check_deadlines(cx, moment.now);
            let taken = link.write(cx, moment.now);
            if let Some(ended) = link.ending {
                return link.finish(cx, moment.now, ended);
            }
            match reading {
                _ if !taken => return Poll::Pending,
                Reading::OutboxFull => {}
                _ if mail_waits || signals_wait => {}
                Reading::TurnOver => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Reading::Nothing => return Poll::Pending,
            }
        }
    }
}
