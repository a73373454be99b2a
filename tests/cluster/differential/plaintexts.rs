//! The same script with other plaintexts of the same sizes, or with the frames posted by other
//! clients, leaves a supernode as it would have been: it counts the same, stores as much, and logs the
//! same at every level. What it knows of a frame is its size, and of its sender nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use valise_proto::RelayAddress;

use super::place::{LIMITS, Place};
use super::script::{Step, What, script};
use super::stage::{Manner, Stage};
use super::transcript::Plaintexts;
use crate::wire::Via;

/// Series that follow from time, from what meets in a batch, and from what else is on the disk: they
/// differ between two plays of the very same script.
const OF_THE_MOMENT: [&str; 3] = ["_seconds", "valise_commit", "valise_disk_"];

/// Nobody comes and goes: who connects is no question of who sends.
fn quiet_script(seed: u64) -> Vec<Step> {
    let goes = |what| matches!(what, What::Close | What::Vanish | What::Wrong);
    script(seed, 60).into_iter().filter(|step| !goes(step.what)).collect()
}

/// As it is, with other plaintexts, and with other senders.
fn manners() -> [(&'static str, Manner); 3] {
    let as_it_is = Manner { via: [Via::Raw; 2], all_connect: true, ..Manner::of_play(0) };
    [
        ("as it is", as_it_is),
        ("other plaintexts", Manner { plaintexts: Plaintexts(0x5a5a_1234), ..as_it_is }),
        ("other senders", Manner { turned: 2, ..as_it_is }),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_counts_and_stores_the_same_whatever_is_said_by_whomever() {
    let mut first = None;
    for (name, manner) in manners() {
        let mut place = Place::supernode().await;
        let stage = Box::pin(Stage::play(&place, &quiet_script(1), manner)).await;
        let scrape = place.relays[0].running().scrape();
        let accepted = stage.frames_accepted();
        stage.leave().await;
        let stored = place.relays.pop().unwrap().stop_and_verify().await;
        let lines = scrape.lines().filter(|line| !OF_THE_MOMENT.iter().any(|of| line.contains(of)));
        // Series of one name are in no order.
        let counted: BTreeSet<String> = lines.map(str::to_owned).collect();
        assert!(counted.len() > 50, "{} series", counted.len());
        let (expected, stored_before) = first.get_or_insert_with(|| (counted.clone(), stored));
        let differences: Vec<_> = expected.symmetric_difference(&counted).collect();
        assert!(differences.is_empty(), "{name}: {differences:#?}");
        assert_eq!(*stored_before, stored, "{name}");
        // None is kept that nobody posted: in no other mailbox either.
        assert_eq!(stored.totals.accepted, accepted, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_logs_the_same_whatever_is_said_by_whomever() {
    let mut first = None;
    for (name, manner) in manners() {
        let logged = logged_at_every_level(manner).await;
        assert!(logged.keys().any(|line| line.contains("connection ended")), "{logged:#?}");
        assert_eq!(*first.get_or_insert_with(|| logged.clone()), logged, "{name}");
    }
}

/// How often each line was logged, without its time.
async fn logged_at_every_level(manner: Manner) -> BTreeMap<String, u32> {
    let home = tempfile::tempdir().unwrap();
    let (config, log) = (home.path().join("config"), home.path().join("log"));
    std::fs::write(&config, LIMITS).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_valise"))
        .env_clear()
        .arg("--config")
        .arg(&config)
        .arg("--state-directory")
        .arg(home.path().join("state"))
        .args(["--listen", "127.0.0.1:0", "--admin", "off", "--log", "trace"])
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address: RelayAddress = line.trim().parse().unwrap();
    let socket = format!("{}:{}", address.host, address.port).parse().unwrap();
    let place = Place::process(address.realm, socket);
    let stage = Box::pin(Stage::play(&place, &quiet_script(1), manner)).await;
    stage.leave().await;
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    let mut lines = BTreeMap::new();
    for line in std::fs::read_to_string(&log).unwrap().lines() {
        // The realm is another one each time.
        if let Some((_, said)) = line.split_once(' ').filter(|_| !line.contains("the new realm")) {
            *lines.entry(said.to_owned()).or_default() += 1;
        }
    }
    lines
}
