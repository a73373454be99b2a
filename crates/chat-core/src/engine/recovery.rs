//! Recovery: what an export holds, and how a restored account comes back into its conversations.

use prost::Message as _;
use valise_client::random;

use super::core::{Core, now_ms};
use super::delivery::GIVE_UP_AFTER_MS;
use super::effect::{Gather, Gathered, Job, Purpose};
use super::fault::Fault;
use super::records::state;
use super::view::account_text;
use crate::vault::{Cost, Passphrase, Transaction, seal_file};
use crate::wire::{self, group_info::Kind};

/// So many members of a group are asked to let a restored device in.
const MEMBERS_ASKED_MAX: usize = 8;

impl Core {
    /// Everything that brings the account back: keys, contacts, groups; no messages.
    pub(super) fn export(
        &mut self,
        tx: &Transaction<'_>,
        passphrase: &str,
    ) -> Result<Vec<u8>, Fault> {
        if passphrase.is_empty() {
            let text = "an export holds the account's key: give it a passphrase";
            return Err(Fault::refused("no_passphrase", text));
        }
        let mut contacts = Vec::new();
        for (_, person) in tx.all::<state::Person>()? {
            if let Ok(card) = wire::Card::decode(person.card.as_slice()) {
                let contact = wire::ContactSync {
                    card: Some(card),
                    petname: person.petname,
                    verified: person.verified,
                    blocked: person.blocked,
                    decided: true,
                };
                contacts.push(contact.encode_to_vec());
            }
        }
        let mut groups = Vec::new();
        for (row, stored) in tx.all::<state::Group>()? {
            if stored.active && stored.kind == Kind::Group as u32 {
                let mut members = self.members_of(tx, row)?;
                members.retain(|member| member.account != self.me.account);
                members.truncate(MEMBERS_ASKED_MAX);
                let title = self.conversation(tx, stored.conversation)?.title;
                groups.push(state::ComingBack { group: stored.id, title, members });
            }
        }
        let export = state::Export {
            account: self.me.account.clone(),
            root_seed: self.me.root_seed.clone(),
            notice_secret: self.me.notice_secret.clone(),
            signed_record: self.me.signed_record.clone(),
            name: self.me.name.clone(),
            relay: self.me.relay.clone(),
            contacts,
            groups,
            relays: self.permitted.iter().cloned().collect(),
            relay_policy: self.me.relay_policy,
        };
        let passphrase = Passphrase::from(passphrase);
        seal_file(&passphrase, Cost::default(), &export.encode_to_vec()).map_err(Fault::from)
    }

    /// After a restore: a new conversation with each contact, and a request to each group.
    pub(super) fn restore(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        if !self.me.restoring || !self.me.bundle_published {
            return Ok(());
        }
        // What is left to do is read from what is there, so that a crash or a relay that is away for a
        // while ends nothing. Who could not be reached is tried again with the next start.
        let mut is_done = true;
        for (_, person) in tx.all::<state::Person>()? {
            let Ok(card) = wire::Card::decode(person.card.as_slice()) else { continue };
            if person.blocked || person.conversation != 0 {
                continue;
            }
            is_done = false;
            if !self.gathering.insert(format!("greet {}", account_text(&person.account))) {
                continue;
            }
            let relays = card.devices.iter().filter_map(|device| device.address.as_ref());
            if let Some(new) = relays.map(|found| &found.relay).find(|relay| !self.may_reach(relay))
            {
                self.ask_about(tx, new, 0)?;
                continue;
            }
            let gather =
                Gather { post: 1, slot: true, cards: card.devices.clone(), ..Default::default() };
            let card = Box::new(card);
            self.start(Job::Gather(
                Purpose::Greet { card, invite: Vec::new(), ticket: None },
                gather,
            ));
        }
        for (row, _) in tx.all::<state::ComingBack>()? {
            is_done = false;
            if self.gathering.insert(format!("come back {row}")) {
                let gather = Gather { post: 1, ..Default::default() };
                self.start(Job::Gather(Purpose::ComeBack { row }, gather));
            }
        }
        if is_done || self.me.device_since_ms + GIVE_UP_AFTER_MS < now_ms() {
            self.me.restoring = false;
            self.save_me(tx)?;
        }
        Ok(())
    }

    pub(super) fn come_back(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        gathered: &Gathered,
    ) -> Result<(), Fault> {
        let Some(coming) = tx.get::<state::ComingBack>(row)? else { return Ok(()) };
        let Some(capability) = gathered.post.first() else { return Ok(()) };
        let capability = capability.as_bytes().to_vec();
        self.send_rejoin(tx, coming.group, capability, &coming.members)?;
        tx.remove::<state::ComingBack>(row)?;
        Ok(())
    }
}

/// A new device for an account that comes from an export: all devices before are given up.
pub(super) fn from_export(export: &state::Export) -> state::Me {
    state::Me {
        account: export.account.clone(),
        root_seed: export.root_seed.clone(),
        notice_secret: export.notice_secret.clone(),
        name: export.name.clone(),
        relay: export.relay.clone(),
        signed_record: export.signed_record.clone(),
        restoring: true,
        relay_policy: export.relay_policy,
        card_version: 1,
        device: random::bytes::<16>().to_vec(),
        ..Default::default()
    }
}
