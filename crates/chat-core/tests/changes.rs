//! How groups change over a real relay, also where a member does not keep to the rules.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{PATIENCE, Person, introduce, options, stranger::Stranger};
use tokio::sync::broadcast;
use tokio::time::timeout;
use valise_chat_core::api::{Command, Event, Joined, MessageKind, MessageState};
use valise_chat_core::engine::{Options, Renewal};
use valise_chat_core::seal::slot;
use valise_client::SlotPut;
use valise_client::testing::TestRelay;
use valise_proto::Token;

/// Mallory writes part 0 of a large commit and never the rest. Her slot's void decides, for her too.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_begun_and_not_ended_stops_nobody() {
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    let mallory = Stranger::new(&address).await;
    let links = [alice.invite().await, bob.invite().await];
    let group = mallory.found_group("Trap", &links).await;
    let in_alice = alice.conversation("Trap").await.number;
    let in_bob = bob.conversation("Trap").await.number;

    let keys = group.keys();
    let mut later = Vec::new();
    for attempt in 0..3 {
        let mut values = slot::seal_values(&keys, attempt, &[7; 200_000]).unwrap();
        let (head, value) = values.pop().unwrap();
        assert_eq!(mallory.put(head, value).await, SlotPut::Stored);
        later.extend(values.pop().map(|(slot, value)| (attempt, slot, value)));
    }
    let rename = Command::GroupRename { conversation: in_alice, name: "Free".to_owned() };
    alice.ask::<Option<()>>(rename).await;
    assert_eq!(bob.conversation("Free").await.number, in_bob);
    alice.send(in_alice, "we go on").await;
    assert_eq!(bob.texts(in_bob, 1).await, ["we go on"]);
    bob.send(in_bob, "we do").await;
    alice.texts(in_alice, 2).await;
    // It is too late for the rest: each slot holds a void, which is no part of anything.
    for (attempt, slot, value) in later {
        let SlotPut::Taken(void) = mallory.put(slot, value).await else { panic!("it was free") };
        let head = slot::id(&keys, attempt);
        let head = mallory.connection.get_slots(&[head]).await.unwrap().remove(0).unwrap();
        let head = slot::open_head(&keys, attempt, &head).unwrap();
        assert!(slot::open_part(&keys, attempt, (&head, 1), &void).is_err());
    }
}

/// As in production, with days that are seconds.
fn hasty(seconds: u64) -> Options {
    let time = Duration::from_secs(seconds);
    let renewal = Renewal {
        leaf: time,
        leaf_large: time,
        soon: Duration::from_millis(50),
        shared_token: time,
        shared_token_step: time,
    };
    Options { renewal, ..options() }
}

