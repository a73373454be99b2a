//! Every scenario, briefly, with the real binaries: what people run is what is tested.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers included")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use valise_client::testing::TestRelay;

/// A run that has ended.
struct Ran {
    code: Option<i32>,
    report: Value,
    output: String,
}

/// What depends on chance, or on when the machine pauses, is tried so often.
const TRIES: usize = 5;

/// A process may take so long to come under load.
const PATIENCE: Duration = Duration::from_secs(60);

fn command(arguments: &str, json: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_valise-load"));
    command.args(arguments.split_whitespace()).arg("--json").arg(json).stdin(Stdio::null());
    command
}

fn load(arguments: &str) -> Ran {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("report.json");
    ran(&command(arguments, &json).output().unwrap(), &json)
}

/// Waits until frames of this run are accepted at the relay.
fn until_under_load(run: &mut Child, relay: &TestRelay) {
    let admin = relay.admin_address().expect("the relay has an admin side");
    let until = Instant::now() + PATIENCE;
    loop {
        let mut tcp = TcpStream::connect(admin).unwrap();
        write!(tcp, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).unwrap();
        let mut lines = answer.lines();
        let accepted = lines.find_map(|line| line.strip_prefix("valise_frames_accepted_total "));
        if accepted.expect("frames are counted").trim() != "0" {
            return;
        }
        assert_eq!(run.try_wait().unwrap(), None, "it has ended by itself");
        assert!(Instant::now() < until, "nothing is accepted");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ran(output: &Output, json: &Path) -> Ran {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let report = std::fs::read(json)
        .map_or(Value::Null, |json| serde_json::from_slice(&json).expect("the report is JSON"));
    let output_text = text(&output.stdout) + &text(&output.stderr);
    Ran { code: output.status.code(), report, output: output_text }
}

impl Ran {
    fn number(&self, key: &str) -> f64 {
        let pointer = format!("/{}", key.replace('.', "/"));
        let value = self.report.pointer(&pointer).and_then(Value::as_f64);
        value.unwrap_or_else(|| panic!("no number {key} in {}\n{}", self.report, self.output))
    }

    /// Ended well, kept every promise, and has every key the schema declares.
    fn clean(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.output);
        for key in ["lost", "duplicate", "reordered", "phantom", "corrupt"] {
            assert_eq!(self.number(key), 0.0, "{key}: {}", self.output);
        }
        satisfies_schema(&self.report);
        self
    }

    /// Everything that was sent was accepted and shown, and the relay has nothing left.
    fn complete(self) -> Self {
        let ran = self.clean();
        let sent = ran.number("sent");
        assert!(sent > 0.0, "{}", ran.output);
        assert_eq!((ran.number("accepted"), ran.number("shown")), (sent, sent), "{}", ran.output);
        assert_eq!(ran.report["conservation"]["holds"], true, "{}", ran.output);
        assert_eq!(ran.number("conservation.queued"), 0.0, "{}", ran.output);
        ran
    }
}

/// As much of JSON Schema as the report's schema uses.
fn satisfies_schema(report: &Value) {
    let schema = include_str!("../report.schema.json");
    let schema: Value = serde_json::from_str(schema).unwrap();
    satisfies(report, &schema, &schema, "report");
}

fn satisfies(value: &Value, schema: &Value, root: &Value, place: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(reference.trim_start_matches('#')).expect("the reference");
        return satisfies(value, target, root, place);
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => kind.as_str().into_iter().collect(),
    };
    let fits = |kind: &&str| match *kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{place}: unknown type {other}"),
    };
    assert!(kinds.is_empty() || kinds.iter().any(fits), "{place}: {value} is not {kinds:?}");
    if let Some(names) = schema["required"].as_array() {
        for name in names.iter().filter_map(Value::as_str) {
            assert!(value.get(name).is_some(), "{place}: no {name}");
        }
    }
    if let (Some(properties), Some(fields)) = (schema["properties"].as_object(), value.as_object())
    {
        for (name, field) in fields {
            let declared = properties.get(name);
            let declared = declared.unwrap_or_else(|| panic!("{place}: {name} is not declared"));
            satisfies(field, declared, root, &format!("{place}.{name}"));
        }
    }
    for item in value.as_array().into_iter().flatten() {
        satisfies(item, &schema["items"], root, place);
    }
}

