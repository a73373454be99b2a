//! The table of tests: every packet, on both transports, with every outcome it can have, names the
//! test that shows it (`tests/packets/table.toml`). This checker says which cells there must be,
//! and fails on a cell that is missing, that nothing declares, or whose test does not exist.
//!
//! A test is named by its path. `wire::post::post_not_padded::raw` is the scenario `post_not_padded`
//! of `tests/wire/post.rs`, run on the raw transport: the file defines it and lists it in
//! `on_both_transports!(..)`. `wire::join::join_channel_required` is a test of its own there, for a
//! case that exists on one transport only.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use valise_proto::{CloseReason, Reason};

/// Which transports a case exists on.
#[derive(Clone, Copy, PartialEq)]
enum On {
    Both,
    /// Only where every client can see the certificate.
    Raw,
    /// Only in WebSocket messages.
    WebSocket,
}

/// The cases of one packet. A refusal or an end has its wire name; other cases say what happens.
struct Row {
    packet: &'static str,
    cases: &'static [(&'static str, On)],
}

use On::{Both, Raw, WebSocket};

/// What a client may say, and every way it can go.
const CLIENT_ROWS: &[Row] = &[
    Row {
        packet: "hello",
        cases: &[
            ("ok", Both),
            ("member_token_may_wait", Both),
            ("version_unsupported", Both),
            ("out_of_order", Both),
        ],
    },
    Row {
        packet: "join",
        cases: &[
            ("ok", Both),
            ("ok_with_code", Both),
            ("ok_code_again_by_same_owner", Both),
            ("ok_without_channel", WebSocket),
            ("code_required", Both),
            ("code_spent", Both),
            ("token_invalid", Both),
            ("token_expired", Both),
            ("not_allowed", Both),
            ("signature_invalid", Both),
            ("channel_required", Raw),
            ("rate_limited", Both),
            ("moved", Both),
            ("busy", Both),
            ("out_of_order", Both),
        ],
    },
    Row {
        packet: "attach",
        cases: &[
            ("ok", Both),
            ("ok_without_channel", WebSocket),
            ("token_invalid", Both),
            ("token_expired", Both),
            ("not_owner", Both),
            ("signature_invalid", Both),
            ("signature_used_twice", Both),
            ("token_revoked", Both),
            ("moved", Both),
            ("too_many_attachments", Both),
            ("channel_required", Raw),
            ("busy", Both),
            ("store_failed", Both),
            ("out_of_order", Both),
        ],
    },
    Row {
        packet: "detach",
        cases: &[("ok", Both), ("not_attached", Both), ("out_of_order", Both)],
    },
    Row {
        packet: "issue",
        cases: &[
            ("ok", Both),
            ("not_attached", Both),
            ("kind_invalid", Both),
            ("limits_invalid", Both),
            ("out_of_order", Both),
        ],
    },
    Row {
        packet: "revoke",
        cases: &[
            ("ok", Both),
            ("ok_of_a_member_token", Both),
            ("ok_repeated", Both),
            ("ok_expired", Both),
            ("not_attached", Both),
            ("token_invalid", Both),
            ("revocations_full", Both),
            ("busy", Both),
            ("out_of_order", Both),
        ],
    },
    Row {
        packet: "post",
        cases: &[
            ("accepted", Both),
            ("accepted_by_several", Both),
            ("accepted_once_when_repeated", Both),
            ("moved", Both),
            ("busy", Both),
            ("rate_limited", Both),
            ("mailbox_full", Both),
            ("token_invalid", Both),
            ("token_expired", Both),
            ("token_revoked", Both),
            ("not_padded", Both),
            ("too_many_targets", Both),
            ("too_large", Both),
            ("ttl_invalid", Both),
            ("out_of_order", Both),
        ],
    },
    Row {
        packet: "signal",
        cases: &[
            ("delivered", Both),
            ("dropped_not_attached", Both),
            ("dropped_window", Both),
            ("dropped_token_invalid", Both),
            ("dropped_token_expired", Both),
            ("dropped_token_revoked", Both),
            ("dropped_rate_limited", Both),
            ("dropped_not_padded", Both),
            ("dropped_too_many_targets", Both),
            ("dropped_too_large", Both),
            ("out_of_order", Both),
        ],
    },
    Row {
        packet: "ack",
        cases: &[
            ("ok", Both),
            ("ok_cumulative", Both),
            ("ignored_after_end_of_attachment", Both),
            ("ack_invalid", Both),
            ("out_of_order", Both),
        ],
    },
    Row {
        packet: "put_slot",
        cases: &[
            ("stored", Both),
            ("stored_when_repeated", Both),
            ("taken", Both),
            ("taken_but_for_one", Both),
            ("not_padded", Both),
            ("token_invalid", Both),
            ("token_expired", Both),
            ("token_revoked", Both),
            ("rate_limited", Both),
            ("moved", Both),
            ("busy", Both),
            ("out_of_order", Both),
        ],
    },
    Row {
        packet: "get_slots",
        cases: &[
            ("ok", Both),
            ("ok_the_first_of_many", Both),
            ("limits_invalid", Both),
            ("moved", Both),
            ("busy", Both),
            ("out_of_order", Both),
        ],
    },
    Row {
        packet: "publish_bundle",
        cases: &[
            ("ok", Both),
            ("ok_repeated", Both),
            ("ok_replaces", Both),
            ("not_attached", Both),
            ("not_padded", Both),
            ("too_large", Both),
            ("bundle_full", Both),
            ("busy", Both),
            ("out_of_order", Both),
        ],
    },
    Row {
        packet: "take_bundle",
        cases: &[
            ("ok", Both),
            ("ok_each_item_once", Both),
            ("ok_last_resort", Both),
            ("token_invalid", Both),
            ("token_expired", Both),
            ("token_revoked", Both),
            ("rate_limited", Both),
            ("bundle_empty", Both),
            ("moved", Both),
            ("busy", Both),
            ("out_of_order", Both),
        ],
    },
    Row { packet: "ping", cases: &[("ok", Both), ("out_of_order", Both)] },
    Row { packet: "pong", cases: &[("ignored", Both), ("out_of_order", Both)] },
    Row { packet: "unknown", cases: &[("ignored", Both), ("out_of_order", Both)] },
    // What can happen to any packet, and to a client that sends none.
    Row {
        packet: "any",
        cases: &[
            ("malformed", Both),
            ("malformed_framing", Both),
            ("malformed_text_message", WebSocket),
            ("malformed_cut_message", WebSocket),
            ("packet_too_large", Both),
            ("held_back", Both),
            ("too_slow", Both),
            ("establishment_timeout", Both),
            ("idle", Both),
            ("restarting", Both),
        ],
    },
];

