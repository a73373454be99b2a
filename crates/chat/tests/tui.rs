//! The real binary in a real terminal (tmux), against a real relay: what people see and type. tmux
//! is needed; without it these tests fail.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test fails by panicking

#[path = "tui/tmux.rs"]
mod tmux;

use std::time::{Duration, Instant};

use tmux::Tmux;
use valise_client::testing::TestRelay;

/// From an invite to read messages, by the keys and words on the screens alone.
#[test]
fn two_people_chat_within_a_minute() {
    let begun = Instant::now();
    let relay = TestRelay::spawn().unwrap();
    let tmux = Tmux::new();
    let alice = tmux.person("alice", "Alice", &relay, (120, 32));
    let bob = tmux.person("bob", "Bob", &relay, (80, 24));
    alice.sees("Welcome to Valise, Alice.");
    alice.sees("● online");
    bob.sees("Welcome to Valise, Bob.");

    alice.keys(&["i"]);
    alice.sees("For one person");
    alice.sees("▀▀▀▀▀▀▀");
    let link = alice.link();
    bob.paste(&link);
    bob.sees("Join");
    bob.keys(&["Enter"]);
    bob.sees("Write to Alice");
    alice.sees("Bob is here: say hello");
    alice.sees("Write to Bob");

    bob.types("hello Alice 👩‍👩‍👧 漢字");
    bob.keys(&["Enter"]);
    alice.sees("hello Alice 👩‍👩‍👧 漢字");
    bob.sees("read ✓✓");
    alice.types("two");
    alice.keys(&["M-Enter"]);
    alice.types("lines");
    alice.keys(&["Enter"]);
    bob.sees("two\n");
    bob.sees("lines\n");
    alice.sees("read ✓✓");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(60), "it took {took:?}");

    // Both compare words; both screens show the same ones.
    alice.keys(&["/"]);
    alice.types("verify");
    alice.keys(&["Enter"]);
    alice.sees("Is it Bob?");
    bob.keys(&["/"]);
    bob.types("verify");
    bob.keys(&["Enter"]);
    bob.sees("Is it Alice?");
    assert_eq!(alice.words(), bob.words());
    alice.keys(&["s"]);
    alice.sees("Bob is verified");
    alice.sees("Bob  verified");
}

/// A terminal of any size, help, and a way out that leaves the terminal as it was.
#[test]
fn windows_change_help_helps_and_quitting_restores() {
    let relay = TestRelay::spawn().unwrap();
    let tmux = Tmux::new();
    let alice = tmux.person("alice", "Alice", &relay, (100, 30));
    let bob = tmux.person("bob", "Bob", &relay, (100, 30));
    tmux.introduce(&alice, &bob);
    alice.types("a draft that stays");
    for size in [(60, 20), (40, 12), (20, 6), (5, 2), (1, 1), (200, 50), (100, 30)] {
        alice.resize(size);
        if size.0 >= 20 {
            alice.sees("a draft that stays".get(..10).unwrap());
            alice.sees("●");
        }
    }
    alice.keys(&["C-c"]);
    alice.sees("cleared");
    alice.keys(&["?"]);
    alice.sees("╭ Help");
    alice.keys(&["Escape"]);
    alice.sees("Write to Bob");
    alice.keys(&["F1"]);
    alice.sees("Alt-Enter, Ctrl-J");
    assert!(alice.is_on_the_other_screen());
    alice.keys(&["C-q"]);
    alice.sees("ended with 0");
    alice.sees("\nicanon\n");
    assert!(!alice.is_on_the_other_screen());
    bob.keys(&["C-c"]);
    bob.sees("Ctrl-C once more to quit");
    bob.keys(&["C-c"]);
    bob.sees("ended with 0");
}

/// What is written while the relay is away goes out when it is back, and the screen says so.
#[test]
fn an_absent_relay_is_seen_and_nothing_is_lost() {
    let mut relay = TestRelay::spawn().unwrap();
    let tmux = Tmux::new();
    let alice = tmux.person("alice", "Alice", &relay, (100, 30));
    let bob = tmux.person("bob", "Bob", &relay, (100, 30));
    tmux.introduce(&alice, &bob);
    relay.kill().unwrap();
    alice.sees("○ offline, ");
    alice.types("written in the dark");
    alice.keys(&["Enter"]);
    alice.sees("sending …");
    relay.restart().unwrap();
    alice.sees("● online");
    bob.sees("written in the dark");
    alice.sees("read ✓✓");
}

/// Pasted text is text, and without colour there is none.
#[test]
fn pasted_text_is_not_obeyed_and_no_color_is() {
    let relay = TestRelay::spawn().unwrap();
    let tmux = Tmux::new();
    let alice = tmux.person("alice", "Alice", &relay, (100, 30));
    let bob = tmux.person_with("bob", "Bob", &relay, (100, 30), "NO_COLOR=1");
    tmux.introduce(&alice, &bob);
    bob.paste("first\n/quit\n?\n\x1b[31mlast");
    bob.sees("last");
    bob.sees("/quit");
    bob.keys(&["Enter"]);
    alice.sees("/quit");
    alice.sees("[31mlast");
    bob.sees("read ✓✓");
    assert!(alice.paints_colours());
    assert!(!bob.paints_colours());
}