#[test]
fn one_to_one_in_the_closed_model() {
    let ran = load("one-to-one --spawn --clients 10 --conversations 3 --duration 5s").complete();
    assert!(ran.number("p99_us") > 0.0 && ran.number("accepted_latency.p50_us") > 0.0);
    assert_eq!(ran.number("accepted_latency.count"), ran.number("sent"));
    assert!(ran.number("server_rss_bytes") > 0.0);
    assert_eq!(ran.number("raised_limits.posts_per_second"), 10_000_000.0);
    assert!(ran.output.contains("every promise kept"), "{}", ran.output);
}

#[test]
fn one_to_one_in_the_open_model() {
    let is_whole = (0..TRIES).any(|_| {
        let ran = load("one-to-one --clients 4 --rate 200 --duration 1s").complete();
        let due = ran.number("sent") + ran.number("not_sent");
        // Never more than were due, and one more of each client.
        assert!(due <= 200.0 * ran.number("load_s") + 4.0, "{due}: {}", ran.output);
        assert!(ran.number("send_lag_p99_us") > 0.0);
        assert_eq!(ran.report["window"], Value::Null);
        // Nobody sees what becomes due when the machine pauses at the end.
        due >= 190.0
    });
    assert!(is_whole, "frames that were due are missing each time");
}

#[test]
fn one_to_one_over_web_sockets_with_the_largest_frames() {
    load("one-to-one --clients 4 --size 65536 --transport websocket --duration 5s").complete();
}

#[test]
fn signals() {
    for model in ["--window 1", "--rate 500"] {
        let ran = load(&format!("one-to-one --clients 4 --kind signal --duration 5s {model}"));
        let ran = ran.clean();
        assert!(ran.number("shown") > 0.0 && ran.number("delivered_latency.p50_us") > 0.0);
        assert_eq!(ran.number("unknown"), ran.number("sent"));
        assert_eq!(ran.report["accepted_latency"]["p50_us"], Value::Null);
    }
}

#[test]
fn fan_out() {
    let ran = load("fan-out --clients 6 --conversations 5 --duration 5s").complete();
    assert_eq!(ran.number("sent") % 5.0, 0.0, "each post has five targets");
}

#[test]
fn offline() {
    let ran = load("offline --clients 45 --conversations 2 --duration 5s").complete();
    assert!(ran.number("fill_accepted_per_s") > 0.0 && ran.number("drain_shown_per_s") > 0.0);
    assert_eq!(ran.number("delivered_latency.count"), 0.0, "nothing was delivered under load");
}

#[test]
fn offline_stops_by_itself_when_the_mailboxes_are_full() {
    let ran = load("offline --clients 2 --size 65536 --duration 10m").complete();
    assert_eq!(ran.number("sent"), 512.0, "a mailbox holds 16 MiB");
}

#[test]
fn idle() {
    let ran = load("idle --clients 60 --duration 300ms").complete();
    assert_eq!((ran.number("sent"), ran.number("connections")), (60.0, 60.0));
    assert!(ran.number("connects_per_s") > 0.0);
    assert!(ran.report["rss_bytes_per_connection"].is_number(), "{}", ran.report);
}

#[test]
fn kill() {
    let ran = load("kill --clients 12 --rate 300 --kills 3 --duration 3s").complete();
    assert_eq!((ran.number("kills"), ran.report["restarts"].as_array().unwrap().len()), (3.0, 3));
    assert!(ran.number("reconnects") >= 12.0 && ran.number("ready_max_ms") > 0.0);
}

