//! Whoever cannot follow a commit, over a real relay.

use std::sync::Arc;

use bytes::Bytes;
use valise_client::OwnerKeyPair;
use valise_client::random;
use valise_client::testing::TestRelay;
use valise_proto::{PutId, SlotId, Token};

use super::agreement::{at_rest, group_of, make_group, put, rename, two};
use super::common::{self, Person, introduce};
use crate::api::Command;
use crate::engine::effect::{CommitPut, Effect, Job, Outcome};
use crate::engine::outgoing::bytes_of;
use crate::engine::records::state;
use crate::engine::{job, own_mailbox};
use crate::mls::{Change, break_path_keys};
use crate::relays::{Own, Relays};
use crate::seal::slot;
use crate::wire::{self, group_info::Kind};

/// The secret of the next commit that is sealed for this device does not open for it.
fn break_path(person: &Person) {
    at_rest(person, |_, tx| {
        let (row, _) = group_of(tx, Kind::Group);
        let mut broken = 0;
        for (id, mut entry) in tx.children::<state::MlsEntry>(row).unwrap() {
            if break_path_keys(&entry.key, &mut entry.value) {
                tx.put(id, &entry).unwrap();
                broken += 1;
            }
        }
        assert!(broken > 0);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn who_made_a_commit_that_nobody_can_follow_lets_everyone_in() {
    let relay = TestRelay::spawn().unwrap();
    let alice = Person::new("Alice", relay.address()).await;
    let bob = Person::new("Bob", relay.address()).await;
    let carol = Person::new("Carol", relay.address()).await;
    introduce(&alice, &bob).await;
    introduce(&alice, &carol).await;
    let in_alice = make_group(&alice, "Trip", &[&bob, &carol]).await;
    let (bob, carol) = (bob.stop().await, carol.stop().await);
    rename(&alice, in_alice, "Trip to the sea").await;
    break_path(&bob);
    break_path(&carol);
    let (bob, carol) = (bob.start().await, carol.start().await);
    let in_bob = bob.conversation("Trip to the sea").await.number;
    let in_carol = carol.conversation("Trip to the sea").await.number;
    rename(&bob, in_bob, "Home").await;
    carol.conversation("Home").await;
    carol.send(in_carol, "all of us").await;
    assert_eq!(alice.texts(in_alice, 1).await, ["all of us"]);
    assert_eq!(bob.texts(in_bob, 1).await, ["all of us"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_alone_cannot_follow_a_commit_is_let_in_again() {
    let relay = TestRelay::spawn().unwrap();
    let alice = Person::new("Alice", relay.address()).await;
    let bob = Person::new("Bob", relay.address()).await;
    let carol = Person::new("Carol", relay.address()).await;
    introduce(&alice, &bob).await;
    introduce(&alice, &carol).await;
    let in_alice = make_group(&alice, "Trip", &[&bob, &carol]).await;
    let in_bob = bob.conversation("Trip").await.number;
    let in_carol = carol.conversation("Trip").await.number;
    let bob = bob.stop().await;
    rename(&alice, in_alice, "Trip to the sea").await;
    break_path(&bob);
    at_rest(&bob, |core, tx| {
        let (reply, _) = tokio::sync::oneshot::channel();
        let (text, key) = ("written before he knew".to_owned(), None);
        core.command(tx, Command::Send { conversation: in_bob, text, key }, reply).unwrap();
    });
    let bob = bob.start().await;
    assert_eq!(bob.conversation("Trip to the sea").await.number, in_bob);
    let expected = ["written before he knew"];
    assert_eq!(alice.texts(in_alice, 1).await, expected);
    assert_eq!(carol.texts(in_carol, 1).await, expected);
    alice.send(in_alice, "together").await;
    assert_eq!(bob.texts(in_bob, 2).await[1], "together");
    let notices: Vec<_> = bob.messages(in_bob).await.into_iter().map(|found| found.text).collect();
    for part in ["could not follow a change", "let in again by "] {
        assert!(notices.iter().any(|text| text.contains(part)), "{notices:?}");
    }
    // And the group goes on.
    rename(&bob, in_bob, "Home").await;
    assert_eq!(carol.conversation("Home").await.number, in_carol);
    assert_eq!(alice.conversation("Home").await.number, in_alice);
}

/// The device has another address in the group than its leaf says, and has told the others.
async fn move_away(person: Person) -> Person {
    at_rest(&person, |_, tx| {
        let (row, mut stored) = group_of(tx, Kind::Group);
        stored.address_stale = true;
        tx.put(row, &stored).unwrap();
    });
    let mut person = person;
    loop {
        person = person.start().await;
        person.settle().await;
        person = person.stop().await;
        if !at_rest(&person, |_, tx| group_of(tx, Kind::Group).1.address_stale) {
            return person;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_let_in_again_hears_where_the_others_are_now() {
    let relay = TestRelay::spawn().unwrap();
    let alice = Person::new("Alice", relay.address()).await;
    let bob = Person::new("Bob", relay.address()).await;
    let carol = Person::new("Carol", relay.address()).await;
    introduce(&alice, &bob).await;
    introduce(&alice, &carol).await;
    let in_alice = make_group(&alice, "Trip", &[&bob, &carol]).await;
    let in_bob = bob.conversation("Trip").await.number;
    let in_carol = carol.conversation("Trip").await.number;
    let bob = bob.stop().await;
    let (alice, carol) = (move_away(alice.stop().await).await, move_away(carol.stop().await).await);
    let (alice, carol) = (alice.start().await, carol.start().await);
    rename(&alice, in_alice, "Trip to the sea").await;
    break_path(&bob);
    let bob = bob.start().await;
    bob.conversation("Trip to the sea").await;
    // One of them has let it in, and the other one has followed. What they say comes after where they are.
    alice.send(in_alice, "here").await;
    carol.send(in_carol, "here, too").await;
    bob.texts(in_bob, 2).await;
    let (alice, bob, carol) = (alice.stop().await, bob.stop().await, carol.stop().await);
    for other in [&alice, &carol] {
        let (device, capability) = at_rest(other, |core, tx| {
            (core.me.device.clone(), group_of(tx, Kind::Group).1.own_capability)
        });
        let known = at_rest(&bob, |_, tx| {
            let (row, _) = group_of(tx, Kind::Group);
            let targets = tx.children::<state::Target>(row).unwrap();
            targets.into_iter().find(|(_, target)| target.device == device).unwrap().1.capability
        });
        assert_eq!(known, capability, "where {} is", other.name);
    }
}

/// Alice has made a commit that names the group; what she would put, and her right to.
fn commit(alice: &Person, is_kept: bool) -> (Token, SlotId, Bytes) {
    at_rest(alice, |core, tx| {
        let (row, stored) = group_of(tx, Kind::Group);
        let device = core.device.clone();
        let group = core.group(tx, row).unwrap();
        let (keys, info) = (group.keys(), group.info());
        let info = Some(wire::GroupInfo { name: "Mine".to_owned(), ..info });
        let prepared = group.prepare(&device, Change { info, ..Default::default() }).unwrap();
        let mut values = slot::seal_values(&keys, stored.attempt, &prepared.commit).unwrap();
        let (slot, value) = values.pop().unwrap();
        assert!(values.is_empty());
        if is_kept {
            let put = state::Put {
                slot: slot.as_bytes().to_vec(),
                put_id: random::bytes::<16>().to_vec(),
                payload: value.to_vec(),
            };
            let pending = state::PendingCommit {
                group: row,
                epoch: keys.epoch,
                attempt: stored.attempt,
                commit: prepared.commit,
                puts: vec![put],
                ..Default::default()
            };
            tx.insert(&pending).unwrap();
            core.save(tx, row).unwrap();
        }
        (Token::try_from(stored.slot_token.as_slice()).unwrap(), slot, value)
    })
}

/// Both have Alice's commit and read each other; whether Alice had to be let in again.
async fn agree(alice: &Person, bob: &Person) -> bool {
    let (in_alice, in_bob) = (alice.conversation("Mine").await, bob.conversation("Mine").await);
    alice.send(in_alice.number, "one group").await;
    assert_eq!(bob.texts(in_bob.number, 1).await, ["one group"]);
    let messages = alice.messages(in_alice.number).await;
    messages.iter().any(|message| message.text.contains("let in again by Bob"))
}

#[tokio::test(flavor = "multi_thread")]
async fn ones_own_commit_in_the_slot_is_ones_own() {
    let relay = TestRelay::spawn().unwrap();
    let (alice, bob) = two(&relay).await;
    let alice = alice.stop().await;
    let (token, slot, value) = commit(&alice, true);
    // The very value, under an id that Alice does not know: the relay says that the slot is taken.
    put(&relay, &token, slot, value).await;
    let alice = alice.start().await;
    assert!(!agree(&alice, &bob).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_finds_ones_own_commit_is_no_look() {
    let relay = TestRelay::spawn().unwrap();
    let (alice, bob) = two(&relay).await;
    let (alice, _bob) = (alice.stop().await, bob);
    let (_, _, value) = commit(&alice, true);
    at_rest(&alice, |core, tx| {
        let (row, stored) = group_of(tx, Kind::Group);
        let epoch = core.group(tx, row).unwrap().epoch();
        core.is_caught_up = true;
        core.walk_all(tx).unwrap();
        core.walked(tx, &[(row, epoch, stored.attempt)], Ok(vec![Some(value)])).unwrap();
        core.take_effects();
        core.committed(tx, row, Ok(CommitPut::Stored)).unwrap();
        let looks = |effect: &Effect| matches!(effect, Effect::Start(Job::Walk { .. }));
        assert!(core.take_effects().iter().any(looks), "it could say nothing more");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_believed_after_a_look_into_the_slot() {
    let relay = TestRelay::spawn().unwrap();
    let (alice, bob) = two(&relay).await;
    let alice = alice.stop().await;
    let (token, slot, value) = commit(&alice, true);
    put(&relay, &token, slot, value).await;
    // The answer was lost, and the right to write has ended since.
    at_rest(&alice, |_, tx| {
        let (row, mut stored) = group_of(tx, Kind::Group);
        let last = stored.slot_token.len() - 1;
        stored.slot_token[last] ^= 1;
        tx.put(row, &stored).unwrap();
    });
    let alice = alice.start().await;
    assert!(!agree(&alice, &bob).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_forgot_its_own_commit_is_let_in_again() {
    let relay = TestRelay::spawn().unwrap();
    let (alice, bob) = two(&relay).await;
    let alice = alice.stop().await;
    // As with a profile of yesterday: the group has the commit, and Alice does not know of it.
    let (token, slot, value) = commit(&alice, false);
    put(&relay, &token, slot, value).await;
    let alice = alice.start().await;
    assert!(agree(&alice, &bob).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_later_parts_a_commit_is_not_decided() {
    let relay = TestRelay::spawn().unwrap();
    let (alice, bob) = two(&relay).await;
    let (alice, _bob) = (alice.stop().await, bob);
    let (me, token) = at_rest(&alice, |core, tx| {
        let (_, stored) = group_of(tx, Kind::Group);
        (core.me.clone(), Token::try_from(stored.slot_token.as_slice()).unwrap())
    });
    let own = Own {
        address: relay.address().clone(),
        owner: Arc::new(OwnerKeyPair::from_seed(&bytes_of(&me.owner_key).unwrap())),
        member_token: own_mailbox(&me).unwrap().member_token,
        prefer: None,
    };
    let (relays, mut events) = Relays::start(own, Vec::new(), common::options().relays);
    let drain = tokio::spawn(async move { while events.recv().await.is_some() {} });
    let ids = [SlotId::new(random::bytes()), SlotId::new(random::bytes())];
    let value = |fill| Bytes::from(vec![fill; 512]);
    put(&relay, &token, ids[0], value(7)).await;
    let puts = ids.map(|id| (id, PutId::new(random::bytes()), value(1))).to_vec();
    let address = relay.address().clone();
    let result = loop {
        let (relay, puts) = (address.clone(), puts.clone());
        let job = Job::PutCommit { group: 1, relay, token, puts };
        match job::run(&relays, job).await {
            Some(Outcome::Committed { result: Err(error), .. }) if error.is_retryable() => {}
            Some(Outcome::Committed { result, .. }) => break result,
            _ => panic!("another outcome"),
        }
    };
    assert_eq!(result, Ok(CommitPut::Spoilt));
    assert_eq!(relays.get_slots(&address, &ids[1..]).await.unwrap(), [None]);
    // What is there already of the same commit is no hindrance.
    let puts = vec![(ids[0], PutId::new(random::bytes()), value(7)), puts[1].clone()];
    let job = Job::PutCommit { group: 1, relay: address, token, puts };
    let done = job::run(&relays, job).await;
    assert!(matches!(done, Some(Outcome::Committed { result: Ok(CommitPut::Stored), .. })));
    relays.close().await;
    drain.abort();
}
