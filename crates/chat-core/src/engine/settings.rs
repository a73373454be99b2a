//! What a user decides about people and conversations.

use std::time::Instant;

use serde_json::{Value, json};

use super::commands::check_name;
use super::content::in_words;
use super::core::{Core, now_ms};
use super::fault::Fault;
use super::people::record_root;
use super::people::short;
use super::records::state;
use super::view::account_text;
use crate::api::{Settled, Words};
use crate::identity::words;
use crate::vault::Transaction;
use crate::wire::{self, content::Body};

impl Core {
    /// How to reach all devices of some accounts, and the other ones of our own.
    pub(super) fn cards_of(
        &mut self,
        tx: &Transaction<'_>,
        accounts: &[Vec<u8>],
    ) -> Result<Vec<wire::DeviceCard>, Fault> {
        use prost::Message as _;
        let mut cards = Vec::new();
        for account in accounts {
            let person = tx.find::<state::Person>(account)?.map(|(_, person)| person);
            let person = person.unwrap_or_default();
            if person.identity_reset {
                let name = self.name_of(tx, account, None)?;
                let text = format!("the account key of {name} has changed: decide first");
                return Err(Fault::refused("identity_reset", text));
            }
            match wire::Card::decode(person.card.as_slice()) {
                Ok(card) if !card.devices.is_empty() => cards.extend(card.devices),
                _ => {
                    let text = format!("{} cannot be reached yet", short(account));
                    return Err(Fault::refused("not_reachable", text));
                }
            }
        }
        for (_, sibling) in tx.all::<state::Sibling>()? {
            if let Ok(card) = wire::DeviceCard::decode(sibling.card.as_slice()) {
                cards.push(card);
            }
        }
        self.require(tx, &cards, &[])?;
        Ok(cards)
    }

    pub(super) fn leave(&mut self, tx: &Transaction<'_>, number: i64) -> Result<Value, Fault> {
        let row = self.check_group(tx, number)?;
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let body = Some(Body::Leave(true));
        let content = wire::Content { sent_ms: now_ms(), body, ..Default::default() };
        stored.left = true;
        tx.put(row, &stored)?;
        self.say(tx, row, &content, 0)?;
        let mut found = self.conversation(tx, number)?;
        found.closed = "you have left this group".to_owned();
        tx.put(number, &found)?;
        self.conversation_changed(tx, number)?;
        Ok(Value::Null)
    }

    pub(super) fn mute(
        &mut self,
        tx: &Transaction<'_>,
        number: i64,
        muted: bool,
    ) -> Result<Value, Fault> {
        let mut found = self.conversation(tx, number)?;
        found.muted = muted;
        tx.put(number, &found)?;
        if let Some(stored) = tx.get::<state::Group>(found.group)? {
            let settings = wire::ConversationSync { group: stored.id, muted };
            self.tell_siblings(tx, wire::sync::Body::Conversation(settings))?;
        }
        self.conversation_changed(tx, number)?;
        Ok(Value::Null)
    }

    pub(super) fn disappear(
        &mut self,
        tx: &Transaction<'_>,
        number: i64,
        seconds: u32,
    ) -> Result<Value, Fault> {
        let (row, mut found) = self.open_conversation(tx, number)?;
        if found.timer != seconds {
            found.timer = seconds;
            tx.put(number, &found)?;
            let body = Some(Body::Timer(seconds));
            let content = wire::Content { sent_ms: now_ms(), body, ..Default::default() };
            self.say(tx, row, &content, 0)?;
            let text = match seconds {
                0 => "you keep messages from now on".to_owned(),
                _ => format!("you let messages disappear after {}", in_words(seconds)),
            };
            self.add_notice(tx, number, &text)?;
        }
        Ok(Value::Null)
    }

    pub(super) fn safety_words(
        &mut self,
        tx: &Transaction<'_>,
        account: &str,
    ) -> Result<Value, Fault> {
        let account = self.known_account(tx, account)?;
        let (_, person) = self.person(tx, &account)?;
        let (known, own) = (self.root_of(&person), self.own_root()?);
        // While a new identity waits for a decision, its words are what there is to compare.
        let new = record_root(&person.reset_record).filter(|_| person.identity_reset);
        let theirs = known.map(|(account, root)| (account, new.unwrap_or(root)));
        let Some(theirs) = theirs else {
            let text = "nothing is known of this account's key yet; wait for a first message";
            return Err(Fault::refused("no_key", text));
        };
        let words = words::safety_words((&own.0, &own.1), (&theirs.0, &theirs.1));
        let name = self.name_of(tx, &account, None)?;
        let next = if person.identity_reset {
            words::next_after_reset(&name)
        } else {
            words::next(&name, person.verified)
        };
        let words = words.iter().map(ToString::to_string).collect();
        Ok(json!(Words { name, words, verified: person.verified, next }))
    }

    pub(super) fn accept_identity(
        &mut self,
        tx: &Transaction<'_>,
        account: &str,
    ) -> Result<Value, Fault> {
        let account = self.known_account(tx, account)?;
        let (id, mut person) = self.person(tx, &account)?;
        if !person.identity_reset {
            let text = format!("the account key of {} has not changed", account_text(&account));
            return Err(Fault::refused("no_reset", text));
        }
        person.identity_reset = false;
        person.verified = false;
        // There is none where a program of before froze the contact without one: what is known stays.
        if !person.reset_record.is_empty() {
            person.signed_record = std::mem::take(&mut person.reset_record);
            person.root_key.clear();
        }
        tx.put(id, &person)?;
        self.tell_claims_of(tx, &account)?;
        self.conversation_changed(tx, person.conversation)?;
        Ok(Value::Null)
    }

    pub(super) fn rename(&mut self, tx: &Transaction<'_>, name: &str) -> Result<Value, Fault> {
        self.me.name = check_name(name)?;
        self.me.card_version += 1;
        self.save_me(tx)?;
        for (row, stored) in tx.all::<state::Group>()? {
            if stored.active && stored.conversation != 0 {
                let body = Some(Body::Name(self.me.name.clone()));
                let content = wire::Content { sent_ms: now_ms(), body, ..Default::default() };
                self.say(tx, row, &content, 0)?;
            }
        }
        Ok(Value::Null)
    }

    /// Answers those who wait until everything is sent.
    pub(super) fn answer_settling(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        if self.settling.is_empty() {
            return Ok(());
        }
        let sending = self.sending(tx)?;
        // Greetings, cards and receipts are no messages, and have to go out all the same.
        let is_quiet = sending == 0
            && self.jobs == 0
            && (self.receipts_at.is_none() || !self.is_caught_up)
            && self.wanted.is_empty()
            && self.committing.is_empty();
        let now = Instant::now();
        for (until, reply) in std::mem::take(&mut self.settling) {
            if is_quiet || until <= now {
                self.answer_now(reply, Ok(json!(Settled { sending })));
            } else {
                self.settling.push((until, reply));
            }
        }
        Ok(())
    }
}
