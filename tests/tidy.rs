//! Keeps the house in order: which room may import which, what must stay pure, which names are
//! confined or have no place here, how long a file may be. The tables are data and stand here; the
//! rules are in `tidy/rules.rs`. Every rule is shown a small violation that it must reject: a rule
//! that lets its mutant pass is no rule.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test fails by panicking

#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use rules::{ANY, Confined, Findings, Room, room};
use source::{Source, rust_files, text_files};

/// The way of a frame, from the outside in, is listener, connection, link, session, router,
/// mailbox, committer, store; a room imports what lies further in and the small rooms everyone
/// shares. `link` is the actor of `session`. `relay` is what all connections of a relay share.
const ROOMS: &[Room] = &[
    room("lib", ""),
    room("main", ""),
    // The composition root.
    room("app", ANY),
    room("cli", "app config identity limits migration store token"),
    room("config", "access limits mailbox migration rate store tls"),
    // It can reach counts and switches, and nothing that leads to a frame.
    room("admin", "limits metrics"),
    room("identity", "limits store token"),
    // The way in.
    room("listener", "connection limits metrics prefix relay"),
    room("connection", "https limits link metrics prefix relay session tls transport"),
    room("https", "limits metrics relay tls"),
    room(
        "link",
        "doorbell engine engines limits mailbox metrics payload prefix rate relay router session standing \
         token transport",
    ),
    room("relay", "access connections identity limits mailbox metrics prefix rate router tls"),
    room("connections", "doorbell"),
    room("tls", "limits"),
    room("transport", "limits metrics"),
    room("session", "limits metrics payload router standing store token"),
    room(
        "router",
        "access committer disk doorbell engine engines identity limits mailbox metrics payload rate receipt \
         standing store token",
    ),
    // What keeps the mailboxes: this process, or a data centre.
    room(
        "engines",
        "cluster committer disk doorbell engine limits mailbox metrics migration payload rate receipt \
         registry shards standing store",
    ),
    room(
        "cluster",
        "doorbell engine limits mailbox metrics payload rate receipt registry standing store",
    ),
    // The way out of a supernode, into a data centre.
    room("migration", "committer doorbell identity limits metrics rate receipt shards store"),
    room("engine", "doorbell limits mailbox payload rate receipt standing store"),
    room("standing", "committer disk limits payload rate store"),
    room("registry", ""),
    room("mailbox", "committer disk doorbell limits metrics payload rate receipt shards store"),
    room("committer", "limits metrics shards store"),
    room("shards", "store"),
    room("store", "limits payload"),
    // What everyone shares, or nearly.
    room("access", "limits"),
    room("disk", "limits"),
    room("doorbell", "limits payload"),
    room("receipt", "doorbell limits"),
    room("prefix", "limits rate"),
    room("limits", ""),
    room("metrics", "limits"),
    room("payload", ""),
    room("rate", ""),
    room("token", "limits"),
];

/// Files that decide as functions of (now, input).
const PURE: &[&str] = &[
    "proto/src/",
    "src/session/",
    "src/link/deadlines.rs",
    "src/rate.rs",
    "src/cluster/announcement.rs",
    "src/cluster/steering.rs",
    "src/migration/leading.rs",
    "crates/client/src/places.rs",
    "crates/chat-core/src/identity/",
    "crates/chat-core/src/mls/mod.rs",
    "crates/chat-core/src/mls/policy.rs",
    "crates/chat-core/src/seal/",
    "crates/chat/src/tui/model/",
    "crates/ctl/src/alarms.rs",
    "crates/ctl/src/canary/ledger.rs",
    "crates/ctl/src/judge/",
    "crates/ctl/src/migrate/ebb.rs",
    "crates/ctl/src/said.rs",
    "crates/migration/src/",
];

/// Who holds accepted sockets.
const TCP: &[&str] = &[
    "src/admin.rs",
    "src/connection.rs",
    "src/listener.rs",
    "src/migration/listener.rs",
    "src/tls.rs",
];