/// What the relay says of its own accord. Its answers are cases of the packets answered.
const SERVER_ROWS: &[Row] = &[
    Row { packet: "welcome", cases: &[("proves_realm_and_channel", Both)] },
    Row {
        packet: "deliver",
        cases: &[
            ("in_order", Both),
            ("again_after_reattach", Both),
            ("window_holds", Both),
            ("stuck_mailbox_starves_no_other", Both),
        ],
    },
    Row { packet: "caught_up", cases: &[("after_the_backlog", Both)] },
    Row { packet: "bundle_low", cases: &[("after_a_take", Both), ("after_attached", Both)] },
    Row {
        packet: "replaced",
        cases: &[
            ("takeover", Both),
            ("takeover_on_same_connection", Both),
            ("takeover_of_half_open", Both),
        ],
    },
    Row { packet: "restarting", cases: &[("before_closing", Both)] },
];

const TABLE: &str = include_str!("packets/table.toml");

/// packet -> case -> transport -> test.
type Table = BTreeMap<String, BTreeMap<String, BTreeMap<String, String>>>;

#[test]
fn every_cell_names_a_test_that_exists() {
    let wrong = check(TABLE, &|file| std::fs::read_to_string(source_root().join(file)).ok());
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_packet_and_every_reason_has_a_row() {
    let rows = || CLIENT_ROWS.iter().chain(SERVER_ROWS);
    let cases: BTreeSet<&str> = rows().flat_map(|row| row.cases.iter().map(|(c, _)| *c)).collect();
    for reason in Reason::ALL {
        assert!(cases.contains(reason.name()), "no case shows the reason {reason}");
    }
    for reason in CloseReason::ALL {
        assert!(cases.contains(reason.name()), "no case shows the end {reason}");
    }
    let proto = include_str!("../proto/proto/valise/v1/valise.proto");
    for packet in oneof_names(proto, "message ClientPacket") {
        assert!(CLIENT_ROWS.iter().any(|row| row.packet == packet), "no row for {packet}");
    }
    // An answer is a case of what it answers.
    let answers = [
        "joined",
        "attached",
        "detached",
        "issued",
        "revoked",
        "posted",
        "signaled",
        "stored",
        "taken",
        "slots",
        "published",
        "bundle_item",
        "refused",
        "closing",
    ];
    // The relay never pings, and its pong is the answer to a ping.
    let liveness = ["ping", "pong"];
    // One relay alone never says it: tests/cluster/steering.rs.
    let of_nodes = ["move"];
    for packet in oneof_names(proto, "message ServerPacket") {
        let known = SERVER_ROWS.iter().any(|row| row.packet == packet)
            || answers.contains(&packet)
            || liveness.contains(&packet)
            || of_nodes.contains(&packet);
        assert!(known, "no row for {packet}");
    }
}

/// The fields of the `oneof packet` in this message of a .proto file.
fn oneof_names<'a>(proto: &'a str, message: &str) -> Vec<&'a str> {
    let from = proto.find(message).unwrap();
    let body = &proto[from..from + proto[from..].find("\n}").unwrap()];
    let oneof = &body[body.find("oneof packet {").unwrap()..];
    oneof
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(" = ")?.0.split_whitespace().nth(1))
        .collect()
}

