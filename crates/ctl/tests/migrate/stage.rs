//! A supernode, a data centre of one node, and the importer between them.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use valise_client::testing::{TestNats, TestPlace, TestRelay, free_port};

use crate::patience::{PATIENCE, Patience};
use crate::tool::{answered, tool};

pub(crate) struct Stage {
    pub(crate) supernode: TestRelay,
    pub(crate) node: TestRelay,
    pub(crate) nats: Arc<TestNats>,
    /// By what the importer is known to the servers.
    certificate: Vec<String>,
    directory: tempfile::TempDir,
    port: u16,
    pin: String,
}

/// The servers, and by what a relay and the importer are known to them.
pub(crate) struct Bus {
    pub(crate) nats: Arc<TestNats>,
    /// More of a relay's section.
    pub(crate) more: String,
    /// Options of the importer.
    pub(crate) certificate: Vec<String>,
}

/// What a command has printed.
pub(crate) fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// More than the tests of one machine need.
const LIMITS: &str = "[relay]\naccess = \"codes\"\n[limits]\njoins_per_minute_per_prefix = 100000\n\
                      connects_per_second_per_prefix = 10000\nconnects_burst_per_prefix = 10000\n\
                      posts_burst = 10000\n";

impl Stage {
    pub(crate) fn start(nats: TestNats) -> Self {
        Self::on(Arc::new(nats))
    }

    /// On servers that others use, too.
    pub(crate) fn on(nats: Arc<TestNats>) -> Self {
        Self::with(|_| Bus { nats, more: String::new(), certificate: Vec::new() })
    }

    /// On servers that are made for this realm.
    pub(crate) fn with(bus: impl FnOnce(&str) -> Bus) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("importer.pem");
        let made = tool().args(["migrate", "key", "--key"]).arg(&key).output().unwrap();
        assert!(made.status.success(), "{}", said(&made));
        let importer = String::from_utf8(made.stdout).unwrap();
        let port = free_port().unwrap();
        let migration = format!(
            "[migration]\nlisten = \"127.0.0.1:{port}\"\nimporter = \"{}\"\n",
            importer.trim()
        );
        let supernode = TestRelay::with_config(&format!("{LIMITS}{migration}")).unwrap();
        let mut command = Command::new(supernode.binary());
        command.arg("migration-key").arg("--state-directory").arg(supernode.state_directory());
        let pin = command.output().unwrap();
        assert!(pin.status.success(), "{}", said(&pin));
        let pin = String::from_utf8(pin.stdout).unwrap().trim().to_owned();
        let Bus { nats, more, certificate } = bus(&supernode.address().realm.to_text());
        let section = format!("{LIMITS}{}{more}", nats.section());
        let node = supernode.further_node(&section, TestPlace::default()).unwrap();
        supernode.hang_up().unwrap();
        Self { supernode, node, nats, certificate, directory, port, pin }
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("importer.pem")
    }

    fn between(&self, name: &str) -> Command {
        let mut command = tool();
        command.args(["migrate", name, "--cluster", &self.nats.urls().join(",")]);
        command
            .args(&self.certificate)
            .args(["--realm", &self.supernode.address().realm.to_text()]);
        command.args(["--supernode", &format!("127.0.0.1:{}", self.port)]);
        command.args(["--supernode-key", &self.pin, "--key"]).arg(self.key());
        command
    }

    fn endpoint(&self) -> String {
        let address = self.node.address();
        format!("{}:{}", address.host, address.port)
    }

    /// Plans until nothing is wrong.
    pub(crate) fn until_planned(&self) {
        let mut plan = self.between("plan");
        plan.args(["--json", "--endpoints", &self.endpoint()]);
        let give_up = Instant::now() + PATIENCE;
        loop {
            let planned = plan.output().unwrap();
            if is_well(&planned) {
                return;
            }
            assert!(Instant::now() < give_up, "{}", said(&planned));
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// A command that needs both sides.
    pub(crate) fn command(&self, name: &str) -> Output {
        answered(&mut self.between(name))
    }

    /// A command to the importer that runs.
    pub(crate) fn command_of_key(&self, name: &str) -> Output {
        tool().args(["migrate", name, "--key"]).arg(self.key()).output().unwrap()
    }

    pub(crate) fn status(&self) -> Value {
        let output = answered(self.between("status").arg("--json"));
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn import(&self) -> Importer {
        self.import_to(&self.endpoint())
    }

    /// To an endpoint that need not be in the realm's record.
    pub(crate) fn import_to(&self, endpoint: &str) -> Importer {
        let mut command = self.between("start");
        command.args(["--endpoints", endpoint, "--json"]);
        Importer::run(command)
    }
}

/// Whether a plan says so. How long a question takes, and what time it seems to be, depends on how busy the
/// machine is: of these it may warn.
fn is_well(planned: &Output) -> bool {
    const OF_MACHINE: [&str; 2] =
        ["a question to the supernode takes", "the data centre's clock differs"];
    let Ok(lines) = serde_json::from_slice::<Vec<Value>>(&planned.stdout) else { return false };
    let told: Vec<_> = lines.iter().filter(|line| line["verdict"] != "well").collect();
    let is_of_machine = |line: &Value| {
        let said = line["said"].as_str().unwrap_or_default();
        line["verdict"] == "warning" && OF_MACHINE.iter().any(|begins| said.starts_with(begins))
    };
    let code = i32::from(!told.is_empty());
    told.into_iter().all(is_of_machine) && planned.status.code() == Some(code)
}

/// An importer that runs. Killed when it is dropped.
pub(crate) struct Importer {
    child: Child,
    lines: Receiver<Value>,
    log: Arc<Mutex<String>>,
}

/// Lines that wait to be read: one a second.
const LINES: usize = 10_000;

impl Importer {
    fn run(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (told, lines) = sync_channel(LINES);
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                kept.lock().unwrap().push_str(&format!("{line}\n"));
                if let Ok(line) = serde_json::from_str(&line)
                    && told.send(line).is_err()
                {
                    return;
                }
            }
        });
        Self { child, lines, log }
    }

    /// Waits until it says so, for as long as it gets on.
    pub(crate) fn until(&mut self, what: &str, enough: impl Fn(&Value) -> bool) {
        let (mut patience, mut left) = (Patience::new(), PATIENCE);
        loop {
            match self.lines.recv_timeout(left) {
                Ok(line) if enough(&line) => return,
                Ok(line) => left = patience.left(done(&line)),
                Err(_) => panic!("never: {what}\n{}", self.log.lock().unwrap()),
            }
        }
    }

    /// Waits for its end, and returns what it said last.
    pub(crate) fn end(mut self) -> Value {
        let (mut last, mut patience, mut left) = (Value::Null, Patience::new(), PATIENCE);
        while let Ok(line) = self.lines.recv_timeout(left) {
            left = patience.left(done(&line));
            last = line;
        }
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{}", self.log.lock().unwrap());
        last
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What is done, of what an importer says.
fn done(line: &Value) -> (&Value, &Value) {
    (&line["shards"], &line["posts_passed_on"])
}

impl Drop for Importer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
