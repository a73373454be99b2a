//! What this device says: kept first, sealed when it can go, posted until each target has it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use valise_client::random;
use valise_proto::limits::{FAN_OUT_BYTES_MAX, TARGETS_MAX};
use valise_proto::{FrameId, Reason, RelayAddress, Token};

use super::core::{Core, now_ms};
use super::effect::{Job, Post};
use super::fault::Fault;
use super::lanes::{ACCEPTED, FAILED, WAITING};
use super::records::{of_group, state};
use crate::api::{Event, MessageState};
use crate::relays::RelayError;
use crate::seal::{frame, parts};
use crate::vault::Transaction;
use crate::wire;

/// Others keep the keys of so many epochs for late frames: a frame that is older is sealed anew.
const EPOCHS_LATE_MAX: u64 = 4;

/// A frame that reached nobody for so long is given up.
const GIVE_UP_AFTER_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

impl Core {
    /// Says something in a group, in order. Returns its counter.
    pub(super) fn say(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        content: &wire::Content,
        message: i64,
    ) -> Result<u64, Fault> {
        let mut group: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let counter = group.next_counter;
        group.next_counter += 1;
        tx.put(row, &group)?;
        let content = content.encode_to_vec();
        tx.insert(&state::Outgoing { group: row, counter, content, message })?;
        self.talkative.insert(row);
        Ok(counter)
    }

    /// Says something to an account's devices in a group, out of order; `false`: it cannot be said now.
    pub(super) fn say_aside(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        content: &wire::Content,
        to_account: &[u8],
    ) -> Result<bool, Fault> {
        if !self.can_talk(row) {
            return Ok(false);
        }
        let targets = tx.children::<state::Target>(row)?;
        let targets: Vec<_> =
            targets.into_iter().map(|(_, t)| t).filter(|t| t.account == to_account).collect();
        let stream = [0; 16];
        let message = self.encrypt(tx, row, &content.encode_to_vec(), &stream, 0)?;
        self.save(tx, row)?;
        let envelope = wire::Envelope { messages: vec![message], ..Default::default() };
        let stored = self.seal_envelope(tx, row, &envelope, 0..0)?;
        self.deliver(tx, &stored, &targets)?;
        Ok(true)
    }

    /// Tells everyone that the epoch is over. Sealed under its keys, which everyone still has.
    pub(super) fn poke(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        keys: &crate::seal::EpochKeys,
        targets: &[state::Target],
    ) -> Result<(), Fault> {
        let envelope = wire::Envelope { poke: true, ..Default::default() };
        let payload = frame::seal(keys, &envelope).map_err(|_| Fault::damaged("a poke"))?;
        let stored = new_frame(row, payload, keys.epoch);
        self.deliver(tx, &stored, targets)
    }

    /// Whether what is said now is sealed under the group's latest keys, as far as we know.
    fn can_talk(&self, row: i64) -> bool {
        self.is_caught_up
            && self.walked.contains(&row)
            && !self.walking.contains(&row)
            && !self.committing.contains(&row)
    }

    /// Seals what waits to be said, where it can go now.
    pub(super) fn talk(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        for row in self.talkative.clone() {
            if !self.can_talk(row) {
                continue;
            }
            let targets: Vec<_> =
                tx.children::<state::Target>(row)?.into_iter().map(|(_, t)| t).collect();
            let is_idle = |t: &state::Target| self.lanes.is_empty(&(row, t.device.clone()));
            // While all are busy, what waits goes together later.
            if targets.is_empty() || targets.iter().any(is_idle) {
                self.talk_in(tx, row, &targets)?;
                self.talkative.remove(&row);
            }
        }
        Ok(())
    }

    fn talk_in(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        targets: &[state::Target],
    ) -> Result<(), Fault> {
        let mut group: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        if !group.active {
            return Ok(());
        }
        let mut batch: Vec<(u64, Vec<u8>)> = Vec::new();
        let fits = |batch: &[(u64, Vec<u8>)], message: &[u8]| {
            let lengths = batch.iter().map(|(_, message)| message.len());
            frame::room(lengths.chain([message.len()])).messages > batch.len()
        };
        for counter in group.framed + 1..group.next_counter {
            let lookup = of_group(row, &[&counter.to_be_bytes()]);
            let found = tx.find::<state::Outgoing>(&lookup)?;
            let Some((_, outgoing)) = found else { continue };
            let stream: [u8; 16] = bytes_of(&group.stream)?;
            let message = self.encrypt(tx, row, &outgoing.content, &stream, counter)?;
            let follows = batch.last().is_none_or(|(last, _)| last + 1 == counter);
            if !batch.is_empty() && (!follows || !fits(&batch, &message)) {
                self.frame_batch(tx, row, &group.stream, std::mem::take(&mut batch), targets)?;
            }
            if fits(&[], &message) {
                batch.push((counter, message));
            } else {
                self.frame_parts(tx, row, &group.stream, (counter, message), targets)?;
            }
        }
        if !batch.is_empty() {
            self.frame_batch(tx, row, &group.stream, batch, targets)?;
        }
        group.framed = group.next_counter - 1;
        tx.put(row, &group)?;
        self.save(tx, row)
    }

