//! The real binary against a real keyring: GNOME Keyring on a bus of its own, and no keyring at all.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test fails by panicking

#[path = "keyring/bus.rs"]
mod bus;
mod people;

use std::fs;
use std::path::Path;
use std::process::Command;

use bus::{Bus, Keyring};
use people::{Done, Person, bare, finish};
use valise_client::testing::TestRelay;

/// Somebody whose secrets the keyring of this bus keeps.
struct Owner<'a> {
    person: Person,
    bus: &'a Bus,
}

impl<'a> Owner<'a> {
    fn new(name: &'static str, bus: &'a Bus) -> Self {
        Self { person: Person::new(name), bus }
    }

    /// No passphrase from anywhere, and nobody to ask.
    fn run(&self, arguments: &[&str]) -> Done {
        let mut command = bare();
        command.arg("--profile").arg(self.person.profile());
        command.arg("--allow-private-relays").args(arguments);
        self.bus.address(&mut command);
        // Without a terminal of its own it cannot ask at that of whoever runs the test.
        finish(detached(&command))
    }

    fn ok(&self, arguments: &[&str]) -> Done {
        let done = self.run(arguments);
        assert_eq!(done.code, 0, "{arguments:?}: {}{}", done.stdout, done.stderr);
        done
    }

    fn refused(&self, arguments: &[&str], code: i32, words: &str) {
        let done = self.run(arguments);
        assert_eq!(done.code, code, "{arguments:?}: {}{}", done.stdout, done.stderr);
        assert!(done.stderr.contains(words), "{arguments:?}: {}", done.stderr);
    }

    fn init(&self, relay: &TestRelay) -> Done {
        let address = relay.address().to_string();
        self.ok(&["init", "--relay", &address, "--name", self.person.name, "--keyring"])
    }

    fn exists(&self) -> bool {
        self.person.profile().join("profile.db").exists()
    }
}

/// The same command in a session of its own.
fn detached(command: &Command) -> Command {
    let mut detached = Command::new("setsid");
    detached.arg("--wait").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => detached.env(name, value),
            None => detached.env_remove(name),
        };
    }
    detached
}

