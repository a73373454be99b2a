//! The relay of a history with its connections: what they do between two moments at which the store
//! is at work. A connection here does what [`crate::link`] does with mailboxes and its door, only
//! when it is told to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::Bytes;
use valise_proto::limits::{PAYLOAD_SIZES, TTL_HOURS_DEFAULT};
use valise_proto::{
    FrameId, MailboxId, PacketBuffer, PacketPayload, Post, Posted, Reason, ServerPacket, Token,
    TokenKind,
};

use super::history::{Setup, TTLS};
use super::model::{Copy, CopyFate, Instance, Model, Number, Outcome, Shelf, Verdict, ensure};
use crate::committer::{Clock, Committer};
use crate::doorbell::Doorbell;
use crate::engine::Attached;
use crate::engines::{Attaching, Attachment, Local};
use crate::limits::PULL_BYTES;
use crate::mailbox::{NotServed, Pulled};
use crate::payload::Payload;
use crate::router::{Moment, Place, Router};
use crate::session::Serving;
use crate::store::StoreError;
use crate::token::Right;

/// What can be seen from outside: the same on every store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Posted { request: u32, outcomes: Vec<Option<Reason>> },
    Delivered { attachment: u32, n: u64, number: Number },
    CaughtUp { attachment: u32 },
    Replaced { attachment: u32 },
    Expired { mailboxes: Vec<usize> },
    Opened { held: Vec<Vec<Number>>, hours: u32 },
}

/// One life of the relay.
pub(super) struct Life {
    pub(super) router: Router,
    pub(super) local: Arc<Local>,
    pub(super) committer: Committer,
}

/// Everything there is.
pub(super) struct Stage {
    pub(super) setup: Setup,
    pub(super) clock: Clock,
    pub(super) model: Model,
    pub(super) life: Option<Life>,
    pub(super) connections: Vec<Connection>,
    pub(super) events: Vec<Event>,
    capabilities: Vec<Token>,
    posted: Vec<Frame>,
    served: HashMap<usize, u32>,
    next_request: u32,
    next_attachment: u32,
}

/// A connection to the relay.
#[derive(Default)]
pub(super) struct Connection {
    door: Arc<Doorbell>,
    pub(super) slots: Vec<Option<Slot>>,
    /// Posts without an answer.
    waiting: HashMap<u32, Vec<Outcome>>,
    /// In the middle of a pull: it does nothing else.
    pub(super) pulling: bool,
}

/// One attachment.
pub(super) struct Slot {
    pub(super) mailbox: usize,
    number: u32,
    pub(super) attachment: Arc<Attachment>,
    pub(super) serving: Serving,
    pub(super) mail: bool,
    order: Vec<Instance>,
    seen: HashSet<Instance>,
    acknowledged: usize,
    /// What must be delivered before it has caught up.
    to_come: Vec<Instance>,
    caught_up: bool,
}

#[derive(Debug, Clone, std::marker::Copy)]
struct Frame {
    bytes: usize,
    ttl_hours: u16,
}

pub(super) fn mailbox_id(mailbox: usize) -> MailboxId {
    MailboxId::new([mailbox as u8 + 1; 16])
}

fn frame_id(number: Number) -> FrameId {
    let mut id = [7; 16];
    id[12..].copy_from_slice(&number.to_be_bytes());
    FrameId::new(id)
}

/// What the owner of a mailbox attaches with.
fn right(mailbox: usize) -> Right {
    let mailbox = mailbox_id(mailbox);
    Right { kind: TokenKind::Member, mailbox, serial: [1; 8], expiry_day: 9, class: 0 }
}

pub(super) fn number_of(id: &FrameId) -> Number {
    let [.., a, b, c, d] = *id.as_bytes();
    Number::from_be_bytes([a, b, c, d])
}

/// A payload that says whose it is in every byte, none of them zero.
fn bytes_of(number: Number, len: usize) -> Vec<u8> {
    vec![(number % 255) as u8 + 1; len]
}

