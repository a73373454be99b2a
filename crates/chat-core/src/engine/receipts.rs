//! Receipts: how far each device got, told to the author's devices only, several at once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::core::{Core, now_ms};
use super::fault::Fault;
use super::records::state;
use crate::api::{Event, MessageState};
use crate::vault::Transaction;
use crate::wire::{self, content::Body, group_info::Kind};

/// Receipts wait so long for more of their kind.
const WAIT_DIRECT: Duration = Duration::from_millis(200);
const WAIT_GROUP: Duration = Duration::from_secs(3);

/// In groups with more devices nobody sends receipts: one message would bring hundreds.
pub(super) const GROUP_DEVICES_MAX: usize = 48;

/// So many of the latest messages are looked at when a receipt comes.
const RECENT: u32 = 300;

impl Core {
    /// There is something to confirm.
    pub(super) fn receipts_soon(&mut self, kind: u32) {
        let wait = if kind == Kind::Direct as u32 { WAIT_DIRECT } else { WAIT_GROUP };
        let at = Instant::now() + wait;
        self.receipts_at = Some(self.receipts_at.map_or(at, |before| before.min(at)));
    }

    /// Sends the receipts that are due.
    pub(super) fn receipts_if_due(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        if !self.is_caught_up || self.receipts_at.is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        self.receipts_at = None;
        for (row, stored) in tx.all::<state::Group>()? {
            if stored.conversation == 0 || !stored.active || stored.lost_ms > 0 {
                continue;
            }
            let is_small = tx.count::<state::Target>(row)? <= GROUP_DEVICES_MAX as u64;
            for (id, mut stream) in tx.children::<state::Stream>(row)? {
                if !stream.receipt_due {
                    continue;
                }
                stream.receipt_due = false;
                tx.put(id, &stream)?;
                if !is_small {
                    continue;
                }
                let receipt = wire::Receipt {
                    stream: stream.stream.clone(),
                    delivered: stream.highest,
                    read: stream.read,
                };
                let content = wire::Content {
                    sent_ms: now_ms(),
                    body: Some(Body::Receipt(receipt)),
                    ..Default::default()
                };
                if !self.say_aside(tx, row, &content, &stream.account)? {
                    stream.receipt_due = true;
                    tx.put(id, &stream)?;
                    self.receipts_soon(stored.kind);
                }
            }
        }
        Ok(())
    }

    /// The user has seen everything up to a message.
    pub(super) fn read_up_to(
        &mut self,
        tx: &Transaction<'_>,
        conversation: i64,
        up_to: i64,
    ) -> Result<(), Fault> {
        let mut found: state::Conversation = self.conversation(tx, conversation)?;
        if up_to <= found.read_up_to {
            return Ok(());
        }
        found.read_up_to = up_to;
        tx.put(conversation, &found)?;
        let mut seen: HashMap<(i64, Vec<u8>, Vec<u8>), u64> = HashMap::new();
        for (id, mut message) in tx.last::<state::Message>(conversation, Some(up_to + 1), RECENT)? {
            if message.mine || message.counter == 0 {
                continue;
            }
            if message.disappears_after > 0 && message.disappears_ms == 0 {
                super::upkeep::start_disappearing(&mut message);
                tx.put(id, &message)?;
            }
            let highest = seen.entry((message.group, message.stream, message.account)).or_default();
            *highest = message.counter.max(*highest);
        }
        for ((row, stream, account), counter) in seen {
            let mut found = super::content::streams(tx, row, &stream)?;
            found.retain(|(_, entry)| entry.account == account);
            let Some((id, mut entry)) = found.pop() else { continue };
            if entry.read >= counter {
                continue;
            }
            entry.read = counter;
            entry.receipt_due = true;
            tx.put(id, &entry)?;
            let Some(stored) = tx.get::<state::Group>(row)? else { continue };
            self.receipts_soon(stored.kind);
            let read = wire::ReadSync { group: stored.id, stream, counter };
            self.tell_siblings(tx, wire::sync::Body::Read(read))?;
        }
        self.count_unread(tx, conversation)?;
        self.conversation_changed(tx, conversation)
    }

    /// What receipts mean for the messages of one of this account's streams: delivered is what
    /// every other account has on one of its devices.
    pub(super) fn settle_receipts(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        stream: &[u8],
    ) -> Result<(), Fault> {
        let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let mut accounts: HashMap<Vec<u8>, (u64, u64)> = HashMap::new();
        for (_, target) in tx.children::<state::Target>(row)? {
            if target.account != self.me.account {
                accounts.entry(target.account).or_default();
            }
        }
        for (_, progress) in tx.children::<state::Progress>(row)? {
            if progress.stream == stream
                && let Some((delivered, read)) = accounts.get_mut(&progress.account)
            {
                *delivered = progress.delivered.max(*delivered);
                *read = progress.read.max(*read);
            }
        }
        let delivered = accounts.values().map(|(delivered, _)| *delivered).min().unwrap_or(0);
        let read = accounts.values().map(|(_, read)| *read).min().unwrap_or(0);
        for (id, mut message) in tx.last::<state::Message>(stored.conversation, None, RECENT)? {
            if !message.mine || message.stream != stream || message.counter == 0 {
                continue;
            }
            let state = if message.counter <= read {
                MessageState::Read
            } else if message.counter <= delivered {
                MessageState::Delivered
            } else {
                continue;
            };
            let is_failed = message.state == MessageState::Failed as u32;
            if !is_failed && message.state >= state as u32 {
                continue;
            }
            message.state = state as u32;
            super::upkeep::start_disappearing(&mut message);
            tx.put(id, &message)?;
            let conversation = stored.conversation;
            self.emit(Event::MessageState { conversation, message: id, state });
        }
        Ok(())
    }
}