#[test]
fn groups() {
    let ran = load("groups --clients 12 --members 4 --rate 100 --duration 8s").complete();
    assert_eq!(ran.number("sent") % 3.0, 0.0, "each post has three targets");
    assert_eq!((ran.number("groups.groups"), ran.number("groups.members")), (3.0, 4.0));
    let absences = ran.number("groups.absences");
    assert!(absences >= 3.0 && ran.number("reconnects") >= 3.0);
    assert!((1.0..1.2).contains(&ran.number("groups.posts_per_message")), "{}", ran.output);
    // An absence makes some 25 frames wait.
    let waited = ran.number("shown") - ran.number("delivered_latency.count");
    assert!(waited >= absences, "waiting for who is away is no latency: {waited}");
}

#[test]
fn restart_with_a_queue() {
    let ran = load("restart --clients 20 --rate 200 --queued 2500 --duration 2s").complete();
    assert_eq!(ran.number("terminated.queued_frames"), 2_499.0, "three mailboxes of 833");
    assert!(ran.number("terminated.told") >= 20.0, "{}", ran.output);
    assert!(ran.number("terminated.all_back_ms") < 60_000.0, "{}", ran.output);
    assert!(ran.number("terminated.kill_ready_ms") > 0.0);
    assert!(ran.number("terminated.back.count") >= 20.0);
}

#[test]
fn connect_storm() {
    let ran = load("connect-storm --clients 40 --within 500ms").complete();
    assert_eq!((ran.number("storm.attached"), ran.number("storm.sources")), (40.0, 16.0));
    assert_eq!(ran.number("storm.back.count"), 40.0);
    assert!(ran.number("storm.all_back_ms") > 400.0, "{}", ran.output);
    assert!(ran.number("server_cpu_ms_per_connect") > 0.0);
    assert_eq!(ran.number("sent"), 40.0, "everyone shows that it is there");
}

#[test]
fn reconnect_storm() {
    let arguments = "reconnect-storm --clients 40 --within 500ms --others 4 --rate 100 \
                     --duration 5s";
    let ran = load(arguments).complete();
    assert_eq!((ran.number("reconnects"), ran.number("storm.attached")), (40.0, 40.0));
    assert!(ran.number("others.calm.count") > 0.0 && ran.number("others.during.count") > 0.0);
    assert!(ran.number("others.p99_ratio") > 0.0);
}

#[test]
fn slow_readers() {
    let ran = load("slow-readers --clients 4 --others 4 --rate 100 --duration 2s").complete();
    let queued = ran.number("slow_readers.queued_frames") * 4.0;
    assert_eq!(ran.number("slow_readers.queued_frames"), 1_000.0);
    let taken = ran.number("slow_readers.frames_taken_while_slow");
    assert!(taken < queued / 2.0, "they were slow: {taken}");
    assert!(ran.number("shown") > queued);
}

#[test]
fn stalled() {
    let ran = load("stalled --clients 8 --others 4 --rate 100 --duration 1s --threads 1");
    let ran = ran.complete();
    // Sooner than the relay may, never; later, as far as a slow machine makes it so.
    for (kind, least, most) in [
        ("no_client_hello", 8.0, 75.0),
        ("half_handshake", 8.0, 75.0),
        ("no_hello", 8.0, 75.0),
        ("silent", 85.0, 155.0),
    ] {
        let number = |name| ran.number(&format!("stalled.{kind}.{name}"));
        assert_eq!((number("opened"), number("reaped")), (2.0, 2.0), "{kind}: {}", ran.output);
        assert!(number("least_s") >= least && number("most_s") <= most, "{kind}: {}", ran.output);
    }
}

#[test]
fn overload() {
    let ran = load("overload --clients 4 --conversations 4 --duration 5s").complete();
    assert!(ran.number("overload.offered_per_s") > ran.number("overload.peak_per_s") * 2.9);
    assert!(ran.number("overload.goodput_percent") > 0.0);
}

#[test]
fn every_sink_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let ran = load(&format!(
        "one-to-one --clients 4 --rate 100 --duration 2s --csv {} --hdr {} --html {}",
        at("rows.csv").display(),
        at("log.hdr").display(),
        at("page.html").display()
    ));
    let ran = ran.complete();
    let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
    let rows = ran.report["timeline"]["rows"].as_array().unwrap().len();
    assert!(rows >= 2);
    assert_eq!(read("rows.csv").lines().count(), rows + 1);
    assert!(read("log.hdr").contains("#[StartTime: "));
    let page = read("page.html");
    assert!(page.contains("Every promise kept") && page.contains("uPlot"));
}

