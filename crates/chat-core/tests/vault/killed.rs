//! A process that is killed at any point leaves all of a transaction or nothing of it. (That a
//! commit survives a loss of power is up to `synchronous=FULL` and the disk; no test here cuts it.)

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use valise_chat_core::vault::{Cost, Transaction, Vault, VaultError};

use crate::{Note, Other, Place, get, note, passphrase};

/// Where a child process works; not set: this is no child.
const CHILD: &str = "VALISE_VAULT_CHILD";
const DONE: &str = "done ";
const KEPT: i64 = 10;

/// Runs a test of this file as a process, and kills it so long after it has first done something.
/// Returns the last thing that it said it had done.
fn kill(child: &str, place: &Place, after: Duration) -> i64 {
    let mut process = Command::new(env::current_exe().unwrap())
        .args([child, "--exact", "--nocapture"])
        .env(CHILD, place.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
    let number = |line: String| {
        let (_, number) = line.split_once(DONE)?;
        number.parse::<i64>().ok()
    };
    let first = lines.by_ref().find_map(number).expect("the child does something");
    thread::sleep(after);
    process.kill().unwrap();
    process.wait().unwrap();
    lines.filter_map(number).last().unwrap_or(first)
}

fn place_of_child() -> Option<PathBuf> {
    env::var_os(CHILD).map(PathBuf::from)
}

/// Not a test by itself: the process that [`every_commit_is_whole`] kills.
#[test]
fn child_writes() {
    let Some(path) = place_of_child() else { return };
    let mut vault = Vault::open(&path, &passphrase()).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    let mut number: i64 = get::<Note>(&vault, 1).unwrap().text.parse().unwrap();
    while Instant::now() < end {
        number += 1;
        vault.write(|tx| write(tx, number)).unwrap();
        println!("{DONE}{number}");
        if number % 5 == 0 {
            vault.sweep().unwrap();
        }
    }
}

/// A number in two kinds, and a list of the last ten, over several pages.
fn write(tx: &Transaction<'_>, number: i64) -> Result<(), VaultError> {
    tx.put(1, &note(&number.to_string()))?;
    let child = Note { parent: 7, due: number, ..note(&"long ".repeat(700)) };
    tx.insert(&Note { name: number.to_be_bytes().to_vec(), ..child })?;
    while tx.count::<Note>(7)? > u64::try_from(KEPT).unwrap() {
        let (oldest, _) = tx.after::<Note>(7, 0, 1)?.remove(0);
        tx.remove::<Note>(oldest)?;
    }
    tx.put(1, &Other { text: number.to_string(), ..Other::default() })
}

#[test]
fn every_commit_is_whole() {
    let place = Place::new();
    let mut vault = place.create();
    vault.write(|tx| write(tx, 1)).unwrap();
    drop(vault);
    let mut before = 1;
    for round in 0..25 {
        let said = kill("killed::child_writes", &place, Duration::from_millis(round * 7 % 30));
        let vault = place.open();
        let number: i64 = get::<Note>(&vault, 1).unwrap().text.parse().unwrap();
        assert!(said > before, "round {round}: {said} after {before}");
        // It may be killed between the commit and the word.
        assert!([said, said + 1].contains(&number), "round {round}: {number}, said {said}");
        assert_eq!(get::<Other>(&vault, 1).unwrap().text, number.to_string());
        let children = vault.read(|tx| tx.children::<Note>(7)).unwrap();
        let dues: Vec<_> = children.iter().map(|(_, note)| note.due).collect();
        assert_eq!(dues, ((number - KEPT).max(0) + 1..=number).collect::<Vec<_>>());
        for (id, child) in children {
            let found = vault.read(|tx| tx.find::<Note>(&child.name)).unwrap();
            assert_eq!(found, Some((id, child)));
        }
        before = number;
    }
}

/// Not a test by itself: the process that [`profiles_are_made_and_removed_whole`] kills.
#[test]
fn child_makes_and_removes() {
    let Some(path) = place_of_child() else { return };
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        drop(make(&path).unwrap());
        println!("{DONE}1");
        Vault::remove(&path).unwrap();
        println!("{DONE}2");
    }
}

fn make(path: &Path) -> Result<Vault, VaultError> {
    Vault::create_with(path, &passphrase(), Cost::CHEAPEST, |tx| tx.put(1, &note("first")))
}

#[test]
fn profiles_are_made_and_removed_whole() {
    let place = Place::new();
    for round in 0..25 {
        let child = "killed::child_makes_and_removes";
        kill(child, &place, Duration::from_millis(round * 11 % 40));
        if Vault::exists(&place.path()) {
            assert_eq!(get(&place.open(), 1), Some(note("first")), "round {round}");
        } else {
            // Whatever lies there, a new one can be made.
            assert_eq!(get(&make(&place.path()).unwrap(), 1), Some(note("first")));
        }
        Vault::remove(&place.path()).unwrap();
        assert!(!place.path().exists(), "round {round}");
    }
}
