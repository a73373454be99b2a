//! What front ends see: the stored rows in the words of `api`.

use serde_json::{Value, json};

use super::content::{GAP, NOTICE};
use super::core::Core;
use super::fault::Fault;
use super::outgoing::bytes_of;
use super::people::presentable;
use super::records::state;
use crate::api::{
    Contact, Conversation, ConversationKind, Device, Event, Member, Message, MessageKind,
    MessageState, Status,
};
use crate::identity::{AccountId, DeviceId, SignedRecord};
use crate::vault::Transaction;
use crate::wire::group_info::Kind;

const STATES: [MessageState; 7] = [
    MessageState::Sending,
    MessageState::Relayed,
    MessageState::Delivered,
    MessageState::Read,
    MessageState::Failed,
    MessageState::Received,
    MessageState::Gone,
];

impl Core {
    pub(super) fn status(&self, tx: &Transaction<'_>) -> Result<Status, Fault> {
        let mut unread = 0;
        for (_, conversation) in tx.all::<state::Conversation>()? {
            if !conversation.muted {
                unread += u64::from(conversation.unread);
            }
        }
        Ok(Status {
            name: self.me.name.clone(),
            account: account_text(&self.me.account),
            device: self.device_id().to_text(),
            relay: self.me.relay.clone(),
            connection: self.connection.clone(),
            unread,
            sending: self.sending(tx)?,
        })
    }

    /// Messages that are not with the relay yet.
    pub(super) fn sending(&self, tx: &Transaction<'_>) -> Result<u64, Fault> {
        let mut sending = 0;
        for (_, outgoing) in tx.all::<state::Outgoing>()? {
            let message = tx.get::<state::Message>(outgoing.message)?;
            let waits = |found: &state::Message| found.state == MessageState::Sending as u32;
            sending += u64::from(message.as_ref().is_some_and(waits));
        }
        Ok(sending)
    }

    pub(super) fn conversation(
        &self,
        tx: &Transaction<'_>,
        number: i64,
    ) -> Result<state::Conversation, Fault> {
        let found = tx.get::<state::Conversation>(number)?;
        found.ok_or_else(|| {
            let text = format!("there is no conversation {number}; `list` shows all");
            Fault::refused("unknown_conversation", text)
        })
    }

    pub(super) fn view_conversations(
        &mut self,
        tx: &Transaction<'_>,
    ) -> Result<Vec<Conversation>, Fault> {
        let mut views = Vec::new();
        for (number, found) in tx.all::<state::Conversation>()? {
            views.push(self.view_conversation(tx, number, found)?);
        }
        views.sort_by_key(|view| {
            std::cmp::Reverse(view.last.as_ref().map_or(0, |last| last.number))
        });
        Ok(views)
    }

    pub(super) fn view_conversation(
        &mut self,
        tx: &Transaction<'_>,
        number: i64,
        found: state::Conversation,
    ) -> Result<Conversation, Fault> {
        let is_direct = found.kind == Kind::Direct as u32;
        let person = tx.find::<state::Person>(&found.account)?.map(|(_, person)| person);
        let person = person.filter(|_| is_direct).unwrap_or_default();
        let title = if is_direct {
            self.name_of(tx, &found.account, None)?
        } else {
            presentable(&found.title)
        };
        let mut accounts: Vec<Vec<u8>> = Vec::new();
        for (_, target) in tx.children::<state::Target>(found.group)? {
            accounts.push(target.account);
        }
        accounts.retain(|account| *account != self.me.account);
        accounts.sort();
        accounts.dedup();
        let last = tx.last::<state::Message>(number, None, 1)?.pop();
        let last = last.map(|(id, message)| self.view_message(tx, id, message)).transpose()?;
        let closed = if person.identity_reset {
            Some("the other's account key has changed: decide first whether to trust it".to_owned())
        } else if person.blocked {
            Some("you have blocked this person; unblock to write".to_owned())
        } else {
            (!found.closed.is_empty()).then_some(found.closed)
        };
        Ok(Conversation {
            number,
            kind: if is_direct { ConversationKind::Direct } else { ConversationKind::Group },
            title,
            account: is_direct.then(|| account_text(&found.account)),
            members: accounts.len() as u32 + 1,
            unread: found.unread.into(),
            last,
            muted: found.muted,
            blocked: person.blocked,
            verified: person.verified,
            disappear_seconds: found.timer,
            closed,
            waiting: self.waiting(tx, found.group)?,
        })
    }

    /// Tells front ends that a conversation is not what it was.
    pub(super) fn conversation_changed(
        &mut self,
        tx: &Transaction<'_>,
        number: i64,
    ) -> Result<(), Fault> {
        if let Some(found) = tx.get::<state::Conversation>(number)? {
            let conversation = self.view_conversation(tx, number, found)?;
            self.emit(Event::Conversation { conversation });
        }
        Ok(())
    }

