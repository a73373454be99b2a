//! kill -9 of either client and of the relay at random points, again and again: everything that was
//! taken for sending is shown once, in order. `VALISE_KILLS` sets how often; the gate kills 12 times.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use valise_client::random;
use valise_client::testing::TestRelay;

const PATIENCE: Duration = Duration::from_secs(60);
const SENT_BETWEEN_KILLS: u32 = 4;

/// A daemon of a profile, which may be killed.
struct Daemon {
    profile: PathBuf,
    process: Option<Process>,
    last_id: u64,
}

struct Process {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<Value>,
}

fn valise_chat(profile: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_valise-chat"));
    command.arg("--profile").arg(profile).arg("--no-passphrase");
    command.stderr(Stdio::null());
    command
}

impl Daemon {
    fn new(profile: PathBuf) -> Self {
        Self { profile, process: None, last_id: 0 }
    }

    fn start(&mut self) {
        let mut command = valise_chat(&self.profile);
        command.args(["daemon", "--stdio"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, answers) = sync_channel(10_000);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let value: Value = serde_json::from_str(&line).unwrap();
                if value.get("id").is_some() && sender.send(value).is_err() {
                    return;
                }
            }
        });
        self.process = Some(Process { child, stdin, answers });
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.child.kill().unwrap(); // SIGKILL
            process.child.wait().unwrap();
        }
    }

    /// Asks; none if the daemon died before it answered.
    fn ask(&mut self, method: &str, params: &Value) -> Option<Value> {
        self.tell(method, params)?;
        self.hear(Instant::now() + PATIENCE)
    }

    fn tell(&mut self, method: &str, params: &Value) -> Option<()> {
        self.last_id += 1;
        let process = self.process.as_mut()?;
        let request =
            json!({"jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params});
        writeln!(process.stdin, "{request}").ok()
    }

    fn hear(&mut self, until: Instant) -> Option<Value> {
        let id = self.last_id;
        let process = self.process.as_mut()?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match process.answers.recv_timeout(left) {
                Ok(answer) if answer["id"] == id => {
                    let error = answer.get("error");
                    assert!(error.is_none(), "{}: {answer}", self.profile.display());
                    return Some(answer["result"].clone());
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("no answer to request {id}"),
            }
        }
    }

    fn texts(&mut self, conversation: &Value) -> Vec<String> {
        let params = json!({"conversation": conversation, "before": null, "limit": 1000});
        let mut texts = Vec::new();
        let mut before = Value::Null;
        loop {
            let mut params = params.clone();
            params["before"].clone_from(&before);
            let page = self.ask("messages", &params).unwrap();
            let page = page.as_array().unwrap();
            let Some(first) = page.first() else { break };
            before.clone_from(&first["number"]);
            let mut of_page: Vec<_> = page
                .iter()
                .filter(|message| message["kind"] != "notice")
                .map(|message| message["text"].as_str().unwrap().to_owned())
                .collect();
            of_page.extend(texts);
            texts = of_page;
        }
        texts
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A conversation of Ann with Bob; its number at each.
fn introduce(relay: &TestRelay, home: &Path) -> (Daemon, Daemon, Value, Value) {
    let (ann, bob) = (home.join("ann"), home.join("bob"));
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let relay = relay.address().to_string();
    run(valise_chat(&ann).args(["init", "--relay", &relay, "--name", "Ann"]));
    let mut ann = Daemon::new(ann);
    ann.start();
    let link = ann.ask("invite", &json!({})).unwrap();
    let link = link["link"].as_str().unwrap();
    run(valise_chat(&bob).args(["join", link, "--name", "Bob"]));
    let mut bob = Daemon::new(bob);
    bob.start();
    let until = Instant::now() + PATIENCE;
    let number = |daemon: &mut Daemon| loop {
        let all = daemon.ask("conversations", &json!({})).unwrap();
        if let Some(found) = all.get(0) {
            return found["number"].clone();
        }
        assert!(Instant::now() < until, "no conversation");
        thread::sleep(Duration::from_millis(20));
    };
    let (at_ann, at_bob) = (number(&mut ann), number(&mut bob));
    (ann, bob, at_ann, at_bob)
}

fn below(limit: u64) -> u64 {
    u64::from_be_bytes(random::bytes()) % limit
}

#[test]
fn what_was_taken_is_shown_once_and_in_order() {
    let kills: u32 = std::env::var("VALISE_KILLS").map_or(12, |kills| kills.parse().unwrap());
    let mut relay = TestRelay::spawn().unwrap();
    let home = TempDir::new().unwrap();
    let (mut ann, mut bob, at_ann, at_bob) = introduce(&relay, home.path());
    let (mut said, mut killed) = ([Vec::new(), Vec::new()], [0; 3]);
    for round in 0..kills {
        // Both send; whoever is killed before it has answered is asked again, with the same key.
        let mut open = Vec::new();
        for number in 0..SENT_BETWEEN_KILLS {
            let who = (number % 2) as usize;
            let text = format!("{} {round}.{number}", ["ann", "bob"][who]);
            let (daemon, conversation) =
                if who == 0 { (&mut ann, &at_ann) } else { (&mut bob, &at_bob) };
            let params = json!({"conversation": conversation, "text": text, "key": text});
            if number + 2 < SENT_BETWEEN_KILLS {
                daemon.ask("send", &params).unwrap();
            } else {
                daemon.tell("send", &params).unwrap();
                open.push((who, params));
            }
            said[who].push(text);
        }
        thread::sleep(Duration::from_micros(below(60_000)));
        let victim = below(5) as usize;
        match victim {
            0 | 1 => ann.kill(),
            2 | 3 => bob.kill(),
            _ => relay.kill().unwrap(),
        }
        killed[victim / 2] += 1;
        match victim {
            0 | 1 => ann.start(),
            2 | 3 => bob.start(),
            _ => relay.restart().unwrap(),
        }
        for (who, params) in open {
            let daemon = if who == 0 { &mut ann } else { &mut bob };
            assert!(daemon.ask("send", &params).is_some(), "the key makes it harmless");
        }
    }
    for (reader, conversation, expected) in
        [(&mut bob, &at_bob, &said[0]), (&mut ann, &at_ann, &said[1])]
    {
        let until = Instant::now() + PATIENCE;
        let name = &expected[0][..3];
        loop {
            let texts = reader.texts(conversation);
            let theirs: Vec<_> = texts.into_iter().filter(|t| !is_of_other(t, name)).collect();
            if theirs.len() >= expected.len() {
                assert_eq!(theirs, *expected, "each once, in order, and no gap");
                break;
            }
            assert!(Instant::now() < until, "{} of {}", theirs.len(), expected.len());
            thread::sleep(Duration::from_millis(50));
        }
    }
    let [of_ann, of_bob, of_relay] = killed;
    println!(
        "{} messages each way; kill -9: Ann {of_ann}, Bob {of_bob}, relay {of_relay}; none lost, none twice",
        said[0].len()
    );
}

/// Messages of the other side; gaps and words of the engine are of nobody, and count.
fn is_of_other(text: &str, name: &str) -> bool {
    let other = if name == "ann" { "bob " } else { "ann " };
    text.starts_with(other)
}
