//! The binary as an operator meets it: what it prints, how it ends, what signals do.
#![allow(clippy::unwrap_used, unreachable_pub)] // a test fails by panicking

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use valise::identity::read_shard_key;
use valise::store::{Batch, EmbeddedOptions, EmbeddedStore, ShardKey, Store};
use valise_proto::{RelayAddress, Token};

const PATIENCE: Duration = Duration::from_secs(20);

/// The binary without any configuration of this machine's.
fn valise(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_valise"));
    command.env_clear().env("HOME", home).env("TMPDIR", home);
    command
}

/// A relay of its own, killed when dropped.
struct Relay {
    child: Child,
    printed: Vec<String>,
    home: TempDir,
}

impl Relay {
    fn start(arguments: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        Self::start_in(home, arguments)
    }

    fn start_in(home: TempDir, arguments: &[&str]) -> Self {
        let mut relay = Self::spawn_in(home, arguments);
        let mut lines = BufReader::new(relay.child.stdout.take().unwrap()).lines();
        // The metrics come last.
        while relay.printed.last().is_none_or(|line| !line.contains("/metrics")) {
            match lines.next() {
                Some(line) => relay.printed.push(line.unwrap()),
                None => panic!("{}", relay.log()),
            }
        }
        relay
    }

    /// Not waited for.
    fn spawn_in(home: TempDir, arguments: &[&str]) -> Self {
        let child = valise(home.path())
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(fs::File::create(home.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        Self { child, printed: Vec::new(), home }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it did not end; {}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap()
    }

    fn waits_for_log(&self, text: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < until, "no {text:?} in {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What is counted comes a moment after what is logged.
    fn waits_for_metric(&self, line: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.get("/metrics").lines().any(|there| there == line) {
            assert!(Instant::now() < until, "no {line:?} in {}", self.get("/metrics"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn get(&self, path: &str) -> String {
        let line = self.printed.last().unwrap();
        let admin = line.split("http://").nth(1).unwrap().split('/').next().unwrap();
        let mut tcp = TcpStream::connect(admin.parse::<SocketAddr>().unwrap()).unwrap();
        write!(tcp, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn the_address_comes_first_and_the_state_is_where_xdg_says() {
    let relay = Relay::start(&[]);
    let address: RelayAddress = relay.printed[0].parse().unwrap();
    assert_eq!(address.host, "127.0.0.1");
    let ca = relay.home.path().join(".local/state/valise/dev-ca.pem");
    assert_eq!(relay.printed[1], format!("development CA: {}", ca.display()));
    assert!(ca.is_file());
    assert!(relay.log().contains("realm-root.key"), "{}", relay.log());
    assert!(relay.get("/readyz").contains(" 200 "));
}

#[test]
fn the_first_command_works_when_pasted() {
    let relay = Relay::start(&[]);
    let command = relay.printed[2].strip_prefix("try: ").unwrap();
    let output = Command::new("sh").arg("-c").arg(format!("{command} -sS")).output().unwrap();
    let (text, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{error}");
    assert!(text.contains("\"realm"), "{text}");
}

#[test]
fn sigterm_and_sigint_end_it_well() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut relay = Relay::start(&["--temporary"]);
        let state = Path::new(relay.printed[1].strip_prefix("development CA: ").unwrap())
            .parent()
            .unwrap()
            .to_owned();
        assert!(state.exists());
        relay.signal(signal);
        assert_eq!(relay.ended().code(), Some(0), "{}", relay.log());
        assert!(!state.exists(), "a temporary state is thrown away");
    }
}

#[test]
fn sigterm_ends_a_node_that_waits_for_its_servers() {
    let home = tempfile::tempdir().unwrap();
    let mut relay = Relay::spawn_in(home, &["--cluster", "nats://127.0.0.1:1"]);
    relay.waits_for_log("waiting for the servers of the cluster");
    relay.signal(Signal::TERM);
    assert_eq!(relay.ended().code(), Some(0), "{}", relay.log());
}

#[test]
fn sighup_takes_what_it_may_and_keeps_the_old_if_the_new_is_wrong() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("valise.toml");
    fs::write(&file, "[log]\nlevel = 'info'\n").unwrap();
    let relay = Relay::start_in(home, &["--config", file.to_str().unwrap()]);

    fs::write(&file, "[log]\nlevle = 'debug'\n").unwrap();
    relay.signal(Signal::HUP);
    relay.waits_for_log("did you mean `level`?");
    relay.waits_for_metric("valise_reloads_total{result=\"failed\"} 1");

    fs::write(&file, "[log]\nlevel = 'debug'\n[store]\ncache_mib = 33\n").unwrap();
    relay.signal(Signal::HUP);
    relay.waits_for_log("store.cache_mib needs a restart");
    relay.waits_for_log("reloaded");
    relay.waits_for_metric("valise_reloads_total{result=\"done\"} 1");
    // A peer's mistake is logged at debug, which is now in force.
    let address: RelayAddress = relay.printed[0].parse().unwrap();
    let until = Instant::now() + PATIENCE;
    while !relay.log().contains("DEBUG") {
        assert!(Instant::now() < until, "{}", relay.log());
        drop(TcpStream::connect((address.host.as_str(), address.port)).unwrap());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn invite_codes_are_made_beside_a_running_relay() {
    let relay = Relay::start(&[]);
    let output = valise(relay.home.path()).args(["invite-code", "--count", "2"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().filter(|line| Token::from_text(line).is_ok()).count(), 2);
}

#[test]
fn a_token_key_is_made_beside_a_running_relay_and_taken_by_a_reload() {
    let relay = Relay::start(&[]);
    let path = relay.home.path().join(".local/state/valise/token.keys");
    let rotate = || valise(relay.home.path()).arg("rotate-token-key").output().unwrap();
    let code = || {
        let output = valise(relay.home.path()).arg("invite-code").output().unwrap();
        Token::from_text(&String::from_utf8(output.stdout).unwrap()).unwrap()
    };
    let (before, earlier) = (fs::read_to_string(&path).unwrap(), code());
    let output = rotate();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("2 token keys") && text.contains("Back up"), "{text}");
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    // The new key comes first, the older one is where it was, and others cannot read them.
    let after = fs::read_to_string(&path).unwrap();
    assert!(after.ends_with(before.split_once('\n').unwrap().1), "the older key is kept");
    assert_eq!(after.lines().count(), 3);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_ne!(code().as_bytes()[..4], earlier.as_bytes()[..4]);
    relay.signal(Signal::HUP);
    relay.waits_for_log("reloaded");

    // Damaged keys: the reload says so, the command does too, and neither changes anything.
    let damaged = after.replacen('\n', "\n0", 1);
    fs::write(&path, &damaged).unwrap();
    relay.signal(Signal::HUP);
    relay.waits_for_log("not reloaded");
    relay.waits_for_log("token.keys");
    relay.waits_for_metric("valise_reloads_total{result=\"failed\"} 1");
    let output = rotate();
    assert_eq!(output.status.code(), Some(65));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("token.keys") && error.contains("line 2 is damaged"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
    assert!(relay.get("/readyz").contains(" 200 "), "it serves on");
    assert!(!relay.log().contains(&after[29..60]), "no key is logged");
}

#[test]
fn check_prints_a_configuration_that_gives_the_same_again() {
    let home = tempfile::tempdir().unwrap();
    let first = valise(home.path()).args(["--check", "--log", "warn"]).output().unwrap();
    assert_eq!(first.status.code(), Some(0));
    let file = home.path().join("valise.toml");
    fs::write(&file, &first.stdout).unwrap();
    let again = valise(home.path()).args(["--check", "--config"]).arg(&file).output().unwrap();
    assert_eq!(again.stdout, first.stdout);
    assert!(!home.path().join(".local").exists(), "a check makes nothing");
}

#[test]
fn every_bad_start_ends_with_its_code_and_says_why() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let cases: [(&[&str], i32, &str); 9] = [
        (&["--colour"], 64, "--colour"),
        (&["--listen", "0.0.0.0:0"], 78, "relay.access"),
        (&["--access", "opne"], 78, "did you mean `open`?"),
        (&["--config", "/nonexistent.toml"], 78, "/nonexistent.toml"),
        (&["invite-code"], 66, "start the relay"),
        (&["rotate-token-key"], 66, "start the relay"),
        (&["rotate-token-key", "--state-directory", "/nonexistent"], 66, "/nonexistent"),
        (&["--listen", &taken], 69, &taken),
        (&["--state-directory", "/dev/null"], 73, "/dev/null is not a directory"),
    ];
    for (arguments, code, why) in cases {
        let home = tempfile::tempdir().unwrap();
        let output = valise(home.path()).args(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(why), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn two_relays_do_not_share_a_state_directory() {
    let relay = Relay::start(&[]);
    let output = valise(relay.home.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(75));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("in use by another valise process"), "{error}");
}

#[test]
fn a_store_is_verified_when_its_relay_is_stopped() {
    let mut relay = Relay::start(&[]);
    let verify = |relay: &Relay| valise(relay.home.path()).arg("verify").output().unwrap();
    let busy = verify(&relay);
    assert_eq!(busy.status.code(), Some(75), "the running relay has it");
    assert!(String::from_utf8_lossy(&busy.stderr).contains("in use by another valise process"));
    relay.signal(Signal::TERM);
    assert!(relay.ended().success());
    let verified = verify(&relay);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    assert!(
        String::from_utf8_lossy(&verified.stdout).starts_with("0 frames, every checksum right")
    );
    let elsewhere = tempfile::tempdir().unwrap();
    let nothing = valise(elsewhere.path()).arg("verify").output().unwrap();
    assert!(!nothing.status.success());
}

/// An old copy of the store, or a damaged one: the relay knows that commits are missing, says how
/// many, and goes on without them only when it is told to.
#[test]
fn missing_commits_are_named_and_accepted_only_by_order() {
    let mut relay = Relay::start(&[]);
    relay.signal(Signal::TERM);
    assert!(relay.ended().success());
    let state = relay.home.path().join(".local/state/valise");
    let shards = read_shard_key(&state).unwrap();
    let options = EmbeddedOptions::default();
    let store = EmbeddedStore::open(&state.join("store"), ShardKey::new(&shards), options).unwrap();
    let journal = state.join("store/0.jnl");
    let next_seq = store.opened().next_seq;
    for _ in 0..2 {
        store.commit(&Batch { next_seq, ..Batch::default() }).unwrap();
    }
    let old = fs::read(&journal).unwrap();
    for _ in 0..3 {
        store.commit(&Batch { next_seq, ..Batch::default() }).unwrap();
    }
    drop(store);
    fs::write(&journal, old).unwrap();

    let start = |arguments: &[&str]| {
        let mut valise = valise(relay.home.path());
        valise.args(["--listen", "127.0.0.1:0", "--admin", "off"]).args(arguments).output().unwrap()
    };
    for arguments in [&[][..], &["--accept-missing-commits", "2"]] {
        let refused = start(arguments);
        let error = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(65), "{error}");
        assert!(error.contains("has lost its last 3 commits"), "{error}");
        assert!(error.contains("--accept-missing-commits 3"), "{error}");
    }
    let home = std::mem::replace(&mut relay.home, tempfile::tempdir().unwrap());
    let mut accepted = Relay::start_in(home, &["--accept-missing-commits", "3"]);
    accepted.signal(Signal::TERM);
    assert!(accepted.ended().success());
    let home = std::mem::replace(&mut accepted.home, tempfile::tempdir().unwrap());
    let mut later = Relay::start_in(home, &[]);
    later.signal(Signal::TERM);
    assert!(later.ended().success(), "accepted once, accepted for good");
}