const CONFINED: &[Confined] = &[
    Confined {
        name: "EmbeddedStore",
        why: "only the composition root knows which store runs",
        to: &["src/store/", "src/app"],
    },
    Confined {
        name: "MemoryStore",
        why: "only the composition root knows which store runs",
        to: &["src/store/", "src/app"],
    },
    Confined {
        name: "JetStream",
        why: "only the composition root knows which store runs",
        to: &["src/store/", "src/app", "src/cluster/"],
    },
    // In a data centre the process connects to its servers and to nobody else.
    Confined {
        name: "async_nats",
        why: "one room talks to the bus",
        to: &["src/store/jetstream/"],
    },
    Confined { name: "ConnectOptions", why: "one file dials", to: &["src/store/jetstream/bus.rs"] },
    Confined { name: "connect_std", why: "a relay dials nobody", to: &[] },
    Confined { name: "TcpStream", why: "only what accepts and serves has sockets", to: TCP },
    // A payload's bytes go to these two, and what holds one of them can read the bytes.
    Confined {
        name: "PacketBuffer",
        why: "only the connection's outbox and the transports hold packets",
        to: &["src/payload.rs", "src/link/mod.rs", "src/transport/"],
    },
    Confined {
        name: "RecordBuffer",
        why: "only the store writes records",
        to: &["src/payload.rs", "src/store/"],
    },
    Confined {
        name: "write_record",
        why: "only the store writes records",
        to: &["src/payload.rs", "src/store/"],
    },
    Confined {
        name: "from_record",
        why: "only the store reads records",
        to: &["src/payload.rs", "src/store/"],
    },
];

/// Where printing is the purpose.
const PRINTING: &[&str] = &[
    "src/main.rs",
    "src/cli",
    "crates/chat/src/main.rs",
    "crates/chat/src/cli",
    "crates/ctl/src/main.rs",
    "crates/load/src/",
];

/// Lines of a file without its unit tests.
const LINES_MAX: usize = 450;

/// Files that may be longer, each with its reason.
const LONGER: &[(&str, &str)] = &[];

/// Libraries and binaries, tests and examples apart.
const SHIPPED: &[&str] = &[
    "src",
    "proto/src",
    "crates/authority/src",
    "crates/chat-core/src",
    "crates/chat/src",
    "crates/client/src",
    "crates/ctl/src",
    "crates/load/src",
    "crates/migration/src",
    "crates/pages/src",
];

#[test]
fn rooms_import_what_they_may() {
    assert_tidy(rust_files(&["src"]).iter().flat_map(|file| rules::imports(ROOMS, file)));
}

/// The table is about rooms that exist, and no room imports itself by way of others.
#[test]
fn the_table_of_rooms_is_true() {
    let files = rust_files(&["src"]);
    assert_tidy(rules::table(ROOMS, &files));
}

#[test]
fn decisions_are_pure() {
    let files = rust_files(SHIPPED);
    let pure = files.iter().filter(|file| PURE.iter().any(|path| file.path.starts_with(path)));
    assert_tidy(pure.flat_map(rules::purity));
}

#[test]
fn confined_names_stay_where_they_belong() {
    let files = rust_files(&["src"]);
    assert_tidy(files.iter().flat_map(|file| rules::confinement(CONFINED, file)));
    assert_tidy(rules::in_one_file("DashMap", &files));
}

#[test]
fn names_say_what_things_are() {
    assert_tidy(rust_files(&["src", "proto/src"]).iter().flat_map(rules::names));
}

#[test]
fn nothing_is_unfinished_or_prints() {
    let files = rust_files(SHIPPED);
    assert_tidy(files.iter().flat_map(|file| rules::unfinished(PRINTING, file)));
}

#[test]
fn no_log_line_receives_a_frame() {
    assert_tidy(rust_files(&["src"]).iter().flat_map(rules::logs));
}

/// Also prints the longest files: `cargo test --test tidy files_are_short -- --nocapture`.
#[test]
fn files_are_short() {
    let files = rust_files(SHIPPED);
    let mut lengths: Vec<_> =
        files.iter().map(|file| (file.shipped().lines().count(), &file.path)).collect();
    lengths.sort_by(|a, b| b.cmp(a));
    lengths.iter().take(10).for_each(|(lines, path)| println!("{lines:5} {path}"));
    assert_tidy(files.iter().flat_map(|file| rules::length(LINES_MAX, LONGER, file)));
    for (path, _) in LONGER {
        let file = files.iter().find(|file| file.path == *path);
        let still = file.is_some_and(|file| !rules::length(LINES_MAX, &[], file).is_empty());
        assert!(still, "{path} needs no exception any more");
    }
}

