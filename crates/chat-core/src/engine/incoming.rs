//! A frame that came: whose it is, what it holds, and whether it was shown before.

use bytes::Bytes;
use prost::Message as _;

use super::core::{Core, now_ms};
use super::fault::Fault;
use super::outgoing::bytes_of;
use super::records::{of_group, state};
use crate::mls::{MlsError, Opened};
use crate::seal::parts::{PARTS_MAX, WHOLE_BYTES_MAX};
use crate::seal::{HpkeKeyPair, frame, greeting};
use crate::vault::Transaction;
use crate::wire;

/// So many parts of unfinished messages of a group, or of greetings, are kept: four of the largest.
const PARTS_KEPT: usize = 4 * PARTS_MAX as usize;
/// So many streams of one device are remembered in a group.
const STREAMS_MAX: usize = 16;
/// That messages came too late is told so often in a group at most.
const LATE_EVERY_MS: u64 = 24 * 60 * 60 * 1_000;
/// What cannot be opened, or is not whole, is kept for so long.
const PARKED_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1_000;

impl Core {
    /// A frame of the own mailbox. What cannot be understood is dropped: whoever posts junk with a
    /// capability gets nothing for it.
    pub(super) fn frame(&mut self, tx: &Transaction<'_>, payload: &Bytes) -> Result<(), Fault> {
        if greeting::is_greeting(payload) {
            return self.greeting_part(tx, payload);
        }
        if self.open_frame(tx, payload)? {
            return Ok(());
        }
        // A group's next epoch may have begun without us: its slots tell.
        let parked = state::Parked { payload: payload.to_vec(), since_ms: now_ms() };
        let id = tx.insert(&parked)?;
        for id in self.parking.arrive(id, &parked.payload, parked.since_ms) {
            tx.remove::<state::Parked>(id)?;
        }
        self.walk_all(tx)
    }

    /// Opens what is parked of the epochs that were entered since the last time. All other keys were
    /// tried when the frames came.
    pub(super) fn unpark(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        for entered in std::mem::take(&mut self.entered) {
            let keys = self.keys.iter().find(|(row, keys)| (*row, keys.epoch) == entered);
            let Some((_, keys)) = keys else { continue };
            for id in self.parking.of_epoch(keys) {
                let Some(parked) = tx.get::<state::Parked>(id)? else { continue };
                if self.open_frame(tx, &Bytes::from(parked.payload))? {
                    tx.remove::<state::Parked>(id)?;
                    self.parking.remove(id);
                }
            }
        }
        Ok(())
    }

    /// Forgets what has been parked for too long.
    pub(super) fn expire_parked(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        for id in self.parking.expire(now_ms().saturating_sub(PARKED_MS_MAX)) {
            tx.remove::<state::Parked>(id)?;
        }
        Ok(())
    }

    /// Whether one of our epochs has the frame's hint.
    fn open_frame(&mut self, tx: &Transaction<'_>, payload: &Bytes) -> Result<bool, Fault> {
        let found = self.keys.iter().rev().find(|(_, keys)| frame::matches(keys, payload));
        let Some((row, keys)) = found else { return Ok(false) };
        let (row, epoch) = (*row, keys.epoch);
        let Ok(envelope) = frame::open(keys, payload) else { return Ok(true) };
        if envelope.poke {
            // Of an epoch that is over we know already.
            if self.group(tx, row)?.epoch() == epoch {
                self.walk(tx, row)?;
            }
            return Ok(true);
        }
        if let Some(part) = &envelope.part {
            self.part(tx, row, &envelope, part)?;
            return Ok(true);
        }
        for (i, message) in envelope.messages.iter().enumerate() {
            let counter = match envelope.first_counter {
                0 => 0,
                first => first.saturating_add(i as u64),
            };
            self.message(tx, row, &envelope.stream, counter, message)?;
        }
        Ok(true)
    }

