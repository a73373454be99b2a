//! Somebody on the bus who is no relay.

use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions};
use serde_json::{Value, json};
use valise_client::testing::TestNats;

use crate::patience::PATIENCE;

/// Somebody with a relay's credentials.
pub(crate) async fn intruder(nats: &TestNats) -> Client {
    ConnectOptions::new().name("nats cli").connect(nats.urls()).await.unwrap()
}

/// Asks JetStream, until it answers something that is no error that passes.
pub(crate) async fn api(client: &Client, api: &str, body: Value) -> Value {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let answer = client.request(format!("$JS.API.{api}"), body.to_string().into()).await;
        let answer: Value = match answer {
            Ok(answer) => serde_json::from_slice(&answer.payload).unwrap(),
            Err(error) => json!({ "error": error.to_string() }),
        };
        if answer["error"].is_null() {
            return answer;
        }
        assert!(Instant::now() < give_up, "{api}: {answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) async fn info(client: &Client, stream: &str) -> Value {
    api(client, &format!("STREAM.INFO.{stream}"), json!({})).await
}
