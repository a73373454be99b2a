//! docs/PROTOCOL.md, part two, says what the code does: every message and field, every label that
//! is signed or hashed, every number that two clients must agree on.

#![allow(clippy::unwrap_used)]

use valise_chat_core::identity::{DEVICES_MAX, RECORD_BYTES_MAX};
use valise_chat_core::seal::{frame, parts};
use valise_chat_core::{TEXT_BYTES_MAX, engine, mls};

const DOCUMENT: &str = include_str!("../../../docs/PROTOCOL.md");
const MESSAGES: &str = include_str!("../proto/valise/chat/v1/chat.proto");
const CODE: &[&str] = &[
    include_str!("../src/identity/credential.rs"),
    include_str!("../src/identity/invite.rs"),
    include_str!("../src/identity/record.rs"),
    include_str!("../src/identity/words.rs"),
    include_str!("../src/seal/greeting.rs"),
    include_str!("../src/seal/slot.rs"),
];

fn part_two() -> &'static str {
    &DOCUMENT[DOCUMENT.find("# Part two").unwrap()..]
}

/// Whether the word stands between backticks.
fn says(word: &str) -> bool {
    let outside_blocks = part_two().split("```").step_by(2);
    let mut code = outside_blocks.flat_map(|text| text.split('`').skip(1).step_by(2));
    code.any(|code| code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word))
}

#[test]
fn every_message_and_every_field_is_named() {
    let mut named = 0;
    for line in MESSAGES.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        let word = match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["message", name, "{"] => name,
            ["repeated", _, name, "=", _] | [_, name, "=", _] if line.ends_with(';') => name,
            _ => continue,
        };
        named += 1;
        assert!(says(word), "{word} is not named");
    }
    assert!(named > 90, "the file is read: {named}");
}

#[test]
fn every_label_is_there() {
    let mut labels = 0;
    for code in CODE {
        // The tests of these files have labels of their own.
        let code = code.split("#[cfg(test)]").next().unwrap();
        for label in code.match_indices("b\"valise ").map(|(at, _)| &code[at + 2..]) {
            let label = &label[..label.find('"').unwrap()];
            assert!(part_two().contains(&format!("\"{label}\"")), "{label}");
            labels += 1;
        }
    }
    assert!(labels >= 10, "the labels are found: {labels}");
    for label in ["valise hint", "valise envelope", "valise slot"] {
        assert!(part_two().contains(&format!("`\"{label}\"`")), "{label}");
    }
}

/// The second cell of the row of the table of numbers that begins like this.
fn number(first: &str) -> &'static str {
    let table = &DOCUMENT[DOCUMENT.find("## 36. Numbers of part two").unwrap()..];
    let row = table.lines().find_map(|line| line.strip_prefix(&format!("| {first} | ")));
    row.unwrap_or_else(|| panic!("no row {first}")).trim_end_matches(" |")
}

fn written(value: usize) -> String {
    let digits = value.to_string();
    let commas = digits.char_indices().flat_map(|(i, digit)| {
        let comma = i > 0 && (digits.len() - i).is_multiple_of(3);
        comma.then_some(',').into_iter().chain([digit])
    });
    commas.collect()
}

#[test]
fn numbers_are_those_of_the_code() {
    assert_eq!(number("devices of an account"), written(DEVICES_MAX));
    assert_eq!(number("account record"), format!("{} bytes", written(RECORD_BYTES_MAX)));
    assert_eq!(number("content of a message"), format!("{} MiB", TEXT_BYTES_MAX >> 20));
    let whole = number("message, greeting or commit, all parts");
    assert_eq!(whole, format!("{} bytes", written(parts::WHOLE_BYTES_MAX)));
    assert_eq!(number("parts"), parts::PARTS_MAX.to_string());
    let frame = number("content of a frame of each size");
    assert!(frame.ends_with(&format!("{} bytes", written(frame::ENVELOPE_BYTES_MAX))), "{frame}");
    assert_eq!(number("epochs kept"), format!("{} before the current one", mls::PAST_EPOCHS));
    let (not_before, not_after) = mls::KEY_PACKAGE_TIME;
    let time = format!("from {not_before} to {} s since 1970", written(not_after as usize));
    assert_eq!(number("a key package is good"), time);
    let parked = number("parked frames");
    let (all, bytes) = (engine::PARKED_BYTES_MAX >> 20, engine::SURVIVORS_BYTES_MAX >> 20);
    let survivors = written(engine::SURVIVORS_MAX);
    let said = format!(
        "{all} MiB; after a walk of all groups {survivors} of {bytes} MiB together, for 30 days"
    );
    assert_eq!(parked, said);
    let leaf = number("a leaf is renewed after");
    let days = format!(
        "{} days in groups of up to {} devices, else {}",
        engine::LEAF_DAYS,
        engine::LEAF_DEVICES_MAX,
        engine::LEAF_DAYS_LARGE
    );
    assert_eq!(leaf, days);
    let shared = number("the shared slot token is renewed after");
    assert_eq!(shared, format!("{} days, by one member a day", engine::SHARED_TOKEN_DAYS));
    assert_eq!(engine::SHARED_TOKEN_STEP_DAYS, 1);
    let soon = number("of that, at random");
    assert_eq!(soon, format!("a quarter, and {} minutes", engine::LEAF_SOON_MINUTES));
}

#[test]
fn what_is_not_there_is_noticed() {
    assert!(!says("reactions"));
    assert_eq!(written(4_259_840), "4,259,840");
}
