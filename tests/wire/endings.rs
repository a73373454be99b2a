//! Connections that end because of what a client does not do: speak, read, or come to the point.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use valise::limits::{OUTBOX_BYTES, STALL_SECONDS};
use valise::relay::Patience;
use valise_proto::limits::{ATTACHMENTS_MAX, PACKET_BYTES_MAX, PAYLOAD_BYTES_MAX};
use valise_proto::{
    ClientPacket, CloseReason, Issue, PacketBuffer, Reason, ServerPacket, Token, TokenKind,
};

use crate::on_both_transports;
use crate::relay::{ESTABLISHMENT, Relay};
use crate::wire::{Mine, Via, Wire, frame_id, hello, payload, tls};

on_both_transports!(
    idle,
    pings_keep_it,
    what_the_relay_says_does_not_keep_it,
    too_slow,
    a_slow_reader_is_not_too_slow,
    small_requests_with_large_answers_wait,
    silent_after_welcome,
    a_half_open_connection_with_a_full_window,
    held_back_alone,
);

const MOMENT: Duration = Duration::from_millis(400);

/// Longer than a machine stands still: who does something in time has not been silent or slow.
const IDLE: Duration = Duration::from_secs(5);
const STALL: Duration = Duration::from_secs(6);

/// A bound on what comes sooner or later.
const SURELY: Duration = Duration::from_secs(30);

/// No rate in the way.
const FAST: &str = "[limits]\nposts_per_second = 100000\nposts_burst = 100000\n\
    packets_per_second = 1000000\npackets_burst = 1000000\n";

fn patience() -> Patience {
    Patience::default()
}

/// A connection whose kernel takes little for a client that does not read.
async fn small_socket(relay: &Relay) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(relay.socket()).await.unwrap()
}

pub async fn open_small(relay: &Relay, via: Via) -> Wire {
    let mut wire = Wire::connect_over(small_socket(relay).await, relay, via).await;
    wire.say(&hello()).await;
    wire
}

async fn idle(via: Via) {
    let relay = Relay::start().await;
    relay.running().set_patience(Patience { idle: IDLE, ..patience() });
    let (mut wire, _) = Wire::serve(&relay, via).await;
    let began = Instant::now();
    wire.ping().await;
    wire.closed_with(CloseReason::Idle).await;
    assert!(began.elapsed() >= IDLE, "{:?}", began.elapsed());
    relay.until_closed("idle", 1.0).await;
    relay.until("valise_attachments", |count| count < 1.0).await;
}

async fn pings_keep_it(via: Via) {
    let relay = Relay::start().await;
    relay.running().set_patience(Patience { idle: IDLE, ..patience() });
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let began = Instant::now();
    while began.elapsed() < IDLE + MOMENT {
        tokio::time::sleep(MOMENT).await;
        wire.ping().await;
    }
    let mut sender = Wire::open(&relay, via).await;
    sender.say_post(1, &[mine.capability], payload(1)).await;
    assert_eq!(wire.delivered().await.n, 1);
    wire.ack(mine.attachment, 1).await;
    sender.posted().await;
    relay.finish().await;
}

async fn what_the_relay_says_does_not_keep_it(via: Via) {
    let relay = Relay::configured(FAST).await;
    relay.running().set_patience(Patience { idle: IDLE, ..patience() });
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let posting = async {
        let mut sender = Wire::open(&relay, via).await;
        for id in 0.. {
            sender.post(id, &[mine.capability], payload(1)).await;
            tokio::time::sleep(IDLE / 20).await;
        }
    };
    let listening = async {
        loop {
            match wire.receive().await {
                ServerPacket::Deliver(_) | ServerPacket::CaughtUp { .. } => {}
                ServerPacket::Closing(reason) => return reason,
                other => panic!("not expected: {other:?}"),
            }
        }
    };
    tokio::select! {
        reason = listening => assert_eq!(reason, Some(CloseReason::Idle)),
        () = posting => unreachable!("it posts for ever"),
    }
    relay.finish().await;
}

/// The length of a packet of the relay with its prefix.
fn length(packet: &ServerPacket<Bytes>) -> f64 {
    let mut out = PacketBuffer::default();
    packet.encode(&mut out);
    out.len() as f64
}