    fn encrypt(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        content: &[u8],
        stream: &[u8; 16],
        counter: u64,
    ) -> Result<Vec<u8>, Fault> {
        let mut authenticated = stream.to_vec();
        authenticated.extend_from_slice(&counter.to_be_bytes());
        let device = self.device.clone();
        Ok(self.group(tx, row)?.encrypt(&device, content, &authenticated)?)
    }

    fn frame_batch(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        stream: &[u8],
        batch: Vec<(u64, Vec<u8>)>,
        targets: &[state::Target],
    ) -> Result<(), Fault> {
        let (first, end) = (batch[0].0, batch[batch.len() - 1].0 + 1);
        let envelope = wire::Envelope {
            stream: stream.to_vec(),
            first_counter: first,
            messages: batch.into_iter().map(|(_, message)| message).collect(),
            ..Default::default()
        };
        let stored = self.seal_envelope(tx, row, &envelope, first..end)?;
        self.deliver(tx, &stored, targets)
    }

    fn frame_parts(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        stream: &[u8],
        (counter, message): (u64, Vec<u8>),
        targets: &[state::Target],
    ) -> Result<(), Fault> {
        let pieces = parts::split(&bytes_of(stream)?, counter, &message);
        let pieces = pieces.map_err(|_| Fault::damaged("a message of this size"))?;
        let count = pieces.len() as u32;
        for (index, envelope) in pieces.into_iter().enumerate() {
            let mut stored = self.seal_envelope(tx, row, &envelope, counter..counter + 1)?;
            (stored.part, stored.parts) = (index as u32, count);
            self.deliver(tx, &stored, targets)?;
        }
        Ok(())
    }

    fn seal_envelope(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        envelope: &wire::Envelope,
        counters: std::ops::Range<u64>,
    ) -> Result<state::Frame, Fault> {
        let keys = self.group(tx, row)?.keys();
        let payload = frame::seal(&keys, envelope).map_err(|_| Fault::damaged("an envelope"))?;
        let mut stored = new_frame(row, payload, keys.epoch);
        (stored.first_counter, stored.end_counter) = (counters.start, counters.end);
        Ok(stored)
    }

    /// A frame for targets of its group.
    pub(super) fn deliver(
        &mut self,
        tx: &Transaction<'_>,
        stored: &state::Frame,
        targets: &[state::Target],
    ) -> Result<(), Fault> {
        let frame = tx.insert(stored)?;
        for target in targets {
            let delivery = state::Delivery {
                frame,
                group: stored.group,
                account: target.account.clone(),
                device: target.device.clone(),
                ..Default::default()
            };
            let id = tx.insert(&delivery)?;
            self.lanes.push((stored.group, target.device.clone()), id);
        }
        if targets.is_empty() {
            self.settle_frame(tx, frame)?;
        }
        Ok(())
    }

    /// A frame for a device at an address of its own, before everything else in its lane of the
    /// group (0: none).
    pub(super) fn deliver_to(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        newcomer: &state::Newcomer,
        payload: Bytes,
    ) -> Result<(), Fault> {
        let stored = new_frame(row, payload, 0);
        let frame = tx.insert(&stored)?;
        let delivery = state::Delivery {
            frame,
            group: row,
            account: newcomer.account.clone(),
            device: newcomer.device.clone(),
            relay: newcomer.relay.clone(),
            capability: newcomer.capability.clone(),
            ..Default::default()
        };
        let id = tx.insert(&delivery)?;
        self.lanes.push((row, newcomer.device.clone()), id);
        Ok(())
    }

    /// Posts the heads of all lanes that may post, one post for each frame and relay.
    pub(super) fn post(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        let mut posts: BTreeMap<(i64, String), Vec<(i64, Token)>> = BTreeMap::new();
        for (key, id) in self.lanes.take_ready(Instant::now()) {
            let delivery = tx.get::<state::Delivery>(id)?;
            let Some(delivery) = delivery.filter(|found| found.state == WAITING) else {
                self.lanes.done(&key, id);
                continue;
            };
            let (relay, capability) = if delivery.relay.is_empty() {
                let lookup = of_group(delivery.group, &[&delivery.device]);
                match tx.find::<state::Target>(&lookup)? {
                    Some((_, target)) => (target.relay, target.capability),
                    None => (String::new(), Vec::new()),
                }
            } else {
                (delivery.relay.clone(), delivery.capability.clone())
            };
            match Token::try_from(capability.as_slice()) {
                Ok(token) => posts.entry((delivery.frame, relay)).or_default().push((id, token)),
                Err(_) => self.fail(tx, id, delivery)?,
            }
        }
        for ((frame, relay), targets) in posts {
            self.post_frame(tx, frame, &relay, &targets)?;
        }
        Ok(())
    }

