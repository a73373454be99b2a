//! What happens to a frame: it is posted to each of its targets, again until its fate is known, and
//! its messages are told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use valise_proto::limits::{FAN_OUT_BYTES_MAX, TARGETS_MAX};
use valise_proto::{FrameId, Reason, RelayAddress, Token};

use super::core::{Core, now_ms};
use super::effect::{Job, Post};
use super::fault::Fault;
use super::lanes::{ACCEPTED, FAILED, WAITING};
use super::outgoing::{bytes_of, new_frame};
use super::records::{of_group, state};
use crate::api::{Event, MessageState};
use crate::relays::RelayError;
use crate::vault::Transaction;

/// A frame that reached nobody for so long is given up.
pub(super) const GIVE_UP_AFTER_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

impl Core {
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
                attempts: u32::from(self.lanes.is_blocked(&(stored.group, target.device.clone()))),
                ..Default::default()
            };
            let id = tx.insert(&delivery)?;
            self.lanes.push((stored.group, target.device.clone()), id);
        }
        self.settle_frame(tx, frame)
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
            if !self.may_reach(&relay) {
                self.lanes.hold(&key);
                let group = tx.get::<state::Group>(delivery.group)?.unwrap_or_default();
                self.ask_about(tx, &relay, group.conversation)?;
                continue;
            }
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

    pub(super) fn post_frame(
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
                    for waiting in self.lanes.block(&key) {
                        if let Some(mut found) = tx.get::<state::Delivery>(waiting)? {
                            found.attempts += 1;
                            frames.insert(found.frame);
                            tx.put(waiting, &found)?;
                        }
                    }
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

    pub(super) fn is_too_old(&self, tx: &Transaction<'_>, frame: i64) -> Result<bool, Fault> {
        let frame = tx.get::<state::Frame>(frame)?;
        Ok(frame.is_some_and(|frame| frame.made_ms + GIVE_UP_AFTER_MS < now_ms()))
    }

    pub(super) fn fail(
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
    pub(super) fn settle_frame(&mut self, tx: &Transaction<'_>, id: i64) -> Result<(), Fault> {
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

    pub(super) fn settle_messages(
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
pub(super) fn reached<'a>(
    own: &[u8],
    deliveries: impl Iterator<Item = &'a state::Delivery>,
) -> MessageState {
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