impl Stage {
    pub(super) fn new(setup: Setup, clock: Clock) -> Self {
        let connections = (0..setup.connections).map(|_| Connection::default()).collect();
        Self {
            model: Model::new(setup.mailboxes, setup.memory_left.is_some()),
            setup,
            clock,
            life: None,
            connections,
            events: Vec::new(),
            capabilities: Vec::new(),
            posted: Vec::new(),
            served: HashMap::new(),
            next_request: 0,
            next_attachment: 0,
        }
    }

    pub(super) fn set_capabilities(&mut self, capabilities: Vec<Token>) {
        self.capabilities = capabilities;
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.shows()
    }

    pub(super) fn life(&self) -> &Life {
        self.life.as_ref().expect("it is only taken to be replaced")
    }

    pub(super) fn local(&self) -> &Local {
        &self.life().local
    }

    pub(super) fn router(&self) -> &Router {
        &self.life().router
    }

    pub(super) fn hour(&self) -> u32 {
        self.life().committer.hours().0
    }

    fn mailbox(&self, at: u8) -> usize {
        usize::from(at) % self.model.shelves.len()
    }

    /// The connection, if it is free to do something.
    pub(super) fn connection(&self, by: u8) -> Option<usize> {
        let at = usize::from(by) % self.connections.len();
        (!self.connections[at].pulling).then_some(at)
    }

    /// One of a connection's attachments.
    pub(super) fn slot(&self, by: u8, slot: u8) -> Option<(usize, usize)> {
        let connection = self.connection(by)?;
        let slots = &self.connections[connection].slots;
        let used: Vec<_> = (0..slots.len()).filter(|slot| slots[*slot].is_some()).collect();
        Some((connection, *used.get(usize::from(slot) % used.len().max(1))?))
    }

    pub(super) fn slot_mut(&mut self, connection: usize, slot: usize) -> &mut Slot {
        self.connections[connection].slots[slot].as_mut().expect("it was there a moment ago")
    }

    pub(super) fn is_stale(&self, connection: usize, slot: usize) -> bool {
        let slot = self.connections[connection].slots[slot].as_ref();
        slot.is_none_or(|slot| self.served.get(&slot.mailbox) != Some(&slot.number))
    }

    pub(super) fn post(&mut self, by: u8, to: &[u8], size: u8, ttl: u8) {
        let bytes = PAYLOAD_SIZES[usize::from(size) % PAYLOAD_SIZES.len()];
        self.posted.push(Frame { bytes, ttl_hours: TTLS[usize::from(ttl) % TTLS.len()] });
        self.send(by, to, self.posted.len() - 1);
    }

    pub(super) fn retry(&mut self, by: u8, to: &[u8], which: u8) {
        let lately = self.posted.len().min(8);
        if lately > 0 {
            self.send(by, to, self.posted.len() - 1 - usize::from(which) % lately);
        }
    }

    fn send(&mut self, by: u8, to: &[u8], at: usize) {
        let Some(connection) = self.connection(by) else { return };
        let (number, frame, now) = (at as Number, self.posted[at], self.now());
        let mut targets: Vec<usize> = to.iter().map(|mailbox| self.mailbox(*mailbox)).collect();
        targets.retain(|mailbox| self.model.is_certain(*mailbox, number, now));
        if targets.is_empty() {
            return;
        }
        let copy = Copy {
            instance: 0,
            number,
            bytes: frame.bytes,
            expires: self.hour() + u32::from(frame.ttl_hours),
            fate: CopyFate::Undecided,
        };
        let outcomes = targets.iter().map(|mailbox| self.model.post(*mailbox, copy.clone()));
        let outcomes: Vec<_> = outcomes.collect();
        self.next_request += 1;
        let post = Post {
            request: self.next_request,
            frame_id: frame_id(number),
            capabilities: targets.iter().map(|mailbox| self.capabilities[*mailbox]).collect(),
            ttl_hours: u32::from(frame.ttl_hours),
            payload: Payload::from_packet(Bytes::from(bytes_of(number, frame.bytes))),
        };
        let sender = &mut self.connections[connection];
        sender.waiting.insert(post.request, outcomes);
        let door = Arc::clone(&sender.door);
        self.router().post(post, frame.ttl_hours, &door, Moment { now, today: 0 });
    }