/// Everything that is wrong with the table, given how to read a source file.
fn check(table: &str, read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut table: Table = match toml::from_str(table) {
        Ok(table) => table,
        Err(error) => return vec![error.to_string()],
    };
    let mut wrong = Vec::new();
    for row in CLIENT_ROWS.iter().chain(SERVER_ROWS) {
        let mut cases = table.remove(row.packet).unwrap_or_default();
        for (case, on) in row.cases {
            let mut cells = cases.remove(*case).unwrap_or_default();
            for transport in transports(*on) {
                let cell = format!("{} / {case} / {transport}", row.packet);
                match cells.remove(*transport) {
                    None => wrong.push(format!("{cell}: the cell is empty")),
                    Some(test) => {
                        if let Err(why) = exists(&test, (transport, *on), read) {
                            wrong.push(format!("{cell}: {test}: {why}"));
                        }
                    }
                }
            }
            for transport in cells.keys() {
                wrong.push(format!("{} / {case} / {transport}: no such cell", row.packet));
            }
        }
        for case in cases.keys() {
            wrong.push(format!("{} / {case}: no such case", row.packet));
        }
    }
    wrong.extend(table.keys().map(|packet| format!("{packet}: no such packet")));
    wrong
}

fn transports(on: On) -> &'static [&'static str] {
    match on {
        Both => &["raw", "websocket"],
        Raw => &["raw"],
        WebSocket => &["websocket"],
    }
}