#[test]
fn reports_of_two_processes_merge() {
    let relay = TestRelay::with_config("[limits]\njoins_per_minute_per_prefix = 1000\n").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let json = |number: usize| directory.path().join(format!("{number}.json"));
    let arguments =
        format!("one-to-one --clients 4 --rate 20 --duration 5s --target {}", relay.address());
    let started: Vec<_> = (0..2)
        .map(|number| command(&arguments, &json(number)).stdout(Stdio::null()).spawn().unwrap())
        .collect();
    for mut child in started {
        assert!(child.wait().unwrap().success());
    }
    let merge = format!("merge {} {}", json(0).display(), json(1).display());
    let merged = load(&format!("{merge} --fail-if lost>0")).clean();
    assert_eq!(merged.number("merged_from"), 2.0);
    assert_eq!(merged.number("clients"), 8.0);
    let both: f64 = (0..2)
        .map(|number| {
            let report: Value =
                serde_json::from_slice(&std::fs::read(json(number)).unwrap()).unwrap();
            report["sent"].as_f64().unwrap()
        })
        .sum();
    assert_eq!((merged.number("sent"), merged.number("delivered_latency.count")), (both, both));
    assert_eq!(load(&format!("{merge} --fail-if sent>0")).code, Some(99));
    assert_eq!(load("merge /nonexistent.json").code, Some(2));
}

#[test]
fn a_scenario_file_runs_all_and_ends_with_the_worst() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("runs.toml");
    let runs = "[[run]]\nname = 'first'\nscenario = 'one-to-one'\nclients = 2\nduration = '300ms'\n\
                fail-if = ['sent<0']\n\
                [[run]]\nscenario = 'idle'\nclients = 3\nduration = '300ms'\n\
                fail-if = 'connections>2'\n";
    std::fs::write(&file, runs).unwrap();
    let ran = load(&format!("run {}", file.display()));
    assert_eq!(ran.code, Some(99), "{}", ran.output);
    let reports = ran.report["runs"].as_array().unwrap();
    assert_eq!((reports.len(), &reports[0]["name"]), (2, &Value::from("first")));
    reports.iter().for_each(satisfies_schema);
    std::fs::write(&file, runs.replace("clients", "client")).unwrap();
    let ran = load(&format!("run {}", file.display()));
    assert_eq!(ran.code, Some(2), "{}", ran.output);
    assert!(
        ran.output.contains(":4: unknown key `client`; did you mean `clients`?"),
        "{}",
        ran.output
    );
}

/// The whole harness is worth nothing if it would not notice: a relay that forgets its store. It is by
/// chance that something is queued when it is killed.
#[test]
fn a_relay_that_forgets_is_found_out() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let forgetful = directory.path().join("forgetful");
    let binary = TestRelay::spawn().unwrap().binary().display().to_string();
    let script = format!(
        "#!/bin/sh\nfor word in \"$@\"; do case $word in */state) rm -rf \"$word/store\";; esac; \
         done\nexec {binary} \"$@\"\n"
    );
    std::fs::write(&forgetful, script).unwrap();
    std::fs::set_permissions(&forgetful, std::fs::Permissions::from_mode(0o700)).unwrap();
    let json = directory.path().join("report.json");
    let mut command = command("kill --clients 20 --rate 2000 --kills 8 --duration 1600ms", &json);
    command.env("VALISE_BIN", &forgetful);
    let mut runs = (0..TRIES).map(|_| ran(&command.output().unwrap(), &json));
    let ran = runs.find(|ran| ran.code != Some(0)).expect("nothing was lost each time");
    assert_eq!(ran.code, Some(1), "{}", ran.output);
    assert!(ran.number("lost") > 0.0, "{}", ran.output);
    assert!(ran.output.contains("PROMISES BROKEN"), "{}", ran.output);
    let (_, kept) = ran.output.split_once("files are kept in ").expect("the state is kept");
    let kept = Path::new(kept.lines().next().unwrap());
    assert!(kept.join("state").is_dir(), "{}", kept.display());
    std::fs::remove_dir_all(kept).unwrap();
}

