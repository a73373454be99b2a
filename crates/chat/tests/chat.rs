//! The real binary against the real relay: what people do.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)] // a test fails by panicking

mod people;

use std::fs;

use people::{Person, Running, bare, finish, until};
use serde_json::{Value, json};
use valise_client::testing::TestRelay;

#[test]
fn two_people_write_to_each_other() {
    let relay = TestRelay::spawn().unwrap();
    let (ann, bob) = (Person::new("Ann"), Person::new("Bob"));
    ann.init(&relay);
    ann.meet(&bob);
    bob.ok(&["send", "Ann", "good", "morning"]);
    assert_eq!(ann.texts("Bob", 1), ["good morning"]);
    ann.ok(&["send", "bob", "good\nevening \u{1b}[2J"]);
    assert_eq!(bob.texts("Ann", 2), ["good morning", "good\nevening \u{1b}[2J"]);
    let history = bob.ok(&["history", "Ann"]);
    assert!(history.contains("Ann: good\n    evening \u{241b}[2J\n"), "{history}");

    let mut tail = bob.start(&["tail", "--json", "--since", "0"]);
    let first = tail.json(|message| message["kind"] == "text");
    assert_eq!((&first["text"], &first["mine"]), (&json!("good morning"), &json!(true)));
    let second = tail.json(|message| message["kind"] == "text");
    assert_eq!(second["name"], "Ann");
    // The tail holds the profile and serves it: both commands below go through it.
    let sent = bob.json(&["send", "Ann", "while the tail runs", "--json"]);
    assert_ne!(sent["state"], "sending");
    ann.ok(&["send", "Bob", "live"]);
    let texts = [tail.json(|m| m["kind"] == "text"), tail.json(|m| m["kind"] == "text")];
    let texts = texts.map(|message| message["text"].clone());
    assert_eq!(texts, ["while the tail runs", "live"]);
    tail.terminate();
    assert_eq!(tail.wait(), 0);
    assert!(!bob.profile().join("engine.sock").exists(), "the socket went with its server");
}

#[test]
fn states_and_keys_are_for_scripts() {
    let relay = TestRelay::spawn().unwrap();
    let (ann, bob) = (Person::new("Ann"), Person::new("Bob"));
    ann.init(&relay);
    ann.meet(&bob);
    let first = bob.json(&["send", "Ann", "once", "--key", "k1", "--json"]);
    assert_eq!(first["state"], "relayed");
    let second = bob.json(&["send", "Ann", "once", "--key", "k1", "--json"]);
    assert_eq!(first["message"], second["message"]);
    assert_eq!(ann.texts("Bob", 1), ["once"]);
    // Ann's device has it: Bob hears so.
    until(|| {
        let last = &bob.json(&["list", "--json"])[0]["last"];
        if last["state"] == "delivered" { Ok(()) } else { Err(last.to_string()) }
    });
    let mut input = bob.start(&["send", "Ann", "-"]);
    input.write("two");
    input.write("lines");
    input.end_input();
    assert_eq!(input.wait(), 0);
    assert_eq!(ann.texts("Bob", 2)[1], "two\nlines");
}

#[test]
fn names_that_fit_nobody_or_several_are_refused() {
    let relay = TestRelay::spawn().unwrap();
    let (ann, bob, other) = (Person::new("Ann"), Person::new("Bob"), Person::new("Bob"));
    ann.init(&relay);
    ann.meet(&bob);
    ann.meet(&other);
    let refused = ann.run(&["send", "Bob", "for whom?"]);
    assert_eq!(refused.code, 65, "{}", refused.stderr);
    assert!(refused.stderr.contains("(Bob)"), "{}", refused.stderr);
    let nobody = ann.run(&["send", "Zoe", "hello"]);
    assert_eq!(nobody.code, 65);
    let contacts = ann.json(&["contacts", "--json"]);
    let account = contacts[0]["account"].as_str().unwrap();
    ann.ok(&["petname", &account[..10], "Robert"]);
    ann.ok(&["send", "Robert", "for you"]);
    assert!(ann.ok(&["contacts"]).contains("Robert"));
}

