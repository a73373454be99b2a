//! What the relay is linked from. Nothing in it can open a frame, and nothing in it asks anyone
//! over the network: `cargo tree` against a list that people have looked at
//! (`tests/dependencies/allowed.txt`), and against the bans of deny.toml. The mutant is a list with
//! an MLS library in it.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The platform the list is for: other platforms link other system libraries.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

const ALLOWED: &str = include_str!("dependencies/allowed.txt");

#[test]
fn the_relay_links_what_is_allowed() {
    assert_eq!(judge(&tree("valise", "normal"), ALLOWED, &banned()), Vec::<String>::new());
}

#[test]
fn nobody_links_what_is_banned() {
    for package in ["valise", "valise-proto", "valise-client", "valise-ctl", "valise-load"] {
        let linked = tree(package, "normal,build,dev");
        let found: Vec<_> = banned().into_iter().filter(|name| linked.contains(name)).collect();
        assert!(found.is_empty(), "{package} links {found:?}");
    }
}

/// The protocol crate is what other people build clients on: it must stay small.
#[test]
fn the_protocol_crate_has_no_runtime() {
    let linked = tree("valise-proto", "normal");
    for name in ["tokio", "rustls", "hyper", "fjall", "tracing"] {
        assert!(!linked.contains(name), "valise-proto links {name}");
    }
}

#[test]
fn mutants_are_noticed() {
    let linked: BTreeSet<String> = tree("valise", "normal");
    let with = |name: &str| {
        let mut more = linked.clone();
        more.insert(name.to_owned());
        judge(&more, ALLOWED, &banned())
    };
    assert_eq!(with("openmls"), ["openmls is banned", "openmls is not in the list"]);
    assert_eq!(with("ring"), ["ring is banned", "ring is not in the list"]);
    assert_eq!(with("left-pad"), ["left-pad is not in the list"]);
    // Even a list that allows it does not help.
    let allowed = format!("{ALLOWED}openmls\n");
    let mut more = linked.clone();
    more.insert("openmls".to_owned());
    assert_eq!(judge(&more, &allowed, &banned()), ["openmls is banned"]);
    let unused = format!("{ALLOWED}left-pad\n");
    assert_eq!(judge(&linked, &unused, &banned()), ["left-pad is in the list and not linked"]);
}

/// What is wrong with a set of linked crates.
fn judge(linked: &BTreeSet<String>, allowed: &str, banned: &BTreeSet<String>) -> Vec<String> {
    let allowed: BTreeSet<String> =
        allowed.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    let mut wrong: Vec<String> =
        linked.intersection(banned).map(|name| format!("{name} is banned")).collect();
    wrong.extend(linked.difference(&allowed).map(|name| format!("{name} is not in the list")));
    let unused = allowed.difference(linked);
    wrong.extend(unused.map(|name| format!("{name} is in the list and not linked")));
    wrong
}

/// The names deny.toml bans.
fn banned() -> BTreeSet<String> {
    let deny: toml::Table = include_str!("../deny.toml").parse().unwrap();
    let bans = deny["bans"]["deny"].as_array().unwrap();
    let names: BTreeSet<String> =
        bans.iter().map(|ban| ban["crate"].as_str().unwrap().to_owned()).collect();
    assert!(names.contains("openmls") && names.contains("openssl"), "the bans are there");
    names
}

/// The names of the crates a package is linked from.
fn tree(package: &str, edges: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--prefix", "none", "--format", "{p}"])
        .args(["--package", package, "--edges", edges, "--target", PLATFORM])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}