    fn post_frame(
        &mut self,
        tx: &Transaction<'_>,
        frame: i64,
        relay: &str,
        targets: &[(i64, Token)],
    ) -> Result<(), Fault> {
        self.renew_seal(tx, frame)?;
        let stored: state::Frame = tx.get(frame)?.ok_or(Fault::damaged("a frame"))?;
        let Ok(relay) = relay.parse::<RelayAddress>() else {
            for (id, _) in targets {
                if let Some(delivery) = tx.get(*id)? {
                    self.fail(tx, *id, delivery)?;
                }
            }
            return Ok(());
        };
        let payload = Bytes::from(stored.payload);
        let at_once = TARGETS_MAX.min(FAN_OUT_BYTES_MAX / payload.len().max(1)).max(1);
        for targets in targets.chunks(at_once) {
            self.start(Job::Post(Post {
                deliveries: targets.iter().map(|(id, _)| *id).collect(),
                relay: relay.clone(),
                frame_id: FrameId::new(bytes_of(&stored.frame_id)?),
                capabilities: targets.iter().map(|(_, token)| *token).collect(),
                payload: payload.clone(),
            }));
        }
        Ok(())
    }

    /// A frame that waited while the group moved on is sealed under keys that everyone still has.
    /// Its messages keep their counters, so that nobody shows them twice.
    fn renew_seal(&mut self, tx: &Transaction<'_>, id: i64) -> Result<(), Fault> {
        let mut stored: state::Frame = tx.get(id)?.ok_or(Fault::damaged("a frame"))?;
        if stored.first_counter == 0 || stored.parts > 0 || !self.can_talk(stored.group) {
            return Ok(());
        }
        let row = stored.group;
        if self.group(tx, row)?.epoch() <= stored.epoch + EPOCHS_LATE_MAX {
            return Ok(());
        }
        let group: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let stream: [u8; 16] = bytes_of(&group.stream)?;
        let mut messages = Vec::new();
        for counter in stored.first_counter..stored.end_counter {
            let lookup = of_group(row, &[&counter.to_be_bytes()]);
            let Some((_, outgoing)) = tx.find::<state::Outgoing>(&lookup)? else { return Ok(()) };
            messages.push(self.encrypt(tx, row, &outgoing.content, &stream, counter)?);
        }
        self.save(tx, row)?;
        let envelope = wire::Envelope {
            stream: group.stream,
            first_counter: stored.first_counter,
            messages,
            ..Default::default()
        };
        let counters = stored.first_counter..stored.end_counter;
        let renewed = self.seal_envelope(tx, row, &envelope, counters)?;
        stored = state::Frame { made_ms: stored.made_ms, ..renewed };
        Ok(tx.put(id, &stored)?)
    }

    /// The outcomes of a post.
    pub(super) fn posted(
        &mut self,
        tx: &Transaction<'_>,
        deliveries: &[i64],
        result: Result<Vec<Option<Reason>>, RelayError>,
    ) -> Result<(), Fault> {
        let now = Instant::now();
        let mut frames = BTreeSet::new();
        for (i, id) in deliveries.iter().enumerate() {
            let Some(mut delivery) = tx.get::<state::Delivery>(*id)? else { continue };
            let key = (delivery.group, delivery.device.clone());
            frames.insert(delivery.frame);
            let (reason, least) = match &result {
                Ok(outcomes) => {
                    (outcomes.get(i).copied().unwrap_or(Some(Reason::Busy)), Duration::ZERO)
                }
                Err(RelayError::Refused { reason, retry_after }) => (*reason, *retry_after),
                Err(error) if error.is_retryable() => (Some(Reason::Busy), Duration::ZERO),
                Err(_) => (None, Duration::ZERO),
            };
            match reason {
                Some(Reason::Accepted) => {
                    delivery.state = ACCEPTED;
                    tx.put(*id, &delivery)?;
                    self.lanes.done(&key, *id);
                }
                Some(Reason::TokenRevoked | Reason::TokenExpired | Reason::TokenInvalid)
                    if delivery.relay.is_empty() && !self.is_too_old(tx, delivery.frame)? =>
                {
                    // Its device has a new address, or does not want to be reached.
                    delivery.attempts += 1;
                    tx.put(*id, &delivery)?;
                    self.lanes.block(&key);
                }
                Some(reason)
                    if reason.is_retryable() && !self.is_too_old(tx, delivery.frame)? =>
                {
                    self.lanes.retry(&key, now, least);
                }
                _ => self.fail(tx, *id, delivery)?,
            }
        }
        for frame in frames {
            self.settle_frame(tx, frame)?;
        }
        Ok(())
    }

