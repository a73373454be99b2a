//! What others may do to an engine, with the real relay between: whoever has an address, a link or a
//! group can send anything.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers included")]

#[path = "../../../tests/common/mod.rs"]
mod common;

mod again;
mod agreement;
mod decisions;
mod hostile;
mod lost;
mod members;
mod own;

use bytes::Bytes;
use common::{Person, passphrase};
use prost::Message as _;
use valise_client::{Dial, random};
use valise_proto::{RelayAddress, Token};

use super::records::{ONLY, state};
use crate::identity::InviteLink;
use crate::seal::item;
use crate::vault::{Transaction, Vault, VaultError};
use crate::wire;

/// What somebody's invite opens.
async fn open_invite(link: &str) -> wire::Card {
    let link: InviteLink = link.parse().unwrap();
    let value = read_slot(&link.relay, link.slot()).await;
    wire::Card::decode(item::open(&link.key(), &value).unwrap().as_slice()).unwrap()
}

/// What the link of a new device opens.
async fn open_link(link: &str) -> wire::LinkOffer {
    let link: InviteLink = link.parse().unwrap();
    let value = read_slot(&link.relay, link.device_slot()).await;
    wire::LinkOffer::decode(item::open(&link.device_key(), &value).unwrap().as_slice()).unwrap()
}

async fn read_slot(relay: &RelayAddress, slot: valise_proto::SlotId) -> Bytes {
    let (connection, _incoming) = valise_client::connect(&Dial::new(relay.clone())).await.unwrap();
    let values = connection.get_slots(&[slot]).await.unwrap();
    connection.close().await;
    values.into_iter().next().flatten().unwrap()
}

/// Posts payloads, one after the other, to an address.
async fn post(to: &wire::Address, payloads: &[Bytes]) {
    let relay: RelayAddress = to.relay.parse().unwrap();
    let (connection, _incoming) = valise_client::connect(&Dial::new(relay)).await.unwrap();
    let capability = Token::try_from(to.capability.as_slice()).unwrap();
    for payload in payloads {
        let posted = connection.post(random::frame_id(), &[capability], 0, payload.clone()).await;
        assert_eq!(posted.unwrap().outcomes, [Some(valise_proto::Reason::Accepted)]);
    }
    connection.close().await;
}

/// Looks into, or changes, the profile of somebody whose engine is closed.
fn look<R>(person: &Person, look: impl FnOnce(&Transaction<'_>) -> Result<R, VaultError>) -> R {
    Vault::open(&person.path(), &passphrase()).unwrap().write(look).unwrap()
}

fn me(tx: &Transaction<'_>) -> Result<state::Me, VaultError> {
    Ok(tx.get(ONLY)?.unwrap())
}

/// What somebody's device could say in a group, by its stored state.
struct Voice {
    group: crate::mls::Group,
    device: crate::mls::Device,
    /// Where the others are.
    targets: Vec<state::Target>,
}

impl Voice {
    /// Of the group with this title; the engine is closed.
    fn of(person: &Person, title: &str) -> Self {
        look(person, |tx| {
            let conversations = tx.all::<state::Conversation>()?;
            let found = conversations.into_iter().find(|(_, found)| found.title == title);
            let row = found.unwrap().1.group;
            let stored: state::Group = tx.get(row)?.unwrap();
            let entries = tx.children::<state::MlsEntry>(row)?;
            let entries = entries.into_iter().map(|(_, entry)| (entry.key, entry.value)).collect();
            let targets = tx.children::<state::Target>(row)?.into_iter().map(|(_, target)| target);
            Ok(Self {
                group: crate::mls::Group::load(&stored.id, entries).unwrap(),
                device: super::own::device(&me(tx)?).unwrap(),
                targets: targets.collect(),
            })
        })
    }

    /// Says something to one device, out of order.
    async fn say(&mut self, to: &wire::Address, body: wire::content::Body) {
        let content = wire::Content { sent_ms: 1, body: Some(body), ..Default::default() };
        let message = self.group.encrypt(&self.device, &content.encode_to_vec(), &[0; 24]).unwrap();
        let envelope = wire::Envelope { messages: vec![message], ..Default::default() };
        let payload = crate::seal::frame::seal(&self.group.keys(), &envelope).unwrap();
        post(to, &[payload]).await;
    }
}