/// A small realm moves, with nothing wrong: everything is counted, and everything is read at the data
/// centre.
#[test]
fn migrate() {
    let ran = load("migrate --clients 12 --rate 60 --queued 1200 --duration 1s").clean();
    assert_eq!((ran.number("migration.done"), ran.number("migration.aborted")), (1.0, 0.0));
    let queued = ran.number("migration.queued_frames");
    assert_eq!((queued, ran.number("migration.queued_frames_read")), (1_200.0, 1_200.0));
    assert_eq!(ran.number("accepted"), ran.number("shown"), "{}", ran.output);
    for stretch in ["calm", "copying", "cutover", "settled"] {
        for what in ["send_pause", "receive_gap"] {
            assert!(
                ran.number(&format!("migration.{stretch}.{what}.count")) > 0.0,
                "{stretch} {what}"
            );
        }
    }
    let crossed = &ran.report["migration"]["migrations"][0];
    for phase in ["prepare", "copy", "cutover", "drain", "finish", "whole"] {
        assert!(crossed[format!("{phase}_ms")].as_f64() > Some(0.0), "{phase}: {crossed}");
    }
    assert!(crossed["copied_entries"].as_u64() >= Some(1_200), "{crossed}");
}

/// Some of the clients are in another process, and what they saw counts as what the first ones saw.
#[test]
fn migrate_with_clients_of_another_process() {
    let ran = load("migrate --clients 4 --others 6 --rate 20 --duration 1s").clean();
    assert_eq!((ran.number("migration.done"), ran.number("migration.clients_beside")), (1.0, 6.0));
    assert_eq!(ran.number("accepted"), ran.number("shown"), "{}", ran.output);
    // Frames come from both: three fifths of them are the others'.
    let own = ran.number("accepted_latency.count");
    assert!(own > 0.0 && ran.number("accepted") > 1.5 * own, "{own}: {}", ran.output);
}

/// Clients of the library's own do what the thinner ones do.
#[test]
fn one_to_one_following() {
    load("one-to-one --following --clients 4 --rate 40 --duration 5s").complete();
}

/// Given up, the supernode serves on, and what was queued is read there. Given up too late, which is by
/// chance, the realm moves.
#[test]
fn migrate_and_give_up() {
    let arguments = "migrate --clients 8 --rate 40 --queued 500 --duration 1s --abort-at copy";
    let is_given_up = (0..TRIES).any(|_| {
        let ran = load(arguments).clean();
        let number = |name| ran.number(&format!("migration.{name}"));
        let too_late = number("aborted_too_late");
        assert_eq!((number("done"), number("aborted")), (too_late, 1.0 - too_late));
        assert_eq!(number("queued_frames_read"), 500.0);
        assert_eq!(ran.number("accepted"), ran.number("shown"), "{}", ran.output);
        too_late == 0.0
    });
    assert!(is_given_up, "it is too late each time");
}

/// Killed at each step, the importer goes on each time.
#[test]
fn migrate_with_kills() {
    let ran =
        load("migrate --clients 8 --rate 40 --queued 500 --duration 1s --crash importer").clean();
    assert_eq!(ran.number("migration.done"), 1.0, "{}", ran.output);
    let crashes = ran.report["migration"]["migrations"][0]["crashes"].as_array().unwrap();
    let moments: Vec<&str> = crashes.iter().filter_map(|crash| crash["at"].as_str()).collect();
    assert_eq!(moments, ["begin", "copy", "seal", "activate", "forward", "finish"]);
    assert_eq!(ran.number("accepted"), ran.number("shown"), "{}", ran.output);
}

#[test]
fn a_condition_that_holds_is_exit_99_and_says_so() {
    let ran = load("one-to-one --clients 2 --duration 5s --fail-if lost>0,p50>0us,sent<1");
    assert_eq!(ran.code, Some(99), "{}", ran.output);
    assert!(ran.output.contains("--fail-if p50>0us: p50_us is "), "{}", ran.output);
    let ran = load("one-to-one --clients 2 --duration 5s --fail-if lost>0,p50>10m").clean();
    assert!(!ran.output.contains("--fail-if p50"), "{}", ran.output);
}

