//! Groups over a real relay: who is in them reads, who is not does not.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Person, introduce};
use valise_chat_core::api::{Command, Joined, Member, MessageState};
use valise_client::testing::TestRelay;

async fn make_group(founder: &Person, name: &str, members: &[&str]) -> i64 {
    let mut accounts = Vec::new();
    for member in members {
        accounts.push(founder.contact(member).await.account);
    }
    let create = Command::GroupCreate { name: name.to_owned(), members: accounts };
    founder.ask::<Joined>(create).await.conversation
}

async fn members(person: &Person, conversation: i64) -> Vec<String> {
    let members: Vec<Member> = person.ask(Command::Members { conversation }).await;
    let mut names: Vec<_> = members.into_iter().map(|member| member.name).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_grows_and_shrinks_and_who_left_reads_no_more() {
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    let carol = Person::new("Carol", &address).await;
    introduce(&alice, &bob).await;
    introduce(&alice, &carol).await;
    let in_alice = make_group(&alice, "Trip", &["Bob"]).await;
    let in_bob = bob.conversation("Trip").await.number;
    alice.send(in_alice, "just us").await;
    assert_eq!(bob.texts(in_bob, 1).await, ["just us"]);

    let account = carol_account(&alice).await;
    let add = Command::GroupAdd { conversation: in_alice, account: account.clone() };
    alice.ask::<Option<()>>(add).await;
    let in_carol = carol.conversation("Trip").await.number;
    let told = bob.send(in_bob, "welcome Carol").await;
    assert_eq!(carol.texts(in_carol, 1).await, ["welcome Carol"], "and nothing of before");
    bob.state(in_bob, told, MessageState::Delivered).await;
    assert_eq!(members(&carol, in_carol).await, ["Alice", "Bob", "Carol"]);
    carol.send(in_carol, "thanks").await;
    alice.texts(in_alice, 3).await;

    alice.ask::<Option<()>>(Command::GroupRemove { conversation: in_alice, account }).await;
    carol
        .until("the end of the group", async || carol.conversation("Trip").await.closed.map(|_| ()))
        .await;
    let after = alice.send(in_alice, "Carol is gone").await;
    alice.state(in_alice, after, MessageState::Delivered).await;
    assert_eq!(members(&bob, in_bob).await, ["Alice", "Bob"]);
    assert!(carol.texts(in_carol, 2).await.iter().all(|text| text != "Carol is gone"));
    let send = Command::Send { conversation: in_carol, text: "hello?".to_owned(), key: None };
    assert_eq!(carol.refused(send).await, "closed");

    // Added again, she reads on from there.
    let account = carol_account(&alice).await;
    alice.ask::<Option<()>>(Command::GroupAdd { conversation: in_alice, account }).await;
    carol
        .until("the group is open", async || {
            carol.conversation("Trip").await.closed.is_none().then_some(())
        })
        .await;
    bob.send(in_bob, "welcome back").await;
    let texts = carol.texts(in_carol, 3).await;
    assert_eq!(texts.last().unwrap(), "welcome back");
}

async fn carol_account(alice: &Person) -> String {
    alice.contact("Carol").await.account
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_is_removed_by_the_others() {
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    let carol = Person::new("Carol", &address).await;
    introduce(&alice, &bob).await;
    introduce(&alice, &carol).await;
    let in_alice = make_group(&alice, "Club", &["Bob", "Carol"]).await;
    let in_bob = bob.conversation("Club").await.number;
    let in_carol = carol.conversation("Club").await.number;
    bob.ask::<Option<()>>(Command::GroupLeave { conversation: in_bob }).await;
    carol
        .until("Bob is gone", async || {
            (members(&carol, in_carol).await == ["Alice", "Carol"]).then_some(())
        })
        .await;
    alice.send(in_alice, "among us").await;
    assert_eq!(carol.texts(in_carol, 1).await, ["among us"]);
    assert!(bob.messages(in_bob).await.iter().all(|message| message.text != "among us"));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_at_once_are_agreed_on() {
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    introduce(&alice, &bob).await;
    let in_alice = make_group(&alice, "A", &["Bob"]).await;
    let in_bob = bob.conversation("A").await.number;
    for round in 0..10 {
        let name = |who: &str| format!("{who} {round}");
        let rename = |conversation, name| Command::GroupRename { conversation, name };
        tokio::join!(
            alice.ask::<Option<()>>(rename(in_alice, name("alice"))),
            bob.ask::<Option<()>>(rename(in_bob, name("bob"))),
        );
        alice
            .until("one name", async || {
                let (ours, theirs) = (title(&alice, in_alice).await, title(&bob, in_bob).await);
                (ours == theirs && ours.ends_with(&format!(" {round}"))).then_some(())
            })
            .await;
    }
    alice.send(in_alice, "still together").await;
    assert_eq!(bob.texts(in_bob, 1).await, ["still together"]);
}

async fn title(person: &Person, conversation: i64) -> String {
    let all = person.conversations().await;
    all.into_iter().find(|found| found.number == conversation).unwrap().title
}
