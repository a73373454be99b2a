//! The watch: canaries, alarms that last, and a copy that is damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use async_nats::Client;
use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::{Value, json};
use valise_client::testing::{NatsPlan, TestNats, TestRelay};

use crate::bus::{api, info, intruder};
use crate::patience::PATIENCE;
use crate::tool::{RETURNED, Watching, servers, tool, until_well};

fn has_alarm(state: &Path, kind: &str, subject: &str) -> bool {
    let output = tool().args(["alarms", "--json", "--state"]).arg(state).output().unwrap();
    // There are none before the first round.
    let alarms: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
    alarms.iter().any(|a| a["kind"] == kind && a["subject"] == subject)
}

fn acknowledge(state: &Path, kind: &str, subject: &str) {
    let mut command = tool();
    command.args(["acknowledge", kind, subject, "--state"]).arg(state);
    assert!(command.status().unwrap().success());
}

/// 512 codes, as an operator makes them.
fn codes(relay: &TestRelay, file: &Path) {
    let mut command = Command::new(relay.binary());
    command.args(["invite-code", "--count", "512", "--state-directory"]);
    let output = command.arg(relay.state_directory()).output().unwrap();
    assert!(output.status.success());
    fs::write(file, output.stdout).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canaries_come_back_and_a_lost_one_is_told() {
    let Some(nats) = servers(NatsPlan::default()) else { return };
    let limits = "[relay]\naccess = \"codes\"\n[limits]\njoins_per_minute_per_prefix = 100000\n\
                  connects_per_second_per_prefix = 10000\nconnects_burst_per_prefix = 10000\n";
    let relay = TestRelay::with_config(&format!("{limits}{}", nats.section())).unwrap();
    let place = tempfile::tempdir().unwrap();
    let (state, invites) = (place.path().join("state"), place.path().join("codes"));
    codes(&relay, &invites);
    let (address, relay_state) = (relay.address().to_string(), relay.state_directory());
    let canaries = ["--canaries", "--relay", &address, "--canary-turn", "5", "--held-turn", "5"];
    let files =
        ["--relay-state", relay_state.to_str().unwrap(), "--codes", invites.to_str().unwrap()];
    let options = [&canaries[..], &files[..]].concat();
    let watch = Watching::start(&nats, &state, &options);
    watch.until("valise_cluster_canaries_held", |held| held >= 250.0);
    watch.until(RETURNED, |count| count >= 256.0);
    watch.until("valise_cluster_rounds_total{result=\"done\"}", |rounds| rounds >= 1.0);
    assert!(watch.get("/healthz").contains("200 OK"));
    watch.until_ready();
    for kind in ["canary_lost", "canary_doubled", "canary_late"] {
        assert_eq!(watch.metric(&format!("valise_cluster_alarms{{kind=\"{kind}\"}}")), Some(0.0));
    }

    // Somebody on the bus throws away what one partition holds.
    let partition = "partition 13 in MB_1_2";
    {
        let spy = intruder(&nats).await;
        let purged = api(&spy, "STREAM.PURGE.MB_1_2", json!({ "filter": "m.*.13.*.f" })).await;
        assert!(purged["purged"].as_u64().unwrap() > 0, "{purged}");
    }
    watch.until_alarms("canary_lost", |count| count >= 1.0);
    assert!(has_alarm(&state, "canary_lost", partition), "{}", watch.log());
    let log = watch.end();
    assert_eq!(log.matches("alarm=canary_lost").count(), 1, "{log}");

    // A restart forgets nothing: neither the alarm nor what is held.
    let watch = Watching::start(&nats, &state, &options);
    watch.until_alarms("canary_lost", |count| count >= 1.0);
    watch.until("valise_cluster_canaries_held", |held| held >= 250.0);
    acknowledge(&state, "canary_lost", partition);
    watch.until_alarms("canary_lost", |count| count == 0.0);
    assert_eq!(watch.end().matches("cleared alarm=canary_lost").count(), 1);
}

/// Where each server keeps its stores.
async fn stores(nats: &TestNats) -> Vec<(String, PathBuf)> {
    let operator = "valise-operator".to_owned();
    let options = async_nats::ConnectOptions::with_user_and_password(operator, String::new());
    let mut stores = Vec::new();
    for url in nats.urls() {
        let client = options.clone().name("valisectl").connect(url).await.unwrap();
        let id = client.server_info().server_id;
        let subject = format!("$SYS.REQ.SERVER.{id}.VARZ");
        let answer = client.request(subject, Bytes::new()).await.unwrap();
        let varz: Value = serde_json::from_slice(&answer.payload).unwrap();
        let directory = varz["data"]["jetstream"]["config"]["store_dir"].as_str().unwrap();
        stores.push((client.server_info().server_name, directory.into()));
    }
    stores
}

/// Stores 48 KiB, and again until that is answered: twice is as good as once.
async fn store(spy: &Client, subject: String) {
    static PAYLOAD: [u8; 48 * 1024] = [7; 48 * 1024];
    let give_up = Instant::now() + PATIENCE;
    loop {
        let stored = spy.request(subject.clone(), Bytes::from_static(&PAYLOAD)).await;
        let is_error = |payload: &Bytes| payload.windows(7).any(|part| part == b"\"error\"");
        if stored.as_ref().is_ok_and(|answer| !is_error(&answer.payload)) {
            return;
        }
        assert!(Instant::now() < give_up, "{subject} is not stored: {stored:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What the servers do not notice: bits of a block that rot while its server is down, once the log that
/// would repair it is compacted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_copy_is_named_with_its_server() {
    const STREAM: &str = "MB_1_0";
    let Some(nats) = servers(NatsPlan::default()) else { return };
    let relay = TestRelay::with_config(&nats.section()).unwrap();
    let spy = intruder(&nats).await;
    // Enough for several blocks, and for the log to be compacted.
    let realm = "09".repeat(20);
    for round in 0..10 {
        let subject = |i| format!("m.{realm}.00.{:032x}.f", round * 60 + i);
        join_all((0..60).map(|i| store(&spy, subject(i)))).await;
    }
    let leader = info(&spy, STREAM).await["cluster"]["leader"].as_str().unwrap().to_owned();
    let stores = stores(&nats).await;
    let victim = stores.iter().position(|(name, _)| *name != leader).unwrap();
    let (name, store) = &stores[victim];
    drop(spy);
    until_well(&nats);
    nats.terminate(victim).unwrap();
    let messages = store.join(format!("RELAY/streams/{STREAM}/msgs"));
    // After a power cut it is older than the blocks, and the blocks are read.
    fs::remove_file(messages.join("index.db")).unwrap();
    let block = messages.join("1.blk");
    let mut bytes = fs::read(&block).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes[middle + 1] ^= 1;
    fs::write(&block, bytes).unwrap();
    nats.restart(victim).unwrap();
    nats.until_up().unwrap();

    let state = tempfile::tempdir().unwrap();
    let watch = Watching::start(&nats, state.path(), &[]);
    let (subject, give_up) = (format!("{STREAM} on {name}"), Instant::now() + PATIENCE);
    while !has_alarm(state.path(), "replica_mismatch", &subject) {
        assert!(Instant::now() < give_up, "nobody tells of {subject}\n{}", watch.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(relay);
}
