//! What stands in `deploy/` is true: every setting, flag, exit code, metric, file and directory that is named there
//! exists, and the examples are configurations that a relay takes.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use valise::cli::{Exit, definition};
use valise::config::{Config, KEYS, Layer, Surroundings};
use valise::metrics::DECLARED;

const OPERATIONS: &str = include_str!("../docs/OPERATIONS.md");
const CTL: &str = include_str!("../crates/ctl/src/cli.rs");
const UNITS: [&str; 3] = ["valise.service", "nats-server.service", "valisectl-watch.service"];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(deploy().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The settings of a unit, comments left out and continued lines joined.
fn settings(unit: &str) -> Vec<(String, String)> {
    let lines = unit.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    let joined = lines.replace("\\\n", " ");
    let pairs = joined.lines().filter(|line| !line.is_empty() && !line.starts_with('['));
    pairs
        .map(|line| {
            let (name, value) =
                line.split_once('=').unwrap_or_else(|| panic!("`{line}` sets nothing"));
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

fn setting(unit: &str, name: &str) -> String {
    let found = settings(unit).into_iter().find(|(key, _)| key == name);
    found.unwrap_or_else(|| panic!("there is no {name}")).1
}

/// Names that begin with `prefix`, wherever they stand.
fn names(text: &str, prefix: &str) -> BTreeSet<String> {
    let part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = text.split(|letter| !part(letter));
    words.filter(|word| word.starts_with(prefix)).map(str::to_owned).collect()
}

fn unknown_variables(text: &str, nats: &str) -> Vec<String> {
    let known: BTreeSet<String> = KEYS.iter().map(valise::config::Key::variable).collect();
    let of_nats = names(nats, "VALISE_NATS_");
    let named = names(text, "VALISE_").into_iter();
    named.filter(|name| !known.contains(name) && !of_nats.contains(name)).collect()
}

fn servers_configuration() -> String {
    read("nats/server.conf") + &read("nats/common.conf")
}

#[test]
fn every_variable_is_a_setting_of_the_relay_or_of_the_servers() {
    let nats = servers_configuration();
    for file in ["compose/compose.yaml", "systemd/nats-server.env", "systemd/valisectl.env"] {
        assert_eq!(unknown_variables(&read(file), &nats), Vec::<String>::new(), "{file}");
    }
    // And the servers are told all that they ask for.
    for file in ["compose/compose.yaml", "systemd/nats-server.env"] {
        let missing: Vec<_> = names(&nats, "VALISE_NATS_")
            .difference(&names(&read(file), "VALISE_NATS_"))
            .cloned()
            .collect();
        assert_eq!(missing, Vec::<String>::new(), "{file}");
    }
}

/// For other machines, with a certificate and an access policy.
#[test]
fn the_examples_are_configurations_that_a_relay_takes() {
    let surroundings = Surroundings { variables: Vec::new(), descriptors: 65_536 };
    for (file, is_node) in [("systemd/valise.toml", false), ("systemd/node.toml", true)] {
        let config =
            Config::load(Some(&deploy().join(file)), Layer::default(), &surroundings).unwrap();
        assert_eq!(config.cluster.is_some(), is_node, "{file}");
        let directory = setting(&read("systemd/valise.service"), "StateDirectory");
        assert_eq!(config.state_directory, Path::new("/var/lib").join(directory));
    }
}

#[test]
fn restarts_are_prevented_for_what_no_restart_mends() {
    let transient = [Exit::Ok, Exit::Unavailable, Exit::InputOutput, Exit::TryAgain];
    let lasting = Exit::ALL.into_iter().filter(|exit| !transient.contains(exit));
    let lasting: Vec<String> = lasting.map(|exit| exit.code().to_string()).collect();
    for unit in ["valise.service", "valisectl-watch.service"] {
        let listed = setting(&read(&format!("systemd/{unit}")), "RestartPreventExitStatus");
        assert_eq!(listed.split(' ').collect::<Vec<_>>(), lasting, "{unit}");
    }
}

#[test]
fn a_unit_stops_later_than_what_it_runs() {
    let surroundings = Surroundings { variables: Vec::new(), descriptors: 65_536 };
    let file = deploy().join("systemd/valise.toml");
    let config = Config::load(Some(&file), Layer::default(), &surroundings).unwrap();
    let stop: u64 = setting(&read("systemd/valise.service"), "TimeoutStopSec").parse().unwrap();
    assert!(stop >= u64::from(config.limits.drain_seconds) + valise::limits::COMMIT_SECONDS_MAX);
    let nats: u64 =
        setting(&read("systemd/nats-server.service"), "TimeoutStopSec").parse().unwrap();
    assert!(servers_configuration().contains("lame_duck_duration: 30s") && nats > 30);
}

/// What each of them has to have; a line that goes, goes by this test.
#[test]
fn units_are_hardened() {
    for unit in UNITS {
        let found = settings(&read(&format!("systemd/{unit}")));
        for (name, value) in [
            ("NoNewPrivileges", "yes"),
            ("ProtectSystem", "strict"),
            ("ProtectHome", "yes"),
            ("PrivateTmp", "yes"),
            ("PrivateDevices", "yes"),
            ("MemoryDenyWriteExecute", "yes"),
            ("RestrictAddressFamilies", "AF_INET AF_INET6"),
            ("RestrictNamespaces", "yes"),
            ("SystemCallFilter", "@system-service"),
            ("SystemCallFilter", "~@privileged @resources"),
            ("LimitCORE", "0"),
            ("StateDirectoryMode", "0700"),
            ("UMask", "0077"),
            ("Restart", "on-failure"),
        ] {
            let there = found.iter().any(|(key, said)| key == name && said == value);
            assert!(there, "{unit} lacks {name}={value}");
        }
        let capabilities = setting(&read(&format!("systemd/{unit}")), "CapabilityBoundingSet");
        let expected = if unit == "valise.service" { "CAP_NET_BIND_SERVICE" } else { "" };
        assert_eq!(capabilities, expected, "{unit}");
        let user = setting(&read(&format!("systemd/{unit}")), "User");
        assert!(
            read("systemd/sysusers.conf").contains(&format!("u     {user} ")),
            "{unit}: {user}"
        );
    }
}

/// Flags in the lines that start something, and in what the scripts call.
#[test]
fn every_flag_exists() {
    let mut relay = definition();
    relay.build();
    let subcommands: Vec<_> = relay.get_subcommands().cloned().collect();
    let flags = subcommands.iter().flat_map(clap::Command::get_arguments);
    let relay: BTreeSet<String> =
        flags.filter_map(|flag| flag.get_long().map(str::to_owned)).collect();
    let start = setting(&read("systemd/valise.service"), "ExecStart");
    let (_, line) = start.split_once(' ').unwrap();
    for word in line.split(' ').filter_map(|word| word.strip_prefix("--")) {
        assert!(relay.contains(word), "--{word}");
    }
    let compose = read("compose/compose.yaml");
    let watch = setting(&read("systemd/valisectl-watch.service"), "ExecStart");
    let of_watch = compose.lines().filter_map(|line| line.trim().strip_prefix("- --"));
    let of_unit = watch.split(' ').filter_map(|word| word.strip_prefix("--"));
    let words: Vec<&str> =
        of_watch.chain(of_unit).map(|word| word.split('=').next().unwrap()).collect();
    assert!(words.len() >= 5, "{words:?}");
    for word in words {
        let field = format!(" {}: ", word.replace('-', "_"));
        assert!(CTL.contains(&field) || CTL.contains(&format!("long = \"{word}\"")), "--{word}");
    }
}

/// Files of this directory that documents and files name are there.
#[test]
fn every_file_named_is_there() {
    let mut texts = vec![OPERATIONS.to_owned(), include_str!("../README.md").to_owned()];
    for file in ["compose/compose.yaml", "compose/Containerfile"] {
        texts.push(read(file));
    }
    texts.extend(UNITS.map(|unit| read(&format!("systemd/{unit}"))));
    for text in &texts {
        let part = |letter: char| letter.is_ascii_alphanumeric() || "_-./".contains(letter);
        for word in text.split(|letter| !part(letter)) {
            let Some(path) = word.strip_prefix("deploy/") else { continue };
            let path = path.trim_end_matches(['.', '/']);
            // Made by certificates.sh, and never committed.
            assert!(
                path.starts_with("compose/made") || deploy().join(path).exists(),
                "deploy/{path}"
            );
        }
    }
    let compose = read("compose/compose.yaml");
    assert!(compose.contains("../nats:/etc/nats:ro") && deploy().join("nats/server.conf").exists());
    let made = read("compose/certificates.sh");
    for name in ["nats1", "nats2", "nats3", "relay1", "relay2", "watch"] {
        assert!(
            compose.contains(&format!("./made/{name}:/run/certificates:ro")) && made.contains(name)
        );
        assert!(compose.contains(&format!("\"{name}:/var/lib/")), "{name} keeps what it has");
    }
}

#[test]
fn versions_are_those_that_are_tested() {
    for text in [
        read("compose/Containerfile"),
        read("compose/compose.yaml"),
        read("systemd/nats-server.service"),
    ] {
        assert!(text.contains("2.15.1"), "{text}");
    }
    assert!(read("compose/compose.yaml").contains(concat!("valise:", env!("CARGO_PKG_VERSION"))));
    let minor = include_str!("../Cargo.toml").lines().find(|line| line.starts_with("rust-version"));
    let minor = minor.unwrap().split('"').nth(1).unwrap();
    assert!(read("compose/Containerfile").contains(&format!("rust:{minor}-")));
}

fn unknown_metrics(text: &str) -> Vec<String> {
    let declared: BTreeSet<&str> = DECLARED.iter().copied().collect();
    let mut documented: BTreeSet<&str> = OPERATIONS.split('`').skip(1).step_by(2).collect();
    documented = documented.into_iter().map(|name| name.split('{').next().unwrap()).collect();
    let known = |name: &str| declared.contains(name) || documented.contains(name);
    let of_histogram = |name: &str| {
        ["_bucket", "_sum", "_count"].iter().any(|end| name.strip_suffix(end).is_some_and(known))
    };
    let named = names(text, "valise_").into_iter();
    named.filter(|name| !known(name) && !of_histogram(name)).collect()
}

#[test]
fn the_dashboard_shows_what_exists() {
    let dashboard = read("grafana/dashboard.json");
    assert_eq!(unknown_metrics(&dashboard), Vec::<String>::new());
    let json: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = json["panels"].as_array().unwrap();
    assert!(panels.len() >= 12);
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let expression = panel["targets"][0]["expr"].as_str().unwrap();
        assert!(expression.contains("valise_"), "{}", panel["title"]);
    }
}

mod mutants {
    use super::*;

    #[test]
    fn what_does_not_exist_is_noticed() {
        let nats = servers_configuration();
        assert_eq!(unknown_variables("VALISE_RELAY_LISTN: x", &nats), ["VALISE_RELAY_LISTN"]);
        assert_eq!(unknown_variables("VALISE_NATS_STOR=x", &nats), ["VALISE_NATS_STOR"]);
        assert!(unknown_variables("VALISE_RELAY_LISTEN VALISE_NATS_STORE", &nats).is_empty());
        assert_eq!(unknown_metrics("rate(valise_framez[5m])"), ["valise_framez"]);
        assert!(unknown_metrics("rate(valise_cluster_canary_seconds_bucket[5m])").is_empty());
    }

    #[test]
    fn a_commented_setting_is_none() {
        assert_eq!(
            settings("# User=x\n[Service]\nExecStart=a \\\n    b\n"),
            [("ExecStart".into(), "a      b".into())]
        );
    }
}
