//! The tool as operators run it, and the servers it looks at.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use valise_client::testing::{NatsPlan, TestNats, nats_binary};

use crate::patience::{PATIENCE, Patience};

/// Three servers; none where there is no binary.
pub(crate) fn servers(plan: NatsPlan) -> Option<TestNats> {
    if nats_binary().is_none() {
        let required = std::env::var_os("VALISE_NATS_REQUIRED").is_some();
        assert!(!required, "no nats-server, and VALISE_NATS_REQUIRED is set");
        eprintln!("no nats-server is installed: valisectl is NOT tested in this run");
        return None;
    }
    Some(TestNats::planned(plan).unwrap())
}

pub(crate) fn tool() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_valisectl"));
    command.stdin(Stdio::null()).env_remove("VALISE_CONFIG");
    command
}

/// What a command says at last: again while one of those it needs is away, as an operator does.
pub(crate) fn answered(command: &mut Command) -> Output {
    const AWAY: [i32; 2] = [69, 75];
    let give_up = Instant::now() + PATIENCE;
    loop {
        let output = command.output().unwrap();
        let is_away = output.status.code().is_some_and(|code| AWAY.contains(&code));
        if !is_away || Instant::now() >= give_up {
            return output;
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// What a check has said.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) code: i32,
    pub(crate) report: Value,
    pub(crate) said: String,
}

impl Checked {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            report: serde_json::from_slice(&output.stdout).unwrap_or_default(),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The findings: kinds and subjects.
    pub(crate) fn found(&self) -> BTreeSet<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let findings = self.report["findings"].as_array().into_iter().flatten();
        findings.map(|finding| (text(&finding["kind"]), text(&finding["subject"]))).collect()
    }

    pub(crate) fn has(&self, kind: &str, subject: &str) -> bool {
        self.found().iter().any(|(of, at)| of == kind && at.contains(subject))
    }
}

/// A check of these servers.
pub(crate) fn checking(nats: &TestNats) -> Command {
    let mut command = tool();
    command.args(["check", "cluster", "--json", "--cluster", &nats.urls().join(",")]);
    command
}

pub(crate) fn check(nats: &TestNats, more: &[&str]) -> Checked {
    Checked::of(&checking(nats).args(more).output().unwrap())
}

/// Checks a data centre of two nodes until this is so.
pub(crate) fn until(nats: &TestNats, what: &str, enough: impl Fn(&Checked) -> bool) -> Checked {
    until_of("2", nats, what, enough)
}

/// Checks a data centre that should have so many nodes until this is so.
pub(crate) fn until_of(
    nodes: &str,
    nats: &TestNats,
    what: &str,
    enough: impl Fn(&Checked) -> bool,
) -> Checked {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let checked = check(nats, &["--nodes", nodes]);
        if enough(&checked) {
            return checked;
        }
        assert!(Instant::now() < give_up, "{what}: {checked:#?}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// Checks until nothing is found.
pub(crate) fn until_well(nats: &TestNats) {
    until(nats, "it is not well", |checked| checked.code == 0);
}

/// A watch that runs. Killed when it is dropped.
pub(crate) struct Watching {
    child: Child,
    admin: SocketAddr,
    log: Arc<Mutex<String>>,
    /// Ends with what it logs.
    logging: Option<JoinHandle<()>>,
}

/// Canaries that have come back.
pub(crate) const RETURNED: &str = "valise_cluster_canaries_total{fate=\"returned\"}";

/// Flights of four turns: what canaries find is found by then.
const FLIGHTS: f64 = 1_024.0;

impl Watching {
    pub(crate) fn start(nats: &TestNats, state: &Path, more: &[&str]) -> Self {
        let mut command = tool();
        command.args(["watch", "cluster", "--every", "1", "--listen", "127.0.0.1:0"]);
        command.args(["--cluster", &nats.urls().join(",")]).arg("--state").arg(state).args(more);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, kept) = (child.stderr.take().unwrap(), log.clone());
        let logging = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        let Some(admin) = address.and_then(|address| address.parse().ok()) else {
            panic!("{line}{}", log.lock().unwrap())
        };
        Self { child, admin, log, logging: Some(logging) }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The answer to a GET: its head and its body.
    pub(crate) fn get(&self, path: &str) -> String {
        let mut tcp = TcpStream::connect(self.admin).unwrap();
        write!(tcp, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        let text = self.get("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    /// Waits until a metric says so, for as long as it changes or some more canaries come back.
    pub(crate) fn until(&self, series: &str, enough: impl Fn(f64) -> bool) {
        let returned = || self.metric(RETURNED).unwrap_or_default();
        let (mut patience, before) = (Patience::new(), returned());
        loop {
            let value = self.metric(series);
            if value.is_some_and(&enough) {
                return;
            }
            let left = patience.left((value, (returned() - before).min(FLIGHTS)));
            assert!(!left.is_zero(), "{series} stays at {value:?}\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn until_alarms(&self, kind: &str, enough: impl Fn(f64) -> bool) {
        self.until(&format!("valise_cluster_alarms{{kind=\"{kind}\"}}"), enough);
    }

    /// Waits until it is ready: a round in which no server answers in time is followed by others.
    pub(crate) fn until_ready(&self) {
        let give_up = Instant::now() + PATIENCE;
        while !self.get("/readyz").contains("200 OK") {
            assert!(Instant::now() < give_up, "it is never ready\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// As SIGTERM does; everything it has logged.
    pub(crate) fn end(mut self) -> String {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status = self.child.wait().unwrap();
        self.logging.take().unwrap().join().unwrap();
        assert!(status.success(), "{}", self.log());
        self.log()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
