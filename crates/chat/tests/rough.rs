//! What happens between processes: several at a time, stopped ones, and those that wait for somebody.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)] // a test fails by panicking

mod people;

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use people::{Person, socket};
use rustix::process::{Pid, Signal, kill_process};
use valise_client::testing::TestRelay;

fn pair(relay: &TestRelay) -> (Person, Person) {
    let (ann, bob) = (Person::new("Ann"), Person::new("Bob"));
    ann.init(relay);
    ann.meet(&bob);
    (ann, bob)
}

#[test]
fn senders_that_come_and_go_lose_nothing() {
    const SENDERS: u64 = 6;
    const TEXTS: u64 = 8;
    let relay = TestRelay::spawn().unwrap();
    let (ann, bob) = pair(&relay);
    let texts = |sender| (0..TEXTS).map(move |number| format!("{sender}-{number}"));
    // Whoever comes first holds the profile for the others, and is gone soon.
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let ann = &ann;
            scope.spawn(move || {
                for text in texts(sender) {
                    ann.ok(&["send", "Bob", &text, "--wait", "0"]);
                    ann.ok(&["list"]);
                    thread::sleep(Duration::from_millis(sender * 37));
                }
            });
        }
    });
    let _holds = ann.start(&["daemon"]);
    let told = bob.texts("Ann", (SENDERS * TEXTS) as usize);
    assert_eq!(told.len() as u64, SENDERS * TEXTS, "each of them once");
    for sender in 0..SENDERS {
        let of_sender = format!("{sender}-");
        let his: Vec<_> = told.iter().filter(|text| text.starts_with(&of_sender)).collect();
        assert_eq!(his, texts(sender).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    }
}

#[test]
fn whoever_waits_for_input_can_be_stopped() {
    let relay = TestRelay::spawn().unwrap();
    let (ann, _bob) = pair(&relay);
    let waits = ann.start(&["send", "Bob", "-"]);
    socket(&ann.profile());
    ann.ok(&["status"]);
    waits.terminate();
    assert_eq!(waits.wait(), 75);
}

#[test]
fn a_process_that_hangs_hangs_no_other() {
    let relay = TestRelay::spawn().unwrap();
    let (ann, _bob) = pair(&relay);
    let holds = ann.start(&["daemon"]);
    socket(&ann.profile());
    ann.ok(&["status"]);
    let pid = Pid::from_child(&holds.child);
    kill_process(pid, Signal::STOP).unwrap();
    let refused = ann.run(&["status"]);
    kill_process(pid, Signal::CONT).unwrap();
    assert_eq!(refused.code, 75, "{}", refused.stderr);
    assert!(refused.stderr.contains("does not answer"), "{}", refused.stderr);
    ann.ok(&["status"]);
}

#[test]
fn a_link_that_was_given_up_leaves_no_profile() {
    let relay = TestRelay::spawn().unwrap();
    let (laptop, phone) = (Person::new("Ann"), Person::new("phone"));
    laptop.init(&relay);
    for signal in [Signal::INT, Signal::TERM] {
        let link = laptop.ok(&["devices", "link", "--no-wait"]);
        let waits = phone.start(&["init", "--link", link.trim()]);
        let database = phone.profile().join("profile.db");
        people::until(|| if database.exists() { Ok(()) } else { Err("no profile".to_owned()) });
        thread::sleep(Duration::from_millis(300));
        kill_process(Pid::from_child(&waits.child), signal).unwrap();
        assert_eq!(waits.wait(), 75);
        assert!(!database.exists(), "a profile that waits is removed again");
    }
}

#[test]
fn a_relay_that_is_away_holds_up_no_message_to_another() {
    let (relay, mut other) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let (ann, bob) = pair(&relay);
    let cid = Person::new("Cid");
    cid.init(&other);
    let mut invite = ann.start(&["invite"]);
    let link = invite.line();
    cid.ok(&["join", &link, "--allow-relay"]);
    assert_eq!(invite.wait(), 0);
    // Cid's relay is asked about.
    let waits = ann.run(&["send", "Cid", "may I?", "--wait", "1"]);
    assert_eq!(waits.code, 75, "{}", waits.stderr);
    assert!(waits.stderr.contains("relays allow"), "{}", waits.stderr);
    let relays = ann.ok(&["relays"]);
    let address = other.address().to_string();
    assert!(relays.contains(&format!("{address}  WAITS")), "{relays}");
    ann.ok(&["relays", "allow", &address]);
    assert!(ann.ok(&["relays"]).contains(&format!("{address}  allowed  Cid")));
    other.kill().unwrap();
    let waits = ann.run(&["send", "Cid", "later", "--wait", "2"]);
    assert_eq!(waits.code, 75, "{}", waits.stderr);
    let start = Instant::now();
    ann.ok(&["send", "Bob", "now", "--wait", "20"]);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert_eq!(bob.texts("Ann", 1), ["now"]);
    other.restart().unwrap();
    let held = ann.start(&["daemon"]);
    assert_eq!(cid.texts("Ann", 2), ["may I?", "later"]);
    drop(held);
}

#[test]
fn input_that_is_no_message_says_so() {
    let relay = TestRelay::spawn().unwrap();
    let (ann, _bob) = pair(&relay);
    let send = |bytes: &[u8]| {
        let file = ann.file("input");
        std::fs::File::create(&file).unwrap().write_all(bytes).unwrap();
        let input = std::fs::File::open(&file).unwrap();
        ann.run_with(&["send", "Bob", "-"], input)
    };
    let broken = send(b"caf\xe9");
    assert_eq!(broken.code, 65, "{}", broken.stderr);
    assert!(broken.stderr.contains("UTF-8"), "{}", broken.stderr);
    // The limit falls into the middle of a character.
    let long = send("日".repeat(4 * 1024 * 1024 / 3 + 1).as_bytes());
    assert_eq!(long.code, 65, "{}", long.stderr);
    assert!(long.stderr.contains("at most"), "{}", long.stderr);
    assert_eq!(send(b"").code, 64);
}

#[test]
fn json_on_a_terminal_is_harmless() {
    let relay = TestRelay::spawn().unwrap();
    let (ann, bob) = pair(&relay);
    let text = "\u{9b}2J \u{202e}left\u{7f}";
    bob.ok(&["send", "Ann", text]);
    assert_eq!(ann.texts("Bob", 1), [text], "nothing is lost");
    let printed = ann.ok(&["history", "Bob", "--json"]);
    assert!(printed.contains("\\u009b2J \\u202eleft\\u007f"), "{printed:?}");
}