    pub(super) fn view_message(
        &mut self,
        tx: &Transaction<'_>,
        number: i64,
        message: state::Message,
    ) -> Result<Message, Fault> {
        let name = if message.account.is_empty() {
            String::new()
        } else if message.mine {
            self.me.name.clone()
        } else {
            let in_group = self.name_in_group(tx, message.group, &message.account)?;
            self.name_of(tx, &message.account, in_group.as_deref())?
        };
        Ok(Message {
            number,
            conversation: message.conversation,
            kind: match message.kind {
                NOTICE => MessageKind::Notice,
                GAP => MessageKind::Gap,
                _ => MessageKind::Text,
            },
            account: account_text(&message.account),
            name,
            mine: message.mine,
            sent_ms: message.sent_ms,
            text: message.text,
            state: STATES.get(message.state as usize).copied().unwrap_or(MessageState::Received),
            disappears_ms: u64::try_from(message.disappears_ms).ok().filter(|ms| *ms > 0),
        })
    }

    /// What somebody who is no contact calls itself in a group.
    fn name_in_group(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        account: &[u8],
    ) -> Result<Option<String>, Fault> {
        if tx.find::<state::Person>(account)?.is_some_and(|(_, person)| !person.name.is_empty()) {
            return Ok(None);
        }
        if tx.get::<state::Group>(row)?.is_none() {
            return Ok(None);
        }
        let roster = self.group(tx, row)?.roster();
        let leaf = roster.into_iter().find(|leaf| leaf.account.as_bytes()[..] == *account);
        Ok(leaf.map(|leaf| leaf.member.name))
    }

    pub(super) fn view_members(
        &mut self,
        tx: &Transaction<'_>,
        number: i64,
    ) -> Result<Vec<Member>, Fault> {
        let found = self.conversation(tx, number)?;
        let mut members: Vec<Member> = Vec::new();
        if tx.get::<state::Group>(found.group)?.is_none() {
            return Ok(members);
        }
        for leaf in self.group(tx, found.group)?.roster() {
            let account = leaf.account.to_text();
            if let Some(member) = members.iter_mut().find(|member| member.account == account) {
                member.devices += 1;
                continue;
            }
            let me = leaf.account.as_bytes()[..] == self.me.account[..];
            let person = tx.find::<state::Person>(leaf.account.as_bytes())?;
            let name = if me { self.me.name.clone() } else { self.member_name(tx, &leaf)? };
            let other_key = self.is_claimed(tx, &leaf)?;
            let verified = !other_key && person.is_some_and(|(_, person)| person.verified);
            members.push(Member { account, name, devices: 1, verified, me, other_key });
        }
        Ok(members)
    }

    pub(super) fn view_contacts(&self, tx: &Transaction<'_>) -> Result<Vec<Contact>, Fault> {
        let people = tx.all::<state::Person>()?;
        let of = |person: state::Person| Contact {
            account: account_text(&person.account),
            name: person.name,
            petname: person.petname,
            verified: person.verified,
            blocked: person.blocked,
            conversation: (person.conversation != 0).then_some(person.conversation),
            identity_reset: person.identity_reset,
        };
        let others = people.into_iter().filter(|(_, person)| person.account != self.me.account);
        Ok(others.map(|(_, person)| of(person)).collect())
    }

    pub(super) fn view_devices(&self) -> Result<Vec<Device>, Fault> {
        let record = SignedRecord::try_from(self.own_record()?);
        let record = record.map_err(|_| Fault::damaged("the account's record"))?;
        let devices = record.record().devices.iter().map(|device| Device {
            device: device.device.to_text(),
            name: device.name.clone(),
            since_ms: device.since_ms,
            this: device.device == self.device_id(),
        });
        Ok(devices.collect())
    }

    /// Messages, and until when they go.
    pub(super) fn view_messages(
        &mut self,
        tx: &Transaction<'_>,
        number: i64,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Value, Fault> {
        self.conversation(tx, number)?;
        let mut views = Vec::new();
        for (id, message) in tx.last::<state::Message>(number, before, limit.min(1_000))? {
            views.push(self.view_message(tx, id, message)?);
        }
        Ok(json!(views))
    }
}

/// An account's full text.
pub(super) fn account_text(account: &[u8]) -> String {
    bytes_of(account).map(|bytes| AccountId(bytes).to_text()).unwrap_or_default()
}

/// An account from its text.
pub(super) fn account_of(text: &str) -> Result<Vec<u8>, Fault> {
    let account = AccountId::from_text(text).map_err(|_| {
        Fault::refused("unknown_account", "an account id has 52 characters from a-z and 2-7")
    })?;
    Ok(account.as_bytes().to_vec())
}

/// A device from its text.
pub(super) fn device_of(text: &str) -> Result<Vec<u8>, Fault> {
    let device = DeviceId::from_text(text).map_err(|_| {
        Fault::refused("unknown_device", "a device id has 26 characters from a-z and 2-7")
    })?;
    Ok(device.as_bytes().to_vec())
}
