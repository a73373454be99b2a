//! Several devices of one account, and an account that comes back from its export.

#![allow(clippy::unwrap_used)]

mod common;

use common::forge;
use common::{Person, introduce, link, link_with, options, passphrase};
use data_encoding::BASE64;
use prost::Message as _;
use valise_chat_core::api::{
    Command, Contact, Device, Exported, Joined, Member, MessageState, Words,
};
use valise_chat_core::engine::{self, Engine};
use valise_chat_core::vault::Passphrase;
use valise_chat_core::wire;
use valise_client::testing::TestRelay;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_device_takes_part_in_everything_until_it_is_removed() {
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    let (with_bob, with_alice) = introduce(&alice, &bob).await;
    let phone = link(&alice, "phone").await;
    let on_phone = phone.conversation("Bob").await.number;
    let text = bob.send(with_alice, "to both").await;
    assert_eq!(alice.texts(with_bob, 1).await, ["to both"]);
    assert_eq!(phone.texts(on_phone, 1).await, ["to both"]);
    bob.state(with_alice, text, MessageState::Delivered).await;
    phone.send(on_phone, "from the phone").await;
    assert_eq!(bob.texts(with_alice, 2).await[1], "from the phone");
    let own = alice.texts(with_bob, 2).await;
    assert_eq!(own[1], "from the phone");
    assert!(alice.messages(with_bob).await.last().unwrap().mine);

    // What is decided on one holds on the other.
    let account = alice.contact("Bob").await.account;
    let petname = Command::Petname { account: account.clone(), name: "Bobby".to_owned() };
    alice.ask::<Option<()>>(petname).await;
    phone.conversation("Bobby").await;

    // Whoever is met later has both devices too, and a group has them.
    let carol = Person::new("Carol", &address).await;
    let (_, with_alice_c) = introduce(&phone, &carol).await;
    carol.send(with_alice_c, "hello Alice").await;
    let there = alice.conversation("Carol").await.number;
    assert_eq!(alice.texts(there, 1).await, ["hello Alice"]);
    let create = Command::GroupCreate { name: "All".to_owned(), members: vec![account] };
    phone.ask::<Joined>(create).await;
    let group = alice.conversation("All").await.number;
    alice.send(group, "in the group").await;
    let at_bob = bob.conversation("All").await.number;
    assert_eq!(bob.texts(at_bob, 1).await, ["in the group"]);

    // Nobody is a contact of one's own.
    for device in [&alice, &phone] {
        let contacts: Vec<Contact> = device.ask(Command::Contacts {}).await;
        assert_eq!(contacts.len(), 2, "Bob and Carol");
    }
    let devices: Vec<Device> = alice.ask(Command::Devices {}).await;
    assert_eq!(devices.len(), 2);
    let lost = devices.into_iter().find(|device| !device.this).unwrap();
    alice.ask::<Option<()>>(Command::RemoveDevice { device: lost.device }).await;
    // Of the account's own group and of those with others, in no certain order.
    phone
        .until("the phone knows that it is out", async || {
            let refusal = phone.engine().call(Command::Conversations {}).await.err()?;
            (refusal.code == "removed").then_some(())
        })
        .await;
    bob.until("Bob writes to the other device only", async || {
        let members: Vec<Member> = bob.ask(Command::Members { conversation: with_alice }).await;
        members.iter().all(|member| member.devices == 1).then_some(())
    })
    .await;
    bob.send(with_alice, "not for the phone").await;
    assert_eq!(alice.texts(with_bob, 3).await[2], "not for the phone");
    let refused = Command::Send { conversation: on_phone, text: "?".to_owned(), key: None };
    assert_eq!(phone.refused(refused).await, "removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_comes_back_from_its_export() {
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    let (with_bob, with_alice) = introduce(&alice, &bob).await;
    let account = alice.contact("Bob").await.account;
    let create = Command::GroupCreate { name: "G".to_owned(), members: vec![account.clone()] };
    alice.ask::<Joined>(create).await;
    bob.conversation("G").await;
    alice.send(with_bob, "before").await;
    bob.texts(with_alice, 1).await;
    alice
        .until("Bob's card", async || {
            alice
                .engine()
                .call(Command::Export { passphrase: "a".to_owned() })
                .await
                .ok()
                .map(|_| ())
        })
        .await;
    let words: Words = alice.ask(Command::Verify { account: account.clone() }).await;
    let export = Command::Export { passphrase: "export".to_owned() };
    let file = BASE64.decode(alice.ask::<Exported>(export).await.file.as_bytes()).unwrap();
    let alice = alice.stop().await;
    drop(alice);

    let again = Person::offline("Alice");
    let wrong = Passphrase::from("wrong");
    let path = again.path();
    let refused = engine::restore(&path, &passphrase(), &file, &wrong, None, &options()).await;
    assert!(refused.is_err());
    let right = Passphrase::from("export");
    engine::restore(&path, &passphrase(), &file, &right, None, &options()).await.unwrap();
    let again = again.start().await;
    let with_bob = again.conversation("Bob").await.number;
    again.send(with_bob, "I am back").await;
    assert_eq!(bob.texts(with_alice, 2).await[1], "I am back", "in the same conversation");
    bob.send(with_alice, "good").await;
    again.texts(with_bob, 2).await;
    // The same account with the same root: the words are the same.
    let now: Words = again.ask(Command::Verify { account }).await;
    assert_eq!(now.words, words.words);
    assert!(!bob.contact("Alice").await.identity_reset);
    // And the group lets it in again, as the only device.
    let group = again.conversation("G").await.number;
    again.send(group, "here too").await;
    let at_bob = bob.conversation("G").await.number;
    assert_eq!(bob.texts(at_bob, 1).await, ["here too"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_link_is_named_and_a_profile_is_in_use_once() {
    let relay = TestRelay::spawn().unwrap();
    let alice = Person::new("Alice", relay.address()).await;
    let second = Engine::open(&alice.path(), &passphrase(), options());
    let text = second.err().unwrap().to_string();
    assert!(text.contains("in use"), "{text}");
    let alice = alice.stop().await;
    let wrong = Engine::open(&alice.path(), &Passphrase::from("no"), options());
    assert!(wrong.err().unwrap().to_string().contains("passphrase is wrong"));
    let alice = alice.start().await;
    let bad = Command::Join { link: "valise://nonsense".to_owned(), allow_relay: true };
    assert_eq!(alice.refused(bad).await, "bad_link");
    let own = alice.invite().await;
    let join = Command::Join { link: own.clone(), allow_relay: true };
    assert_eq!(alice.refused(join).await, "own_invite");
    // One letter is wrong.
    let (head, secret) = own.split_once('#').unwrap();
    let first = if secret.starts_with('a') { "b" } else { "a" };
    let join = Command::Join { link: format!("{head}#{first}{}", &secret[1..]), allow_relay: true };
    assert_eq!(alice.refused(join).await, "no_invite");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_blocked_on_one_device_reaches_none() {
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    let (with_bob, with_alice) = introduce(&alice, &bob).await;
    let phone = link(&alice, "phone").await;
    let on_phone = phone.conversation("Bob").await.number;
    let first = bob.send(with_alice, "to both").await;
    bob.state(with_alice, first, MessageState::Delivered).await;
    assert_eq!(phone.texts(on_phone, 1).await, ["to both"]);
    let account = alice.contact("Bob").await.account;
    let block = |blocked| Command::Block { account: account.clone(), blocked };
    alice.ask::<Option<()>>(block(true)).await;
    phone.until("blocked", async || phone.contact("Bob").await.blocked.then_some(())).await;
    // It has failed when no device of the account takes it.
    bob.until("the refusal", async || {
        let number = bob.send(with_alice, "to none").await;
        bob.settle().await;
        let messages = bob.messages(with_alice).await;
        let found = messages.into_iter().find(|message| message.number == number)?;
        (found.state == MessageState::Failed).then_some(())
    })
    .await;
    // Unblocked on the other one, both give a new address, and what had waited comes.
    phone.ask::<Option<()>>(block(false)).await;
    alice.until("unblocked", async || (!alice.contact("Bob").await.blocked).then_some(())).await;
    bob.send(with_alice, "to both again").await;
    for (device, conversation) in [(&alice, with_bob), (&phone, on_phone)] {
        device
            .until("what comes", async || {
                let texts = device.texts(conversation, 2).await;
                texts.iter().any(|text| text == "to both again").then_some(())
            })
            .await;
    }
}

/// How a person reaches the devices of another, from its profile: a capability and a take token each.
fn rights(person: &Person) -> Vec<Vec<u8>> {
    let people: Vec<forge::Contact> = forge::rows(person);
    let card = people.into_iter().map(|found| found.card).find(|card| !card.is_empty()).unwrap();
    let card = wire::Card::decode(card.as_slice()).unwrap();
    assert_eq!(card.devices.len(), 2, "each device has said its own");
    let rights = |card: wire::DeviceCard| [card.address.unwrap().capability, card.take_token];
    card.devices.into_iter().flat_map(rights).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_contact_has_rights_of_its_own_to_every_device() {
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    let carol = Person::new("Carol", &address).await;
    introduce(&alice, &bob).await;
    let phone = link(&alice, "phone").await;
    phone.conversation("Bob").await;
    // One who was there before the phone, and one who came after it.
    introduce(&alice, &carol).await;
    let mut all = Vec::new();
    for friend in [bob, carol] {
        let there = friend.conversation("Alice").await.number;
        for device in [&alice, &phone] {
            let here = device.conversation(&friend.name).await.number;
            device.settle().await;
            // In its stream what it said before has come before.
            device.send(here, "hello").await;
        }
        friend.texts(there, 2).await;
        all.extend(rights(&friend.stop().await));
    }
    let mut once = all.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), 8, "no right was given twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_asks_for_codes_takes_devices_and_restored_accounts() {
    let relay = TestRelay::with_config("[relay]\naccess = \"codes\"\n").unwrap();
    let address = relay.address().clone();
    let alice = Person::offline("Alice");
    let new = |join_code| engine::NewProfile {
        name: "Alice".to_owned(),
        relay: address.clone(),
        join_code,
        device_name: "laptop".to_owned(),
    };
    let path = alice.path();
    let refused = engine::create(&path, &passphrase(), new(None), &options()).await.unwrap_err();
    assert!(refused.to_string().contains("code"), "{refused}");
    let code = relay.invite_code().unwrap();
    engine::create(&path, &passphrase(), new(Some(code)), &options()).await.unwrap();
    let alice = alice.start().await;
    let bad = Command::LinkDevice { join_code: Some("no code".to_owned()) };
    assert_eq!(alice.refused(bad).await, "bad_code");
    let phone = link_with(&alice, "phone", Some(relay.invite_code().unwrap().to_text())).await;
    let devices: Vec<Device> = phone.ask(Command::Devices {}).await;
    assert_eq!(devices.len(), 2);
    let export = Command::Export { passphrase: "export".to_owned() };
    let file = BASE64.decode(alice.ask::<Exported>(export).await.file.as_bytes()).unwrap();
    drop((alice.stop().await, phone.stop().await));
    let again = Person::offline("Alice");
    let (path, opens) = (again.path(), Passphrase::from("export"));
    let refused = engine::restore(&path, &passphrase(), &file, &opens, None, &options()).await;
    assert!(refused.unwrap_err().to_string().contains("code"));
    let code = relay.invite_code().unwrap();
    engine::restore(&path, &passphrase(), &file, &opens, Some(&code), &options()).await.unwrap();
    let again = again.start().await;
    let devices: Vec<Device> = again.ask(Command::Devices {}).await;
    assert_eq!(devices.len(), 1);
}