    fn is_too_old(&self, tx: &Transaction<'_>, frame: i64) -> Result<bool, Fault> {
        let frame = tx.get::<state::Frame>(frame)?;
        Ok(frame.is_some_and(|frame| frame.made_ms + GIVE_UP_AFTER_MS < now_ms()))
    }

    fn fail(
        &mut self,
        tx: &Transaction<'_>,
        id: i64,
        mut delivery: state::Delivery,
    ) -> Result<(), Fault> {
        let key = (delivery.group, delivery.device.clone());
        delivery.state = FAILED;
        tx.put(id, &delivery)?;
        self.lanes.done(&key, id);
        self.settle_frame(tx, delivery.frame)
    }

    /// Drops everything that was for a device which is no target any more.
    pub(super) fn drop_target(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        device: &[u8],
    ) -> Result<(), Fault> {
        let mut frames = BTreeSet::new();
        for id in self.lanes.remove(&(row, device.to_vec())) {
            if let Some(delivery) = tx.get::<state::Delivery>(id)? {
                tx.remove::<state::Delivery>(id)?;
                frames.insert(delivery.frame);
            }
        }
        if let Some((id, _)) = tx.find::<state::Target>(&of_group(row, &[device]))? {
            tx.remove::<state::Target>(id)?;
        }
        for frame in frames {
            self.settle_frame(tx, frame)?;
        }
        Ok(())
    }

    /// What the deliveries of a frame mean for its messages; a frame that is through is forgotten.
    fn settle_frame(&mut self, tx: &Transaction<'_>, id: i64) -> Result<(), Fault> {
        let Some(frame) = tx.get::<state::Frame>(id)? else { return Ok(()) };
        let deliveries = tx.children::<state::Delivery>(id)?;
        let is_through = deliveries.iter().all(|(_, delivery)| delivery.state != WAITING);
        let is_last = frame.parts == 0 || frame.part + 1 == frame.parts;
        if frame.first_counter > 0 && is_last {
            let reached = reached(&self.me.account, deliveries.iter().map(|(_, found)| found));
            self.settle_messages(tx, &frame, reached, is_through)?;
        }
        if is_through {
            tx.remove_all::<state::Delivery>(id)?;
            tx.remove::<state::Frame>(id)?;
        }
        Ok(())
    }

    fn settle_messages(
        &mut self,
        tx: &Transaction<'_>,
        frame: &state::Frame,
        reached: MessageState,
        is_through: bool,
    ) -> Result<(), Fault> {
        for counter in frame.first_counter..frame.end_counter {
            let lookup = of_group(frame.group, &[&counter.to_be_bytes()]);
            let Some((row, outgoing)) = tx.find::<state::Outgoing>(&lookup)? else { continue };
            if let Some(mut message) = tx.get::<state::Message>(outgoing.message)?
                && (message.state < MessageState::Delivered as u32
                    || message.state == MessageState::Failed as u32)
                && message.state != reached as u32
            {
                message.state = reached as u32;
                if reached == MessageState::Relayed {
                    super::upkeep::start_disappearing(&mut message);
                }
                tx.put(outgoing.message, &message)?;
                let conversation = message.conversation;
                let (message, state) = (outgoing.message, reached);
                self.emit(Event::MessageState { conversation, message, state });
            }
            if is_through {
                tx.remove::<state::Outgoing>(row)?;
            }
        }
        Ok(())
    }
}

/// Whether every other account has the frame at one of its devices at least.
fn reached<'a>(own: &[u8], deliveries: impl Iterator<Item = &'a state::Delivery>) -> MessageState {
    let mut accounts: HashMap<&[u8], (bool, bool)> = HashMap::new();
    for delivery in deliveries.filter(|delivery| delivery.account != own) {
        let (has_it, may_get_it) = accounts.entry(&delivery.account).or_default();
        *has_it |= delivery.state == ACCEPTED;
        *may_get_it |= delivery.state == WAITING && delivery.attempts == 0;
    }
    if accounts.values().all(|(has_it, _)| *has_it) {
        MessageState::Relayed
    } else if accounts.values().all(|(has_it, may_get_it)| *has_it || *may_get_it) {
        MessageState::Sending
    } else {
        MessageState::Failed
    }
}

fn new_frame(group: i64, payload: Bytes, epoch: u64) -> state::Frame {
    state::Frame {
        group,
        frame_id: random::frame_id().as_bytes().to_vec(),
        payload: payload.to_vec(),
        epoch,
        made_ms: now_ms(),
        ..Default::default()
    }
}

/// Bytes of the stored form that have to have this length.
pub(super) fn bytes_of<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Fault> {
    bytes.try_into().map_err(|_| Fault::damaged("a field has another length"))
}