    fn part(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        envelope: &wire::Envelope,
        part: &wire::Part,
    ) -> Result<(), Fault> {
        let (stream, counter) = (&envelope.stream, envelope.first_counter);
        let is_sane = part.count > 1 && part.count <= PARTS_MAX && part.index < part.count;
        if !is_sane {
            return Ok(());
        }
        let stored = state::MessagePart {
            group: row,
            stream: stream.clone(),
            counter,
            index: part.index,
            count: part.count,
            bytes: part.bytes.clone(),
        };
        let mut own = Vec::new();
        for (id, other) in tx.children::<state::MessagePart>(row)? {
            // Only the latest message of a stream is being put together.
            if other.stream == *stream && (other.counter != counter || other.index == part.index) {
                tx.remove::<state::MessagePart>(id)?;
            } else if other.stream == *stream && other.count == part.count {
                own.push((id, other));
            }
        }
        // Whoever can seal a frame can begin messages and never end them.
        if tx.count::<state::MessagePart>(row)? >= PARTS_KEPT as u64 {
            tx.remove_all::<state::MessagePart>(row)?;
            own.clear();
        }
        let id = tx.insert(&stored)?;
        own.push((id, stored));
        if own.len() < part.count as usize {
            return Ok(());
        }
        own.sort_by_key(|(_, piece)| piece.index);
        let message: Vec<u8> = own.iter().flat_map(|(_, piece)| piece.bytes.clone()).collect();
        for (id, _) in own {
            tx.remove::<state::MessagePart>(id)?;
        }
        if message.len() > WHOLE_BYTES_MAX {
            return Ok(());
        }
        self.message(tx, row, stream, counter, &message)
    }

    fn message(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        stream: &[u8],
        counter: u64,
        message: &[u8],
    ) -> Result<(), Fault> {
        let opened = match self.group(tx, row)?.open(message) {
            Ok(opened) => opened,
            Err(error) => return self.unopened(tx, row, &error),
        };
        self.save(tx, row)?;
        let mut authenticated = if counter == 0 { vec![0; 16] } else { stream.to_vec() };
        authenticated.extend_from_slice(&counter.to_be_bytes());
        if opened.authenticated != authenticated {
            return Ok(()); // somebody else's envelope around it
        }
        if counter > 0 && !self.count(tx, row, stream, counter, &opened)? {
            return Ok(());
        }
        let Ok(content) = wire::Content::decode(opened.content.as_slice()) else { return Ok(()) };
        self.content(tx, row, stream, counter, &opened, content)
    }

    /// A message that MLS does not open is a copy, or nobody's.
    pub(super) fn unopened(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        error: &MlsError,
    ) -> Result<(), Fault> {
        if error.is_lost() {
            // Too old an epoch, or state that cannot follow: the reader should know.
            let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
            // Nothing has proven whose it is: whoever can seal a frame could fill the conversation.
            if stored.conversation != 0 && stored.late_ms + LATE_EVERY_MS <= now_ms() {
                stored.late_ms = now_ms();
                tx.put(row, &stored)?;
                let text = "A message, or more than one, came too late to be opened.";
                self.add_gap(tx, stored.conversation, text)?;
            }
        }
        Ok(())
    }

