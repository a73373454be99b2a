//! Which relays may be contacted. Each sees this machine's network address, so the user is asked
//! before the first contact; until then what would go there waits. `docs/decisions/0019-*.md`.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use serde_json::Value;
use valise_proto::RelayAddress;

use super::core::Core;
use super::fault::Fault;
use super::records::{ONLY, state};
use crate::api::{Event, Relay};
use crate::vault::Transaction;
use crate::wire::{self, group_info::Kind};

/// A profile of before there was a question; what it has used is allowed when it is opened.
const BEFORE: u32 = 0;
pub(super) const ASK: u32 = 1;
const ANY: u32 = 2;

impl Core {
    /// Whether a relay may be contacted. What is no address is left to whoever uses it.
    pub(super) fn may_reach(&self, relay: &str) -> bool {
        let Ok(address) = relay.parse::<RelayAddress>() else { return true };
        self.me.relay_policy == ANY
            || address.realm == self.own_relay.realm
            || self.permitted.contains(&address.to_string())
    }

    /// The user has said yes or no.
    pub(super) fn permit(
        &mut self,
        tx: &Transaction<'_>,
        relay: &str,
        allowed: bool,
    ) -> Result<(), Fault> {
        let (row, mut stored) = stored(tx, relay)?;
        stored.allowed = allowed;
        put(tx, row, &stored)?;
        if allowed {
            self.permitted.insert(stored.address);
        } else {
            self.permitted.remove(&stored.address);
        }
        Ok(())
    }

    /// Something waits for a relay that may not be contacted yet: the user is told once, in the
    /// conversation that it is about.
    pub(super) fn ask_about(
        &mut self,
        tx: &Transaction<'_>,
        relay: &str,
        conversation: i64,
    ) -> Result<(), Fault> {
        let (row, mut stored) = stored(tx, relay)?;
        if stored.asked {
            return self.conversation_changed(tx, conversation);
        }
        stored.asked = true;
        put(tx, row, &stored)?;
        self.emit_question(tx, &stored.address)?;
        let text = self.waiting_words(tx, &stored.address)?;
        if conversation == 0 {
            self.notice(text);
            return Ok(());
        }
        self.add_notice(tx, conversation, &text)
    }

    fn emit_question(&mut self, tx: &Transaction<'_>, relay: &str) -> Result<(), Fault> {
        let people = self.used_by(tx)?.remove(relay).unwrap_or_default().into_iter().collect();
        let relay = Relay { relay: relay.to_owned(), allowed: false, own: false, people };
        self.emit(Event::Relay { relay });
        Ok(())
    }

    /// Why something waits, and what to do.
    fn waiting_words(&self, tx: &Transaction<'_>, relay: &str) -> Result<String, Fault> {
        let people: Vec<_> =
            self.used_by(tx)?.remove(relay).unwrap_or_default().into_iter().collect();
        let whose = match people.is_empty() {
            true => String::new(),
            false => format!(" (of {})", people.join(", ")),
        };
        Ok(format!(
            "What goes to the relay {}{whose} waits: it is new to you, and would see this machine's network address. To \
             allow it: valise-chat relays allow {relay} (in the terminal: /relays)",
            short(relay)
        ))
    }

    /// Why messages of a conversation wait, if they do.
    pub(super) fn waiting(
        &self,
        tx: &Transaction<'_>,
        group: i64,
    ) -> Result<Option<String>, Fault> {
        let Some(stored) = tx.get::<state::Group>(group)? else { return Ok(None) };
        let targets = tx.children::<state::Target>(group)?.into_iter();
        let mut relays = vec![stored.home];
        relays.extend(targets.map(|(_, target)| target.relay));
        let new = relays.into_iter().find(|relay| !relay.is_empty() && !self.may_reach(relay));
        new.map(|relay| self.waiting_words(tx, &written(&relay))).transpose()
    }

    /// Refuses what needs relays that may not be contacted yet, and names all of them.
    pub(super) fn require(
        &mut self,
        tx: &Transaction<'_>,
        cards: &[wire::DeviceCard],
        invite: &[u8],
    ) -> Result<(), Fault> {
        let addresses = cards.iter().filter_map(|card| card.address.as_ref());
        let relays = addresses.filter_map(|found| found.relay.parse::<RelayAddress>().ok());
        let relays: BTreeSet<String> = relays.map(|relay| relay.to_string()).collect();
        let new: Vec<_> = relays.into_iter().filter(|relay| !self.may_reach(relay)).collect();
        self.refuse_new(tx, &new, invite)
    }

