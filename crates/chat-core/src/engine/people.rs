//! The people of a profile: who they are, what they are called, how their devices are reached.

use prost::Message as _;

use super::cards::merged;
use super::core::{Core, now_ms};
use super::fault::Fault;
use super::outgoing::bytes_of;
use super::records::state;
use crate::identity::{AccountId, SignedRecord, Verdict, is_sound};
use crate::vault::Transaction;
use crate::wire::{self, content::Body, group_info::Kind};

impl Core {
    /// What somebody is called here: by the petname, else by the own name, else by the account.
    pub(super) fn name_of(
        &self,
        tx: &Transaction<'_>,
        account: &[u8],
        own_name: Option<&str>,
    ) -> Result<String, Fault> {
        if account == self.me.account {
            return Ok("you".to_owned());
        }
        let person = tx.find::<state::Person>(account)?.map(|(_, person)| person);
        let names = person.map(|person| [person.petname, person.name]);
        let known = names.into_iter().flatten().find(|name| !name.is_empty());
        let name = known.or(own_name.filter(|name| !name.is_empty()).map(str::to_owned));
        Ok(name.map_or_else(|| short(account), |name| presentable(&name)))
    }

    pub(super) fn is_blocked(&self, tx: &Transaction<'_>, account: &[u8]) -> Result<bool, Fault> {
        Ok(tx.find::<state::Person>(account)?.is_some_and(|(_, person)| person.blocked))
    }

    /// The row of a person by its account, made if there is none.
    pub(super) fn person(
        &mut self,
        tx: &Transaction<'_>,
        account: &[u8],
    ) -> Result<(i64, state::Person), Fault> {
        if let Some(found) = tx.find::<state::Person>(account)? {
            return Ok(found);
        }
        let person = state::Person { account: account.to_vec(), ..Default::default() };
        Ok((tx.insert(&person)?, person))
    }

    /// Whether the record follows from what is known; takes it over if so.
    pub(super) fn judge_record(
        &mut self,
        tx: &Transaction<'_>,
        person: &mut state::Person,
        card: &wire::Card,
    ) -> Result<bool, Fault> {
        let Some(wire_record) = card.record.as_ref().filter(|_| is_sound(card)) else {
            return Ok(false);
        };
        let Ok(incoming) = SignedRecord::try_from(wire_record.clone()) else { return Ok(false) };
        if incoming.record().account.as_bytes()[..] != person.account[..] {
            return Ok(false);
        }
        let known = wire::SignedRecord::decode(person.signed_record.as_slice()).ok();
        let known = known.and_then(|known| SignedRecord::try_from(known).ok());
        let Ok(verdict) = crate::identity::judge(known.as_ref(), &incoming) else {
            return Ok(false);
        };
        // Before there is a record, the leaf with which the conversation began has a root.
        let is_pinned = bytes_of::<32>(&person.root_key).is_ok_and(|pinned| {
            verdict == Verdict::First && pinned != *incoming.record().root_key.as_bytes()
        });
        let verdict = if is_pinned { Verdict::Reset } else { verdict };
        let is_fork = matches!(verdict, Verdict::Fork | Verdict::Newer { forked: true, .. });
        if let Some(known) = known.filter(|_| is_fork)
            && super::forks::is_news(&mut person.forks, &known, &incoming)
        {
            self.person_notice(
                tx,
                person,
                "has changed its list of devices in two ways at once. Two devices of one person can do that, and so can \
                 somebody who has stolen the account key. Ask in person; if it was not wanted, block this contact \
                 and exchange invites with a new account.",
            )?;
        }
        match verdict {
            Verdict::Same => Ok(true),
            Verdict::Older | Verdict::Fork => Ok(false),
            Verdict::First | Verdict::Newer { .. } => {
                if let Verdict::Newer { root_changed: true, .. } = verdict {
                    person.verified = false;
                    self.person_notice(
                        tx,
                        person,
                        "has a new account key, signed by the old one. Compare the safety words again.",
                    )?;
                }
                let is_new_key = !matches!(verdict, Verdict::Newer { root_changed: false, .. });
                person.signed_record = wire_record.encode_to_vec();
                if is_new_key {
                    // Groups are looked through with what is known from now on.
                    let (id, _) = self.person(tx, &person.account)?;
                    tx.put(id, person)?;
                    self.tell_claims_of(tx, &person.account)?;
                }
                Ok(true)
            }
            Verdict::Reset => {
                // What the user decides about is the last one, and its words are what `verify` shows.
                let reset_record = wire_record.encode_to_vec();
                if record_root(&person.reset_record) != record_root(&reset_record) {
                    person.identity_reset = true;
                    person.verified = false;
                    person.reset_record = reset_record;
                    self.person_notice(
                        tx,
                        person,
                        "has an account key that does not follow from the one you know. Nothing is sent until you decide: \
                         ask in person, then accept the new identity, or block it.",
                    )?;
                }
                Ok(false)
            }
        }
    }

