//! Strangers: whoever has an invite, or an address out of a card.

use bytes::Bytes;
use prost::Message as _;
use valise_client::testing::TestRelay;

use super::common::{Person, introduce};
use super::{look, me, open_invite, post};
use crate::api::{Command, Status};
use crate::seal::parts::WHOLE_BYTES_MAX;
use crate::seal::{HpkePublicKey, greeting};
use crate::wire;

/// The HPKE key of the first device of a card.
fn key_of(card: &wire::Card) -> HpkePublicKey {
    let record = card.record.as_ref().unwrap();
    let record = wire::AccountRecord::decode(record.record.as_slice()).unwrap();
    HpkePublicKey(record.devices[0].hpke_key.as_slice().try_into().unwrap())
}

async fn is_alive(person: &Person) {
    person.online().await;
    person.ask::<Status>(Command::Status {}).await;
}

fn part(transfer: u8, index: u32, count: u32, bytes: usize) -> wire::FirstContact {
    wire::FirstContact { transfer: vec![transfer; 16], index, count, bytes: vec![7; bytes] }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_contradict_each_other_stop_nothing() {
    let relay = TestRelay::spawn().unwrap();
    let ann = Person::new("Ann", relay.address()).await;
    let card = open_invite(&ann.invite().await).await;
    let to = card.devices[0].address.clone().unwrap();
    let seal = |part: &wire::FirstContact| greeting::seal_part(&key_of(&card), part).unwrap();
    let parts = [part(1, 0, 2, 9), part(1, 0, 3, 9), part(1, 0, 2, 9), part(1, 1, 2, 9)];
    let mut payloads: Vec<Bytes> = parts.iter().map(seal).collect();
    // More than a greeting can have, in parts each of which is allowed.
    payloads.extend((0..128).map(|index| seal(&part(2, index, 128, 40_000))));
    const { assert!(128 * 40_000 > WHOLE_BYTES_MAX) };
    post(&to, &payloads).await;
    let bob = Person::new("Bob", relay.address()).await;
    let (at_ann, at_bob) = introduce(&ann, &bob).await;
    bob.send(at_bob, "all the same").await;
    assert_eq!(ann.texts(at_ann, 1).await, ["all the same"]);
    let ann = ann.stop().await.start().await;
    is_alive(&ann).await;
}

/// What an engine cannot bear, here because a row of its own is not what it should be, costs the frame
/// and not the engine.
#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_cannot_be_borne_is_left_out() {
    let relay = TestRelay::spawn().unwrap();
    let ann = Person::new("Ann", relay.address()).await;
    let bob = Person::new("Bob", relay.address()).await;
    let (at_ann, at_bob) = introduce(&ann, &bob).await;
    let card = open_invite(&ann.invite().await).await;
    let ann = ann.stop().await;
    look(&ann, |tx| {
        let mut damaged = me(tx)?;
        damaged.hpke_secret.truncate(5);
        tx.put(super::ONLY, &damaged)
    });
    let body = Some(wire::greeting::Body::Welcome(vec![1]));
    let greeting = wire::Greeting { body, invite: Vec::new() };
    let greetings = greeting::seal(&key_of(&card), &greeting).unwrap();
    let to = card.devices[0].address.clone().unwrap();
    post(&to, &greetings).await;
    let ann = ann.start().await;
    post(&to, &greetings).await;
    bob.send(at_bob, "before").await;
    assert_eq!(ann.texts(at_ann, 1).await, ["before"]);
    ann.send(at_ann, "after").await;
    assert_eq!(bob.texts(at_bob, 2).await, ["before", "after"]);
    let ann = ann.stop().await;
    assert_eq!(look(&ann, me).hpke_secret.len(), 5, "nothing else was the matter");
}
