//! Members of a group, those that were removed from it, and contacts.

use valise_client::testing::TestRelay;

use super::common::{Person, introduce};
use super::{Voice, look, me, state};
use crate::api::{Command, Contact, Joined, MessageState};
use crate::identity::AccountId;
use crate::wire::{self, content::Body};

async fn group(maker: &Person, title: &str, people: &[&Person]) -> i64 {
    let mut members = Vec::new();
    for person in people {
        members.push(maker.contact(&person.name).await.account);
    }
    let create = Command::GroupCreate { name: title.to_owned(), members };
    maker.ask::<Joined>(create).await.conversation
}

/// The devices that somebody posts to in a group. The engine is closed.
fn targets(person: &Person, title: &str) -> usize {
    Voice::of(person, title).targets.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_removed_changes_nothing_any_more() {
    let relay = TestRelay::spawn().unwrap();
    let ann = Person::new("Ann", relay.address()).await;
    let bob = Person::new("Bob", relay.address()).await;
    let carol = Person::new("Carol", relay.address()).await;
    introduce(&ann, &bob).await;
    introduce(&ann, &carol).await;
    let at_ann = group(&ann, "Three", &[&bob, &carol]).await;
    let at_bob = bob.conversation("Three").await.number;
    carol.conversation("Three").await;
    let first = ann.send(at_ann, "hello").await;
    ann.state(at_ann, first, MessageState::Delivered).await;
    let carol = carol.stop().await;
    let mut voice = Voice::of(&carol, "Three");
    let own = look(&carol, |tx| {
        let groups = tx.all::<state::Group>()?;
        let found = groups.into_iter().find(|(_, group)| group.id == voice.group.id());
        let (_, group) = found.unwrap();
        Ok(wire::Address { relay: group.own_relay, capability: group.own_capability })
    });
    let account = ann.contact("Carol").await.account;
    let remove = Command::GroupRemove { conversation: at_ann, account };
    ann.ask::<Option<()>>(remove).await;
    let second = ann.send(at_ann, "without Carol").await;
    ann.state(at_ann, second, MessageState::Delivered).await;
    let bobs = voice.targets.iter().find(|target| {
        target.account != look(&carol, me).account && target.device == device_of(&bob)
    });
    let to = bobs.map(|target| wire::Address {
        relay: target.relay.clone(),
        capability: target.capability.clone(),
    });
    let to = to.unwrap();
    voice.say(&to, Body::Address(own)).await;
    voice.say(&to, Body::Timer(5)).await;
    voice.say(&to, Body::Name("Nobody".to_owned())).await;
    let third = bob.send(at_bob, "just us").await;
    bob.state(at_bob, third, MessageState::Delivered).await;
    assert_eq!(bob.conversation("Three").await.disappear_seconds, 0);
    let bob = bob.stop().await;
    assert_eq!(targets(&bob, "Three"), 1, "Ann alone");
}

/// The device of somebody whose engine runs, as bytes.
fn device_of(person: &Person) -> Vec<u8> {
    let status = tokio::task::block_in_place(|| {
        let ask = person.ask::<crate::api::Status>(Command::Status {});
        tokio::runtime::Handle::current().block_on(ask)
    });
    crate::identity::DeviceId::from_text(&status.device).unwrap().as_bytes().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_nothing_can_be_sealed_to_stop_nobody() {
    let relay = TestRelay::spawn().unwrap();
    let ann = Person::new("Ann", relay.address()).await;
    let bob = Person::new("Bob", relay.address()).await;
    let carol = Person::new("Carol", relay.address()).await;
    introduce(&ann, &bob).await;
    introduce(&ann, &carol).await;
    let at_ann = group(&ann, "Three", &[&bob, &carol]).await;
    let at_bob = bob.conversation("Three").await.number;
    let bob = bob.stop().await;
    // A point of small order: 32 bytes, and no key.
    look(&bob, |tx| {
        let mut hostile = me(tx)?;
        hostile.hpke_public = vec![0; 32];
        tx.put(super::ONLY, &hostile)
    });
    let bob = bob.start().await;
    bob.ask::<Option<()>>(Command::GroupRejoin { conversation: at_bob }).await;
    let text = ann.send(at_ann, "still here").await;
    ann.state(at_ann, text, MessageState::Relayed).await;
    let ann = ann.stop().await.start().await;
    ann.send(at_ann, "and after a restart").await;
    let at_carol = carol.conversation("Three").await.number;
    let texts = carol.texts(at_carol, 2).await;
    assert_eq!(texts, ["still here", "and after a restart"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_megabytes_is_not_handed_on() {
    let relay = TestRelay::spawn().unwrap();
    let ann = Person::new("Ann", relay.address()).await;
    let bob = Person::new("Bob", relay.address()).await;
    let (at_ann, at_bob) = introduce(&ann, &bob).await;
    let account = ann.contact("Bob").await.account;
    let bob = bob.stop().await;
    look(&bob, |tx| {
        let mut hostile = me(tx)?;
        hostile.name = "x".repeat(3_000_000);
        hostile.card_version += 1;
        tx.put(super::ONLY, &hostile)
    });
    let bob = bob.start().await;
    bob.send(at_bob, "after the card").await;
    assert_eq!(ann.texts(at_ann, 1).await, ["after the card"]);
    let contacts: Vec<Contact> = ann.ask(Command::Contacts {}).await;
    let name = &contacts.iter().find(|found| found.account == account).unwrap().name;
    assert_eq!(name, "Bob");
    assert!(AccountId::from_text(&account).is_ok());
}
