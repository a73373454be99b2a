//! The socket of a profile, spoken to by hand.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)] // a test fails by panicking

mod people;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use people::{PATIENCE, Person, Running, socket};
use serde_json::{Value, json};
use valise_client::testing::TestRelay;

/// A front end that says what it likes.
struct FrontEnd {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl FrontEnd {
    fn connect(person: &Person) -> Self {
        let stream = UnixStream::connect(socket(&person.profile())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap());
        Self { stream, lines }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn call(&mut self, id: impl Into<Value>, method: &str) {
        let call = json!({ "jsonrpc": "2.0", "id": id.into(), "method": method });
        self.write(format!("{call}\n").as_bytes());
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn is_at_end(&mut self) -> bool {
        self.lines.fill_buf().unwrap().is_empty()
    }
}

fn served() -> (TestRelay, Person, Running) {
    let relay = TestRelay::spawn().unwrap();
    let ann = Person::new("Ann");
    ann.init(&relay);
    let daemon = ann.start(&["daemon"]);
    socket(&ann.profile());
    (relay, ann, daemon)
}

#[test]
fn a_broken_line_breaks_nothing_else() {
    let (_relay, ann, _daemon) = served();
    let mut front_end = FrontEnd::connect(&ann);
    for (line, code) in [
        (&b"{\n"[..], -32_700),
        (b"\n", -32_700),
        (b"\xff\xfe\n", -32_700),
        (b"[]\n", -32_600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"fly\"}\n", -32_601),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"send\",\"params\":{}}\n", -32_602),
    ] {
        front_end.write(line);
        assert_eq!(front_end.read()["error"]["code"], code, "{line:?}");
    }
    // Longer than any line may be: read away, and not kept.
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..40 {
        front_end.write(&chunk);
    }
    front_end.write(b"\n");
    assert_eq!(front_end.read()["error"]["code"], -32_700);
    // A line in pieces is a line.
    front_end.write(b"{\"jsonrpc\":\"2.0\",\"id\":\"p\",");
    front_end.write(b"\"method\":\"status\"}\n");
    let answer = front_end.read();
    assert_eq!((&answer["id"], &answer["result"]["name"]), (&json!("p"), &json!("Ann")));
}

#[test]
fn nobody_answers_a_notification() {
    let (_relay, ann, _daemon) = served();
    let mut front_end = FrontEnd::connect(&ann);
    front_end.write(b"{\"jsonrpc\":\"2.0\",\"method\":\"status\"}\n");
    front_end.call(7, "contacts");
    assert_eq!(front_end.read(), json!({ "jsonrpc": "2.0", "id": 7, "result": [] }));
}

#[test]
fn a_long_call_holds_up_no_other() {
    let (_relay, ann, _daemon) = served();
    let mut front_end = FrontEnd::connect(&ann);
    front_end.call("invite", "invite"); // over the network
    for id in 0..200 {
        front_end.call(id, "status");
    }
    let mut ids: Vec<_> = (0..201).map(|_| front_end.read()["id"].clone()).collect();
    ids.sort_by_key(|id| id.as_u64().unwrap_or(u64::MAX));
    let mut expected: Vec<_> = (0..200).map(Value::from).collect();
    expected.push("invite".into());
    assert_eq!(ids, expected);
}

#[test]
fn what_one_front_end_sends_is_sent_in_its_order() {
    let (_relay, ann, _daemon) = served();
    let bob = Person::new("Bob");
    ann.meet(&bob);
    let mut front_end = FrontEnd::connect(&ann);
    let texts: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    for text in &texts {
        let params = json!({ "conversation": 1, "text": text });
        let call = json!({ "jsonrpc": "2.0", "id": text, "method": "send", "params": params });
        front_end.write(format!("{call}\n").as_bytes());
    }
    for _ in &texts {
        front_end.read();
    }
    let told = ann.ok(&["history", "Bob", "--limit", "200", "--json"]);
    let told = told.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: Vec<_> = told.filter(|message| message["kind"] == "text").collect();
    assert_eq!(
        told.iter().map(|message| &message["text"]).collect::<Vec<_>>(),
        texts.iter().collect::<Vec<_>>()
    );
}

#[test]
fn a_front_end_that_goes_leaves_the_others() {
    let (_relay, ann, _daemon) = served();
    let mut stays = FrontEnd::connect(&ann);
    for _ in 0..100 {
        let mut goes = FrontEnd::connect(&ann);
        goes.write(b"{\"jsonrpc\":");
    }
    stays.call(1, "status");
    assert_eq!(stays.read()["id"], 1);
}

#[test]
fn the_socket_is_for_its_user_alone() {
    let (_relay, ann, _daemon) = served();
    let mode = std::fs::metadata(socket(&ann.profile())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mode = std::fs::metadata(ann.profile()).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0);
}

#[test]
fn shutdown_is_answered_and_ends_the_daemon() {
    let (_relay, ann, daemon) = served();
    let (mut front_end, mut other) = (FrontEnd::connect(&ann), FrontEnd::connect(&ann));
    front_end.call(1, "shutdown");
    assert_eq!(front_end.read(), json!({ "jsonrpc": "2.0", "id": 1, "result": null }));
    assert!(front_end.is_at_end() && other.is_at_end());
    assert_eq!(daemon.wait(), 0);
    assert!(!ann.profile().join("engine.sock").exists());
}

#[test]
fn a_dead_process_is_in_nobodys_way() {
    let (_relay, ann, mut daemon) = served();
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    assert!(ann.profile().join("engine.sock").exists(), "it could not clean up");
    assert_eq!(ann.json(&["status", "--json"])["name"], "Ann");
}
