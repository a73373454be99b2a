//! What this device says: kept first, sealed when it can go, posted until each target has it.

use bytes::Bytes;
use prost::Message as _;
use valise_client::random;

use super::core::{Core, now_ms};
use super::fault::Fault;
use super::records::{of_group, state};
use crate::seal::{frame, parts};
use crate::vault::Transaction;
use crate::wire;

/// Others keep the keys of so many epochs for late frames: a frame that is older is sealed anew.
const EPOCHS_LATE_MAX: u64 = 4;

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
    pub(super) fn can_talk(&self, row: i64) -> bool {
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
            let is_idle = |t: &state::Target| {
                let key = (row, t.device.clone());
                self.lanes.is_empty(&key) || self.lanes.is_blocked(&key)
            };
            // While all are busy, what waits goes together later.
            if targets.is_empty() || targets.iter().any(is_idle) {
                self.talk_in(tx, row, &targets)?;
                self.talkative.remove(&row);
            }
        }
        Ok(())
    }

    pub(super) fn talk_in(
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

    pub(super) fn encrypt(
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

    pub(super) fn frame_batch(
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

    pub(super) fn frame_parts(
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

    pub(super) fn seal_envelope(
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

    /// A frame that waited while the group moved on is sealed under keys that everyone still has.
    /// Its messages keep their counters, so that nobody shows them twice.
    pub(super) fn renew_seal(&mut self, tx: &Transaction<'_>, id: i64) -> Result<(), Fault> {
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
}

pub(super) fn new_frame(group: i64, payload: Bytes, epoch: u64) -> state::Frame {
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
