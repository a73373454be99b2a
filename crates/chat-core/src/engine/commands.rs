//! What front ends ask for. A command that needs the network gets its answer when that is done.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use valise_proto::Token;

use super::commits::Wanted;
use super::content::TEXT;
use super::core::{Core, now_ms};
use super::effect::{Gather, Job, Outcome, Purpose, Reply, Ticket};
use super::fault::Fault;
use super::records::state;
use super::view::{account_of, device_of};
use crate::api::{Command, Exported, MessageState, Refusal, Sent};
use crate::vault::Transaction;
use crate::wire::{self, content::Body, group_info::Kind};

/// How often, and how long each time, a card is waited for.
const CARD_TRIES: u32 = 25;
const CARD_WAIT: Duration = Duration::from_millis(200);

/// A key of a message that was sent is kept so long.
const SEND_KEY_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

impl Core {
    /// Carries a command out, or begins to. A refusal has changed nothing.
    pub(super) fn command(
        &mut self,
        tx: &Transaction<'_>,
        command: Command,
        reply: Reply,
    ) -> Result<(), Fault> {
        if let Some(why) = self.not_ready(&command) {
            self.answer_now(reply, Err(why));
            return Ok(());
        }
        let command = match self.later(tx, command, reply) {
            Ok(None) => return Ok(()),
            Ok(Some((command, reply))) => (command, reply),
            Err((Fault::Refused(refusal), reply)) => {
                self.answer_now(reply, Err(refusal));
                return Ok(());
            }
            Err((fault, _)) => return Err(fault),
        };
        let (command, reply) = command;
        match self.now(tx, command) {
            Ok(value) => self.answer_now(reply, Ok(value)),
            Err(Fault::Refused(refusal)) => self.answer_now(reply, Err(refusal)),
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    /// A device that is not linked yet can do nothing but wait.
    fn not_ready(&self, command: &Command) -> Option<Refusal> {
        let harmless =
            matches!(command, Command::Status {} | Command::Shutdown {} | Command::Subscribe {});
        if harmless {
            None
        } else if !self.me.link_secret.is_empty() {
            let text = "this device is not linked yet: confirm it on the other one (valise-chat devices confirm)";
            Some(Refusal::new("not_linked", text))
        } else if self.me.removed {
            let text =
                "this device was removed from its account; remove the profile and link it anew";
            Some(Refusal::new("removed", text))
        } else {
            None
        }
    }

    /// Commands whose answer comes later. Others come back.
    #[allow(clippy::type_complexity)] // one caller, one line away
    fn later(
        &mut self,
        tx: &Transaction<'_>,
        command: Command,
        reply: Reply,
    ) -> Result<Option<(Command, Reply)>, (Fault, Reply)> {
        let checked = match &command {
            Command::Invite {} => Ok(None),
            Command::LinkDevice { join_code } => join_code_of(join_code.as_deref()).map(|_| None),
            Command::Join { link, allow_relay } => {
                self.check_invite(tx, link, *allow_relay).map(|_| None)
            }
            Command::GroupCreate { name, members } => {
                self.check_members(tx, name, members).map(|_| None)
            }
            Command::GroupAdd { conversation, account } => self
                .check_changeable(tx, *conversation)
                .and_then(|row| self.known_account(tx, account).map(|_| Some(row))),
            Command::GroupRemove { conversation, .. }
            | Command::GroupRename { conversation, .. } => {
                self.check_changeable(tx, *conversation).map(Some)
            }
            Command::Settle { .. } => Ok(None),
            _ => return Ok(Some((command, reply))),
        };
        let row = match checked {
            Ok(row) => row,
            Err(fault) => return Err((fault, reply)),
        };
        if let Command::Settle { timeout_ms } = command {
            self.settling.push((Instant::now() + Duration::from_millis(timeout_ms), reply));
            // Receipts wait for company; whoever settles does not.
            self.receipts_at = self.receipts_at.map(|_| Instant::now());
            return Ok(None);
        }
        let ticket = self.wait(reply);
        // The reply of a fault is gone with the engine.
        let begun = self.try_later(tx, command, row.unwrap_or(0), ticket, 0);
        begun.map(|()| None).map_err(|fault| (fault, tokio::sync::oneshot::channel().0))
    }

    /// Begins what is answered later. The card of somebody who has joined just now, and the own
    /// bundle of a profile that was made just now, may be on their way: they are waited for a moment.
    pub(super) fn try_later(
        &mut self,
        tx: &Transaction<'_>,
        command: Command,
        row: i64,
        ticket: Ticket,
        tries: u32,
    ) -> Result<(), Fault> {
        match self.begin_later(tx, command.clone(), row, ticket) {
            Err(Fault::Refused(refusal)) => {
                if refusal.code == "not_reachable" && tries < CARD_TRIES {
                    let again = Outcome::Again { command, row, ticket, tries: tries + 1 };
                    self.start(Job::Wait(CARD_WAIT, Box::new(again)));
                } else {
                    self.refuse(ticket, refusal);
                }
                Ok(())
            }
            begun => begun,
        }
    }

    fn begin_later(
        &mut self,
        tx: &Transaction<'_>,
        command: Command,
        row: i64,
        ticket: Ticket,
    ) -> Result<(), Fault> {
        match command {
            Command::Invite {} => {
                // Whoever follows takes a key package at once.
                if !self.me.bundle_published {
                    let text = "the relay does not have this device's key packages yet; try again";
                    return Err(Fault::refused("not_reachable", text));
                }
                self.gather_invite(Purpose::Invite { ticket });
                Ok(())
            }
            Command::LinkDevice { join_code } => {
                let join_code = join_code_of(join_code.as_deref())?;
                self.gather_invite(Purpose::DeviceLink { ticket, join_code });
                Ok(())
            }
            Command::Join { link, allow_relay } => {
                let link = self.check_invite(tx, &link, allow_relay)?;
                self.start(Job::ReadInvite(ticket, link));
                Ok(())
            }
            Command::GroupCreate { name, members } => {
                let accounts = self.check_members(tx, &name, &members)?;
                let cards = self.cards_of(tx, &accounts)?;
                let gather = Gather { post: 1, slot: true, cards, ..Default::default() };
                let purpose = Purpose::CreateGroup { name, accounts, ticket };
                self.start(Job::Gather(purpose, gather));
                Ok(())
            }
            Command::GroupAdd { account, .. } => {
                let account = account_of(&account)?;
                let cards = self.cards_of(tx, std::slice::from_ref(&account))?;
                let gather = Gather { cards, ..Default::default() };
                let purpose = Purpose::Add { group: row, account, ticket: Some(ticket) };
                self.start(Job::Gather(purpose, gather));
                Ok(())
            }
            Command::GroupRemove { account, .. } => {
                let account = account_of(&account)?;
                if account == self.me.account {
                    return Err(Fault::refused("oneself", "leave the group instead: group leave"));
                }
                let remove = vec![(account, None)];
                self.want(tx, row, Wanted { remove, ticket: Some(ticket), ..Default::default() })
            }
            Command::GroupRename { name, .. } => {
                let name = check_name(&name)?;
                let (name, ticket) = (Some(name), Some(ticket));
                self.want(tx, row, Wanted { name, ticket, ..Default::default() })
            }
            _ => Ok(()),
        }
    }

    fn gather_invite(&mut self, purpose: Purpose) {
        let gather = Gather { post: 1, take: 1, slot: true, ..Default::default() };
        self.start(Job::Gather(purpose, gather));
    }

    /// Commands that are answered at once.
    fn now(&mut self, tx: &Transaction<'_>, command: Command) -> Result<Value, Fault> {
        match command {
            Command::Status {} => Ok(json!(self.status(tx)?)),
            Command::Conversations {} => Ok(json!(self.view_conversations(tx)?)),
            Command::Members { conversation } => Ok(json!(self.view_members(tx, conversation)?)),
            Command::Messages { conversation, before, limit } => {
                self.view_messages(tx, conversation, before, limit)
            }
            Command::Send { conversation, text, key } => self.send(tx, conversation, text, key),
            Command::Read { conversation, up_to } => {
                self.read_up_to(tx, conversation, up_to).map(|()| Value::Null)
            }
            Command::GroupLeave { conversation } => self.leave(tx, conversation),
            Command::GroupRejoin { conversation } => {
                let row = self.conversation(tx, conversation)?.group;
                self.rejoin(tx, row).map(|()| Value::Null)
            }
            Command::Contacts {} => Ok(json!(self.view_contacts(tx)?)),
            Command::Petname { account, name } => {
                let account = self.known_account(tx, &account)?;
                let (id, mut person) = self.person(tx, &account)?;
                name.trim().clone_into(&mut person.petname);
                tx.put(id, &person)?;
                self.sync_person(tx, &person)?;
                self.conversation_changed(tx, person.conversation)?;
                Ok(Value::Null)
            }
            Command::Block { account, blocked } => {
                let account = self.known_account(tx, &account)?;
                self.block(tx, &account, blocked).map(|()| Value::Null)
            }
            Command::Mute { conversation, muted } => self.mute(tx, conversation, muted),
            Command::Disappear { conversation, seconds } => {
                self.disappear(tx, conversation, seconds)
            }
            Command::Verify { account } => self.safety_words(tx, &account),
            Command::MarkVerified { account, verified } => {
                let account = self.known_account(tx, &account)?;
                let (id, mut person) = self.person(tx, &account)?;
                person.verified = verified;
                tx.put(id, &person)?;
                self.sync_person(tx, &person)?;
                self.conversation_changed(tx, person.conversation)?;
                Ok(Value::Null)
            }
            Command::AcceptIdentity { account } => self.accept_identity(tx, &account),
            Command::Devices {} => Ok(json!(self.view_devices()?)),
            Command::Relays {} => Ok(json!(self.view_relays(tx)?)),
            Command::AllowRelay { relay, allow } => self.allow_relay(tx, &relay, allow),
            Command::AskRelays { ask } => self.ask_relays(tx, ask),
            Command::LinkRequests {} => Ok(json!(self.link_requests(tx)?)),
            Command::ConfirmLink { device, accept } => {
                self.confirm_link(tx, &device_of(&device)?, accept).map(|()| Value::Null)
            }
            Command::RemoveDevice { device } => {
                self.remove_device(tx, &device_of(&device)?).map(|()| Value::Null)
            }
            Command::Rename { name } => self.rename(tx, &name),
            Command::Export { passphrase } => {
                let file = self.export(tx, &passphrase)?;
                Ok(json!(Exported { file: data_encoding::BASE64.encode(&file) }))
            }
            Command::Subscribe {} => Ok(Value::Null),
            Command::Shutdown {} => {
                self.stop(None);
                Ok(Value::Null)
            }
            Command::Invite {}
            | Command::Join { .. }
            | Command::GroupCreate { .. }
            | Command::GroupAdd { .. }
            | Command::GroupRemove { .. }
            | Command::GroupRename { .. }
            | Command::LinkDevice { .. }
            | Command::Settle { .. } => Ok(Value::Null),
        }
    }

    fn send(
        &mut self,
        tx: &Transaction<'_>,
        number: i64,
        text: String,
        key: Option<String>,
    ) -> Result<Value, Fault> {
        let key = key.map(String::into_bytes);
        if let Some(key) = &key
            && let Some((_, sent)) = tx.find::<state::SendKey>(key)?
        {
            return Ok(json!(Sent { message: sent.message }));
        }
        if text.len() > crate::TEXT_BYTES_MAX {
            let text = format!("a message has at most {} bytes", crate::TEXT_BYTES_MAX);
            return Err(Fault::refused("too_long", text));
        }
        let (row, found) = self.open_conversation(tx, number)?;
        let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let message = state::Message {
            conversation: number,
            kind: TEXT,
            account: self.me.account.clone(),
            mine: true,
            text: text.clone(),
            sent_ms: now_ms(),
            state: MessageState::Sending as u32,
            disappears_after: found.timer,
            stream: stored.stream.clone(),
            counter: stored.next_counter,
            group: row,
            ..Default::default()
        };
        let sent_ms = message.sent_ms;
        let id = tx.insert(&message)?;
        let body = Some(Body::Text(text));
        let content = wire::Content { sent_ms, disappears_after: found.timer, body };
        self.say(tx, row, &content, id)?;
        if let Some(key) = key {
            let due = i64::try_from(now_ms() + SEND_KEY_MS).unwrap_or(i64::MAX);
            tx.insert(&state::SendKey { key, message: id, due })?;
        }
        let message = self.view_message(tx, id, message)?;
        self.emit(crate::api::Event::Message { message });
        self.conversation_changed(tx, number)?;
        Ok(json!(Sent { message: id }))
    }

    /// The group of a conversation in which something can be said.
    pub(super) fn open_conversation(
        &mut self,
        tx: &Transaction<'_>,
        number: i64,
    ) -> Result<(i64, state::Conversation), Fault> {
        let found = self.conversation(tx, number)?;
        let view = self.view_conversation(tx, number, found.clone())?;
        if let Some(why) = view.closed {
            return Err(Fault::refused("closed", why));
        }
        Ok((found.group, found))
    }

    pub(super) fn check_group(&mut self, tx: &Transaction<'_>, number: i64) -> Result<i64, Fault> {
        let (row, found) = self.open_conversation(tx, number)?;
        if found.kind != Kind::Group as u32 {
            let text = "this is a conversation of two; make a group with `group create`";
            return Err(Fault::refused("not_a_group", text));
        }
        Ok(row)
    }

    /// A group whose slots can be read and written.
    fn check_changeable(&mut self, tx: &Transaction<'_>, number: i64) -> Result<i64, Fault> {
        let row = self.check_group(tx, number)?;
        let home = tx.get::<state::Group>(row)?.unwrap_or_default().home;
        if !self.may_reach(&home) {
            self.refuse_new(tx, &[home], &[])?;
        }
        Ok(row)
    }

    /// A contact's account, whose devices we know how to reach.
    pub(super) fn known_account(&self, tx: &Transaction<'_>, text: &str) -> Result<Vec<u8>, Fault> {
        let account = account_of(text)?;
        let known = tx.find::<state::Person>(&account)?;
        known.map(|_| account).ok_or_else(|| {
            let text = "this account is no contact; `contacts` shows all, `invite` makes one";
            Fault::refused("unknown_account", text)
        })
    }

    fn check_members(
        &self,
        tx: &Transaction<'_>,
        name: &str,
        members: &[String],
    ) -> Result<Vec<Vec<u8>>, Fault> {
        check_name(name)?;
        let mut accounts = Vec::new();
        for member in members {
            let account = self.known_account(tx, member)?;
            if !accounts.contains(&account) && account != self.me.account {
                accounts.push(account);
            }
        }
        Ok(accounts)
    }
}

/// A relay's invite code, as it goes into a link; empty: none.
fn join_code_of(text: Option<&str>) -> Result<Vec<u8>, Fault> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let code = Token::from_text(text.trim()).map_err(|error| {
        Fault::refused("bad_code", format!("this is no invite code of a relay: {error}"))
    })?;
    Ok(code.as_bytes().to_vec())
}

/// A name that can be shown.
pub(super) fn check_name(name: &str) -> Result<String, Fault> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > 64 || name.chars().any(char::is_control) {
        let text = "a name has 1 to 64 characters and no line breaks";
        return Err(Fault::refused("bad_name", text));
    }
    Ok(name.to_owned())
}