#[test]
fn a_group_of_three() {
    let relay = TestRelay::spawn().unwrap();
    let (ann, bob, cid) = (Person::new("Ann"), Person::new("Bob"), Person::new("Cid"));
    ann.init(&relay);
    ann.meet(&bob);
    ann.meet(&cid);
    once_reachable(&ann, &bob, &["group", "create", "Friends", "Bob"]);
    once_reachable(&ann, &cid, &["group", "add", "Friends", "Cid"]);
    ann.ok(&["send", "Friends", "hello, all"]);
    assert_eq!(bob.texts("Friends", 1), ["hello, all"]);
    cid.texts("Friends", 1);
    bob.ok(&["send", "Friends", "hello, Ann"]);
    assert_eq!(cid.texts("Friends", 2)[1], "hello, Ann");
    let members = ann.json(&["group", "members", "Friends", "--json"]);
    let names: Vec<_> = members.as_array().unwrap().iter().map(|m| m["name"].clone()).collect();
    assert_eq!(names.len(), 3, "{names:?}");

    ann.ok(&["group", "rename", "Friends", "Good friends"]);
    ann.ok(&["group", "remove", "Good friends", "Bob"]);
    ann.ok(&["send", "Good friends", "without Bob"]);
    until(|| {
        let texts = cid.run(&["history", "Good friends"]);
        if texts.stdout.contains("without Bob") { Ok(()) } else { Err(texts.stdout) }
    });
    let list = bob.json(&["list", "--json"]);
    let group = list.as_array().unwrap().iter().find(|known| known["kind"] == "group").unwrap();
    let number = group["number"].to_string();
    assert!(!bob.texts_now(&number).contains(&"without Bob".to_owned()));
}

/// Runs a command that fails until the other one's card has come: it may come long after the two have
/// met, and comes only while the other one runs.
fn once_reachable(person: &Person, other: &Person, arguments: &[&str]) {
    let runs = other.start(&["daemon"]);
    people::socket(&other.profile());
    until(|| {
        let done = person.run(arguments);
        if done.code == 0 { Ok(()) } else { Err(done.stderr) }
    });
    runs.terminate();
    assert_eq!(runs.wait(), 0);
}

#[test]
fn a_second_device_is_linked_and_named() {
    let relay = TestRelay::spawn().unwrap();
    let (laptop, phone) = (Person::new("Ann"), Person::new("Ann's phone"));
    laptop.init(&relay);
    let mut link = laptop.start(&["devices", "link"]);
    let text = link.line();
    let waiting = phone.start(&["init", "--link", &text, "--device-name", "phone"]);
    let request = link.line();
    let device = request.split_whitespace().next().unwrap().to_owned();
    assert!(request.contains("phone"), "{request}");
    link.end_input();
    assert_eq!(link.wait(), 0);
    let hold = laptop.start(&["daemon"]);
    people::socket(&laptop.profile());
    laptop.ok(&["devices", "confirm", &device[..8]]);
    assert_eq!(waiting.wait(), 0);
    let devices = phone.json(&["devices", "--json"]);
    assert_eq!(devices.as_array().unwrap().len(), 2, "{devices}");
    laptop.ok(&["devices", "remove", "phone"]);
    assert_eq!(laptop.json(&["devices", "--json"]).as_array().unwrap().len(), 1);
    hold.terminate();
    assert_eq!(hold.wait(), 0);
}

#[test]
fn words_are_compared() {
    let relay = TestRelay::spawn().unwrap();
    let (ann, bob) = (Person::new("Ann"), Person::new("Bob"));
    ann.init(&relay);
    ann.meet(&bob);
    assert_eq!(ann.ok(&["verify", "Bob"]), bob.ok(&["verify", "Ann"]));
    ann.ok(&["verify", "Bob", "--same"]);
    assert_eq!(ann.json(&["contacts", "--json"])[0]["verified"], true);
    ann.ok(&["verify", "Bob", "--different"]);
    assert_eq!(ann.json(&["contacts", "--json"])[0]["verified"], false);
}

#[test]
fn an_export_brings_the_account_back() {
    let relay = TestRelay::spawn().unwrap();
    let (ann, bob, again) = (Person::new("Ann"), Person::new("Bob"), Person::new("Ann"));
    ann.init(&relay);
    ann.meet(&bob);
    // The export names whom she can reach.
    once_reachable(&ann, &bob, &["group", "create", "Friends", "Bob"]);
    let (file, opens) = (ann.file("export"), ann.file("opens"));
    fs::write(&opens, "a long passphrase\n").unwrap();
    let (file, opens) = (file.to_str().unwrap(), opens.to_str().unwrap());
    ann.ok(&["export", file, "--file-passphrase-file", opens]);
    assert_eq!(ann.run(&["export", file, "--file-passphrase-file", opens]).code, 73);
    let account = ann.json(&["status", "--json"])["account"].clone();
    again.ok(&["restore", file, "--file-passphrase-file", opens]);
    assert_eq!(again.json(&["status", "--json"])["account"], account);
    assert_eq!(again.json(&["contacts", "--json"])[0]["name"], "Bob");
    fs::write(again.file("wrong"), "another one\n").unwrap();
    let other = Person::new("Eve");
    let wrong = again.file("wrong");
    let refused = other.run(&["restore", file, "--file-passphrase-file", wrong.to_str().unwrap()]);
    assert_eq!(refused.code, 77, "{}", refused.stderr);
}