    fn person_notice(
        &mut self,
        tx: &Transaction<'_>,
        person: &state::Person,
        text: &str,
    ) -> Result<(), Fault> {
        let name = [&person.petname, &person.name].into_iter().find(|name| !name.is_empty());
        let name = name.map_or_else(|| short(&person.account), |name| presentable(name));
        let text = format!("{name} {text}");
        match person.conversation {
            0 => {
                self.notice(text);
                Ok(())
            }
            conversation => self.add_notice(tx, conversation, &text),
        }
    }

    /// The direct conversation with an account, made if there is none.
    pub(super) fn direct_conversation(
        &mut self,
        tx: &Transaction<'_>,
        account: &[u8],
    ) -> Result<i64, Fault> {
        let (id, mut person) = self.person(tx, account)?;
        if person.conversation != 0 {
            return Ok(person.conversation);
        }
        let conversation = state::Conversation {
            kind: Kind::Direct as u32,
            account: account.to_vec(),
            ..Default::default()
        };
        person.conversation = tx.insert(&conversation)?;
        tx.put(id, &person)?;
        Ok(person.conversation)
    }

    /// Whether the account's record lists the device.
    pub(super) fn is_own_device(&self, device: &[u8]) -> Result<bool, Fault> {
        let record = SignedRecord::try_from(self.own_record()?);
        let record = record.map_err(|_| Fault::damaged("the account's record"))?;
        Ok(record.record().devices.iter().any(|found| found.device.as_bytes()[..] == *device))
    }

    /// What another device of this account knows or has decided about a contact.
    pub(super) fn contact_synced(
        &mut self,
        tx: &Transaction<'_>,
        contact: wire::ContactSync,
    ) -> Result<(), Fault> {
        let Some(card) = contact.card else { return Ok(()) };
        let record = card.record.clone().and_then(|record| SignedRecord::try_from(record).ok());
        let Some(record) = record else { return Ok(()) };
        let account = record.record().account.as_bytes().to_vec();
        if account == self.me.account {
            return Ok(());
        }
        let (id, mut person) = self.person(tx, &account)?;
        let follows = self.judge_record(tx, &mut person, &card)?;
        if follows {
            person.name.clone_from(&card.name);
            person.card = merged(&person.card, card, None).encode_to_vec();
        }
        // A card that is only newer must not undo what was decided here meanwhile.
        if contact.decided {
            person.petname = contact.petname;
            person.verified = contact.verified && follows;
        }
        if !contact.decided || person.blocked == contact.blocked {
            tx.put(id, &person)?;
        } else {
            self.set_blocked(tx, (id, &mut person), contact.blocked)?;
            self.upkeep(tx)?;
        }
        self.conversation_changed(tx, person.conversation)
    }