/// What the relay holds for all its connections together: everything that was encoded and not yet
/// taken by the kernel. Only packets of a size worth counting.
fn held(relay: &Relay) -> f64 {
    let largest = ServerPacket::Deliver(valise_proto::Deliver {
        attachment: 0,
        n: 1,
        frame_id: frame_id(1),
        payload: Bytes::from(vec![0; PAYLOAD_BYTES_MAX]),
    });
    let tokens = vec![Token::new([0; 60]); 100];
    let issued = ServerPacket::<Bytes>::Issued { request: 1_000, tokens };
    let count =
        |packet: &str| relay.metric(&format!("valise_packets_sent_total{{packet=\"{packet}\"}}"));
    let encoded = count("deliver") * length(&largest) + count("issued") * length(&issued);
    encoded - relay.metric("valise_sent_bytes_total")
}

const FRAMES_EACH: u32 = 3;

/// Sixteen mailboxes with mail for a client that attaches them all and reads nothing.
async fn sixteen_with_mail(relay: &Relay, via: Via) -> (Wire, Vec<Mine>) {
    let mut wire = open_small(relay, via).await;
    let mut mailboxes = Vec::new();
    for _ in 0..ATTACHMENTS_MAX {
        mailboxes.push(wire.join_and_attach(valise_client::OwnerKeyPair::generate()).await);
    }
    let mut sender = Wire::open(relay, via).await;
    for (index, mine) in (0u32..).zip(&mailboxes) {
        for id in 0..FRAMES_EACH {
            let large = Bytes::from(vec![1; PAYLOAD_BYTES_MAX]);
            sender.say_post(index * 100 + id, &[mine.capability], large).await;
        }
    }
    // All of them are written together: the client is slow from the first one on.
    for _ in 0..FRAMES_EACH as usize * ATTACHMENTS_MAX {
        assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
    }
    (wire, mailboxes)
}

/// Asks for far more than the kernel takes: 100 tokens in each answer.
pub async fn ask_for_tokens(wire: &mut Wire, attachment: u32) {
    let mut out = PacketBuffer::default();
    for request in 1_000..2_500 {
        let kind = Some(TokenKind::Post);
        let issue = Issue { request, kind, attachment, count: 100, days: 1, rate_class: 0 };
        ClientPacket::<Bytes>::Issue(issue).encode(&mut out);
    }
    wire.say_bytes(out.take()).await;
}