#[test]
fn a_wrong_command_line_is_exit_2() {
    for arguments in ["one-to-one --clients 3", "one-to-one --fail-if nonsense", "juggle"] {
        let ran = load(arguments);
        assert_eq!((ran.code, ran.report), (Some(2), Value::Null), "{}", ran.output);
    }
}

#[test]
fn a_relay_that_cannot_be_reached_is_exit_1() {
    let realm = "a".repeat(32);
    let ran = load(&format!("one-to-one --clients 2 --target valise://127.0.0.1:1/{realm}"));
    assert_eq!(ran.code, Some(1), "{}", ran.output);
    assert!(ran.output.contains("cannot reach 127.0.0.1:1"), "{}", ran.output);
}

/// Somebody else's relay, with its default limits and with codes to join.
#[test]
fn a_relay_that_asks_for_codes() {
    let relay = TestRelay::with_config("[relay]\naccess = \"codes\"\n").unwrap();
    let codes: Vec<String> = (0..4).map(|_| relay.invite_code().unwrap().to_text()).collect();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("codes");
    std::fs::write(&file, codes[1..].join("\n")).unwrap();
    let target = relay.address();
    let without = load(&format!("one-to-one --clients 4 --target {target}"));
    assert_eq!(without.code, Some(1), "{}", without.output);
    assert!(without.output.contains("code_required"), "{}", without.output);
    let ran = load(&format!(
        "one-to-one --clients 4 --rate 20 --duration 1s --target {target} --invite-code {} \
         --invite-code @{}",
        codes[0],
        file.display()
    ));
    let ran = ran.clean();
    assert_eq!(ran.number("accepted"), ran.number("shown"));
    assert_eq!(ran.report["conservation"]["holds"], Value::Null, "it is not ours to ask");
    assert_eq!(ran.report["raised_limits"], Value::Object(serde_json::Map::new()));
}

#[test]
fn ctrl_c_ends_with_a_report() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("report.json");
    let relay = TestRelay::spawn().unwrap();
    let arguments = format!("one-to-one --clients 4 --duration 10m --target {}", relay.address());
    let mut command = command(&arguments, &json);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until_under_load(&mut child, &relay);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran = ran(&child.wait_with_output().unwrap(), &json);
    assert_eq!(ran.code, Some(130), "{}", ran.output);
    assert_eq!(ran.report["interrupted"], true);
    assert!(ran.number("load_s") < 600.0);
    assert_eq!(ran.number("lost"), 0.0);
}

/// Whoever has started it has ended, in whatever way.
#[test]
fn a_leashed_run_ends_with_its_standard_input() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("report.json");
    let relay = TestRelay::spawn().unwrap();
    let arguments = "one-to-one --following --leashed --clients 4 --duration 10m";
    let mut command = command(&format!("{arguments} --target {}", relay.address()), &json);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    until_under_load(&mut child, &relay);
    drop(child.stdin.take());
    let ran = ran(&child.wait_with_output().unwrap(), &json);
    assert_eq!(ran.code, Some(130));
    assert_eq!(ran.report["interrupted"], true);
    assert_eq!(ran.number("lost"), 0.0);
}

#[test]
fn every_scenario_has_a_man_page() {
    let place = tempfile::tempdir().unwrap();
    let mut man = Command::new(env!("CARGO_BIN_EXE_valise-load"));
    assert!(man.args(["man", "--out"]).arg(place.path()).status().unwrap().success());
    let pages = std::fs::read_dir(place.path().join("man1")).unwrap();
    let pages: Vec<_> = pages.map(|page| page.unwrap().file_name()).collect();
    for name in ["valise-load", "valise-load-one-to-one", "valise-load-kill", "valise-load-merge"] {
        assert!(pages.iter().any(|page| *page == *format!("{name}.1")), "{name}: {pages:?}");
    }
    assert!(!pages.iter().any(|page| page == "valise-load-man.1"), "it is for packagers");
}