    pub(super) fn attach(&mut self, by: u8, mailbox: u8) -> Verdict {
        let Some(connection) = self.connection(by) else { return Ok(()) };
        let mailbox = self.mailbox(mailbox);
        self.next_attachment += 1;
        let number = self.next_attachment;
        let slots = &mut self.connections[connection].slots;
        let at = slots.iter().position(Option::is_none).unwrap_or(slots.len());
        if at == slots.len() {
            slots.push(None);
        }
        let door = Arc::clone(&self.connections[connection].door);
        let now = self.now();
        let place = Place { slot: at as u8, number };
        let Attaching::Done(done) = self.router().attach(&right(mailbox), &door, place, now) else {
            return Err("an attach waits for others".to_owned());
        };
        let Attached { attachment, floor, last, .. } = match done {
            // The client is told to come back.
            Err(NotServed::Store(StoreError::Reopening)) if self.model.reopening => return Ok(()),
            attached => attached.map_err(|error| error.to_string())?,
        };
        self.served.insert(mailbox, number);
        self.connections[connection].slots[at] = Some(Slot {
            mailbox,
            number,
            serving: Serving::new(floor, last),
            attachment: Arc::new(attachment),
            mail: true,
            order: Vec::new(),
            seen: HashSet::new(),
            acknowledged: 0,
            to_come: self.model.shelves[mailbox].held().map(|copy| copy.instance).collect(),
            caught_up: false,
        });
        Ok(())
    }

    /// Whether the mailbox is served through this connection.
    pub(super) fn serves(&self, connection: usize, mailbox: u8) -> bool {
        let number = self.served.get(&self.mailbox(mailbox));
        let slots = self.connections[connection].slots.iter().flatten();
        number.is_some_and(|number| slots.into_iter().any(|slot| slot.number == *number))
    }

    pub(super) fn free(&mut self, connection: usize, slot: usize) {
        if let Some(slot) = self.connections[connection].slots[slot].take()
            && self.served.get(&slot.mailbox) == Some(&slot.number)
        {
            self.served.remove(&slot.mailbox);
        }
    }

    pub(super) fn hang_up(&mut self, connection: usize) {
        (0..self.connections[connection].slots.len()).for_each(|slot| self.free(connection, slot));
        self.connections[connection] = Connection::default();
    }

    /// Takes what was left at the connection's door. Returns whether there was anything.
    pub(super) fn look(&mut self, connection: usize) -> Verdict<bool> {
        let taken =
            self.connections[connection].door.take(&Context::from_waker(Waker::noop()), true);
        let Some(left) = taken else { return Ok(false) };
        for answer in left.answers {
            let ServerPacket::Posted(posted) = answer else { return Err(format!("{answer:?}")) };
            self.answered(connection, posted)?;
        }
        for number in left.replaced {
            let slots = &self.connections[connection].slots;
            let of = |slot: &Option<Slot>| slot.as_ref().is_some_and(|slot| slot.number == number);
            if let Some(at) = slots.iter().position(of) {
                ensure!(self.is_stale(connection, at), "{number} was not replaced");
                self.events.push(Event::Replaced { attachment: number });
                self.free(connection, at);
            }
        }
        for (at, slot) in self.connections[connection].slots.iter_mut().enumerate() {
            if let Some(slot) = slot {
                slot.mail |= left.mail & (1 << at) != 0;
            }
        }
        Ok(true)
    }