/// 2 MiB of windows and 9 MiB of answers wait for a client that never reads. The relay holds
/// 64 KiB and one frame of it, then ends the connection; nothing accepted is lost.
async fn too_slow(via: Via) {
    let relay = Relay::configured(FAST).await;
    relay.running().set_patience(Patience { stall: STALL, ..patience() });
    let began = Instant::now();
    let (mut wire, mailboxes) = sixteen_with_mail(&relay, via).await;
    ask_for_tokens(&mut wire, mailboxes[0].attachment).await;
    let closed = || relay.metric("valise_connections_closed_total{reason=\"too_slow\"}");
    let most = (OUTBOX_BYTES + PACKET_BYTES_MAX) as f64;
    let mut seen = 0f64;
    while closed() < 1.0 {
        seen = seen.max(held(&relay));
        assert!(seen <= most, "the relay holds {seen} bytes for one slow reader");
        assert!(began.elapsed() < SURELY, "nobody ends it");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(seen >= OUTBOX_BYTES as f64, "only {seen} bytes waited: the test shows nothing");
    assert!(began.elapsed() >= STALL, "{:?}", began.elapsed());
    relay.until("valise_attachments", |count| count < 1.0).await;

    let mut again = Wire::open(&relay, via).await;
    for mine in &mailboxes {
        let mine_again = again.attach(&mine.owner, &mine.member).await;
        for n in 1..=u64::from(FRAMES_EACH) {
            let deliver = next_delivery(&mut again).await;
            assert_eq!((deliver.attachment, deliver.n), (mine_again, n));
            again.ack(mine_again, n).await;
        }
        assert_eq!(again.receive().await, ServerPacket::CaughtUp { attachment: mine_again });
        let request = again.next_request();
        again.say(&ClientPacket::Detach { request, attachment: mine_again }).await;
        assert_eq!(again.receive().await, ServerPacket::Detached { request });
    }
    relay.finish().await;
}

async fn next_delivery(wire: &mut Wire) -> valise_proto::Deliver<Bytes> {
    loop {
        match wire.receive().await {
            ServerPacket::Deliver(deliver) => return deliver,
            ServerPacket::CaughtUp { .. } | ServerPacket::Issued { .. } => {}
            other => panic!("not delivered: {other:?}"),
        }
    }
}

/// Whoever takes something now and then is slow, which is allowed.
async fn a_slow_reader_is_not_too_slow(via: Via) {
    let relay = Relay::configured(FAST).await;
    relay.running().set_patience(Patience { stall: STALL, ..patience() });
    let (mut wire, mailboxes) = sixteen_with_mail(&relay, via).await;
    ask_for_tokens(&mut wire, mailboxes[0].attachment).await;
    let began = Instant::now();
    let mut packets = 0;
    // 256 KiB in a turn: what waits at the relay moves each time.
    while began.elapsed() < 2 * STALL {
        let mut bytes = 0.0;
        while bytes < 256.0 * 1024.0 {
            let Ok(packet) = tokio::time::timeout(STALL / 5, wire.receive()).await else { break };
            assert!(!matches!(packet, ServerPacket::Closing(_)), "{packet:?}");
            bytes += length(&packet);
            packets += 1;
        }
        tokio::time::sleep(STALL / 10).await;
    }
    assert!(packets > 20, "{packets}");
    let closed = relay.metric("valise_connections_closed_total{reason=\"too_slow\"}");
    assert!(closed.abs() < f64::EPSILON);
}

/// 15 KB of requests would make 9 MB of answers. They wait for room, and all are answered.
async fn small_requests_with_large_answers_wait(via: Via) {
    let relay = Relay::configured(FAST).await;
    let mut wire = open_small(&relay, via).await;
    let mine = wire.join_and_attach(valise_client::OwnerKeyPair::generate()).await;
    ask_for_tokens(&mut wire, mine.attachment).await;
    tokio::time::sleep(MOMENT).await;
    let held = held(&relay);
    assert!(held <= (OUTBOX_BYTES + PACKET_BYTES_MAX) as f64, "{held}");
    for expected in 1_000..2_500 {
        loop {
            match wire.receive().await {
                ServerPacket::Issued { request, .. } => break assert_eq!(request, expected),
                ServerPacket::CaughtUp { .. } => {}
                other => panic!("not issued: {other:?}"),
            }
        }
    }
}

/// Pongs wait for a peer like everything else; who does not take them is too slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_pings_without_reading_are_too_slow() {
    let relay = Relay::start().await;
    relay.running().set_patience(Patience { stall: MOMENT, ..patience() });
    let mut wire = open_small(&relay, Via::WebSocket).await;
    let mine = wire.join_and_attach(valise_client::OwnerKeyPair::generate()).await;
    wire.ping_without_reading(Duration::from_secs(20)).await;
    relay.until_closed("too_slow", 1.0).await;
    drop(mine);
}

/// Reads until the relay closes; its bytes are of no interest.
async fn closed_by_the_relay(tcp: &mut TcpStream) {
    let mut buffer = [0; 1_024];
    let end = async { while matches!(tcp.read(&mut buffer).await, Ok(count) if count > 0) {} };
    tokio::time::timeout(SURELY, end).await.expect("the relay did not close it");
}

fn establishment(relay: &Relay) -> f64 {
    relay.metric("valise_connections_closed_total{reason=\"establishment_timeout\"}")
}

/// Connections that stall on their way to TLS are reaped, and so is one that goes on very slowly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_before_and_in_the_handshake() {
    let relay = Relay::start().await;
    relay.running().set_patience(Patience { establishment: MOMENT, ..patience() });
    let began = Instant::now();
    let mut silent = TcpStream::connect(relay.socket()).await.unwrap();
    let mut half = TcpStream::connect(relay.socket()).await.unwrap();
    // The head of a handshake record that announces 512 bytes, and the head of its ClientHello.
    half.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await.unwrap();
    let mut dribble = TcpStream::connect(relay.socket()).await.unwrap();
    let dribbling = async {
        for byte in [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3].into_iter().chain([0; 500]) {
            if dribble.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(MOMENT / 20).await;
        }
        panic!("500 bytes at this pace are not a handshake in time");
    };
    tokio::join!(closed_by_the_relay(&mut silent), closed_by_the_relay(&mut half), dribbling);
    assert!(began.elapsed() >= MOMENT);
    relay.until_closed("establishment_timeout", 3.0).await;
    let handshaking = relay.metric("valise_connections{kind=\"handshaking\"}");
    assert!(handshaking.abs() < f64::EPSILON);
}

