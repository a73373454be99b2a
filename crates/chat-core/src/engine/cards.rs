//! Cards: how an account's devices are reached. Each device says its own to each contact.

use prost::Message as _;

use super::core::Core;
use super::effect::{Gather, Job, Purpose};
use super::fault::Fault;
use super::records::state;
use crate::identity::SignedRecord;
use crate::vault::Transaction;
use crate::wire;

impl Core {
    /// A contact's card, said by one of its devices: the account's record, and how the device is
    /// reached.
    pub(super) fn card(
        &mut self,
        tx: &Transaction<'_>,
        account: &[u8],
        device: &[u8],
        card: wire::Card,
    ) -> Result<(), Fault> {
        let (id, mut person) = self.person(tx, account)?;
        if !self.judge_record(tx, &mut person, &card)? {
            tx.put(id, &person)?;
            return Ok(());
        }
        if person.name != card.name {
            person.name.clone_from(&card.name);
        }
        let card = merged(&person.card, card, Some(device));
        person.card = card.encode_to_vec();
        tx.put(id, &person)?;
        let contact = wire::ContactSync {
            card: Some(card),
            petname: person.petname.clone(),
            verified: person.verified,
            blocked: person.blocked,
            decided: false,
        };
        self.tell_siblings(tx, wire::sync::Body::Contact(contact))?;
        self.conversation_changed(tx, person.conversation)
    }

    /// Devices of a card as newcomers, with their HPKE keys from the record.
    pub(super) fn newcomers(card: &wire::Card) -> Vec<(wire::DeviceCard, state::Newcomer)> {
        let record = card.record.clone().and_then(|record| SignedRecord::try_from(record).ok());
        let Some(record) = record else { return Vec::new() };
        let of = |device_card: &wire::DeviceCard| {
            let devices = &record.record().devices;
            let device = devices
                .iter()
                .find(|device| device.device.as_bytes()[..] == device_card.device[..])?;
            let address = device_card.address.clone()?;
            let newcomer = state::Newcomer {
                account: record.record().account.as_bytes().to_vec(),
                device: device_card.device.clone(),
                relay: address.relay,
                capability: address.capability,
                hpke_key: device.hpke_key.to_vec(),
                root_key: record.record().root_key.as_bytes().to_vec(),
                signature_key: device.signature_key.to_vec(),
            };
            Some((device_card.clone(), newcomer))
        };
        card.devices.iter().filter_map(of).collect()
    }

    /// This device's card for a contact. The account's other devices give it theirs themselves, so
    /// that each right is one contact's and can be ended alone.
    pub(super) fn own_card(
        &self,
        capability: Vec<u8>,
        take_token: Vec<u8>,
    ) -> Result<wire::Card, Fault> {
        let own = wire::DeviceCard {
            device: self.me.device.clone(),
            address: Some(wire::Address { relay: self.me.relay.clone(), capability }),
            take_token,
            bundle_key: self.me.bundle_key.clone(),
        };
        let (record, name) = (Some(self.own_record()?), self.me.name.clone());
        Ok(wire::Card { record, devices: vec![own], name })
    }

    /// This device's card with those of the account's other devices, as they gave them to this one.
    pub(super) fn account_card(
        &self,
        tx: &Transaction<'_>,
        capability: Vec<u8>,
        take_token: Vec<u8>,
    ) -> Result<wire::Card, Fault> {
        let mut card = self.own_card(capability, take_token)?;
        for (_, sibling) in tx.all::<state::Sibling>()? {
            if let Ok(device) = wire::DeviceCard::decode(sibling.card.as_slice()) {
                card.devices.push(device);
            }
        }
        Ok(card)
    }

    /// Another device of this account can be reached so.
    pub(super) fn sibling_card(
        &mut self,
        tx: &Transaction<'_>,
        card: wire::Card,
    ) -> Result<(), Fault> {
        self.take_own_record(tx, &card)?;
        for device in card.devices {
            if device.device == self.me.device || !self.is_own_device(&device.device)? {
                continue;
            }
            let stored =
                state::Sibling { device: device.device.clone(), card: device.encode_to_vec() };
            match tx.find::<state::Sibling>(&device.device)? {
                Some((_, old)) if old == stored => continue,
                Some((id, _)) => tx.put(id, &stored)?,
                None => drop(tx.insert(&stored)?),
            }
        }
        self.upkeep(tx)
    }

    /// Asks for fresh rights for a contact; they go out as a card.
    pub(super) fn renew_card(&mut self, account: &[u8], group: i64) {
        let what = format!("card {group}");
        if self.gathering.insert(what) {
            let gather = Gather { post: 1, take: 1, ..Default::default() };
            let account = account.to_vec();
            self.start(Job::Gather(Purpose::Card { account, group }, gather));
        }
    }
}

/// What is known of how an account's devices are reached, with a new card of it. What a device says
/// of itself counts; what another says of it, only where nothing is known. What the record no longer
/// lists goes.
pub(super) fn merged(known: &[u8], card: wire::Card, sender: Option<&[u8]>) -> wire::Card {
    let known = wire::Card::decode(known).unwrap_or_default();
    let record = card.record.clone().and_then(|record| SignedRecord::try_from(record).ok());
    let mut devices = known.devices;
    for device in card.devices {
        match devices.iter_mut().find(|found| found.device == device.device) {
            Some(found) if sender == Some(&device.device[..]) => *found = device,
            Some(_) => {}
            None => devices.push(device),
        }
    }
    devices.retain(|device| {
        record.as_ref().is_some_and(|record| {
            let mut listed = record.record().devices.iter();
            listed.any(|found| found.device.as_bytes()[..] == device.device[..])
        })
    });
    wire::Card { record: card.record, devices, name: card.name }
}