    fn answered(&mut self, connection: usize, posted: Posted) -> Verdict {
        let Posted { request, outcomes, .. } = posted;
        let expected = self.connections[connection].waiting.remove(&request);
        let expected = expected.ok_or_else(|| format!("{request} was answered again"))?;
        ensure!(expected.len() == outcomes.len(), "{request}: {outcomes:?}");
        for (expected, outcome) in expected.iter().zip(&outcomes) {
            let (busy, outcome) = (*outcome == Some(Reason::Busy), *outcome);
            let fits = match *expected {
                Outcome::Accepted => outcome == Some(Reason::Accepted),
                Outcome::Full => outcome == Some(Reason::MailboxFull),
                Outcome::Known => busy || outcome == Some(Reason::Accepted),
                Outcome::Busy => busy,
                Outcome::Once(_, instance) if busy => self.model.may_be_refused(instance),
                Outcome::Once(mailbox, instance) => {
                    self.model.told(mailbox, instance)?;
                    outcome == Some(Reason::Accepted)
                }
            };
            ensure!(fits, "{request}: {outcome:?} and not {expected:?}");
        }
        self.events.push(Event::Posted { request, outcomes });
        Ok(())
    }

    /// How much the slot asks for, or nothing if it has no reason to ask.
    pub(super) fn room(&mut self, connection: usize, slot: usize, room: u8) -> Option<usize> {
        let slot = self.slot_mut(connection, slot);
        let most = slot.serving.room().min(PULL_BYTES);
        let rooms = [most, most, 1, 600, 5_000];
        (slot.mail && most > 0).then(|| rooms[usize::from(room) % rooms.len()].min(most))
    }

    /// What a pull gave to a slot that was `stale` before it.
    pub(super) fn pulled(
        &mut self,
        connection: usize,
        slot: usize,
        stale: bool,
        pulled: Vec<Pulled>,
    ) -> Verdict {
        ensure!(!stale || pulled.is_empty(), "a slot was served that had been replaced");
        let replaced_meanwhile = self.is_stale(connection, slot);
        let slot = self.connections[connection].slots[slot].as_mut().expect("it is pulling");
        slot.mail = !pulled.is_empty();
        let empty = pulled.is_empty();
        for frame in pulled {
            let number = number_of(&frame.frame_id);
            let bytes = frame.payload.len();
            let n = slot.serving.deliver(frame.seq, bytes);
            let instance = self.model.instance(slot.mailbox, number)?;
            if !replaced_meanwhile {
                self.model.delivered(slot.mailbox, &slot.seen, instance, bytes)?;
            }
            let mut packet = PacketBuffer::default();
            frame.payload.write(&mut packet);
            let intact = packet.unwritten() == bytes_of(number, bytes);
            ensure!(intact, "{number} has the bytes of another frame");
            slot.order.push(instance);
            slot.seen.insert(instance);
            self.events.push(Event::Delivered { attachment: slot.number, n, number });
        }
        if empty
            && let Some(last) = slot.serving.to_catch_up()
            && slot.attachment.has_nothing_between(slot.serving.cursor(), last)
        {
            slot.serving.skip_to(last);
        }
        if slot.serving.caught_up() {
            let owed = |instance: &&Instance| self.model.owes(slot.mailbox, **instance);
            let mut to_come = slot.to_come.iter().filter(owed);
            let missing = to_come.find(|instance| !slot.seen.contains(*instance));
            ensure!(missing.is_none(), "caught up before {missing:?}");
            slot.caught_up = true;
            self.events.push(Event::CaughtUp { attachment: slot.number });
        }
        Ok(())
    }