    /// Tells this account's other devices something.
    pub(super) fn tell_siblings(
        &mut self,
        tx: &Transaction<'_>,
        body: wire::sync::Body,
    ) -> Result<(), Fault> {
        for (row, stored) in tx.children::<state::Group>(0)? {
            if stored.active && tx.count::<state::Target>(row)? > 0 {
                let content = wire::Content {
                    sent_ms: now_ms(),
                    body: Some(Body::Sync(wire::Sync { body: Some(body.clone()) })),
                    ..Default::default()
                };
                self.say(tx, row, &content, 0)?;
            }
        }
        Ok(())
    }

    /// Tells the siblings what was decided about a contact.
    pub(super) fn sync_person(
        &mut self,
        tx: &Transaction<'_>,
        person: &state::Person,
    ) -> Result<(), Fault> {
        let Ok(card) = wire::Card::decode(person.card.as_slice()) else { return Ok(()) };
        let contact = wire::ContactSync {
            card: Some(card),
            petname: person.petname.clone(),
            verified: person.verified,
            blocked: person.blocked,
            decided: true,
        };
        self.tell_siblings(tx, wire::sync::Body::Contact(contact))
    }

    /// Blocks a person, or not: what it could post with is revoked, and given anew.
    pub(super) fn block(
        &mut self,
        tx: &Transaction<'_>,
        account: &[u8],
        blocked: bool,
    ) -> Result<(), Fault> {
        let (id, mut person) = self.person(tx, account)?;
        if person.blocked == blocked {
            return Ok(());
        }
        self.set_blocked(tx, (id, &mut person), blocked)?;
        self.sync_person(tx, &person)?;
        self.conversation_changed(tx, person.conversation)?;
        self.upkeep(tx)
    }

    /// Each device revokes what it gave itself, also when it was another one that was told to.
    fn set_blocked(
        &mut self,
        tx: &Transaction<'_>,
        (id, person): (i64, &mut state::Person),
        blocked: bool,
    ) -> Result<(), Fault> {
        person.blocked = blocked;
        let conversation = person.conversation;
        if blocked {
            let given = std::mem::take(&mut person.given_capability);
            self.revoke_later(tx, given, 0)?;
            let given = std::mem::take(&mut person.given_take);
            self.revoke_later(tx, given, 0)?;
            // It may have taken key packages before, and each has an address.
            self.renew_packages(tx)?;
        }
        tx.put(id, person)?;
        for (row, mut stored) in tx.children::<state::Group>(conversation)? {
            if conversation == 0 || !stored.active {
                continue;
            }
            if blocked {
                let own = std::mem::take(&mut stored.own_capability);
                self.revoke_later(tx, own, 0)?;
            } else {
                stored.address_stale = true;
                stored.card_version = 0;
            }
            tx.put(row, &stored)?;
        }
        Ok(())
    }

    /// The root key that is known of a person: by its record, or before there is one by the first leaf.
    pub(super) fn root_of(&self, person: &state::Person) -> Option<(AccountId, [u8; 32])> {
        let account = AccountId(bytes_of(&person.account).ok()?);
        match record_root(&person.signed_record) {
            Some(root) => Some((account, root)),
            None => Some((account, bytes_of(&person.root_key).ok()?)),
        }
    }
}

/// The root key of an encoded record, if it is one.
pub(super) fn record_root(signed_record: &[u8]) -> Option<[u8; 32]> {
    let record = wire::SignedRecord::decode(signed_record).ok()?;
    let record = SignedRecord::try_from(record).ok()?;
    Some(*record.record().root_key.as_bytes())
}

/// A name of somebody else, as it can be shown: whoever sends one decides what is in it.
pub(super) fn presentable(name: &str) -> String {
    name.chars().filter(|character| !character.is_control()).take(64).collect()
}

/// An account's short form, where nothing else is known.
pub(super) fn short(account: &[u8]) -> String {
    let Ok(bytes) = <[u8; 32]>::try_from(account) else { return "nobody".to_owned() };
    AccountId(bytes).to_text().chars().take(8).collect()
}