    /// As [`Self::require`]; what an invite names is allowed when it is followed with the user's word.
    pub(super) fn refuse_new(
        &mut self,
        tx: &Transaction<'_>,
        new: &[String],
        invite: &[u8],
    ) -> Result<(), Fault> {
        if new.is_empty() {
            return Ok(());
        }
        for relay in new {
            let (row, mut stored) = stored(tx, relay)?;
            stored.invite = invite.to_vec();
            put(tx, row, &stored)?;
            if invite.is_empty() {
                self.emit_question(tx, relay)?;
            }
        }
        let named: Vec<_> = new.iter().map(|relay| short(relay)).collect();
        let (what, they) = match new.len() {
            1 => ("another relay", "it"),
            _ => ("other relays", "they"),
        };
        let (lead, next) = match invite.is_empty() {
            true => {
                let allow = new.iter().map(|relay| format!("valise-chat relays allow {relay}"));
                let allow: Vec<_> = allow.collect();
                ("this leads", format!("Allow it first: {}", allow.join("; ")))
            }
            false => {
                let next = "Say that you allow it (--allow-relay), or use a SOCKS5 proxy";
                ("the invite leads", next.to_owned())
            }
        };
        let text = format!(
            "{lead} to {what}, {}; {they} would see this machine's network address. {next}",
            named.join(", ")
        );
        Err(Fault::refused("new_relay", text))
    }

    /// The user follows an invite knowing which relays it names: those of the refusal before.
    pub(super) fn permit_named(
        &mut self,
        tx: &Transaction<'_>,
        invite: &[u8],
    ) -> Result<(), Fault> {
        for (_, stored) in tx.all::<state::Relay>()? {
            if stored.invite == invite && !stored.allowed {
                self.allow(tx, &stored.address, true)?;
            }
        }
        Ok(())
    }

    /// What waited for a relay goes out, or waits from now on.
    pub(super) fn allow(
        &mut self,
        tx: &Transaction<'_>,
        relay: &str,
        allowed: bool,
    ) -> Result<(), Fault> {
        self.permit(tx, relay, allowed)?;
        let sync = wire::RelaySync { relay: relay.to_owned(), allowed };
        self.tell_siblings(tx, wire::sync::Body::Relay(sync))?;
        self.permits_changed(tx)
    }

    /// Another device of the account was told so.
    pub(super) fn relay_synced(
        &mut self,
        tx: &Transaction<'_>,
        relay: wire::RelaySync,
    ) -> Result<(), Fault> {
        let Ok(address) = relay.relay.parse::<RelayAddress>() else { return Ok(()) };
        self.permit(tx, &address.to_string(), relay.allowed)?;
        self.permits_changed(tx)
    }

    fn permits_changed(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        self.lanes.release();
        self.walk_all(tx)?;
        self.resume_commits(tx)?;
        for (number, _) in tx.all::<state::Conversation>()? {
            self.conversation_changed(tx, number)?;
        }
        self.upkeep(tx)
    }

    /// The command.
    pub(super) fn allow_relay(
        &mut self,
        tx: &Transaction<'_>,
        relay: &str,
        allowed: bool,
    ) -> Result<Value, Fault> {
        let address = relay.parse::<RelayAddress>().map_err(|error| {
            Fault::refused(
                "bad_relay",
                format!("this is no relay, as in valise://HOST:PORT/REALM: {error}"),
            )
        })?;
        if address.realm == self.own_relay.realm {
            return Err(Fault::refused(
                "own_relay",
                "this is your own relay; it is always contacted",
            ));
        }
        self.allow(tx, &address.to_string(), allowed)?;
        Ok(Value::Null)
    }

    /// Whether every relay may be contacted from now on, without a question. What was used stays
    /// allowed when questions begin again.
    pub(super) fn ask_relays(&mut self, tx: &Transaction<'_>, ask: bool) -> Result<Value, Fault> {
        if ask && self.me.relay_policy == ANY {
            self.permitted.extend(allow_used(tx)?);
        }
        self.me.relay_policy = if ask { ASK } else { ANY };
        self.save_me(tx)?;
        self.permits_changed(tx)?;
        Ok(Value::Null)
    }

