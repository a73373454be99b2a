//! JetStream alone, set up as a data centre is: how many records a second three servers on this machine
//! store three times, what one costs them, and how long it takes. What a relay adds to it is told by
//! `valise-load one-to-one --nodes 1` on the same machine. Needs a nats-server.
//!
//! `cargo bench --bench bus [-- SECONDS]`; 4 seconds a shape unless told otherwise.
#![allow(clippy::print_stdout, missing_docs)]

use std::fs;
use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap, Request};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use valise::store::jetstream::needed_streams;
use valise_client::testing::{SERVERS, TestNats};

/// A frame of 512 bytes with what a node stores beside it.
const RECORD_BYTES: usize = 560;
/// Mailboxes that are written to, in turn: some in every stream.
const MAILBOXES: u64 = 1_024;
const STREAM_BYTES: u64 = 1 << 30;

fn main() {
    let seconds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(4);
    let nats = match TestNats::start() {
        Ok(nats) => nats,
        Err(error) => return println!("not measured: {error}"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the system has a timer");
    runtime.block_on(async {
        let client = async_nats::connect(nats.urls()).await.expect("the servers listen");
        make_streams(&client).await;
        println!("{RECORD_BYTES}-byte records, three copies, synced; {seconds} s each");
        for window in [1, 16, 64, 256] {
            publish(&nats, &client, window, Duration::from_secs(seconds)).await;
        }
    });
}

async fn make_streams(client: &Client) {
    for (name, mut settings) in needed_streams(STREAM_BYTES) {
        settings["name"] = name.clone().into();
        let body = Bytes::from(settings.to_string());
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let api = format!("$JS.API.STREAM.CREATE.{name}");
            let answer = client.request(api, body.clone()).await;
            let made =
                answer.is_ok_and(|answer| !answer.payload.windows(7).any(|w| w == b"\"error\""));
            if made {
                break;
            }
            assert!(Instant::now() < until, "no stream {name}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// So many in flight, on one connection.
async fn publish(nats: &TestNats, client: &Client, window: usize, duration: Duration) {
    let (cpu, began) = (cpu_s(nats), Instant::now());
    let mut number = 0;
    let mut flying = FuturesUnordered::new();
    let mut took = Vec::new();
    loop {
        while flying.len() < window && began.elapsed() < duration {
            flying.push(store(client, number));
            number += 1;
        }
        let Some(latency) = flying.next().await else { break };
        took.push(latency);
    }
    let seconds = began.elapsed().as_secs_f64();
    let each_us = (cpu_s(nats) - cpu) * 1e6 / took.len() as f64;
    took.sort_unstable();
    let at = |part: usize| took[(took.len() - 1) * part / 100].as_secs_f64() * 1e3;
    println!(
        "window {window:>3}: {:>6.0} a second, p50 {:.2} ms, p99 {:.2} ms, {each_us:.0} us of the \
         servers' CPU each",
        took.len() as f64 / seconds,
        at(50),
        at(99),
    );
}

async fn store(client: &Client, number: u64) -> Duration {
    let mailbox = number % MAILBOXES;
    let (realm, shard) = ("09".repeat(20), mailbox % 256);
    let subject = format!("m.{realm}.{shard:02x}.{mailbox:032x}.f");
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", format!("{number:032x}.09090909.{mailbox:032x}"));
    headers.insert("Nats-TTL", "3600s");
    let request = Request::new().headers(headers).payload(vec![7; RECORD_BYTES].into());
    let began = Instant::now();
    let answer = client.send_request(subject, request).await.expect("a stream answers");
    let said = String::from_utf8_lossy(&answer.payload);
    assert!(said.contains("\"seq\""), "{said}");
    began.elapsed()
}

/// What all servers have used, in seconds.
fn cpu_s(nats: &TestNats) -> f64 {
    let ticks = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name may hold spaces; user and system time are the 12th and 13th after it.
        let after = stat.rsplit(") ").next().unwrap_or_default().to_owned();
        let fields = after.split(' ').skip(11).take(2);
        fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>()
    };
    // Linux counts in hundredths of a second on every machine that this is run on.
    (0..SERVERS).filter_map(|i| nats.pid(i)).map(ticks).sum::<f64>() / 100.0
}
