//! A [`Payload`](valise::payload::Payload) cannot be looked at: the programs in `tests/opacity/`
//! try to, one way each, and must not compile, each for the reason in its first line. They are
//! checked against `src/payload.rs` itself, in a package that has nothing else in it. The mutant is
//! the same file with accessors added, and every program they help must be noticed.
//!
//! Error codes are compared, not messages: those change with the compiler.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the compiler said of a program: the codes of its errors, none if it compiled.
type Verdicts = BTreeMap<String, BTreeSet<String>>;

#[test]
fn a_payload_cannot_be_looked_at() {
    let verdicts = check_programs("opaque", &payload_source());
    let programs = programs();
    assert!(programs.len() > 10, "the programs are there");
    for (name, expected) in &programs {
        assert_eq!(&verdicts[name], expected, "tests/opacity/{name}.rs");
    }
}

#[test]
fn mutant_accessors_are_noticed() {
    let mutant = format!("{}{}", payload_source(), include_str!("opacity/mutant.rs.txt"));
    let verdicts = check_programs("mutant", &mutant);
    let programs = programs();
    let helped = [
        "accessor",
        "as_ref",
        "compare",
        "deref",
        "hash",
        "hex",
        "index",
        "into_bytes",
        "iterate",
        "print",
        "serialise",
    ];
    for name in helped {
        assert_ne!(verdicts[name], programs[name], "tests/opacity/{name}.rs did not notice");
    }
    assert!(verdicts["pass"].is_empty(), "the mutant itself compiles");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn payload_source() -> String {
    fs::read_to_string(root().join("src/payload.rs")).unwrap()
}

/// Each program's name and the codes its first line names.
fn programs() -> Verdicts {
    let mut programs = Verdicts::new();
    for entry in fs::read_dir(root().join("tests/opacity")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let first = text.strip_prefix("//! ").unwrap().split(':').next().unwrap();
            let codes = if first == "compiles" { None } else { Some(first.to_owned()) };
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            programs.insert(name, codes.into_iter().collect());
        }
    }
    programs
}

/// Checks every program against a library of this payload.rs and nothing else.
fn check_programs(name: &str, payload: &str) -> Verdicts {
    let package = write_package(name, payload);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["check", "--keep-going", "--bins", "--message-format=json", "--quiet"])
        .arg("--manifest-path")
        .arg(package.join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", target)
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap();
    let mut verdicts: Verdicts =
        programs().into_keys().map(|name| (name, BTreeSet::new())).collect();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        if message["reason"] != "compiler-message" || message["message"]["level"] != "error" {
            continue;
        }
        let target = message["target"]["name"].as_str().unwrap();
        // The last error of a failed program says only that there were others.
        let Some(code) = message["message"]["code"]["code"].as_str() else { continue };
        let verdict = verdicts.get_mut(target);
        verdict.unwrap_or_else(|| panic!("{target}: {message:#}")).insert(code.to_owned());
    }
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(verdicts.values().any(|codes| !codes.is_empty()), "cargo did not check:\n{log}");
    verdicts
}

fn write_package(name: &str, payload: &str) -> PathBuf {
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("opacity-{name}"));
    fs::create_dir_all(package.join("src/bin")).unwrap();
    let write = |file: &str, text: &str| {
        let path = package.join(file);
        // Untouched where nothing changed, so that a second run is quick.
        if fs::read_to_string(&path).ok().as_deref() != Some(text) {
            fs::write(path, text).unwrap();
        }
    };
    for program in programs().keys() {
        let text = fs::read_to_string(root().join(format!("tests/opacity/{program}.rs"))).unwrap();
        write(&format!("src/bin/{program}.rs"), &text);
    }
    write("src/payload.rs", payload);
    write("src/lib.rs", "pub mod payload;\n");
    // The relay's own versions and profile: everything is there already.
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let profile = &workspace[workspace.find("[profile.dev]").unwrap()..];
    let proto = root().join("proto");
    write(
        "Cargo.toml",
        &format!(
            "[workspace]\n\n[package]\nname = \"opaque-{name}\"\nversion = \"0.0.0\"\n\
             edition = \"2024\"\n\n[lib]\nname = \"opaque\"\n\n[dependencies]\nbytes = \"1\"\n\
             crc32fast = \"1\"\nserde = \"1\"\nvalise-proto = {{ path = {proto:?} }}\n\n{profile}"
        ),
    );
    if !package.join("Cargo.lock").exists() {
        fs::copy(root().join("Cargo.lock"), package.join("Cargo.lock")).unwrap();
    }
    package
}