    /// Counts a message that MLS has proven to be of its sender; `false`: it is not to be shown.
    fn count(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        stream: &[u8],
        counter: u64,
        opened: &Opened,
    ) -> Result<bool, Fault> {
        let (account, device) = (opened.account.as_bytes(), opened.device.as_bytes());
        let lookup = of_group(row, &[stream, account, device]);
        let found = tx.find::<state::Stream>(&lookup)?;
        let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let is_new = found.is_none();
        let (id, mut entry) = match found {
            Some((id, entry)) => (Some(id), entry),
            None => {
                self.bound_streams(tx, row, device)?;
                let entry = state::Stream {
                    group: row,
                    stream: stream.to_vec(),
                    account: account.to_vec(),
                    device: device.to_vec(),
                    ..Default::default()
                };
                (None, entry)
            }
        };
        if counter <= entry.highest {
            return Ok(false);
        }
        // A stream that began before we came is joined where it is; later ones begin with 1.
        let target = tx.find::<state::Target>(&of_group(row, &[device]))?;
        let was_before = is_new && target.is_some_and(|(_, target)| target.before);
        let missing = counter - entry.highest - 1;
        if missing > 0 && !was_before && stored.conversation != 0 {
            let name = self.name_there(tx, row, account)?;
            let text = match missing {
                1 => format!("A message of {name} never came: it was given up."),
                n => format!("{n} messages of {name} never came: they were given up."),
            };
            self.add_gap(tx, stored.conversation, &text)?;
        }
        entry.highest = counter;
        entry.receipt_due = account[..] != self.me.account[..] && stored.conversation != 0;
        if entry.receipt_due {
            self.receipts_soon(stored.kind);
        }
        match id {
            Some(id) => tx.put(id, &entry)?,
            None => drop(tx.insert(&entry)?),
        }
        Ok(true)
    }

    /// A device begins a stream when it joins, and whoever begins more of them than that is forgotten as
    /// it goes on: MLS opens no message twice.
    fn bound_streams(&self, tx: &Transaction<'_>, row: i64, device: &[u8]) -> Result<(), Fault> {
        let mut streams = tx.children::<state::Stream>(row)?;
        streams.retain(|(_, entry)| entry.device == device);
        if streams.len() >= STREAMS_MAX {
            tx.remove::<state::Stream>(streams[0].0)?;
        }
        Ok(())
    }

    fn greeting_part(&mut self, tx: &Transaction<'_>, payload: &Bytes) -> Result<(), Fault> {
        let own = HpkeKeyPair::from_seed(&bytes_of(&self.me.hpke_secret)?);
        let Ok(part) = greeting::open_part(&own, payload) else { return Ok(()) };
        let bytes = if part.count == 1 {
            part.bytes
        } else {
            let Some(bytes) = self.assemble_greeting(tx, part)? else { return Ok(()) };
            bytes
        };
        let Ok(greeting) = greeting::read(&bytes) else { return Ok(()) };
        self.greeted(tx, greeting)
    }

    fn assemble_greeting(
        &mut self,
        tx: &Transaction<'_>,
        part: wire::FirstContact,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let stored = state::GreetingPart {
            transfer: part.transfer.clone(),
            index: part.index,
            count: part.count,
            bytes: part.bytes,
            since_ms: now_ms(),
        };
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for (id, other) in tx.all::<state::GreetingPart>()? {
            let is_own = other.transfer == stored.transfer;
            // Whoever says two counts has begun anew, whatever else it means by that.
            let is_replaced = is_own && (other.index == part.index || other.count != stored.count);
            if is_replaced || other.since_ms + PARKED_MS_MAX < now_ms() {
                tx.remove::<state::GreetingPart>(id)?;
            } else if is_own {
                own.push((id, other));
            } else {
                others.push((id, other.transfer));
            }
        }
        // Whoever has an address can begin greetings and never end them. The oldest one goes.
        if let Some((_, oldest)) = others.first().filter(|_| own.len() + others.len() >= PARTS_KEPT)
        {
            for (id, transfer) in &others {
                if transfer == oldest {
                    tx.remove::<state::GreetingPart>(*id)?;
                }
            }
        }
        let id = tx.insert(&stored)?;
        own.push((id, stored));
        if own.len() < part.count as usize {
            return Ok(None);
        }
        own.sort_by_key(|(_, piece)| piece.index);
        let bytes: Vec<u8> = own.iter().flat_map(|(_, piece)| piece.bytes.clone()).collect();
        for (id, _) in own {
            tx.remove::<state::GreetingPart>(id)?;
        }
        Ok(Some(bytes).filter(|bytes| bytes.len() <= WHOLE_BYTES_MAX))
    }
}
