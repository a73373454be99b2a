//! The examples as a reader would run them: two processes and a relay.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers included")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use valise_client::random;
use valise_client::testing::TestRelay;

/// The example's binary: beside this test where cargo built all targets, else built now.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let binary: PathBuf = profile.join("examples").join(name);
    if !binary.is_file() {
        let release = profile.ends_with("release").then_some("--release");
        let built = Command::new(env!("CARGO"))
            .args(["build", "-p", "valise-client", "--example", name])
            .args(release)
            .status();
        assert!(built.unwrap().success());
    }
    let mut command = Command::new(binary);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A process that is killed if the test fails.
struct Running(Option<Child>);

impl Running {
    fn start(mut command: Command) -> Self {
        Self(Some(command.spawn().unwrap()))
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    fn finish(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// The line with the hash.
fn hash(stderr: &str) -> &str {
    stderr.lines().find(|line| line.starts_with("SHA-256 ")).unwrap_or_else(|| panic!("{stderr}"))
}

#[test]
fn a_file_is_piped_through_a_relay_that_is_killed_on_the_way() {
    let mut relay = TestRelay::spawn().unwrap();
    for transport in [&["--websocket"][..], &[]] {
        let mut receive = example("pipe_file");
        receive.arg("receive").arg(relay.address().to_string()).args(transport);
        let mut receiver = Running::start(receive);
        let mut said = BufReader::new(receiver.child().stderr.take().unwrap());
        let mut ticket = String::new();
        said.read_line(&mut ticket).unwrap();
        let said = thread::spawn(move || {
            let mut rest = String::new();
            said.read_to_string(&mut rest).unwrap();
            rest
        });
        let mut stdout = receiver.child().stdout.take().unwrap();
        let written = thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).unwrap();
            bytes
        });

        let mut send = example("pipe_file");
        send.arg("send").arg(ticket.trim()).args(transport);
        let mut sender = Running::start(send);
        let mut stdin = sender.child().stdin.take().unwrap();
        // Odd sizes: frames are full, partly full and last.
        let sent: Vec<u8> =
            std::iter::repeat_with(random::bytes::<1_001>).take(3_000).flatten().collect();
        let (first, second) = sent.split_at(sent.len() / 3);
        stdin.write_all(first).unwrap();
        relay.restart().unwrap();
        stdin.write_all(second).unwrap();
        drop(stdin);

        let sender = sender.finish();
        let sender_said = String::from_utf8_lossy(&sender.stderr).into_owned();
        assert!(sender.status.success(), "{sender_said}");
        assert!(receiver.finish().status.success());
        let receiver_said = said.join().unwrap();
        assert!(written.join().unwrap() == sent, "not byte-identical");
        assert_eq!(hash(&sender_said), hash(&receiver_said));
    }
}

#[test]
fn the_echo_bot_answers() {
    let relay = TestRelay::spawn().unwrap();
    let mut bot = example("echo_bot");
    bot.arg(relay.address().to_string());
    let mut bot = Running::start(bot);
    let mut ticket = String::new();
    // Kept open, for the bot has more to say.
    let mut said = BufReader::new(bot.child().stdout.take().unwrap());
    said.read_line(&mut ticket).unwrap();
    for transport in [&["--websocket"][..], &[]] {
        let mut ask = example("echo_bot");
        ask.args(["ask", ticket.trim(), "who", "goes there?"]).args(transport);
        let answer = Running::start(ask).finish();
        assert_eq!(String::from_utf8_lossy(&answer.stdout), "who goes there?\n");
        assert_eq!(String::from_utf8_lossy(&answer.stderr), "");
        assert!(answer.status.success());
    }
}

#[test]
fn an_invite_code_lets_one_receiver_in() {
    let relay = TestRelay::with_config("[relay]\naccess = \"codes\"\n").unwrap();
    let code = relay.invite_code().unwrap().to_text();
    let receive = |options: &[&str]| {
        let mut receive = example("pipe_file");
        receive.arg("receive").arg(relay.address().to_string()).args(options);
        Running::start(receive)
    };
    let mut lucky = receive(&["--code", &code]);
    let mut ticket = String::new();
    BufReader::new(lucky.child().stderr.take().unwrap()).read_line(&mut ticket).unwrap();
    assert!(ticket.starts_with("valise://"), "{ticket}");
    for (options, reason) in [(&[][..], "code_required"), (&["--code", &code], "code_spent")] {
        let output = receive(options).finish();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said, format!("pipe_file: the relay refused: {reason}\n"));
    }
}

#[test]
fn errors_are_plain() {
    let mut relay = TestRelay::spawn().unwrap();
    relay.kill().unwrap();
    let mut receive = example("pipe_file");
    receive.arg("receive").arg(relay.address().to_string());
    let output = Running::start(receive).finish();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("pipe_file: cannot reach 127.0.0.1:"), "{said}");
}
