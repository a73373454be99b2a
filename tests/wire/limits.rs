//! What the relay gives before it knows who asks: places, handshakes, attempts.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::timeout;
use valise::relay::Patience;
use valise_proto::ALPN;

use crate::on_both_transports;
use crate::relay::Relay;
use crate::wire::{Via, Wire, hello, tls};

on_both_transports!(
    the_third_of_two_waits_for_a_place,
    a_prefix_that_connects_too_often_is_refused,
    the_second_of_one_handshake_waits,
);

const MOMENT: Duration = Duration::from_millis(300);

/// A bound on what comes sooner or later.
const SURELY: Duration = Duration::from_secs(30);

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
    let mut third = timeout(SURELY, third).await.expect("a place is free");
    third.say(&hello()).await;
    third.ping().await;
    second.ping().await;
    let open = ["raw", "websocket", "handshaking"]
        .map(|kind| relay.metric(&format!("valise_connections{{kind=\"{kind}\"}}")));
    assert!(open.iter().sum::<f64>() <= 2.0, "{open:?}");
}

/// Connects so often in one go. How many the relay closed before TLS.
pub async fn connect_at_once(relay: &Relay, times: usize) -> usize {
    let mut connecting = Vec::new();
    for _ in 0..times {
        connecting.push(TcpStream::connect(relay.socket()).await.unwrap());
    }
    let mut closed = 0;
    for tcp in connecting {
        let established = timeout(SURELY, tls(tcp, ALPN)).await.expect("neither served nor closed");
        closed += usize::from(established.is_err());
    }
    closed
}

async fn a_prefix_that_connects_too_often_is_refused(via: Via) {
    let limits = "[limits]\nconnects_per_second_per_prefix = 1\nconnects_burst_per_prefix = 2\n";
    let relay = Relay::configured(limits).await;
    let began = Instant::now();
    let mut first = Wire::open(&relay, via).await;
    let mut second = Wire::open(&relay, via).await;
    let closed = connect_at_once(&relay, 20).await;
    // One for each second that has passed, however slow this machine is.
    let most = began.elapsed().as_secs() as usize;
    assert!(closed > 0 && 20 - closed <= most, "{closed} of 20 after {most} s");
    let refused = relay.metric("valise_accepts_refused_total{reason=\"prefix_rate\"}");
    assert!((refused - closed as f64).abs() < f64::EPSILON, "{refused}");
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
    relay.running().set_patience(Patience::default());
    tokio::time::sleep(establishment / 2).await;
    let mut second = Wire::open(&relay, via).await;
    assert!(began.elapsed() >= establishment, "{:?}", began.elapsed());
    second.ping().await;
    relay.until_closed("establishment_timeout", 1.0).await;
    drop(stalled);
}