#[test]
fn settings_of_a_conversation() {
    let relay = TestRelay::spawn().unwrap();
    let (ann, bob) = (Person::new("Ann"), Person::new("Bob"));
    ann.init(&relay);
    ann.meet(&bob);
    let bob_of_ann = |what: &str| ann.json(&["list", "--json"])[0][what].clone();
    ann.ok(&["mute", "Bob"]);
    assert_eq!(bob_of_ann("muted"), true);
    ann.ok(&["unmute", "Bob"]);
    assert_eq!(bob_of_ann("muted"), false);
    ann.ok(&["disappear", "Bob", "1h"]);
    assert_eq!(bob_of_ann("disappear_seconds"), 3_600);
    ann.ok(&["disappear", "Bob", "off"]);
    ann.ok(&["block", "Bob"]);
    assert_eq!(bob_of_ann("blocked"), true);
    assert_ne!(ann.run(&["send", "Bob", "hello"]).code, 0);
    ann.ok(&["unblock", "Bob"]);
    assert_eq!(bob_of_ann("blocked"), false);
    ann.ok(&["name", "Anna"]);
    assert_eq!(ann.json(&["status", "--json"])["name"], "Anna");
}

#[test]
fn what_is_wrong_has_its_exit_code() {
    let relay = TestRelay::spawn().unwrap();
    let ann = Person::new("Ann");
    let missing = ann.run(&["list"]);
    assert_eq!(missing.code, 66);
    assert!(missing.stderr.contains("valise-chat init"), "{}", missing.stderr);
    ann.init(&relay);
    let address = relay.address().to_string();
    assert_eq!(ann.run(&["init", "--relay", &address, "--name", "Ann"]).code, 73);
    assert_eq!(ann.run(&["fly"]).code, 64);
    assert_eq!(ann.run(&["join", "no link"]).code, 65);
    assert_eq!(ann.run(&[]).code, 64, "no terminal");
    let other = TestRelay::spawn().unwrap();
    let elsewhere = Person::new("Bob");
    elsewhere.init(&other);
    let link = elsewhere.ok(&["invite", "--no-wait"]);
    let refused = ann.run(&["join", link.trim()]);
    assert_eq!(refused.code, 77, "{}", refused.stderr);
    assert!(refused.stderr.contains("--allow-relay"), "{}", refused.stderr);
    let nowhere = Person::new("Cid");
    let dead = address.replace(&format!(":{}/", relay.address().port), ":1/");
    let unreachable = nowhere.run(&["init", "--relay", &dead, "--name", "Cid"]);
    assert_eq!(unreachable.code, 69, "{}", unreachable.stderr);
    assert!(!nowhere.profile().join("profile.db").exists(), "nothing is left behind");
}

/// Where a newcomer stumbles, the next step is said.
#[test]
fn a_newcomer_is_told_the_next_step() {
    let (relay, other) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let ann = Person::new("Ann");
    let said = |arguments: &[&str], code: i32, words: &str| {
        let done = ann.run(arguments);
        assert_eq!(done.code, code, "{arguments:?}: {}", done.stderr);
        assert!(done.stderr.contains(words), "{arguments:?}: {}", done.stderr);
    };
    let address = relay.address().to_string();
    let port = format!(":{}/", relay.address().port);
    let init = |address: &str, code, words: &str| {
        said(&["init", "--relay", address, "--name", "Ann"], code, words);
    };
    init(&address.replace(&port, ":1/"), 69, "Does the relay run, and is its address right?");
    let elsewhere = format!(":{}/", other.address().port);
    init(&address.replace(&port, &elsewhere), 69, "Another relay answers at this address");
    said(&["join", "no link", "--name", "Ann"], 65, "this is no invite");
    init(&address, 0, "valise-chat invite");
    said(&["contacts"], 0, "You know nobody yet");
    said(&["list"], 0, "There is no conversation yet");
    // Who has chosen to have no passphrase has said so once.
    let mut command = bare();
    command.arg("--profile").arg(ann.profile()).arg("status");
    assert_eq!(finish(command).code, 0);
}

