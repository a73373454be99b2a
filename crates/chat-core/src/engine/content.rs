//! What others say, and what it changes.

use super::core::{Core, now_ms};
use super::fault::Fault;
use super::outgoing::bytes_of;
use super::records::{of_group, state};
use crate::api::{Event, MessageState};
use crate::mls::Opened;
use crate::vault::Transaction;
use crate::wire::{self, content::Body, group_info::Kind, sync};

/// The kinds of a message, as stored.
pub(super) const TEXT: u32 = 0;
pub(super) const NOTICE: u32 = 1;
pub(super) const GAP: u32 = 2;

/// The streams of a group with this name: one, if nobody claims somebody else's.
pub(super) fn streams(
    tx: &Transaction<'_>,
    row: i64,
    stream: &[u8],
) -> Result<Vec<(i64, state::Stream)>, Fault> {
    let mut found = tx.children::<state::Stream>(row)?;
    found.retain(|(_, entry)| entry.stream == stream);
    Ok(found)
}

/// A time as people say it.
pub(super) fn in_words(seconds: u32) -> String {
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let (size, unit) =
        units.into_iter().find(|(size, _)| seconds.is_multiple_of(*size)).unwrap_or((1, "second"));
    let count = seconds / size;
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

impl Core {
    /// One message of a member, shown once.
    pub(super) fn content(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        stream: &[u8],
        counter: u64,
        opened: &Opened,
        content: wire::Content,
    ) -> Result<(), Fault> {
        let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let account = opened.account.as_bytes().to_vec();
        let is_mine = account == self.me.account;
        // Frames of a few epochs before this one can be opened: of whoever has gone since, what was said
        // is shown, and nothing else counts.
        let is_lasting = !matches!(content.body, Some(Body::Text(_) | Body::Receipt(_)));
        if is_lasting && !self.is_member(tx, row, opened)? {
            return Ok(());
        }
        if stored.conversation == 0 {
            if !is_mine || !self.is_own_device(opened.device.as_bytes())? {
                return Ok(());
            }
            return match content.body {
                Some(Body::Sync(sync)) => self.sync(tx, sync),
                Some(Body::Address(address)) => {
                    let device = opened.device.as_bytes().to_vec();
                    self.set_address(tx, row, account, device, address)
                }
                _ => Ok(()),
            };
        }
        let is_shown = matches!(content.body, Some(Body::Text(_) | Body::Name(_) | Body::Timer(_)));
        if is_shown && self.is_blocked(tx, &account)? {
            return Ok(());
        }
        // Of somebody under another key than the known one nothing is shown. Where it is reached and
        // what it has got is the group's business.
        let is_silent =
            matches!(content.body, Some(Body::Receipt(_) | Body::Address(_) | Body::Leave(_)));
        if !is_silent && self.is_impostor(tx, opened)? {
            return Ok(());
        }
        match content.body {
            Some(Body::Text(text)) => {
                let message = state::Message {
                    conversation: stored.conversation,
                    kind: TEXT,
                    account,
                    mine: is_mine,
                    text,
                    sent_ms: content.sent_ms,
                    state: if is_mine { MessageState::Relayed } else { MessageState::Received }
                        as u32,
                    disappears_after: content.disappears_after,
                    stream: stream.to_vec(),
                    counter,
                    group: row,
                    ..Default::default()
                };
                self.add_message(tx, message)
            }
            Some(Body::Receipt(receipt)) => {
                self.receipt(tx, row, &account, opened.device.as_bytes(), &receipt)
            }
            Some(Body::Address(address)) => {
                let device = opened.device.as_bytes().to_vec();
                self.set_address(tx, row, account, device, address)
            }
            // What another device of ours tells a contact is not for us.
            Some(Body::Card(_)) if is_mine => Ok(()),
            // Where others are, nobody says how it is reached, and nobody's root is learned.
            Some(Body::Card(card)) if stored.kind == Kind::Direct as u32 => {
                self.card(tx, &account, opened.device.as_bytes(), card)
            }
            Some(Body::Name(name)) => self.named(tx, stored.conversation, &account, &name),
            Some(Body::Timer(seconds)) => self.timer_set(tx, &stored, &account, seconds),
            Some(Body::Leave(true)) => self.leaves(tx, row, account),
            Some(Body::Leave(false) | Body::Sync(_) | Body::Card(_)) | None => Ok(()),
        }
    }

    /// Whether the sender's device is in the group now.
    fn is_member(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        opened: &Opened,
    ) -> Result<bool, Fault> {
        let roster = self.group(tx, row)?.roster();
        let is_sender = |leaf: &crate::mls::Leaf| {
            leaf.device == opened.device && leaf.account == opened.account
        };
        Ok(roster.iter().any(is_sender))
    }

    /// Whether the sender uses the account of somebody we know with another root key. Only the adder
    /// has vouched for it; nothing of it is shown under the known name.
    fn is_impostor(&self, tx: &Transaction<'_>, opened: &Opened) -> Result<bool, Fault> {
        // Of the credential that has signed it, for the leaf may have gone since.
        self.is_other_root(tx, opened.account, opened.root_key)
    }

    /// Keeps and shows a message.
    pub(super) fn add_message(
        &mut self,
        tx: &Transaction<'_>,
        mut message: state::Message,
    ) -> Result<(), Fault> {
        if message.mine {
            super::upkeep::start_disappearing(&mut message);
        }
        let id = tx.insert(&message)?;
        let found = tx.get::<state::Conversation>(message.conversation)?;
        if let Some(mut conversation) = found.filter(|_| !message.mine && message.kind == TEXT) {
            conversation.unread += 1;
            tx.put(message.conversation, &conversation)?;
        }
        let conversation = message.conversation;
        let message = self.view_message(tx, id, message)?;
        self.emit(Event::Message { message });
        self.conversation_changed(tx, conversation)
    }

    /// The engine's own words in a conversation.
    pub(super) fn add_notice(
        &mut self,
        tx: &Transaction<'_>,
        conversation: i64,
        text: &str,
    ) -> Result<(), Fault> {
        self.add_words(tx, conversation, NOTICE, text)
    }

    /// Says that something is missing.
    pub(super) fn add_gap(
        &mut self,
        tx: &Transaction<'_>,
        conversation: i64,
        text: &str,
    ) -> Result<(), Fault> {
        self.add_words(tx, conversation, GAP, text)
    }

    fn add_words(
        &mut self,
        tx: &Transaction<'_>,
        conversation: i64,
        kind: u32,
        text: &str,
    ) -> Result<(), Fault> {
        let message = state::Message {
            conversation,
            kind,
            text: text.to_owned(),
            sent_ms: now_ms(),
            state: MessageState::Received as u32,
            ..Default::default()
        };
        self.add_message(tx, message)
    }

    fn named(
        &mut self,
        tx: &Transaction<'_>,
        conversation: i64,
        account: &[u8],
        name: &str,
    ) -> Result<(), Fault> {
        let Some((id, mut person)) = tx.find::<state::Person>(account)? else { return Ok(()) };
        if person.name == name || super::commands::check_name(name).is_err() {
            return Ok(());
        }
        let before = self.name_of(tx, account, None)?;
        name.clone_into(&mut person.name);
        tx.put(id, &person)?;
        self.add_notice(tx, conversation, &format!("{before} now goes by {name}"))
    }

    fn timer_set(
        &mut self,
        tx: &Transaction<'_>,
        stored: &state::Group,
        account: &[u8],
        seconds: u32,
    ) -> Result<(), Fault> {
        let found = tx.get::<state::Conversation>(stored.conversation)?;
        let Some(mut conversation) = found.filter(|found| found.timer != seconds) else {
            return Ok(());
        };
        conversation.timer = seconds;
        tx.put(stored.conversation, &conversation)?;
        let who = self.name_of(tx, account, None)?;
        let text = match seconds {
            0 => format!("{who} keeps messages from now on"),
            _ => format!("{who} lets messages disappear after {}", in_words(seconds)),
        };
        self.add_notice(tx, stored.conversation, &text)
    }

    /// Somebody leaves: any member removes its devices; the first in the tree begins.
    fn leaves(&mut self, tx: &Transaction<'_>, row: i64, account: Vec<u8>) -> Result<(), Fault> {
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        if !stored.leaving.contains(&account) {
            stored.leaving.push(account);
            tx.put(row, &stored)?;
        }
        self.look_after(tx, row)
    }

    fn sync(&mut self, tx: &Transaction<'_>, sync: wire::Sync) -> Result<(), Fault> {
        match sync.body {
            Some(sync::Body::OwnCard(card)) => self.sibling_card(tx, card),
            Some(sync::Body::Contact(contact)) => self.contact_synced(tx, contact),
            Some(sync::Body::Read(read)) => {
                let Some((row, stored)) = tx.find::<state::Group>(&read.group)? else {
                    return Ok(());
                };
                for (id, mut stream) in streams(tx, row, &read.stream)? {
                    stream.read = stream.read.max(read.counter);
                    tx.put(id, &stream)?;
                }
                self.count_unread(tx, stored.conversation)
            }
            Some(sync::Body::Conversation(settings)) => {
                let Some((_, stored)) = tx.find::<state::Group>(&settings.group)? else {
                    return Ok(());
                };
                if let Some(mut found) = tx.get::<state::Conversation>(stored.conversation)? {
                    found.muted = settings.muted;
                    tx.put(stored.conversation, &found)?;
                    self.conversation_changed(tx, stored.conversation)?;
                }
                Ok(())
            }
            Some(sync::Body::Relay(relay)) => self.relay_synced(tx, relay),
            None => Ok(()),
        }
    }

    /// Counts anew what another of our devices may have read.
    pub(super) fn count_unread(
        &mut self,
        tx: &Transaction<'_>,
        conversation: i64,
    ) -> Result<(), Fault> {
        let Some(mut found) = tx.get::<state::Conversation>(conversation)? else { return Ok(()) };
        let recent = tx.last::<state::Message>(conversation, None, 500)?;
        let mut unread = 0;
        for (id, message) in recent {
            if message.mine || message.kind != TEXT || id <= found.read_up_to {
                continue;
            }
            let streams = streams(tx, message.group, &message.stream)?;
            let of_author = streams.iter().find(|(_, stream)| stream.account == message.account);
            if of_author.is_none_or(|(_, stream)| stream.read < message.counter) {
                unread += 1;
            }
        }
        if found.unread != unread {
            found.unread = unread;
            tx.put(conversation, &found)?;
            self.conversation_changed(tx, conversation)?;
        }
        Ok(())
    }

    /// Whether a stream of the group is this device's, or another's of this account.
    fn is_own_stream(&self, tx: &Transaction<'_>, row: i64, stream: &[u8]) -> Result<bool, Fault> {
        let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let of_us = |(_, entry): &(i64, state::Stream)| entry.account == self.me.account;
        Ok(stored.stream == stream || streams(tx, row, stream)?.iter().any(of_us))
    }

    /// How far a device got in one of this account's streams.
    fn receipt(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        account: &[u8],
        device: &[u8],
        receipt: &wire::Receipt,
    ) -> Result<(), Fault> {
        let stream: [u8; 16] = match bytes_of(&receipt.stream) {
            Ok(stream) => stream,
            Err(_) => return Ok(()),
        };
        if !self.is_own_stream(tx, row, &stream)? {
            return Ok(());
        }
        let lookup = of_group(row, &[&stream, account, device]);
        let found = tx.find::<state::Progress>(&lookup)?;
        let (id, mut progress) = match found {
            Some((id, progress)) => (Some(id), progress),
            None => (None, state::Progress::default()),
        };
        let new = state::Progress {
            group: row,
            stream: stream.to_vec(),
            account: account.to_vec(),
            device: device.to_vec(),
            delivered: progress.delivered.max(receipt.delivered),
            read: progress.read.max(receipt.read),
        };
        if new.delivered == progress.delivered && new.read == progress.read {
            return Ok(());
        }
        progress = new;
        match id {
            Some(id) => tx.put(id, &progress)?,
            None => drop(tx.insert(&progress)?),
        }
        self.settle_receipts(tx, row, &stream)
    }
}
