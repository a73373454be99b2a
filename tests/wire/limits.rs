//! What the relay gives before it knows who asks: places, handshakes, attempts.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use valise::relay::Patience;

use crate::on_both_transports;
use crate::relay::Relay;
use crate::wire::{Via, Wire, hello};

on_both_transports!(
    the_third_of_two_waits_for_a_place,
    a_prefix_that_connects_too_often_is_refused,
    the_second_of_one_handshake_waits,
);

const MOMENT: Duration = Duration::from_millis(300);

/// It waits in the kernel's queue, where it costs the relay nothing, and nobody refuses it.
async fn the_third_of_two_waits_for_a_place(via: Via) {
    let relay = Relay::configured("[limits]\nconnections_max = 2\n").await;
    let (first, _) = Wire::serve(&relay, via).await;
    let (mut second, _) = Wire::serve(&relay, via).await;
    let third = Wire::connect(&relay, via);
    tokio::pin!(third);
    assert!(timeout(MOMENT, third.as_mut()).await.is_err(), "there are two places");
    second.ping().await;
    drop(first);
    let mut third = timeout(Duration::from_secs(5), third).await.expect("a place is free");
    third.say(&hello()).await;
    third.ping().await;
    second.ping().await;
    let open = ["raw", "websocket", "handshaking"]
        .map(|kind| relay.metric(&format!("valise_connections{{kind=\"{kind}\"}}")));
    assert!(open.iter().sum::<f64>() <= 2.0, "{open:?}");
}

async fn a_prefix_that_connects_too_often_is_refused(via: Via) {
    let limits = "[limits]\nconnects_per_second_per_prefix = 1\nconnects_burst_per_prefix = 2\n";
    let relay = Relay::configured(limits).await;
    let mut first = Wire::open(&relay, via).await;
    let mut second = Wire::open(&relay, via).await;
    let mut third = TcpStream::connect(relay.socket()).await.unwrap();
    let answer = timeout(Duration::from_secs(5), third.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(answer, Ok(0) | Err(_)), "it is closed before TLS: {answer:?}");
    let refused = relay.metric("valise_accepts_refused_total{reason=\"prefix_rate\"}");
    assert!((refused - 1.0).abs() < f64::EPSILON, "{refused}");
    // Those who are in stay in, and a second later there is room for one more.
    first.ping().await;
    second.ping().await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    Wire::open(&relay, via).await.ping().await;
}

/// A handshake that stalls holds its place until its deadline; the next one is served then.
async fn the_second_of_one_handshake_waits(via: Via) {
    let relay = Relay::configured("[limits]\nhandshakes_max = 1\n").await;
    let establishment = Duration::from_secs(2);
    relay.running().set_patience(Patience { establishment, ..Patience::default() });
    let began = Instant::now();
    let stalled = TcpStream::connect(relay.socket()).await.unwrap();
    relay.until("valise_connections{kind=\"handshaking\"}", |count| count >= 1.0).await;
    tokio::time::sleep(establishment / 2).await;
    let mut second = Wire::open(&relay, via).await;
    assert!(began.elapsed() >= establishment, "{:?}", began.elapsed());
    second.ping().await;
    relay.until_closed("establishment_timeout", 1.0).await;
    drop(stalled);
}
