//! How groups change over a real relay, also where a member does not keep to the rules.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Person, stranger::Stranger};
use valise_chat_core::api::Command;
use valise_chat_core::seal::slot;
use valise_client::SlotPut;
use valise_client::testing::TestRelay;

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