fn write(path: &Path, text: &str) -> String {
    fs::write(path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A keyring that is not there is said, with a way out; nothing is made without a secret.
#[test]
fn without_a_keyring_nothing_is_made() {
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().to_string();
    let bus = Bus::absent();
    let ann = Owner::new("Ann", &bus);
    let init = ["init", "--relay", &address, "--name", "Ann", "--keyring"];
    ann.refused(&init, 69, "there is no keyring here");
    ann.refused(&init, 69, "or use a passphrase");
    assert!(!ann.exists());
    // Neither is anything made without a passphrase by accident.
    ann.refused(&init[..5], 64, "--no-passphrase for one that has none");
    assert!(!ann.exists());
}

/// A session with a bus and no keyring on it.
#[test]
fn a_bus_alone_is_no_keyring() {
    let Some(bus) = Bus::start() else { return };
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().to_string();
    let ann = Owner::new("Ann", &bus);
    let init = ["init", "--relay", &address, "--name", "Ann", "--keyring"];
    ann.refused(&init, 69, "there is no keyring here");
    assert!(!ann.exists());
}

/// From the first day to the last: nothing is asked, and nothing stays.
#[test]
fn the_keyring_opens_a_profile() {
    let Some(bus) = Bus::start() else { return };
    let Some(keyring) = Keyring::unlocked(&bus) else { return };
    let relay = TestRelay::spawn().unwrap();
    let ann = Owner::new("Ann", &bus);
    let made = ann.init(&relay);
    assert!(made.stderr.contains("keep an export"), "{}", made.stderr);
    assert_eq!(bus.secrets(), 1);
    assert!(ann.ok(&["status"]).stdout.contains("Ann"));

    // It opens with nothing else, and says so before it tries.
    ann.refused(&["status", "--no-passphrase"], 64, "opens with the keyring");
    // Who has the files has not the keyring.
    let thief = Bus::absent();
    let stolen = Owner { person: ann.person, bus: &thief };
    stolen.refused(&["status"], 69, "there is no keyring here");
    let ann = Owner { person: stolen.person, bus: &bus };

    // The next login: the keyring has kept it.
    drop(keyring);
    ann.refused(&["status"], 69, "there is no keyring here");
    let _keyring = Keyring::unlocked(&bus).unwrap();
    ann.ok(&["status"]);
    ann.ok(&["remove-profile", "--yes"]);
    assert_eq!(bus.secrets(), 0);
}

/// A profile moves between a passphrase, the keyring and nothing.
#[test]
fn a_profile_changes_what_opens_it() {
    let Some(bus) = Bus::start() else { return };
    let Some(_keyring) = Keyring::unlocked(&bus) else { return };
    let relay = TestRelay::spawn().unwrap();
    let ann = Owner::new("Ann", &bus);
    ann.init(&relay);
    let first = write(&ann.person.file("first"), "correct horse\n");
    let second = write(&ann.person.file("second"), "battery staple\n");

    ann.ok(&["passphrase", "--new-passphrase-file", &first]);
    assert_eq!(bus.secrets(), 0, "the old secret is gone");
    ann.refused(&["status"], 64, "no terminal to ask for the passphrase");
    ann.refused(&["status", "--keyring"], 64, "does not open with the keyring");
    ann.ok(&["status", "--passphrase-file", &first]);

    ann.ok(&["passphrase", "--passphrase-file", &first, "--new-passphrase-file", &second]);
    ann.refused(&["status", "--passphrase-file", &first], 77, "passphrase is wrong");
    ann.refused(&["passphrase", "--passphrase-file", &first, "--to-keyring"], 77, "is wrong");
    assert_eq!(bus.secrets(), 0);

    ann.ok(&["passphrase", "--passphrase-file", &second, "--to-keyring"]);
    assert_eq!(bus.secrets(), 1);
    ann.ok(&["status"]);
    // A new secret in the place of the old one.
    ann.ok(&["passphrase", "--to-keyring"]);
    assert_eq!(bus.secrets(), 1);
    ann.ok(&["status"]);

    let done = ann.ok(&["passphrase", "--to-none"]);
    assert!(done.stderr.contains("Warning: without a passphrase"), "{}", done.stderr);
    assert_eq!(bus.secrets(), 0);
    ann.ok(&["status"]);
    ann.refused(&["status", "--passphrase-file", &second], 77, "passphrase is wrong");
}

/// Wherever a profile is made; and where it is not, its secret does not stay.
#[test]
fn join_restore_and_link_use_the_keyring_too() {
    let Some(bus) = Bus::start() else { return };
    let Some(_keyring) = Keyring::unlocked(&bus) else { return };
    let mut relay = TestRelay::spawn().unwrap();
    let ann = Person::new("Ann");
    ann.init(&relay);
    let mut invite = ann.start(&["invite"]);
    let link = invite.line();
    let bob = Owner::new("Bob", &bus);
    bob.ok(&["join", &link, "--name", "Bob", "--keyring"]);
    assert_eq!(invite.wait(), 0);
    bob.ok(&["contacts"]);
    assert_eq!(bus.secrets(), 1);

    let passphrase = write(&bob.person.file("passphrase"), "of the file\n");
    let export = bob.person.file("export");
    let export = export.to_str().unwrap();
    bob.ok(&["export", export, "--file-passphrase-file", &passphrase]);
    let restored = Owner::new("Bob", &bus);
    restored.ok(&["restore", export, "--file-passphrase-file", &passphrase, "--keyring"]);
    restored.ok(&["status"]);
    assert_eq!(bus.secrets(), 2);

    // A link that nobody confirms: cut off, nothing of the new device stays.
    let phone = Owner::new("Bob's phone", &bus);
    phone.refused(&["init", "--link", "no link", "--keyring"], 65, "");
    assert_eq!(bus.secrets(), 2);

    relay.kill().unwrap();
    let address = relay.address().to_string();
    let eve = Owner::new("Eve", &bus);
    let done = eve.run(&["init", "--relay", &address, "--name", "Eve", "--keyring"]);
    assert_eq!(done.code, 69, "{}", done.stderr);
    assert!(!eve.exists());
    assert_eq!(bus.secrets(), 2);
}

/// A keyring that nobody unlocks: the command says so and ends.
#[test]
fn a_locked_keyring_is_said() {
    let Some(bus) = Bus::start() else { return };
    let Some(keyring) = Keyring::unlocked(&bus) else { return };
    let relay = TestRelay::spawn().unwrap();
    let ann = Owner::new("Ann", &bus);
    ann.init(&relay);
    drop(keyring);
    let _keyring = Keyring::locked(&bus).unwrap();
    ann.refused(&["status"], 77, "the keyring is locked");
    let address = relay.address().to_string();
    let bob = Owner::new("Bob", &bus);
    let init = ["init", "--relay", &address, "--name", "Bob", "--keyring"];
    bob.refused(&init, 77, "the keyring is locked");
    assert!(!bob.exists());
}