/// After TLS, a client of the HTTPS side that never asks for anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_before_its_request() {
    let relay = Relay::start().await;
    relay.running().set_patience(Patience { establishment: ESTABLISHMENT, ..patience() });
    let tcp = TcpStream::connect(relay.socket()).await.unwrap();
    let mut tls = tls(tcp, b"http/1.1").await.unwrap();
    tls.write_all(b"GET /v1/rel").await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(SURELY, tls.read_to_end(&mut rest)).await.unwrap();
    relay.until_closed("establishment_timeout", 1.0).await;
}

async fn silent_after_welcome(via: Via) {
    let relay = Relay::start().await;
    relay.running().set_patience(Patience { establishment: ESTABLISHMENT, ..patience() });
    let mut wire = Wire::connect(&relay, via).await;
    wire.closed_with(CloseReason::EstablishmentTimeout).await;
    relay.until_closed("establishment_timeout", 1.0).await;
    assert!((establishment(&relay) - 1.0).abs() < f64::EPSILON);
}

/// The device has given its old connection up without the relay knowing: nobody reads it, nobody
/// closes it, and its window is full. The new one is served at once, nothing is lost.
async fn a_half_open_connection_with_a_full_window(via: Via) {
    let relay = Relay::configured(FAST).await;
    let mut old = open_small(&relay, via).await;
    let mine = old.join_and_attach(valise_client::OwnerKeyPair::generate()).await;
    let mut sender = Wire::open(&relay, via).await;
    for id in 0..8 {
        let large = Bytes::from(vec![1; PAYLOAD_BYTES_MAX]);
        let outcomes = sender.post(id, &[mine.capability], large).await;
        assert_eq!(outcomes, [Some(Reason::Accepted)]);
    }
    let began = Instant::now();
    let mut new = Wire::open(&relay, via).await;
    let attachment = new.attach(&mine.owner, &mine.member).await;
    for id in 0..8 {
        let deliver = new.delivered().await;
        assert_eq!((deliver.n, deliver.frame_id), (u64::from(id) + 1, frame_id(id)));
        new.ack(attachment, deliver.n).await;
    }
    assert_eq!(new.receive().await, ServerPacket::CaughtUp { attachment });
    // Nobody waits until the old one is too slow.
    assert!(began.elapsed() < Duration::from_secs(STALL_SECONDS / 2), "{:?}", began.elapsed());
    sender.say_post(8, &[mine.capability], payload(1)).await;
    let news = new.delivered().await;
    assert_eq!((news.n, news.frame_id), (9, frame_id(8)));
    new.ack(attachment, 9).await;
    assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);

    // Should the old one come back to life, it learns why nothing more comes.
    let mut delivered = 0;
    loop {
        match old.receive().await {
            ServerPacket::Deliver(_) => delivered += 1,
            ServerPacket::CaughtUp { .. } => {}
            other => {
                assert_eq!(other, ServerPacket::Replaced { attachment: mine.attachment });
                break;
            }
        }
    }
    assert!(delivered <= 2, "no more than its window: {delivered}");
    old.ack(mine.attachment, delivered).await;
    old.ping().await;
    relay.finish().await;
}

/// A client that sends too fast is read later; others do not notice. Where the machine stands still
/// just then they do, so it may be tried again.
async fn held_back_alone(via: Via) {
    let limits = "[limits]\npackets_per_second = 100\npackets_burst = 20\n";
    let relay = Relay::configured(limits).await;
    let mut hasty = Wire::open(&relay, via).await;
    let mut calm = Wire::open(&relay, via).await;
    // A debt of 100 packets.
    let held_back = Duration::from_secs(1);
    for _ in 0..5 {
        let began = Instant::now();
        let mut out = PacketBuffer::default();
        for request in 1..=120 {
            ClientPacket::<Bytes>::Ping { request }.encode(&mut out);
        }
        hasty.say_bytes(out.take()).await;
        for request in 1..=120 {
            assert_eq!(hasty.receive().await, ServerPacket::Pong { request });
        }
        calm.ping().await;
        let others = began.elapsed();
        hasty.ping().await;
        let its_own = began.elapsed();
        assert!(its_own >= held_back, "{its_own:?}");
        if others < held_back {
            return;
        }
    }
    panic!("who is calm waits as long as who is hasty");
}
