//! What a user decides about people and conversations.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Person, introduce, options, passphrase};
use valise_chat_core::api::{Command, MessageState, Words};
use valise_chat_core::engine;
use valise_client::testing::TestRelay;

#[tokio::test(flavor = "multi_thread")]
async fn who_is_blocked_reaches_nobody_until_unblocked() {
    let relay = TestRelay::spawn().unwrap();
    let alice = Person::new("Alice", relay.address()).await;
    let bob = Person::new("Bob", relay.address()).await;
    let (with_bob, with_alice) = introduce(&alice, &bob).await;
    bob.send(with_alice, "one").await;
    alice.texts(with_bob, 1).await;
    let account = alice.contact("Bob").await.account;
    let block = |blocked| Command::Block { account: account.clone(), blocked };
    alice.ask::<Option<()>>(block(true)).await;
    // Until the relay knows, what comes is dropped here.
    let two = bob
        .until("the refusal", async || {
            let number = bob.send(with_alice, "two").await;
            bob.settle().await;
            let messages = bob.messages(with_alice).await;
            let found = messages.into_iter().find(|message| message.number == number)?;
            (found.state == MessageState::Failed).then_some(number)
        })
        .await;
    assert!(two > 0);
    let send = Command::Send { conversation: with_bob, text: "?".to_owned(), key: None };
    assert_eq!(alice.refused(send).await, "closed");
    assert_eq!(alice.texts(with_bob, 1).await, ["one"]);
    alice.ask::<Option<()>>(block(false)).await;
    // The new address lets through what had waited.
    assert_eq!(alice.texts(with_bob, 2).await, ["one", "two"]);
    alice.send(with_bob, "three").await;
    bob.texts(with_alice, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_disappear_on_both_sides() {
    let relay = TestRelay::spawn().unwrap();
    let alice = Person::new("Alice", relay.address()).await;
    let bob = Person::new("Bob", relay.address()).await;
    let (with_bob, with_alice) = introduce(&alice, &bob).await;
    let disappear = Command::Disappear { conversation: with_bob, seconds: 1 };
    alice.ask::<Option<()>>(disappear).await;
    bob.until("the setting", async || {
        (bob.conversation("Alice").await.disappear_seconds == 1).then_some(())
    })
    .await;
    alice.send(with_bob, "ghostly").await;
    bob.texts(with_alice, 1).await;
    let last = bob.messages(with_alice).await.last().unwrap().number;
    bob.ask::<Option<()>>(Command::Read { conversation: with_alice, up_to: last }).await;
    for (person, conversation) in [(&alice, with_bob), (&bob, with_alice)] {
        person
            .until("it is gone", async || {
                let messages = person.messages(conversation).await;
                messages.iter().all(|message| message.text != "ghostly").then_some(())
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_compare_the_same_words() {
    let relay = TestRelay::spawn().unwrap();
    let alice = Person::new("Alice", relay.address()).await;
    let bob = Person::new("Bob", relay.address()).await;
    introduce(&alice, &bob).await;
    let (bob_account, alice_account) =
        (alice.contact("Bob").await.account, bob.contact("Alice").await.account);
    let words = |person: &'static str| format!("{person}'s words");
    let ours: Words = alice.ask(Command::Verify { account: bob_account.clone() }).await;
    let theirs: Words = bob
        .until(&words("Bob"), async || {
            let verify = Command::Verify { account: alice_account.clone() };
            let value = bob.engine().call(verify).await.ok()?;
            serde_json::from_value(value).ok()
        })
        .await;
    assert_eq!(ours.words, theirs.words);
    assert_eq!(ours.words.len(), 12);
    assert!(ours.next.contains("Bob") && !ours.verified);
    let mark = Command::MarkVerified { account: bob_account, verified: true };
    alice.ask::<Option<()>>(mark).await;
    assert!(alice.conversation("Bob").await.verified);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_marks() {
    let relay = TestRelay::spawn().unwrap();
    let alice = Person::new("Alice", relay.address()).await;
    let bob = Person::new("Bob", relay.address()).await;
    let (with_bob, with_alice) = introduce(&alice, &bob).await;
    bob.ask::<Option<()>>(Command::Rename { name: "Robert".to_owned() }).await;
    alice.conversation("Robert").await;
    let account = alice.contact("Robert").await.account;
    let petname = |name: &str| Command::Petname { account: account.clone(), name: name.to_owned() };
    alice.ask::<Option<()>>(petname("Rob")).await;
    assert_eq!(alice.conversation("Rob").await.number, with_bob);
    alice.ask::<Option<()>>(Command::Mute { conversation: with_bob, muted: true }).await;
    bob.send(with_alice, "psst").await;
    alice
        .until("an unread mark", async || {
            (alice.conversation("Rob").await.unread == 1).then_some(())
        })
        .await;
    assert!(alice.conversation("Rob").await.muted);
    let last = alice.messages(with_bob).await.last().unwrap().number;
    alice.ask::<Option<()>>(Command::Read { conversation: with_bob, up_to: last }).await;
    assert_eq!(alice.conversation("Rob").await.unread, 0);
    let bad = Command::Rename { name: "two\nlines".to_owned() };
    assert_eq!(alice.refused(bad).await, "bad_name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_profile_leaves_nothing_behind() {
    let relay = TestRelay::spawn().unwrap();
    let alice = Person::new("Alice", relay.address()).await;
    let bob = Person::new("Bob", relay.address()).await;
    let (_, with_alice) = introduce(&alice, &bob).await;
    let alice = alice.stop().await;
    engine::remove(&alice.path(), &passphrase(), options()).await.unwrap();
    assert!(!alice.path().exists());
    let lost = bob.send(with_alice, "are you there?").await;
    bob.until("the refusal", async || {
        let messages = bob.messages(with_alice).await;
        let found = messages.into_iter().find(|message| message.number == lost)?;
        (found.state == MessageState::Failed).then_some(())
    })
    .await;
}