    /// Acknowledges: everything, one more, half of it, what was acknowledged before, or less.
    pub(super) fn acknowledge(&mut self, by: u8, slot: u8, part: u8) -> Verdict {
        let Some((connection, at)) = self.slot(by, slot) else { return Ok(()) };
        let (stale, now) = (self.is_stale(connection, at), self.now());
        let slot = self.slot_mut(connection, at);
        let (done, all) = (slot.acknowledged, slot.order.len());
        let n = match part % 5 {
            0 | 1 => all,
            2 => all.min(done + 1),
            3 => done + (all - done) / 2,
            _ => done.saturating_sub(1),
        };
        let up_to = slot.serving.acknowledge(n as u64).map_err(|error| format!("{error:?}"))?;
        slot.mail = true;
        let Some(up_to) = up_to else { return Ok(()) };
        slot.acknowledged = n;
        let (mailbox, instances) = (slot.mailbox, slot.order[..n].to_vec());
        slot.attachment.acknowledge(up_to, now);
        if !stale {
            self.model.acknowledged(mailbox, &instances, now);
        }
        Ok(())
    }

    /// Gives up what has expired, as the composition root does.
    pub(super) fn expire(&mut self) -> Verdict {
        let (hours, now) = (self.life().committer.hours(), self.now());
        let found = match self.local().expired(hours) {
            // It is tried again later.
            Err(StoreError::Reopening) if self.model.reopening => return Ok(()),
            found => found.map_err(|error| error.to_string())?,
        };
        let is = |mailbox: &usize| found.contains(&mailbox_id(*mailbox));
        let mailboxes: Vec<_> = (0..self.model.shelves.len()).filter(is).collect();
        for mailbox in 0..self.model.shelves.len() {
            let (may, must) = self.model.has_expired(mailbox, hours.0);
            let is = mailboxes.contains(&mailbox);
            ensure!(if is { may } else { !must }, "expired in hour {}: {mailboxes:?}", hours.0);
        }
        for mailbox in &mailboxes {
            let expired = self.local().expire(&mailbox_id(*mailbox), hours, now);
            expired.map_err(|error| error.to_string())?;
            self.model.expire(*mailbox, hours.0, now);
        }
        self.events.push(Event::Expired { mailboxes });
        Ok(())
    }

    /// Every slot has been given what there is, and every post has its answer.
    pub(super) fn check_everyone_is_served(&self) -> Verdict {
        for connection in &self.connections {
            let waiting = connection.waiting.keys().min();
            ensure!(waiting.is_none(), "{waiting:?} has no answer");
            for slot in connection.slots.iter().flatten() {
                let number = slot.number;
                let current = self.served.get(&slot.mailbox) == Some(&number);
                ensure!(current, "{number} has not heard that it was replaced");
                if slot.serving.room() == 0 {
                    continue;
                }
                let held = self.model.shelves[slot.mailbox].held();
                let missing = held.map(|copy| copy.instance).find(|copy| !slot.seen.contains(copy));
                ensure!(missing.is_none(), "{number} waits for {missing:?}");
                ensure!(slot.caught_up, "{number} has not caught up");
            }
        }
        Ok(())
    }

    /// Bytes that may be in rings: of mailboxes that are attached.
    pub(super) fn ring_bytes_max(&self) -> usize {
        let held = |mailbox: &usize| self.model.shelves[*mailbox].held().map(|copy| copy.bytes);
        self.served.keys().flat_map(held).sum()
    }

    pub(super) fn unusual(&self) -> usize {
        let usual = |copy: &&Copy| {
            u32::from(self.posted[copy.number as usize].ttl_hours) == TTL_HOURS_DEFAULT
        };
        self.model.shelves.iter().flat_map(Shelf::held).filter(|copy| !usual(copy)).count()
    }
}

/// What a stage's senders post with, sealed by this router's realm.
pub(super) fn capabilities(router: &Router, mailboxes: u8) -> Vec<Token> {
    let seal = |mailbox| router.seal(TokenKind::Post, &mailbox_id(mailbox), 9, 0);
    (0..usize::from(mailboxes)).map(seal).collect()
}
