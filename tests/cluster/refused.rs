//! Servers and streams by which accepted frames would be lost are refused by name; servers that are only
//! starting are waited for.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tokio::time::sleep;
use valise::app::{Running, StartError};
use valise::config::{Config, Layer, Surroundings};
use valise::limits::BUS_ANSWER_MS;
use valise_client::testing::{SERVERS, TestNats};

use crate::nats;
use crate::relay::Relay;
use crate::wire::{Via, Wire};

/// A relay on these servers, which is not to start.
async fn refusal(nats: &TestNats) -> String {
    let directory = tempfile::tempdir().unwrap();
    let mut flags = Layer::default();
    flags.relay.listen = Some(vec!["127.0.0.1:0".to_owned()]);
    flags.relay.state_directory = Some(directory.path().join("state").display().to_string());
    flags.admin.listen = Some("off".to_owned());
    flags.cluster.servers = Some(nats.urls());
    flags.cluster.stream_mib = Some(64);
    let surroundings = Surroundings { variables: Vec::new(), descriptors: 4_096 };
    let config = Config::load(None, flags, &surroundings).unwrap();
    match Running::start(&config).await {
        Err(error @ StartError::Cluster(_)) => error.to_string(),
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("it started"),
    }
}

/// Waits until each server hears all of them: they accept clients before they have found each other.
async fn until_joined(nats: &TestNats) {
    for url in nats.urls() {
        let client = async_nats::connect(url).await.unwrap();
        let give_up = Instant::now() + Duration::from_secs(40);
        loop {
            let inbox = client.new_inbox();
            let answers = client.subscribe(inbox.clone()).await.unwrap();
            client.publish_with_reply("valise.varz", inbox, "".into()).await.unwrap();
            let moment = sleep(Duration::from_secs(1));
            if answers.take_until(moment).take(SERVERS).count().await == SERVERS {
                break;
            }
            assert!(Instant::now() < give_up, "a server does not hear all of them");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_syncs_later_is_refused() {
    let lazy = |i, text: String| {
        if i == 1 { text.replace("sync_interval: always", "sync_interval: \"2m\"") } else { text }
    };
    let Some(nats) = nats::configured(lazy) else { return };
    until_joined(&nats).await;
    let error = refusal(&nats).await;
    assert!(error.starts_with("server n1: sync_interval is 120 s and must be always"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_do_not_say_how_they_are_set_up_are_refused() {
    let silent = |_, text: String| text.replace("to: \"valise.varz\"", "to: \"elsewhere\"");
    let Some(nats) = nats::configured(silent) else { return };
    let error = refusal(&nats).await;
    assert!(error.contains("export the service \"$SYS.REQ.SERVER.PING.VARZ\""), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_with_another_setting_is_refused() {
    let Some(nats) = nats::start() else { return };
    let client = async_nats::connect(nats.urls()).await.unwrap();
    let stream = r#"{"name":"MB_1_0","subjects":["m.*.00.>"],"storage":"file","num_replicas":1,
        "discard":"old","max_bytes":1000000}"#;
    // Until the servers have found each other.
    let made = loop {
        let answer = client.request("$JS.API.STREAM.CREATE.MB_1_0", stream.into()).await;
        match answer {
            Ok(answer) if !answer.payload.windows(7).any(|part| part == b"\"error\"") => {
                break answer;
            }
            _ => sleep(Duration::from_millis(100)).await,
        }
    };
    assert!(!made.payload.is_empty());
    let error = refusal(&nats).await;
    assert!(error.starts_with("stream MB_1_0: "), "{error}");
}

/// A machine that starts again starts nodes and servers in any order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_waits_for_servers_that_are_starting() {
    let Some(nats) = nats::start() else { return };
    (0..SERVERS).for_each(|i| nats.kill(i).unwrap());
    let section = nats.section();
    let starting =
        tokio::spawn(
            async move { Relay::on_servers(tempfile::tempdir().unwrap(), &section).await },
        );
    // None there, then too few of them for longer than one answer is waited for, then all.
    sleep(Duration::from_secs(1)).await;
    nats.restart(0).unwrap();
    sleep(Duration::from_millis(BUS_ANSWER_MS) + Duration::from_secs(1)).await;
    assert!(!starting.is_finished(), "it starts on one server of three");
    nats.restart(1).unwrap();
    nats.restart(2).unwrap();
    let relay = starting.await.unwrap();
    Wire::serve(&relay, Via::Raw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_as_large_as_it_was_to_be() {
    let Some(nats) = nats::shared() else { return };
    let _relay = Relay::start().await;
    let client = async_nats::connect(nats.urls()).await.unwrap();
    // A server may hear a moment later of a stream that was just made.
    let give_up = Instant::now() + Duration::from_secs(20);
    let config = loop {
        let info = client.request("$JS.API.STREAM.INFO.MB_1_7", "".into()).await.unwrap();
        let mut info: serde_json::Value = serde_json::from_slice(&info.payload).unwrap();
        match info["config"].take() {
            serde_json::Value::Null => assert!(Instant::now() < give_up, "{info}"),
            config => break config,
        }
        sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(config["max_bytes"], 64 << 20);
}
