//! The task of one connection: reads, writes, pings, and ends. It holds no buffer while nothing
//! moves, writes everything that is queued with one flush, and wakes the application once per
//! batch.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};
use valise_proto::limits::{PING_AFTER_SECONDS, PING_JITTER_SECONDS};
use valise_proto::{ClientPacket, PacketBuffer, PacketError, ServerPacket};

use crate::event::{Ending, Event};
use crate::limits::{CLOSE_WAIT, PONG_WAIT, READS_PER_TURN};
use crate::random;
use crate::shared::{Shared, State};
use crate::transport::{Read, Transport};

pub(crate) struct Driver {
    shared: Arc<Shared>,
    transport: Transport,
    /// Packets that came with `Welcome`; taken by the first turn.
    early: Vec<Bytes>,
    /// Taken from the queue and not yet written.
    batch: PacketBuffer,
    /// The batch, or its flush, is not finished.
    writing: bool,
    /// Set when we began to close.
    closing: Option<Closing>,
    clock: Clock,
    /// One timer; moved only when it fires, so traffic does not touch it.
    timer: Pin<Box<Sleep>>,
}

struct Closing {
    until: Instant,
    /// Our end is sent; the relay's is awaited, so that what it sent before does not reset the
    /// connection and destroy our last acknowledgements on their way.
    shut: bool,
}

/// When something was last sent and heard, and what follows from it.
struct Clock {
    sent: Instant,
    heard: Instant,
    /// When the ping was sent that is not answered yet.
    pinged: Option<Instant>,
    /// The silence after which to ping; drawn anew for each ping.
    patience: Duration,
}

enum Due {
    Nothing,
    Ping,
    Dead,
}

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>, transport: Transport, early: Vec<Bytes>) -> Self {
        let clock = Clock::new(Instant::now());
        Self {
            shared,
            transport,
            early,
            batch: PacketBuffer::default(),
            writing: false,
            closing: None,
            timer: Box::pin(sleep_until(clock.next())),
            clock,
        }
    }

    /// Read first: answers and pongs that follow from it are written in the same turn.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        let read = match &self.closing {
            None => self.read(cx),
            Some(_) => self.read_away(cx),
        };
        if let Some(ending) = read {
            return Poll::Ready(ending);
        }
        if let Some(ending) = self.write(cx) {
            return Poll::Ready(ending);
        }
        self.look_at_the_clock(cx)
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Option<Ending> {
        let mut turn = Turn { shared: &self.shared, events: Vec::new(), closed: None };
        let mut broken = None;
        for packet in std::mem::take(&mut self.early) {
            broken = broken.or(turn.take(packet).err());
        }
        let mut ending = broken.map(|error| Ending::Network(error.to_string()));
        let mut reads = 0;
        while ending.is_none() && turn.closed.is_none() {
            if !self.shared.may_read(cx.waker()) {
                // The application is slow, not the relay: its pongs wait in the socket.
                self.clock.heard = Instant::now();
                break;
            }
            match self.transport.poll_read(cx, &mut |packet| turn.take(packet)) {
                Poll::Pending => break,
                Poll::Ready(Ok(Read::Some)) => self.clock.heard = Instant::now(),
                Poll::Ready(Ok(Read::End)) => {
                    ending = Some(Ending::Network("the relay's side ended without a word".into()));
                }
                Poll::Ready(Err(error)) => ending = Some(Ending::Network(error.to_string())),
            }
            turn.hand_over();
            reads += 1;
            if reads == READS_PER_TURN {
                cx.waker().wake_by_ref();
                break;
            }
        }
        turn.hand_over();
        turn.closed.or(ending)
    }

    /// While closing, what still comes is thrown away: it was not acknowledged, so it comes again.
    fn read_away(&mut self, cx: &mut Context<'_>) -> Option<Ending> {
        for _ in 0..READS_PER_TURN {
            match self.transport.poll_read(cx, &mut |_| Ok(())) {
                Poll::Pending => return None,
                Poll::Ready(Ok(Read::Some)) => {}
                Poll::Ready(Ok(Read::End) | Err(_)) => return Some(Ending::Ours),
            }
        }
        cx.waker().wake_by_ref();
        None
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Option<Ending> {
        loop {
            if self.writing {
                match self.transport.poll_write(cx, &mut self.batch) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(())) => self.writing = false,
                    Poll::Ready(Err(error)) => return Some(Ending::Network(error.to_string())),
                }
            }
            let state = self.shared.take_packets(&mut self.batch, cx.waker());
            if state == State::Aborting {
                return Some(Ending::Ours);
            }
            self.writing = !self.batch.is_empty();
            if self.writing {
                self.clock.sent = Instant::now();
            } else {
                return if state == State::Closing { self.shut(cx) } else { None };
            }
        }
        // Closing begins its countdown also while the socket takes nothing.
        match self.shared.state() {
            State::Aborting => return Some(Ending::Ours),
            State::Closing if self.closing.is_none() => self.begin_closing(),
            _ => {}
        }
        None
    }

    fn shut(&mut self, cx: &mut Context<'_>) -> Option<Ending> {
        if self.closing.is_none() {
            self.begin_closing();
        }
        let closing = self.closing.as_mut().expect("closing has begun");
        if !closing.shut && self.transport.poll_shutdown(cx).is_ready() {
            closing.shut = true;
            // The read side has not been polled for the relay's end since.
            return self.read_away(cx);
        }
        None
    }

    fn begin_closing(&mut self) {
        let until = Instant::now() + CLOSE_WAIT;
        self.closing = Some(Closing { until, shut: false });
        self.timer.as_mut().reset(until);
    }

    fn look_at_the_clock(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            if self.closing.as_ref().is_some_and(|closing| closing.until <= now) {
                return Poll::Ready(Ending::Ours);
            }
            match self.clock.due(now) {
                Due::Nothing => {}
                Due::Dead => {
                    let text = format!("no answer to a ping in {} s", PONG_WAIT.as_secs());
                    return Poll::Ready(Ending::Network(text));
                }
                Due::Ping => {
                    self.shared.put_packet(|request| ClientPacket::Ping { request });
                    self.clock.ping(now);
                    if let Some(ending) = self.write(cx) {
                        return Poll::Ready(ending);
                    }
                }
            }
            let next = self.closing.as_ref().map_or(self.clock.next(), |closing| closing.until);
            self.timer.as_mut().reset(next);
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let ending = ready!(self.turn(cx));
        self.shared.end(ending);
        Poll::Ready(())
    }
}

