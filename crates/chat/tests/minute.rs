//! From nothing, two people in two terminals chat within a minute by an invite.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)] // a test fails by panicking

mod people;

use std::time::{Duration, Instant};

use people::Person;
use valise_client::testing::TestRelay;

#[test]
fn two_people_chat_within_a_minute() {
    let relay = TestRelay::spawn().unwrap();
    let (ann, bob) = (Person::new("Ann"), Person::new("Bob"));
    let start = Instant::now();
    ann.init(&relay);
    let made = start.elapsed();
    ann.meet(&bob);
    let met = start.elapsed();
    let mut ann_sees = ann.start(&["tail"]);
    let mut bob_sees = bob.start(&["tail"]);
    ann.ok(&["send", "Bob", "Hello, Bob!"]);
    while !bob_sees.line().contains("Ann: Hello, Bob!") {}
    bob.ok(&["send", "Ann", "Hello, Ann!"]);
    while !ann_sees.line().contains("Bob: Hello, Ann!") {}
    let done = start.elapsed();
    println!(
        "profile after {made:.2?}, both met after {met:.2?}, each has read the other after {done:.2?}"
    );
    assert!(done < Duration::from_secs(60), "{done:?}");
}
