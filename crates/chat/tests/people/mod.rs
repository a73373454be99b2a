//! People at terminals, for tests: each has a profile of its own and runs the real binary.

#![allow(dead_code)] // not every test uses all of it

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use valise_client::testing::TestRelay;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Somebody with a profile.
pub struct Person {
    pub name: &'static str,
    home: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A command that still runs. Dropping it kills it.
pub struct Running {
    pub child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Person {
    pub fn new(name: &'static str) -> Self {
        Self { name, home: TempDir::new().unwrap() }
    }

    pub fn profile(&self) -> PathBuf {
        self.home.path().join("profile")
    }

    /// A file beside the profile.
    pub fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare();
        command.arg("--profile").arg(self.profile()).args(arguments);
        command.args(["--no-passphrase", "--allow-private-relays"]);
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Done {
        finish(self.command(arguments))
    }

    /// [`Person::run`] with something to read.
    pub fn run_with(&self, arguments: &[&str], input: std::fs::File) -> Done {
        finish_with(self.command(arguments), input.into())
    }

    /// Runs a command that has to succeed; what it prints.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert_eq!(done.code, 0, "{} {arguments:?}: {}{}", self.name, done.stdout, done.stderr);
        done.stdout
    }

    /// [`Person::ok`], whose output is JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments)).unwrap()
    }

    /// Starts a command.
    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments))
    }

    /// Makes the profile.
    pub fn init(&self, relay: &TestRelay) {
        self.ok(&["init", "--relay", &relay.address().to_string(), "--name", self.name]);
    }

    /// Invites somebody, who gets a profile if there is none.
    pub fn meet(&self, other: &Self) {
        let mut invite = self.start(&["invite"]);
        let link = invite.line();
        other.ok(&["join", &link, "--name", other.name]);
        assert_eq!(invite.wait(), 0);
    }

    /// The texts of a conversation, once there are so many.
    pub fn texts(&self, to: &str, count: usize) -> Vec<String> {
        until(|| {
            let texts = self.texts_now(to);
            if texts.len() >= count {
                Ok(texts)
            } else {
                Err(format!("{} sees {texts:?}", self.name))
            }
        })
    }

    /// The texts of a conversation.
    pub fn texts_now(&self, to: &str) -> Vec<String> {
        let lines = self.ok(&["history", to, "--json"]);
        let messages = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let texts = messages.filter(|message| message["kind"] == "text");
        texts.map(|message| message["text"].as_str().unwrap().to_owned()).collect()
    }
}

/// The binary without any choice made.
pub fn bare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_valise-chat"));
    for variable in ["PROFILE", "PASSPHRASE", "PASSPHRASE_FILE"] {
        command.env_remove(format!("VALISE_CHAT_{variable}"));
    }
    command
}

/// Runs a command to its end.
pub fn finish(command: Command) -> Done {
    finish_with(command, Stdio::null())
}

fn finish_with(mut command: Command, input: Stdio) -> Done {
    let mut child =
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let stderr = thread::spawn(move || std::io::read_to_string(&mut stderr).unwrap());
    let mut stdout = child.stdout.take().unwrap();
    let stdout = thread::spawn(move || std::io::read_to_string(&mut stdout).unwrap());
    let code = wait(&mut child);
    Done { code, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = sync_channel(10_000);
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Self { child, stdin, lines }
    }

    /// The next line it prints.
    pub fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line is printed in time")
    }

    /// The next line of JSON that fits.
    pub fn json(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let value: Value = serde_json::from_str(&self.line()).unwrap();
            if fits(&value) {
                return value;
            }
        }
    }

    /// Writes a line.
    pub fn write(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Ends its input.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Tells it to end, as a service manager does.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for its end.
    pub fn wait(mut self) -> i32 {
        wait(&mut self.child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn wait(child: &mut Child) -> i32 {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().ok();
    panic!("a command did not end in {PATIENCE:?}");
}

/// Tries again until it is so.
pub fn until<T>(mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) => assert!(Instant::now() < end, "not in {PATIENCE:?}: {why}"),
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The profile's socket, once it is there.
pub fn socket(profile: &Path) -> PathBuf {
    let socket = profile.join("engine.sock");
    until(|| if socket.exists() { Ok(()) } else { Err("no socket".to_owned()) });
    socket
}
