//! docs/PROTOCOL.md says what the code does: every reason with its number, every limit with its
//! value, every packet and every label of a statement. A number that changes in one place only is
//! noticed here.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use common::{message, pool};
use valise_proto::{CloseReason, Reason};

const DOCUMENT: &str = include_str!("../../docs/PROTOCOL.md");
const LIMITS: &str = include_str!("../src/limits.rs");

/// The cells of the table row that has this cell, without its backticks.
fn row(table: &str, cell: &str) -> Vec<String> {
    let section = &DOCUMENT[DOCUMENT.find(table).unwrap_or_else(|| panic!("no {table:?}"))..];
    let cells = |line: &str| -> Vec<String> {
        line.split(" | ").map(|cell| cell.trim_matches(['|', ' ', '`']).to_owned()).collect()
    };
    let found = section.lines().filter(|line| line.starts_with('|')).map(cells);
    found.into_iter().find(|row| row.iter().any(|c| c == cell)).unwrap_or_else(|| {
        panic!("no row for {cell} under {table:?}");
    })
}

#[test]
fn every_reason_has_its_number_and_its_retry() {
    let numbers = pool().get_enum_by_name("valise.v1.Reason").unwrap();
    for reason in Reason::ALL {
        let name = format!("REASON_{}", reason.name().to_uppercase());
        let number = numbers.get_value_by_name(&name).unwrap().number();
        let row = row("## 15. Reasons", reason.name());
        assert_eq!(row[1], number.to_string(), "{reason}");
        let retry = match reason {
            Reason::Accepted => "",
            reason if reason.is_retryable() => "yes",
            _ => "no",
        };
        assert_eq!(row[4], retry, "{reason}");
    }
    let ends = pool().get_enum_by_name("valise.v1.CloseReason").unwrap();
    for reason in CloseReason::ALL {
        let name = format!("CLOSE_REASON_{}", reason.name().to_uppercase());
        let number = ends.get_value_by_name(&name).unwrap().number();
        assert_eq!(row("| close reason |", reason.name())[1], number.to_string(), "{reason}");
    }
}

/// A value as the document writes it: with commas.
fn written(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

macro_rules! limits {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), u64::try_from(valise_proto::limits::$name).unwrap())),*]
    };
}

#[test]
#[allow(clippy::unnecessary_fallible_conversions, clippy::useless_conversion)]
fn every_limit_has_its_value() {
    let limits = limits![
        PAYLOAD_BYTES_MAX,
        PACKET_BYTES_MAX,
        LENGTH_PREFIX_BYTES_MAX,
        WEBSOCKET_MESSAGE_BYTES_MAX,
        TARGETS_MAX,
        FAN_OUT_BYTES_MAX,
        ATTACHMENTS_MAX,
        ATTACHMENT_WINDOW_BYTES,
        MAILBOX_FRAMES_MAX,
        MAILBOX_BYTES_MAX,
        TTL_HOURS_DEFAULT,
        TTL_HOURS_MAX,
        ISSUE_COUNT_MAX,
        TOKEN_DAYS_MAX,
        REVOCATIONS_MAX,
        REVOCATION_DAYS_AFTER,
        SLOT_HOURS,
        SLOTS_MAX,
        SLOTS_BYTES_MAX,
        BUNDLE_ITEMS_MAX,
        PUBLISH_BYTES_MAX,
        BUNDLE_LOW_ITEMS,
        BUNDLE_HOURS,
        ESTABLISHMENT_SECONDS,
        PING_AFTER_SECONDS,
        PING_JITTER_SECONDS,
        IDLE_SECONDS,
        RETRY_MEMORY_SECONDS,
        EPOCH_AHEAD_MAX,
        MOVE_SPREAD_MS_MAX,
        MOVES_PER_MINUTE,
        REALM_RECORD_LIST_MAX,
        REALM_RECORD_BYTES_MAX,
    ];
    for (name, value) in limits {
        let row = row("## 17. Numbers", name);
        let first = row[1].split(' ').next().unwrap();
        assert_eq!(first, written(value), "{name}");
    }
    let sizes = row("## 17. Numbers", "PAYLOAD_SIZES");
    for size in valise_proto::limits::PAYLOAD_SIZES {
        assert!(sizes[1].contains(&written(size as u64)), "the payload size {size}");
    }
    // The list above is complete.
    let declared =
        LIMITS.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
    for name in declared.filter(|name| !name.starts_with("fn ")) {
        let listed = name == "PAYLOAD_SIZES" || limits.iter().any(|(listed, _)| *listed == name);
        assert!(listed, "{name} is not in the table of numbers");
    }
}

#[test]
fn every_packet_and_every_field_is_named() {
    for side in ["ClientPacket", "ServerPacket"] {
        for packet in message(side).fields() {
            let kind = packet.kind();
            let kind = kind.as_message().unwrap();
            assert!(DOCUMENT.contains(&format!("`{}", kind.name())), "{}", kind.name());
            for field in kind.fields() {
                assert!(DOCUMENT.contains(field.name()), "{}.{}", kind.name(), field.name());
            }
        }
    }
    for record in ["SignedRealmRecord", "RealmRecord", "RelayKey"] {
        for field in message(record).fields() {
            assert!(DOCUMENT.contains(&format!("`{}`", field.name())), "{record}.{}", field.name());
        }
    }
}

#[test]
fn labels_and_names_are_the_ones_in_the_code() {
    let code = concat!(include_str!("../src/statement.rs"), include_str!("../src/ids.rs"));
    for label in code.match_indices("b\"valise ").map(|(at, _)| &code[at + 2..]) {
        let label = &label[..label.find('"').unwrap()];
        assert!(DOCUMENT.contains(&format!("`\"{label}\"`")), "{label}");
    }
    assert!(DOCUMENT.contains(valise_proto::WEBSOCKET_PATH));
    assert!(DOCUMENT.contains(std::str::from_utf8(valise_proto::ALPN).unwrap()));
    for vectors in std::fs::read_dir("vectors").unwrap() {
        let name = vectors.unwrap().file_name().into_string().unwrap();
        assert!(DOCUMENT.contains(&name), "{name} is not described");
    }
}

mod mutants {
    use super::*;

    #[test]
    #[should_panic(expected = "no row for")]
    fn a_reason_without_a_row_is_noticed() {
        row("## 15. Reasons", "gone");
    }

    #[test]
    fn a_wrong_number_is_noticed() {
        assert_ne!(row("## 17. Numbers", "IDLE_SECONDS")[1], "91 s");
        assert_eq!(written(147_456), "147,456");
        assert_eq!(written(16), "16");
        assert_eq!(written(1_048_576), "1,048,576");
    }
}