/// Whether the sources define the test and, for a scenario, run it on this transport.
fn exists(
    test: &str,
    (transport, on): (&str, On),
    read: &dyn Fn(&str) -> Option<String>,
) -> Result<(), String> {
    let segments: Vec<&str> = test.split("::").collect();
    let [file, module, name, rest @ ..] = &segments[..] else {
        return Err("a test is wire::MODULE::SCENARIO::TRANSPORT".into());
    };
    let path = format!("tests/{file}/{module}.rs");
    let source = read(&path).ok_or_else(|| format!("there is no {path}"))?;
    match rest {
        // A test of its own says nothing of its transport: it stands where there is no choice.
        [] if on == Both => Err("say on which transport".into()),
        [] if is_test(&source, name) => Ok(()),
        [] => Err(format!("{path} has no #[tokio::test] of this name")),
        [its] if *its != transport => Err(format!("it runs on {its}")),
        [_] if !defines(&source, name) => Err(format!("{path} does not define it")),
        [_] if !lists(&source, "on_both_transports", name) => {
            Err(format!("{path} does not run it: on_both_transports! does not list it"))
        }
        [_] => Ok(()),
        _ => Err("the path is too long".into()),
    }
}

fn defines(source: &str, name: &str) -> bool {
    source.contains(&format!("fn {name}("))
}

fn is_test(source: &str, name: &str) -> bool {
    let definition = format!("async fn {name}(");
    source.match_indices(&definition).any(|(at, _)| {
        let before = source[..at].trim_end();
        before.lines().last().is_some_and(|line| line.trim().starts_with("#[tokio::test"))
    })
}

/// Whether an invocation of the macro in the source has the word among its arguments.
fn lists(source: &str, list: &str, word: &str) -> bool {
    let invocation = format!("{list}!");
    source.match_indices(&invocation).any(|(at, _)| {
        let arguments = source[at + invocation.len()..].trim_start();
        let close = match arguments.chars().next() {
            Some('{') => '}',
            Some('(') => ')',
            Some('[') => ']',
            _ => return false,
        };
        let end = arguments.find(close).unwrap_or(arguments.len());
        let is_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
        arguments[..end].split(|c| !is_of_a_word(c)).any(|found| found == word)
    })
}

fn source_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

mod mutants {
    use super::*;

    const SOURCE: &str = "on_both_transports!(good, other);\n\
        async fn good(via: Via) {}\nasync fn unlisted(via: Via) {}\n\
        #[tokio::test]\nasync fn alone() {}\n";

    fn verdict(test: &str, transport: &str, on: On) -> Result<(), String> {
        let read = |file: &str| (file == "tests/wire/post.rs").then(|| SOURCE.to_owned());
        exists(test, (transport, on), &read)
    }

    #[test]
    fn what_exists_is_found() {
        assert_eq!(verdict("wire::post::good::raw", "raw", Both), Ok(()));
        assert_eq!(verdict("wire::post::good::websocket", "websocket", Both), Ok(()));
        assert_eq!(verdict("wire::post::alone", "raw", Raw), Ok(()));
    }

    #[test]
    fn what_does_not_exist_or_does_not_run_is_refused() {
        let refused = |test, transport, on| verdict(test, transport, on).is_err();
        assert!(refused("wire::post::good::raw", "websocket", Both), "the wrong transport");
        assert!(refused("wire::post::other::raw", "raw", Both), "listed, but not defined");
        assert!(refused("wire::post::unlisted::raw", "raw", Both), "defined, but not listed");
        assert!(refused("wire::post::unlisted", "raw", Raw), "defined, but no test");
        assert!(refused("wire::post::alone", "raw", Both), "no transport where there are two");
        assert!(refused("wire::post::goo::raw", "raw", Both), "a part of a name");
        assert!(refused("wire::join::good::raw", "raw", Both), "no such file");
        assert!(refused("good", "raw", Both), "not a path");
    }

    #[test]
    fn an_empty_cell_and_an_invented_one_are_refused() {
        let any = |_: &str| Some(String::new());
        let without = TABLE.replacen("not_padded", "invented", 1);
        let wrong = check(&without, &any);
        assert!(wrong.iter().any(|line| line.contains("not_padded / raw: the cell is empty")));
        assert!(wrong.iter().any(|line| line.contains("invented: no such case")));
        let packet = format!("{TABLE}\n[mirror]\nok = {{ raw = \"wire::post::good::raw\" }}\n");
        assert!(check(&packet, &any).contains(&"mirror: no such packet".to_owned()));
    }
}
