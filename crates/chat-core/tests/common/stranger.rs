//! Somebody who keeps to no rules: the keys of a device and a connection, without an engine.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::time::sleep;
use valise_chat_core::identity::{AccountId, DeviceId, InviteLink, RootKey, SignedRecord};
use valise_chat_core::mls::{Change, Device, Group};
use valise_chat_core::seal::{HpkePublicKey, ItemKey, greeting, item};
use valise_chat_core::wire::{self, group_info::Kind};
use valise_client::{Connection, Dial, Incoming, OwnerKeyPair, SlotPut, random};
use valise_proto::{FrameId, PutId, Reason, RelayAddress, SlotId, Token, TokenKind};

pub struct Stranger {
    pub device: Device,
    pub connection: Connection,
    relay: RelayAddress,
    slot_token: Token,
    capability: Token,
    _incoming: Incoming,
}

impl Stranger {
    /// A device with a mailbox at the relay, which it does not read.
    pub async fn new(relay: &RelayAddress) -> Self {
        let seed: [u8; 32] = random::bytes();
        let key = Device::public_key(&seed);
        let root = RootKey::generate();
        let credential = root.certify(AccountId(random::bytes()), DeviceId(random::bytes()), &key);
        let device = Device::new(credential, &seed);
        let owner = OwnerKeyPair::from_seed(&random::bytes());
        let (connection, incoming) =
            valise_client::connect(&Dial::new(relay.clone())).await.unwrap();
        let member = connection.join(&owner, None).await.unwrap();
        let attachment = connection.attach(&owner, &member).await.unwrap();
        let issue = async |kind| connection.issue(attachment, kind, 1, 30, 0).await.unwrap()[0];
        let (slot_token, capability) = (issue(TokenKind::Slot).await, issue(TokenKind::Post).await);
        let relay = relay.clone();
        Self { device, connection, relay, slot_token, capability, _incoming: incoming }
    }

    /// What an invite opens.
    pub async fn card(&self, link: &str) -> wire::Card {
        let link: InviteLink = link.parse().unwrap();
        let value = self.connection.get_slots(&[link.slot()]).await.unwrap().remove(0).unwrap();
        wire::Card::decode(item::open(&link.key(), &value).unwrap().as_slice()).unwrap()
    }

    /// A group that it makes, with everyone whose invites these are.
    pub async fn found_group(&self, name: &str, links: &[String]) -> Group {
        let info = wire::GroupInfo {
            kind: Kind::Group as i32,
            name: name.to_owned(),
            home: self.relay.to_string(),
            slot_token: self.slot_token.as_bytes().to_vec(),
            slot_token_ms: 0,
        };
        let address = wire::Address {
            relay: self.relay.to_string(),
            capability: self.capability.as_bytes().to_vec(),
        };
        let member = wire::Member {
            address: Some(address),
            name: "Mallory".to_owned(),
            hpke_key: vec![9; 32],
        };
        let mut group = Group::create(&self.device, random::bytes(), &info, &member).unwrap();
        let (mut change, mut newcomers) = (Change::default(), Vec::new());
        for link in links {
            let card = self.card(link).await;
            let record = SignedRecord::try_from(card.record.unwrap()).unwrap();
            let (device, known) = (&card.devices[0], &record.record().devices[0]);
            let take = Token::try_from(device.take_token.as_slice()).unwrap();
            let taken = self.connection.take_bundle(&take).await.unwrap();
            let key = ItemKey::try_from(device.bundle_key.as_slice()).unwrap();
            change.add.push(item::open(&key, &taken.payload).unwrap().to_vec());
            let capability = device.address.as_ref().unwrap().capability.as_slice();
            newcomers.push((known.hpke_key, Token::try_from(capability).unwrap()));
        }
        let prepared = group.prepare(&self.device, change).unwrap();
        group.merge_own().unwrap();
        let body = Some(wire::greeting::Body::Welcome(prepared.welcome.unwrap()));
        let greeting = wire::Greeting { body, invite: Vec::new() };
        for (key, capability) in newcomers {
            for payload in greeting::seal(&HpkePublicKey(key), &greeting).unwrap() {
                self.post(&capability, payload).await;
            }
        }
        group
    }

    pub async fn post(&self, capability: &Token, payload: Bytes) {
        let frame_id = FrameId::new(random::bytes());
        let posted = self.connection.post(frame_id, &[*capability], 1, payload).await.unwrap();
        assert_eq!(posted.outcomes, [Some(Reason::Accepted)]);
    }

    /// Posts so many frames that nobody can open, as fast as the mailbox takes them.
    pub async fn flood(&self, capability: &Token, count: usize) {
        for _ in 0..count {
            let (frame_id, to) = (FrameId::new(random::bytes()), [*capability]);
            let junk = Bytes::from(random::bytes::<512>().to_vec());
            loop {
                let posted = self.connection.post(frame_id, &to, 1, junk.clone()).await.unwrap();
                match posted.outcomes[..] {
                    [Some(Reason::Accepted)] => break,
                    [Some(Reason::MailboxFull)] => sleep(Duration::from_millis(50)).await,
                    _ => panic!("{:?}", posted.outcomes),
                }
            }
        }
    }

    pub async fn put(&self, slot: SlotId, value: Bytes) -> SlotPut {
        let put_id = PutId::new(random::bytes());
        self.connection.put_slot(&self.slot_token, slot, put_id, value).await.unwrap()
    }
}