#[test]
fn nothing_is_true_on_one_machine_only() {
    let roots =
        [".ci", "benches", "crates", "deploy", "docs", "examples", "fuzz", "proto", "src", "tests"];
    let files = [
        ".gitignore",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Cargo.toml",
        "README.md",
        "SECURITY.md",
        "clippy.toml",
        "deny.toml",
        "justfile",
        "rustfmt.toml",
    ];
    let there = |root: &&str| source::repository().join(root).exists();
    let places: Vec<&str> = roots.into_iter().chain(files).filter(there).collect();
    assert_tidy(text_files(&places).iter().flat_map(rules::places));
}

fn assert_tidy(findings: impl IntoIterator<Item = String>) {
    let findings: Findings = findings.into_iter().collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

mod mutants {
    use super::*;

    fn rejected(findings: Findings) -> bool {
        !findings.is_empty()
    }

    #[test]
    fn a_lower_room_that_imports_an_upper_one() {
        let check =
            |path: &str, text: &str| rejected(rules::imports(ROOMS, &Source::fixture(path, text)));
        assert!(check("src/store/mod.rs", "use crate::router::Router;"));
        assert!(check("src/store/embedded.rs", "fn f() { crate::mailbox::Mailbox::new(); }"));
        assert!(check("src/store/mod.rs", "use crate::{limits, session::{Session}};"));
        assert!(check("src/store/mod.rs", "use crate::{\n    limits,\n    tls,\n};"));
        assert!(check("src/admin.rs", "use crate::router::Router;"));
        assert!(check("src/admin/mod.rs", "use crate::payload::Payload;"));
        assert!(check("src/mirror.rs", ""), "a room that no one decided on");
        assert!(check("src/store/mod.rs", "use super::router::Router;"), "around the table");
        assert!(check("src/store/record.rs", "use super::super::router::Router;"));
        assert!(!check("src/store/mod.rs", "// crate::router::Router\nuse crate::limits;"));
        assert!(!check("src/store/record.rs", "use super::Frame;"));
    }

    #[test]
    fn a_table_with_a_circle_or_a_room_that_is_gone() {
        let files = ["src/a.rs", "src/b/mod.rs"].map(|path| Source::fixture(path, ""));
        assert!(!rejected(rules::table(&[room("a", "b"), room("b", "")], &files)));
        assert!(rejected(rules::table(&[room("a", "b"), room("b", "a")], &files)));
        assert!(rejected(rules::table(&[room("a", ""), room("b", ""), room("c", "")], &files)));
    }

    #[test]
    fn a_decision_that_looks_at_the_world() {
        let check =
            |text: &str| rejected(rules::purity(&Source::fixture("src/session/state.rs", text)));
        assert!(check("let now = Instant::now();"));
        assert!(check("let day = SystemTime::now();"));
        assert!(check("async fn step() {}"));
        assert!(check("router.post(frame).await;"));
        assert!(check("static SEEN: AtomicU64 = AtomicU64::new(0);"));
        assert!(check("let home = std::env::var(name);"));
        assert!(!check("/// Never calls Instant::now().\nfn step(now: Instant) {}"));
    }

    #[test]
    fn a_confined_name_elsewhere() {
        let check = |path: &str, text: &str| {
            rejected(rules::confinement(CONFINED, &Source::fixture(path, text)))
        };
        assert!(check("src/router.rs", "fn open(store: EmbeddedStore) {}"));
        assert!(check("src/router.rs", "payload.write(&mut PacketBuffer::default());"));
        assert!(check("src/admin.rs", "let bus = async_nats::connect(servers).await;"));
        assert!(check("src/store/jetstream/live.rs", "ConnectOptions::new().connect(servers)"));
        assert!(check("src/router.rs", "TcpStream::connect(address).await"));
        assert!(check("src/session/state.rs", "payload.write_record(&mut out);"));
        assert!(!check("src/app.rs", "let store = EmbeddedStore::open(path)?;"));
        assert!(!check("src/store/record.rs", "frame.payload.write_record(&mut record);"));
        let two = ["src/registry.rs", "src/connections.rs"]
            .map(|path| Source::fixture(path, "use dashmap::DashMap;"));
        assert!(rejected(rules::in_one_file("DashMap", &two)));
        assert!(!rejected(rules::in_one_file("DashMap", &two[..1])));
    }

    #[test]
    fn a_name_that_has_no_place_here() {
        let check = |text: &str| rejected(rules::names(&Source::fixture("src/router.rs", text)));
        for name in ["Tap", "frame_tap", "MIRROR_ALL", "Observers", "middleware", "PluginHost"] {
            assert!(check(&format!("let x = {name};")), "{name}");
        }
        for name in ["SessionManager", "PostHelper", "NetUtils", "StoreImpl"] {
            assert!(check(&format!("struct {name};")), "{name}");
        }
        for name in ["Tape", "simple", "implement", "utility_of", "mirrored"] {
            assert!(!check(&format!("let {name} = 1;")), "{name}");
        }
        assert!(!check("impl Router {}"), "a keyword is no name");
        assert!(!check("// no tap, no mirror"), "a comment may say what there is not");
    }

    #[test]
    fn what_is_unfinished_or_prints() {
        let check = |path: &str, text: &str| {
            rejected(rules::unfinished(PRINTING, &Source::fixture(path, text)))
        };
        for text in ["todo!()", "unimplemented!()", "dbg!(x);", "println!();", "eprint!(\"x\");"] {
            assert!(check("src/router.rs", text), "{text}");
        }
        assert!(check("src/router.rs", concat!("// TO", "DO: later")));
        assert!(check("src/router.rs", concat!("/// FIX", "ME")));
        assert!(check("src/router.rs", "    #[ignore = \"slow\"]"));
        assert!(!check("src/main.rs", "println!(\"{address}\");"));
        assert!(!check("src/router.rs", "let text = \"println! is banned\";"));
    }

    #[test]
    fn a_log_line_with_a_frame() {
        let check = |text: &str| rejected(rules::logs(&Source::fixture("src/link/mod.rs", text)));
        for text in [
            "tracing::debug!(?frame, \"refused\");",
            "debug!(payload = ?post.payload, \"x\");",
            "tracing::trace!(\"{payload:?}\");",
            "warn!(\"{:?}\", packet);",
            "let line = format!(\"{frame:?}\");",
            "#[instrument(fields(frame))]",
        ] {
            assert!(check(text), "{text}");
        }
        for text in [
            "tracing::debug!(packet = packet.name(), %reason, \"refused\");",
            "debug!(bytes = payload.len(), \"refused\");",
            "debug!(\"a frame was refused\");",
            "let frame = read(); debug!(%error, \"failed\");",
        ] {
            assert!(!check(text), "{text}");
        }
    }

    #[test]
    fn a_long_file_and_a_place_of_one_machine() {
        let long = Source::fixture("src/router.rs", &"fn f() {}\n".repeat(LINES_MAX + 1));
        assert!(rejected(rules::length(LINES_MAX, LONGER, &long)));
        assert!(!rejected(rules::length(LINES_MAX, &[("src/router.rs", "a table")], &long)));
        let tests = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{}}}", long.text);
        let tested = Source::fixture("src/router.rs", &tests);
        assert!(!rejected(rules::length(LINES_MAX, LONGER, &tested)), "tests do not count");
        let place = concat!("cd /ro", "ot/valise");
        assert!(rejected(rules::places(&Source::fixture("docs/OPERATIONS.md", place))));
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = "a /* b /* c */ d */ e \"f \\\" g\" h r#\"i \" j\"# k '\\'' l 'm' n 'o";
        let code = source::blank(text);
        let left: Vec<&str> = source::words(&code).map(|(_, word)| word).collect();
        assert_eq!(left, ["a", "e", "h", "k", "l", "n", "o"]);
        assert_eq!(code.len(), text.len());
    }
}
