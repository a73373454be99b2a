//! Two people: from an invite to read messages, over a real relay.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Person, introduce};
use valise_chat_core::api::{Command, MessageState};
use valise_client::testing::TestRelay;

#[tokio::test(flavor = "multi_thread")]
async fn two_people_meet_by_an_invite_and_talk() {
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    let (with_bob, with_alice) = introduce(&alice, &bob).await;
    let hello = bob.send(with_alice, "hello Alice").await;
    assert_eq!(alice.texts(with_bob, 1).await, ["hello Alice"]);
    bob.state(with_alice, hello, MessageState::Delivered).await;
    let answer = alice.send(with_bob, "hello Bob").await;
    assert_eq!(bob.texts(with_alice, 2).await, ["hello Alice", "hello Bob"]);
    let seen = bob.messages(with_alice).await.last().unwrap().number;
    let read = Command::Read { conversation: with_alice, up_to: seen };
    bob.ask::<Option<()>>(read).await;
    alice.state(with_bob, answer, MessageState::Read).await;
}