/// That a profile is in use is said before a passphrase is asked for.
#[test]
fn a_profile_in_use_asks_nobody() {
    let relay = TestRelay::spawn().unwrap();
    let ann = Person::new("Ann");
    ann.init(&relay);
    let new = ann.file("new");
    fs::write(&new, "new\n").unwrap();
    ann.ok(&["passphrase", "--new-passphrase-file", new.to_str().unwrap()]);
    let with = |arguments: &[&str], file: Option<&std::path::Path>| {
        let mut command = bare();
        command.arg("--profile").arg(ann.profile()).args(arguments);
        if let Some(file) = file {
            command.arg("--passphrase-file").arg(file);
        }
        command
    };
    let daemon = Running::start(with(&["daemon"], Some(&new)));
    people::socket(&ann.profile());
    for arguments in [&["remove-profile", "--yes"][..], &["passphrase"]] {
        let done = finish(with(arguments, None));
        assert_eq!(done.code, 75, "{}", done.stderr);
        assert!(done.stderr.contains("in use by another process"), "{}", done.stderr);
    }
    daemon.terminate();
    assert_eq!(daemon.wait(), 0);
    assert_eq!(finish(with(&["status"], Some(&new))).code, 0);
}

#[test]
fn only_the_passphrase_opens() {
    let relay = TestRelay::spawn().unwrap();
    let ann = Person::new("Ann");
    let (right, wrong) = (ann.file("right"), ann.file("wrong"));
    fs::write(&right, "right\n").unwrap();
    fs::write(&wrong, "wrong\n").unwrap();
    let run = |passphrase: &std::path::Path, arguments: &[&str]| {
        let mut command = bare();
        command.env("VALISE_CHAT_PROFILE", ann.profile());
        command.env("VALISE_CHAT_PASSPHRASE_FILE", passphrase).args(arguments);
        finish(command)
    };
    let address = relay.address().to_string();
    assert_eq!(run(&right, &["init", "--relay", &address, "--name", "Ann"]).code, 0);
    assert_eq!(run(&right, &["status"]).code, 0);
    let refused = run(&wrong, &["status"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (77, ""));
    assert!(refused.stderr.contains("passphrase is wrong"), "{}", refused.stderr);
    assert_eq!(ann.run(&["status"]).code, 77, "none is wrong too");
}

#[test]
fn a_removed_profile_leaves_nothing() {
    let relay = TestRelay::spawn().unwrap();
    let ann = Person::new("Ann");
    ann.init(&relay);
    assert_eq!(ann.run(&["remove-profile"]).code, 64, "nobody is there to agree");
    ann.ok(&["remove-profile", "--yes"]);
    assert!(!ann.profile().exists());
    assert_eq!(ann.run(&["status"]).code, 66);
}

#[test]
fn a_daemon_serves_standard_input_and_other_commands() {
    let relay = TestRelay::spawn().unwrap();
    let (ann, bob) = (Person::new("Ann"), Person::new("Bob"));
    ann.init(&relay);
    ann.meet(&bob);
    let mut bot = ann.start(&["daemon", "--stdio"]);
    let ask = |bot: &mut Running, id: u64, method: &str, params: Value| {
        bot.write(
            &json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string(),
        );
        bot.json(|line| line["id"] == id)
    };
    assert_eq!(ask(&mut bot, 1, "status", json!({}))["result"]["name"], "Ann");
    bot.write("this is no JSON");
    assert_eq!(bot.json(|line| line["error"]["code"] == -32_700)["id"], Value::Null);
    assert_eq!(ask(&mut bot, 2, "subscribe", json!({}))["result"], Value::Null);
    bob.ok(&["send", "Ann", "are you a bot?"]);
    let event = bot.json(|line| {
        line["params"]["event"] == "message" && line["params"]["message"]["kind"] == "text"
    });
    assert_eq!(event["params"]["message"]["text"], "are you a bot?");
    let conversation = event["params"]["message"]["conversation"].clone();
    let sent = ask(&mut bot, 3, "send", json!({ "conversation": conversation, "text": "yes" }));
    assert!(sent["result"]["message"].is_number(), "{sent}");
    assert_eq!(bob.texts("Ann", 2)[1], "yes");
    let refused = ask(&mut bot, 4, "send", json!({ "conversation": 99, "text": "x" }));
    assert_eq!(refused["error"]["data"]["code"], "unknown_conversation");

    // Another front end, while the bot holds the profile; and no second engine.
    ann.ok(&["send", "Bob", "and a person"]);
    assert_eq!(bob.texts("Ann", 3)[2], "and a person");
    let second = ann.run(&["daemon"]);
    assert_eq!(second.code, 75, "{}", second.stderr);
    assert_eq!(ann.run(&["remove-profile", "--yes"]).code, 75);
    bot.end_input();
    assert_eq!(bot.wait(), 0);
    ann.ok(&["status"]);
}