    /// All relays that are known, one's own first.
    pub(super) fn view_relays(&self, tx: &Transaction<'_>) -> Result<Vec<Relay>, Fault> {
        let own =
            Relay { relay: self.me.relay.clone(), allowed: true, own: true, people: Vec::new() };
        let mut used = self.used_by(tx)?;
        for (_, stored) in tx.all::<state::Relay>()? {
            used.entry(stored.address).or_default();
        }
        let is_own = |relay: &str| {
            relay.parse::<RelayAddress>().is_ok_and(|found| found.realm == self.own_relay.realm)
        };
        let others = used.into_iter().filter(|(relay, _)| !is_own(relay));
        let others = others.map(|(relay, people)| Relay {
            allowed: self.may_reach(&relay),
            own: false,
            people: people.into_iter().collect(),
            relay,
        });
        Ok(std::iter::once(own).chain(others).collect())
    }

    /// Who uses which relay.
    fn used_by(&self, tx: &Transaction<'_>) -> Result<BTreeMap<String, BTreeSet<String>>, Fault> {
        let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (relay, user) in uses(tx)? {
            let name = match user {
                User::Account(account) if account == self.me.account => continue,
                User::Account(account) => self.name_of(tx, &account, None)?,
                User::Group(title) => format!("the group {title}"),
            };
            used.entry(relay).or_default().insert(name);
        }
        Ok(used)
    }
}

/// Opens a profile of before: nobody's conversation stops.
pub(super) fn migrate(tx: &Transaction<'_>) -> Result<(), Fault> {
    let Some(mut me) = tx.get::<state::Me>(ONLY)?.filter(|me| me.relay_policy == BEFORE) else {
        return Ok(());
    };
    allow_used(tx)?;
    me.relay_policy = ASK;
    Ok(tx.put(ONLY, &me)?)
}

fn allow_used(tx: &Transaction<'_>) -> Result<BTreeSet<String>, Fault> {
    let relays: BTreeSet<String> = uses(tx)?.into_iter().map(|(relay, _)| relay).collect();
    for relay in &relays {
        let (row, stored) = stored(tx, relay)?;
        put(tx, row, &state::Relay { allowed: true, ..stored })?;
    }
    Ok(relays)
}

enum User {
    Account(Vec<u8>),
    Group(String),
}

/// Every relay that the profile would contact, and for whom.
fn uses(tx: &Transaction<'_>) -> Result<Vec<(String, User)>, Fault> {
    let mut uses = Vec::new();
    for (_, person) in tx.all::<state::Person>()? {
        let card = wire::Card::decode(person.card.as_slice()).unwrap_or_default();
        let addresses = card.devices.into_iter().filter_map(|device| device.address);
        uses.extend(addresses.map(|found| (found.relay, User::Account(person.account.clone()))));
    }
    for (row, group) in tx.all::<state::Group>()? {
        for (_, target) in tx.children::<state::Target>(row)? {
            uses.push((target.relay, User::Account(target.account)));
        }
        let found = tx.get::<state::Conversation>(group.conversation)?.unwrap_or_default();
        let user = match found.kind == Kind::Group as u32 {
            true => User::Group(super::people::presentable(&found.title)),
            false => User::Account(found.account),
        };
        uses.push((group.home, user));
    }
    for (_, coming) in tx.all::<state::ComingBack>()? {
        let members = coming.members.into_iter();
        uses.extend(members.map(|member| (member.relay, User::Account(member.account))));
    }
    // In the one form that addresses are compared in.
    let written = uses
        .into_iter()
        .filter_map(|(relay, user)| Some((relay.parse::<RelayAddress>().ok()?.to_string(), user)));
    Ok(written.collect())
}

/// The row of a relay, by its address in the one form.
fn stored(tx: &Transaction<'_>, relay: &str) -> Result<(Option<i64>, state::Relay), Fault> {
    let address = written(relay);
    Ok(match tx.find::<state::Relay>(address.as_bytes())? {
        Some((row, stored)) => (Some(row), stored),
        None => (None, state::Relay { address, ..Default::default() }),
    })
}

fn put(tx: &Transaction<'_>, row: Option<i64>, stored: &state::Relay) -> Result<(), Fault> {
    match row {
        Some(row) => tx.put(row, stored)?,
        None => drop(tx.insert(stored)?),
    }
    Ok(())
}

/// An address in the one form.
fn written(relay: &str) -> String {
    relay.parse::<RelayAddress>().map_or_else(|_| relay.to_owned(), |found| found.to_string())
}

/// Host and port, for people.
fn short(relay: &str) -> String {
    relay
        .parse::<RelayAddress>()
        .map_or_else(|_| relay.to_owned(), |found| format!("{}:{}", found.host, found.port))
}
