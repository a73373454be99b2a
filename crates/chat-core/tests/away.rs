//! People and relays that are away for a while.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Person, introduce};
use valise_chat_core::api::{Command, Joined, MessageState};
use valise_client::testing::TestRelay;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_offline_goes_out_later_in_order() {
    let mut relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    let (with_bob, with_alice) = introduce(&alice, &bob).await;
    relay.kill().unwrap();
    let mut said = Vec::new();
    for number in 0..50 {
        let text = format!("message {number}");
        alice.send(with_bob, &text).await;
        said.push(text);
    }
    relay.restart().unwrap();
    assert_eq!(bob.texts(with_alice, 50).await, said);
    assert_eq!(alice.settle().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_away_follows_the_group_and_reads_everything() {
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    introduce(&alice, &bob).await;
    let account = alice.contact("Bob").await.account;
    let create = Command::GroupCreate { name: "G".to_owned(), members: vec![account] };
    let in_alice = alice.ask::<Joined>(create).await.conversation;
    let in_bob = bob.conversation("G").await.number;
    let bob = bob.stop().await;
    let mut said = Vec::new();
    // More epochs than keys are kept for: each text is sealed under the keys of its own.
    for number in 0..20 {
        let name = format!("G{number}");
        alice.ask::<Option<()>>(Command::GroupRename { conversation: in_alice, name }).await;
        let text = format!("epoch {number}");
        let message = alice.send(in_alice, &text).await;
        alice.state(in_alice, message, MessageState::Relayed).await;
        said.push(text);
    }
    let bob = bob.start().await;
    assert_eq!(bob.texts(in_bob, 20).await, said);
    assert_eq!(bob.conversation("G19").await.number, in_bob);
    let gaps = bob.messages(in_bob).await;
    assert!(gaps.iter().all(|m| m.kind != valise_chat_core::api::MessageKind::Gap));
}

#[tokio::test(flavor = "multi_thread")]
async fn long_messages_go_in_parts() {
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    let (with_bob, with_alice) = introduce(&alice, &bob).await;
    let long = "0123456789abcdef".repeat(4 * 1024 * 1024 / 16);
    let text = long.clone();
    let message = alice.send(with_bob, &text).await;
    alice.send(with_bob, "after it").await;
    let texts = bob.texts(with_alice, 2).await;
    assert!(texts[0] == long && texts[1] == "after it");
    alice.state(with_bob, message, MessageState::Delivered).await;
    let send = Command::Send { conversation: with_bob, text: text + "1", key: None };
    assert_eq!(alice.refused(send).await, "too_long");
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_again_with_the_same_key_does_nothing() {
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    let (with_bob, with_alice) = introduce(&alice, &bob).await;
    for _ in 0..3 {
        let (text, key) = ("once".to_owned(), Some("key 1".to_owned()));
        let send = Command::Send { conversation: with_bob, text, key };
        alice.ask::<serde_json::Value>(send).await;
    }
    alice.send(with_bob, "end").await;
    assert_eq!(bob.texts(with_alice, 2).await, ["once", "end"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_at_two_relays_talk() {
    let (one, other) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let alice = Person::new("Alice", one.address()).await;
    let bob = Person::new("Bob", other.address()).await;
    let link = alice.invite().await;
    let join = Command::Join { link: link.clone(), allow_relay: false };
    assert_eq!(bob.refused(join).await, "new_relay");
    let with_alice = bob.join(&link).await;
    let with_bob = alice.conversation("Bob").await.number;
    bob.send(with_alice, "from over there").await;
    assert_eq!(alice.texts(with_bob, 1).await, ["from over there"]);
    let relay = other.address().to_string();
    alice.ask::<Option<()>>(Command::AllowRelay { relay, allow: true }).await;
    alice.send(with_bob, "and back").await;
    bob.texts(with_alice, 2).await;
    // A second person cannot follow the same invite.
    let carol = Person::new("Carol", one.address()).await;
    let again = Command::Join { link, allow_relay: true };
    assert_eq!(carol.refused(again).await, "not_reachable");
}