impl Drop for Driver {
    /// The runtime ends before the connection: whoever waits on another one is told.
    fn drop(&mut self) {
        if !self.shared.has_ended() {
            self.shared.end(Ending::Ours);
        }
    }
}

/// What the packets of one turn lead to.
struct Turn<'a> {
    shared: &'a Shared,
    events: Vec<Event>,
    closed: Option<Ending>,
}

impl Turn<'_> {
    fn take(&mut self, packet: Bytes) -> Result<(), PacketError> {
        let packet = ServerPacket::decode(packet)?;
        match packet {
            ServerPacket::Deliver(deliver) => self.events.push(Event::Deliver(deliver)),
            ServerPacket::Posted(posted) => match self.shared.waiter(posted.request) {
                Some(waiter) => drop(waiter.send(ServerPacket::Posted(posted))),
                None => self.events.push(Event::Posted(posted)),
            },
            ServerPacket::Refused(refused) => match self.shared.waiter(refused.request) {
                Some(waiter) => drop(waiter.send(ServerPacket::Refused(refused))),
                None => self.events.push(Event::Refused(refused)),
            },
            ServerPacket::Joined { request, .. }
            | ServerPacket::Attached { request, .. }
            | ServerPacket::Detached { request }
            | ServerPacket::Issued { request, .. }
            | ServerPacket::Revoked { request }
            | ServerPacket::Stored { request }
            | ServerPacket::Taken { request, .. }
            | ServerPacket::Slots { request, .. }
            | ServerPacket::Published { request, .. }
            | ServerPacket::BundleItem { request, .. }
            | ServerPacket::Pong { request } => {
                // Nobody waits for the pongs of the connection's own pings.
                if let Some(waiter) = self.shared.waiter(request) {
                    drop(waiter.send(packet));
                }
            }
            ServerPacket::Signaled { attachment, payload } => {
                self.events.push(Event::Signaled { attachment, payload });
            }
            ServerPacket::CaughtUp { attachment } => {
                self.events.push(Event::CaughtUp { attachment });
            }
            ServerPacket::BundleLow { attachment, items } => {
                self.events.push(Event::BundleLow { attachment, items });
            }
            ServerPacket::Replaced { attachment } => {
                self.events.push(Event::Replaced { attachment });
            }
            ServerPacket::Restarting { reconnect_in_ms, try_for_ms } => {
                self.events.push(Event::Restarting { reconnect_in_ms, try_for_ms });
            }
            ServerPacket::Move(moved) => self.events.push(Event::Move(moved)),
            ServerPacket::Ping { request } => {
                self.shared.put_packet(|_| ClientPacket::Pong { request });
            }
            ServerPacket::Closing(reason) => {
                self.closed.get_or_insert(Ending::Relay(reason));
            }
            ServerPacket::Welcome(_) | ServerPacket::Unknown => {}
        }
        Ok(())
    }

    fn hand_over(&mut self) {
        if !self.events.is_empty() {
            self.shared.put_events(&mut self.events);
        }
    }
}

impl Clock {
    fn new(now: Instant) -> Self {
        Self { sent: now, heard: now, pinged: None, patience: patience() }
    }

    /// Silence on either side is a reason to ping: ours would make the relay close, the relay's
    /// may mean that it is gone.
    fn due(&mut self, now: Instant) -> Due {
        if let Some(pinged) = self.pinged {
            if self.heard > pinged {
                self.pinged = None;
            } else if now >= pinged + PONG_WAIT {
                return Due::Dead;
            } else {
                return Due::Nothing;
            }
        }
        if now >= self.sent.min(self.heard) + self.patience { Due::Ping } else { Due::Nothing }
    }

    fn ping(&mut self, now: Instant) {
        self.pinged = Some(now);
        self.patience = patience();
    }

    /// When [`Self::due`] has something to say at the earliest, if nothing happens until then.
    fn next(&self) -> Instant {
        match self.pinged {
            Some(pinged) if self.heard <= pinged => pinged + PONG_WAIT,
            _ => self.sent.min(self.heard) + self.patience,
        }
    }
}

fn patience() -> Duration {
    let (after, jitter) = (PING_AFTER_SECONDS, PING_JITTER_SECONDS);
    random::between(Duration::from_secs(after - jitter), Duration::from_secs(after + jitter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_broken_by_a_ping_and_a_ping_by_patience() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut clock = Clock::new(start);
        assert!(matches!(clock.due(after(54)), Due::Nothing));
        assert!(matches!(clock.due(after(66)), Due::Ping));
        clock.sent = after(66);
        clock.ping(after(66));
        assert!(matches!(clock.due(after(85)), Due::Nothing));
        assert_eq!(clock.next(), after(86));
        assert!(matches!(clock.due(after(86)), Due::Dead));
        clock.heard = after(67);
        assert!(matches!(clock.due(after(86)), Due::Nothing), "heard since");
        assert!(clock.next() >= after(66 + 55) && clock.next() <= after(66 + 65));
    }
}
