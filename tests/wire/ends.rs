//! Every way in which a connection ends, caused from outside: it is counted once, under its name
//! and no other, and where it has a name on the wire, the client was told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use valise::relay::Patience;
use valise_proto::limits::PACKET_BYTES_MAX;
use valise_proto::{ClientPacket, CloseReason, Hello, ServerPacket};

use crate::breakable::Health;
use crate::broken_disk;
use crate::endings::{ask_for_tokens, open_small};
use crate::on_both_transports;
use crate::relay::Relay;
use crate::wire::{Via, Wire, hello, tls};

on_both_transports!(each_end_is_counted_once);

/// Ends that are not a [`CloseReason`].
const OTHERS: [&str; 4] = ["peer_closed", "transport_error", "tls_failed", "http_answered"];

/// Longer than a machine stands still, and what nobody waits for.
const SHORT: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);

/// What the connections of this relay have ended with.
fn ends(text: &str) -> BTreeMap<String, u32> {
    let series = "valise_connections_closed_total{reason=\"";
    let ends = text.lines().filter_map(|line| line.strip_prefix(series)?.split_once("\"} "));
    ends.map(|(reason, count)| (reason.to_owned(), count.parse().unwrap())).collect()
}

async fn each_end_is_counted_once(via: Via) {
    let names: Vec<&str> =
        CloseReason::ALL.iter().map(|reason| reason.name()).chain(OTHERS).collect();
    let idle = ends(&Relay::start().await.stop().await);
    let mut counted: Vec<&str> = idle.keys().map(String::as_str).collect();
    let mut named = names.clone();
    counted.sort_unstable();
    named.sort_unstable();
    assert_eq!(counted, named, "what is counted and what is caused here");
    // Together: some take their time.
    let caused = names.into_iter().map(async |name| {
        let reason = CloseReason::ALL.iter().find(|reason| reason.name() == name);
        let text = match reason {
            Some(reason) => close(*reason, via).await,
            None => end(name, via).await,
        };
        let ends: Vec<_> = ends(&text).into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(ends, [(name.to_owned(), 1)], "on {via:?}");
    });
    futures_util::future::join_all(caused).await;
}

/// Has one connection closed for this reason, and returns the metrics.
async fn close(reason: CloseReason, via: Via) -> String {
    let (establishment, idle, stall) = match reason {
        CloseReason::EstablishmentTimeout => (SHORT, LONG, LONG),
        CloseReason::Idle => (LONG, SHORT, LONG),
        CloseReason::TooSlow => (LONG, LONG, SHORT),
        _ => (LONG, LONG, LONG),
    };
    let limits = "[limits]\npackets_per_second = 1000000\npackets_burst = 1000000\n";
    let (relay, disk) = broken_disk::relay(limits).await;
    relay.running().set_patience(Patience { establishment, idle, stall });
    let mut wire = match reason {
        CloseReason::EstablishmentTimeout | CloseReason::VersionUnsupported => {
            Wire::connect(&relay, via).await
        }
        CloseReason::TooSlow => open_small(&relay, via).await,
        _ => Wire::open(&relay, via).await,
    };
    match reason {
        CloseReason::Restarting => {
            wire.ping().await;
            return stopped(relay, wire).await;
        }
        CloseReason::EstablishmentTimeout | CloseReason::Idle => {}
        CloseReason::Malformed => wire.say_bytes(Bytes::from_static(&[1, 0x0f])).await,
        CloseReason::PacketTooLarge => {
            let length = u32::try_from(PACKET_BYTES_MAX + 1).unwrap();
            let prefix = [length as u8 | 0x80, (length >> 7) as u8 | 0x80, (length >> 14) as u8];
            wire.say_bytes(Bytes::copy_from_slice(&prefix)).await;
        }
        CloseReason::OutOfOrder => wire.say(&hello()).await,
        CloseReason::VersionUnsupported => {
            let hello = Hello { version: 99, features: 0, realm_epoch: 0, member_token: None };
            wire.say(&ClientPacket::Hello(hello)).await;
        }
        CloseReason::AckInvalid => {
            let mine = wire.join_and_attach(valise_client::OwnerKeyPair::generate()).await;
            wire.ack(mine.attachment, 1).await;
        }
        CloseReason::TooSlow => {
            let mine = wire.join_and_attach(valise_client::OwnerKeyPair::generate()).await;
            ask_for_tokens(&mut wire, mine.attachment).await;
            relay.until_closed(reason.name(), 1.0).await;
            return relay.stop().await;
        }
        CloseReason::StoreFailed => {
            let owner = valise_client::OwnerKeyPair::generate();
            let member = wire.join(&owner).await;
            disk.set(Health::Broken);
            let attach = wire.make_attach(&owner, &member);
            wire.say(&ClientPacket::Attach(Box::new(attach))).await;
        }
    }
    wire.closed_with(reason).await;
    relay.until_closed(reason.name(), 1.0).await;
    relay.stop().await
}

/// The relay stops while a client is there, which is told and then goes.
async fn stopped(relay: Relay, mut wire: Wire) -> String {
    let told = async {
        let mut last = None;
        while let Some(packet) = wire.receive_or_end().await {
            last = Some(packet);
        }
        assert_eq!(last, Some(ServerPacket::Closing(Some(CloseReason::Restarting))));
    };
    let metrics = relay.running().metrics();
    tokio::join!(relay.stop(), told);
    // A shutdown does not wait for the count, which comes when everything else is over.
    let give_up = Instant::now() + Duration::from_secs(30);
    while ends(&metrics.encode())[CloseReason::Restarting.name()] == 0 {
        assert!(Instant::now() < give_up, "it is not counted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    metrics.encode()
}

/// Has one connection end in this way, and returns the metrics.
async fn end(name: &str, via: Via) -> String {
    let relay = Relay::start().await;
    let tcp = TcpStream::connect(relay.socket()).await.unwrap();
    match name {
        "peer_closed" => {
            let mut wire = Wire::connect_over(tcp, &relay, via).await;
            wire.say(&hello()).await;
            wire.ping().await;
            wire.close().await;
        }
        "transport_error" => {
            // A socket that lingers for no time at all is reset when it is dropped.
            tcp.set_zero_linger().unwrap();
            let mut wire = Wire::connect_over(tcp, &relay, via).await;
            wire.say(&hello()).await;
            wire.ping().await;
            drop(wire);
        }
        "tls_failed" => {
            let mut tcp = tcp;
            tcp.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
            tcp.read_to_end(&mut Vec::new()).await.unwrap();
        }
        "http_answered" => {
            let mut page = tls(tcp, b"http/1.1").await.unwrap();
            let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
            page.write_all(request).await.unwrap();
            page.read_to_end(&mut Vec::new()).await.unwrap();
        }
        other => panic!("nobody causes {other}"),
    }
    relay.until_closed(name, 1.0).await;
    relay.stop().await
}