/// Waits until a conversation has changed so many times: each new epoch is a change.
async fn changes(events: &mut broadcast::Receiver<Event>, number: i64, mut count: u32) {
    let waiting = async {
        while count > 0 {
            match events.recv().await {
                Ok(Event::Conversation { conversation }) if conversation.number == number => {
                    count -= 1;
                }
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => panic!("the engine has ended"),
            }
        }
    };
    timeout(PATIENCE, waiting).await.expect("the group has no new epoch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_device_reads_no_more_once_the_device_has_renewed_its_keys() {
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    let (with_bob, with_alice) = introduce(&alice, &bob).await;
    bob.settle().await;
    alice.settle().await;
    let bob = bob.stop().await;
    let thief = bob.copy();
    alice.send(with_bob, "read by the thief").await;
    let thief = thief.start().await;
    assert_eq!(thief.texts(with_alice, 1).await, ["read by the thief"], "a copy reads on");
    thief.settle().await;
    let thief = thief.stop().await;
    alice.settle().await;

    // Nothing happens but that the device is online when its leaf is old.
    let mut events = alice.events();
    let bob = bob.start_with(hasty(1)).await;
    changes(&mut events, with_bob, 2).await;
    let bob = bob.stop().await;
    alice.send(with_bob, "not for the thief").await;
    alice.settle().await;
    let thief = thief.start().await;
    thief.settle().await;
    let read = thief.texts(with_alice, 1).await;
    assert_eq!(read, ["read by the thief"]);
    let thief = thief.stop().await;

    // The two go on, once the device has taken its place back from the copy; what that took from the
    // mailbox shows as missing.
    alice.settle().await;
    let mut events = alice.events();
    let bob = bob.start().await;
    changes(&mut events, with_bob, 1).await;
    alice.send(with_bob, "go on").await;
    assert_eq!(bob.texts(with_alice, 1).await.last().unwrap(), "go on");
    bob.send(with_alice, "yes").await;
    assert_eq!(alice.texts(with_bob, 4).await.last().unwrap(), "yes");
    drop(thief);
}

/// Everyone renews leaves and the token that members of the other relay share, all the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_on_while_everything_is_renewed() {
    let (here, there) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let mut people = Vec::new();
    for (name, relay) in [("Alice", &here), ("Bob", &there), ("Carol", &here)] {
        let person = Person::new(name, relay.address()).await;
        person.ask::<Option<()>>(Command::AskRelays { ask: false }).await;
        people.push(person);
    }
    introduce(&people[0], &people[1]).await;
    introduce(&people[0], &people[2]).await;
    let mut members = Vec::new();
    for name in ["Bob", "Carol"] {
        members.push(people[0].contact(name).await.account);
    }
    let create = Command::GroupCreate { name: "0".to_owned(), members };
    people[0].ask::<Joined>(create).await;
    let (mut hurried, mut numbers) = (Vec::new(), Vec::new());
    for person in people {
        numbers.push(person.conversation("0").await.number);
        person.settle().await;
        hurried.push(person.stop().await.start_with(hasty(5)).await);
    }
    let [alice, bob, carol] = &hurried[..] else { unreachable!() };
    let mut events = alice.events();
    for round in 1..=5 {
        // Bob has no right of his own to change the group: it is the shared one.
        let name = round.to_string();
        let rename = Command::GroupRename { conversation: numbers[1], name: name.clone() };
        bob.ask::<Option<()>>(rename).await;
        changes(&mut events, numbers[0], 2).await;
        for (person, number) in hurried.iter().zip(&numbers) {
            assert_eq!(person.conversation(&name).await.number, *number);
            person.send(*number, &name).await;
        }
        let count = 3 * round;
        for (person, number) in [alice, bob, carol].into_iter().zip(&numbers) {
            assert_eq!(person.texts(*number, count).await.len(), count);
        }
    }
}

/// Mallory has a capability and posts what nobody can open; in the middle of it come frames of epochs
/// that have not begun at Bob's.
#[tokio::test(flavor = "multi_thread")]
async fn junk_crowds_out_nothing_of_the_next_epoch() {
    let often = "[limits]\nposts_per_second = 100000\nposts_burst = 100000\n\
                 packets_per_second = 100000\npackets_burst = 100000\n";
    let relay = TestRelay::with_config(often).unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    introduce(&alice, &bob).await;
    let account = alice.contact("Bob").await.account;
    let create = Command::GroupCreate { name: "0".to_owned(), members: vec![account] };
    let in_alice = alice.ask::<Joined>(create).await.conversation;
    let in_bob = bob.conversation("0").await.number;
    let mallory = Stranger::new(&address).await;
    let card = mallory.card(&bob.invite().await).await;
    let capability = card.devices[0].address.as_ref().unwrap().capability.as_slice();
    let capability = Token::try_from(capability).unwrap();
    let mut said = Vec::new();
    let mut say = async |text: &str| {
        let name = text.to_owned();
        let rename = Command::GroupRename { conversation: in_alice, name };
        alice.ask::<Option<()>>(rename).await;
        let message = alice.send(in_alice, text).await;
        alice.state(in_alice, message, MessageState::Relayed).await;
        said.push(text.to_owned());
    };

    // All the room there is for what a walk did not open is full of it.
    mallory.flood(&capability, 1_100).await;
    // While he is away: all of it comes before he may look at any slot.
    let bob = bob.stop().await;
    mallory.flood(&capability, 450).await;
    say("one").await;
    say("two").await;
    mallory.flood(&capability, 450).await;
    let bob = bob.start().await;
    bob.texts(in_bob, 2).await;
    // And while he is online.
    let talk = async {
        for number in 3..9 {
            say(&number.to_string()).await;
        }
    };
    tokio::join!(mallory.flood(&capability, 2_000), talk);
    assert_eq!(bob.texts(in_bob, said.len()).await, said);
    let messages = bob.messages(in_bob).await;
    assert!(messages.iter().all(|message| message.kind != MessageKind::Gap));
    bob.send(in_bob, "all there").await;
    alice.texts(in_alice, said.len() + 1).await;
}
