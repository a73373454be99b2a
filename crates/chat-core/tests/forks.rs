//! Two devices of an account change its record at the same moment.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::mpsc;

use common::forge;
use common::{PATIENCE, Person, introduce, link, options, passphrase};
use prost::Message as _;
use tokio::time::timeout;
use valise_chat_core::api::{
    Command, Contact, Device, Event, Link, LinkRequest, Member, MessageKind,
};
use valise_chat_core::engine;
use valise_chat_core::identity::{RootKey, SignedRecord};
use valise_chat_core::wire;
use valise_client::testing::TestRelay;

async fn devices(person: &Person) -> Vec<String> {
    let devices: Vec<Device> = person.ask(Command::Devices {}).await;
    let mut names: Vec<_> = devices.into_iter().map(|device| device.name).collect();
    names.sort();
    names
}

async fn remove(person: &Person, name: &str) {
    let devices: Vec<Device> = person.ask(Command::Devices {}).await;
    let device = devices.into_iter().find(|device| device.name == name).unwrap().device;
    person.ask::<Option<()>>(Command::RemoveDevice { device }).await;
}

/// How often a contact was told that the account was changed in two ways.
async fn told(person: &Person, conversation: i64) -> usize {
    let messages = person.messages(conversation).await;
    let is_it = |text: &str| text.contains("two ways at once");
    messages.iter().filter(|m| m.kind == MessageKind::Notice && is_it(&m.text)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_link_and_remove_at_once_come_together() {
    let mut relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    let (with_bob, with_alice) = introduce(&alice, &bob).await;
    let phone = link(&alice, "phone").await;
    let tablet = link(&alice, "tablet").await;
    for device in [&alice, &phone, &tablet] {
        device.until("all three", async || (devices(device).await.len() == 3).then_some(())).await;
        device.conversation("Bob").await;
    }
    bob.until("all three", async || {
        let members: Vec<Member> = bob.ask(Command::Members { conversation: with_alice }).await;
        members.iter().any(|member| member.devices == 3).then_some(())
    })
    .await;
    bob.settle().await;

    // A fourth asks the laptop; while nobody hears of anybody, the laptop lets it in, and the phone
    // takes the tablet out.
    let offer = alice.ask::<Link>(Command::LinkDevice { join_code: None }).await.link;
    let fourth = Person::offline("Alice");
    let (sender, words) = mpsc::sync_channel(1);
    let path = fourth.path();
    let linking = tokio::spawn(async move {
        let shown = |words: &[String]| sender.send(words.to_vec()).unwrap();
        engine::create_linked(&path, &passphrase(), &offer, "watch", options(), shown).await
    });
    let request = alice
        .until("a device that asks", async || {
            alice.ask::<Vec<LinkRequest>>(Command::LinkRequests {}).await.pop()
        })
        .await;
    words.recv().unwrap();
    let (mut at_laptop, mut at_phone) = (alice.events(), phone.events());
    relay.kill().unwrap();
    let confirm = Command::ConfirmLink { device: request.device, accept: true };
    alice.ask::<Option<()>>(confirm).await;
    remove(&phone, "tablet").await;
    relay.restart().unwrap();

    timeout(PATIENCE, linking).await.unwrap().unwrap().unwrap();
    let fourth = fourth.start().await;
    let wanted = ["Alice's laptop", "phone", "watch"];
    for (which, device) in [("laptop", &alice), ("phone", &phone), ("watch", &fourth)] {
        let what = format!("one list of devices at the {which}");
        let is_so = async || (devices(device).await == wanted).then_some(());
        device.until(&what, is_so).await;
    }
    // Both users' screens said so, once.
    for events in [&mut at_laptop, &mut at_phone] {
        let mut notices = 0;
        while let Ok(event) = events.try_recv() {
            let is_it = |text: &str| text.contains("at the same moment");
            notices += usize::from(matches!(event, Event::Notice { text } if is_it(&text)));
        }
        assert_eq!(notices, 1);
    }
    // The contact reaches all three and nobody else, and trusts as before. Whether it has seen more than
    // what came of it is by chance.
    bob.until("three devices", async || {
        let members: Vec<Member> = bob.ask(Command::Members { conversation: with_alice }).await;
        let of_alice = members.iter().find(|member| !member.me)?;
        (of_alice.devices == 3).then_some(())
    })
    .await;
    let at_fourth = fourth.conversation("Bob").await.number;
    bob.send(with_alice, "hello all").await;
    assert_eq!(alice.texts(with_bob, 1).await, ["hello all"]);
    assert_eq!(fourth.texts(at_fourth, 1).await, ["hello all"]);
    let contacts: Vec<Contact> = bob.ask(Command::Contacts {}).await;
    assert!(contacts.iter().all(|contact| !contact.identity_reset));
    tablet
        .until("the tablet is out", async || {
            let refusal = tablet.engine().call(Command::Conversations {}).await.err()?;
            (refusal.code == "removed").then_some(())
        })
        .await;
    // Later changes go on from there, and are no news.
    remove(&alice, "watch").await;
    phone.until("two devices", async || (devices(&phone).await == wanted[..2]).then_some(())).await;
    bob.until("two devices", async || {
        let members: Vec<Member> = bob.ask(Command::Members { conversation: with_alice }).await;
        members.iter().any(|member| !member.me && member.devices == 2).then_some(())
    })
    .await;
    assert!(told(&bob, with_alice).await <= 1);
}

/// As a thief of the root key does it: a record upon an old one, not told to the other devices.
fn fork_record(thief: &Person, rival: &SignedRecord, base: &SignedRecord) {
    forge::me(thief, |me| {
        let root = RootKey::from_seed(&me.root_seed[..].try_into().unwrap());
        let record = (0..).find_map(|since_ms| {
            let device = wire::DeviceRecord {
                device: vec![9; 16],
                signature_key: vec![9; 32],
                hpke_key: vec![9; 32],
                name: "another".to_owned(),
                since_ms,
            };
            let record = base.with_device(&root, device).unwrap();
            (record.hash() < rival.hash()).then_some(record)
        });
        me.signed_record = wire::SignedRecord::from(record.unwrap()).encode_to_vec();
        me.card_version += 1;
    });
}

fn record(person: &Person) -> SignedRecord {
    let mut record = None;
    forge::me(person, |me| {
        let wire = wire::SignedRecord::decode(me.signed_record.as_slice()).unwrap();
        record = Some(SignedRecord::try_from(wire).unwrap());
    });
    record.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contact_is_told_of_a_fork_once() {
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    let (with_bob, with_alice) = introduce(&alice, &bob).await;
    let phone = link(&alice, "phone").await;
    let tablet = link(&alice, "tablet").await;
    let on_phone = phone.conversation("Bob").await.number;
    phone.until("three", async || (devices(&phone).await.len() == 3).then_some(())).await;
    let tablet = tablet.stop().await;
    alice.settle().await;
    let alice = alice.stop().await;
    let base = record(&alice);
    remove(&phone, "tablet").await;
    phone.settle().await;
    // In one stream: what came before it has come.
    phone.send(on_phone, "only us two").await;
    bob.texts(with_alice, 1).await;
    assert_eq!(told(&bob, with_alice).await, 0);
    let phone = phone.stop().await;
    fork_record(&alice, &record(&phone), &base);
    let alice = alice.start().await;
    bob.until("the notice", async || (told(&bob, with_alice).await == 1).then_some(())).await;
    // The same record again is no news.
    alice.ask::<Option<()>>(Command::Rename { name: "Alicia".to_owned() }).await;
    alice.settle().await;
    alice.send(with_bob, "it is me").await;
    bob.texts(with_alice, 2).await;
    assert_eq!(told(&bob, with_alice).await, 1);
    drop((phone, tablet));
}
