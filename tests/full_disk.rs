//! A disk that is full: the relay says so, never says that it has kept what it has not, and goes on
//! by itself when there is room again: the same process, the same connections. Needs root, to mount
//! small file systems of its own: `cargo test --test full_disk`.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test fails by panicking, and says what it measured
#![allow(unreachable_pub, dead_code)] // the harness is that of tests/wire

#[path = "wire/relay.rs"]
mod relay;
#[path = "full_disk/small_disk.rs"]
mod small_disk;
#[path = "wire/wire.rs"]
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use valise::limits::COMMIT_SECONDS_MAX;
use valise_client::OwnerKeyPair;
use valise_proto::limits::PAYLOAD_BYTES_MAX;
use valise_proto::{FrameId, MailboxId, Reason, ServerPacket, Token, TokenKind};

use relay::Relay;
use small_disk::SmallDisk;
use wire::{Via, Wire, frame_id, payload};

/// The relays of these tests stand on their own disks.
fn beneath() -> Option<(String, std::sync::Arc<dyn std::any::Any + Send + Sync>)> {
    None
}

const CONFIGURATION: &str = "[relay]\naccess = \"codes\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
    [limits]\nposts_per_second = 100000\nposts_burst = 100000\npackets_per_second = 100000\n\
    packets_burst = 100000\n[store]\nballast_mib = 8\n";

/// How long a relay may be away when there is room again: ten times what it should take.
const AWAY_MAX: Duration = Duration::from_secs(50);

const ACCEPTED: [Option<Reason>; 1] = [Some(Reason::Accepted)];

struct Device {
    owner: OwnerKeyPair,
    member: Token,
    capability: Token,
}

impl Device {
    fn new(relay: &Relay) -> Self {
        let owner = OwnerKeyPair::generate();
        let mailbox = owner.mailbox(&relay.realm());
        let [member, capability] =
            [TokenKind::Member, TokenKind::Post].map(|kind| relay.token(kind, &mailbox, 9));
        Self { owner, member, capability }
    }
}

/// `None` where the tests cannot mount anything.
async fn relay_on(disk: Option<&SmallDisk>) -> Option<Relay> {
    relay_with(disk, CONFIGURATION).await
}

async fn relay_with(disk: Option<&SmallDisk>, configuration: &str) -> Option<Relay> {
    let Some(disk) = disk else {
        eprintln!("skipped: only root can mount a small disk");
        return None;
    };
    let directory = tempfile::tempdir_in(disk.path()).unwrap();
    Some(Relay::configured_in(directory, configuration).await)
}

fn ready(relay: &Relay) -> (u16, String) {
    let admin = relay.running().admin_address().unwrap();
    let mut tcp = std::net::TcpStream::connect(admin).unwrap();
    write!(tcp, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

/// How long it takes until a frame is accepted. The answers until then are `busy`.
async fn until_accepted(sender: &mut Wire, capability: Token, id: u32) -> Duration {
    let began = Instant::now();
    loop {
        let outcomes = sender.post(id, &[capability], payload(1)).await;
        if outcomes == ACCEPTED {
            return began.elapsed();
        }
        assert_eq!(outcomes, [Some(Reason::Busy)]);
        assert!(began.elapsed() < AWAY_MAX, "it does not come back");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Posts the largest frames into a mailbox until one is not accepted; eight are always under way.
/// Returns what was accepted, and what was not.
async fn fill(mut wire: Wire, capability: Token, first: u32) -> (Wire, Vec<u32>, Vec<u32>) {
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    let mut under_way = BTreeSet::new();
    let mut next = first;
    while refused.is_empty() || !under_way.is_empty() {
        while refused.is_empty() && under_way.len() < 8 {
            let large = Bytes::from(vec![next as u8; PAYLOAD_BYTES_MAX]);
            wire.say_post(next, &[capability], large).await;
            under_way.insert(next);
            next += 1;
        }
        let waits = Duration::from_secs(COMMIT_SECONDS_MAX + 10);
        let packet = wire.receive_within(waits).await;
        let Some(ServerPacket::Posted(posted)) = packet else { panic!("not posted: {packet:?}") };
        let id = under_way.iter().copied().find(|id| frame_id(*id) == posted.frame_id).unwrap();
        under_way.remove(&id);
        match posted.outcomes[0] {
            Some(Reason::Accepted) => accepted.push(id),
            Some(Reason::Busy | Reason::MailboxFull) => refused.push(id),
            other => panic!("neither accepted nor refused for room: {other:?}"),
        }
        assert!(next < first + 300, "the disk does not fill up");
    }
    (wire, accepted, refused)
}

/// The relay fills a disk of this size by itself, with so many mailboxes; then the disk grows.
async fn filled_by_the_relay(mib: u32, mailboxes: u32) {
    let disk = SmallDisk::in_memory(mib);
    let Some(relay) = relay_on(disk.as_ref()).await else { return };
    let disk = disk.expect("the relay is on it");
    let live = Device::new(&relay);
    let mut recipient = Wire::open(&relay, Via::Raw).await;
    recipient.attach_and_catch_up(&live.owner, &live.member).await;
    assert_eq!(ready(&relay).0, 200);

    let devices: Vec<Device> = (0..mailboxes).map(|_| Device::new(&relay)).collect();
    let mut filling = Vec::new();
    for (index, device) in (0u32..).zip(&devices) {
        let wire = Wire::open(&relay, Via::Raw).await;
        filling.push(tokio::spawn(fill(wire, device.capability, index * 1_000)));
    }
    let mut accepted: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    let mut senders = Vec::new();
    for (index, filled) in filling.into_iter().enumerate() {
        let (wire, kept, _) = filled.await.unwrap();
        accepted.insert(index, kept);
        senders.push(wire);
    }
    let kept = accepted.values().map(Vec::len).sum::<usize>();
    assert!(kept * PAYLOAD_BYTES_MAX >= (mib as usize) << 18, "only {kept} were accepted");
    nothing_is_promised(&relay, &mut senders[0], &devices[0], &live).await;

    disk.grow(8 * mib);
    let away = until_accepted(&mut senders[0], live.capability, 900_000).await;
    eprintln!("a disk of {mib} MiB that the relay filled: back {away:?} after it grew");
    // On the same connection; it may have had it before, from a relay that then had to give it up.
    let mut last = 0;
    loop {
        let patience = Duration::from_millis(if last == 0 { 20_000 } else { 300 });
        let Ok(packet) = timeout(patience, recipient.receive()).await else { break };
        let ServerPacket::Deliver(deliver) = packet else { panic!("not delivered: {packet:?}") };
        assert_eq!(deliver.frame_id, frame_id(900_000));
        last = deliver.n;
    }
    assert!(last > 0, "nothing came");
    recipient.ack(0, last).await;
    recipient.ping().await;
    everything_is_there(&relay, &devices, &accepted).await;
    assert_eq!(ready(&relay).0, 200);
    relay.finish().await;
}

/// On a disk that is full.
async fn nothing_is_promised(relay: &Relay, sender: &mut Wire, filled: &Device, live: &Device) {
    // Those who are there are refused like those who are not.
    for capability in [live.capability, filled.capability] {
        let outcomes = sender.post(900_000, &[capability], payload(1)).await;
        assert_eq!(outcomes, [Some(Reason::Busy)]);
    }
    let mut stranger = Wire::open(relay, Via::WebSocket).await;
    let code = relay.token(TokenKind::Join, &MailboxId::new([0; 16]), 3);
    let join = stranger.make_join(&OwnerKeyPair::generate(), Some(code));
    let ServerPacket::Refused(refused) = stranger.say_join(join).await else { panic!("joined") };
    assert_eq!(refused.reason, Some(Reason::Busy));
    // What can be read is served.
    let attach = stranger.make_attach(&filled.owner, &filled.member);
    match stranger.say_attach(attach).await {
        ServerPacket::Attached { .. } => {}
        ServerPacket::Refused(refused) => assert_eq!(refused.reason, Some(Reason::Busy)),
        other => panic!("neither served nor told to come back: {other:?}"),
    }
}

/// Every frame that was accepted, in order. More may be there: what was answered busy while the disk
/// failed may have been kept.
async fn everything_is_there(
    relay: &Relay,
    devices: &[Device],
    accepted: &BTreeMap<usize, Vec<u32>>,
) {
    for (index, device) in devices.iter().enumerate() {
        let mut wire = Wire::open(relay, Via::Raw).await;
        let attachment = wire.attach(&device.owner, &device.member).await;
        let mut found: Vec<FrameId> = Vec::new();
        loop {
            match wire.receive().await {
                ServerPacket::Deliver(deliver) => {
                    found.push(deliver.frame_id);
                    wire.ack(attachment, deliver.n).await;
                }
                ServerPacket::CaughtUp { .. } => break,
                other => panic!("neither mail nor caught up: {other:?}"),
            }
        }
        let distinct: BTreeSet<_> = found.iter().map(|id| *id.as_bytes()).collect();
        assert_eq!(distinct.len(), found.len(), "none comes twice");
        assert!(found.iter().map(|id| *id.as_bytes()).is_sorted(), "in order");
        let kept: Vec<FrameId> = accepted[&index].iter().map(|id| frame_id(*id)).collect();
        assert!(found.starts_with(&kept), "{} of {} are there", found.len(), kept.len());
        wire.ping().await;
    }
}

/// The journal finds no room before anything else is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_finds_no_room() {
    filled_by_the_relay(20, 4).await;
}

/// There is room for the journal and for some tables; the engine's background thread is writing as
/// well when the disk is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tables_find_no_room() {
    for mib in [60, 90, 130] {
        filled_by_the_relay(mib, 16).await;
    }
}

/// A sender that behaves: one frame under way, and each is tried until it is accepted.
async fn keep_posting(mut wire: Wire, capability: Token, state: Arc<Traffic>) -> u32 {
    let mut accepted = 0;
    while !state.over.load(Ordering::Relaxed) {
        let id = accepted + 1;
        wire.say_post(id, &[capability], Bytes::from(vec![id as u8; 2048])).await;
        let waits = Duration::from_secs(COMMIT_SECONDS_MAX + 10);
        match wire.receive_within(waits).await {
            Some(ServerPacket::Posted(posted)) => match posted.outcomes[0] {
                Some(Reason::Accepted) => accepted = id,
                Some(Reason::Busy | Reason::MailboxFull) => {
                    state.refused.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(posted.retry_after_ms.clamp(1, 200).into())).await;
                }
                other => panic!("neither accepted nor refused for room: {other:?}"),
            },
            other => panic!("the sender lost its connection: {other:?}"),
        }
        sleep(Duration::from_millis(2)).await;
    }
    wire.ping().await;
    accepted
}

/// A recipient that behaves: it acknowledges, late now and then, and drops what it has had. Returns
/// the last it was shown, once it has shown as much as was accepted.
async fn keep_reading(mut wire: Wire, attachment: u32, accepted: Arc<AtomicU32>) -> u32 {
    let mut shown = 0;
    loop {
        let more = timeout(Duration::from_millis(500), wire.receive_within(AWAY_MAX));
        match more.await {
            Ok(Some(ServerPacket::Deliver(deliver))) => {
                let id = (shown + 1..=shown + 1).find(|id| frame_id(*id) == deliver.frame_id);
                let had = (1..=shown).rev().take(64).any(|id| frame_id(id) == deliver.frame_id);
                assert!(id.is_some() || had, "a gap after {shown}: {:?}", deliver.frame_id);
                shown = id.unwrap_or(shown);
                if shown % 7 == 0 {
                    sleep(Duration::from_millis(30)).await;
                }
                wire.ack(attachment, deliver.n).await;
            }
            Ok(Some(ServerPacket::CaughtUp { .. })) => {}
            Err(_) if shown >= accepted.load(Ordering::Relaxed) => break,
            Err(_) => {}
            Ok(other) => panic!("the recipient lost its connection: {other:?}"),
        }
    }
    wire.ping().await;
    shown
}

#[derive(Default)]
struct Traffic {
    over: AtomicBool,
    refused: AtomicU32,
}

const PAIRS: usize = 8;

/// Somebody else fills the disk under load, to the last byte and again when the ballast has been
/// thrown off, and frees it: three times in a row.
async fn filled_by_somebody_else(disk: Option<SmallDisk>, name: &str) {
    let Some(relay) = relay_on(disk.as_ref()).await else { return };
    let disk = disk.expect("the relay is on it");
    let traffic = Arc::<Traffic>::default();
    let (mut posting, mut reading) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let device = Device::new(&relay);
        let mut recipient = Wire::open(&relay, Via::Raw).await;
        let attachment = recipient.attach(&device.owner, &device.member).await;
        let sender = Wire::open(&relay, Via::WebSocket).await;
        let accepted = Arc::new(AtomicU32::new(u32::MAX));
        posting.push(tokio::spawn(keep_posting(sender, device.capability, Arc::clone(&traffic))));
        let read = keep_reading(recipient, attachment, Arc::clone(&accepted));
        reading.push((accepted, tokio::spawn(read)));
    }
    let offline = Device::new(&relay);
    let mut probe = Wire::open(&relay, Via::Raw).await;
    let mut last = 0;
    for round in 1..=3 {
        for _ in 0..50 {
            last += 1;
            until_accepted(&mut probe, offline.capability, last).await;
        }
        disk.fill();
        sleep(Duration::from_millis(1_500)).await;
        // Whatever was freed since, the ballast included.
        disk.fill();
        sleep(Duration::from_millis(1_500)).await;
        last += 1;
        let refused = traffic.refused.load(Ordering::Relaxed);
        assert_eq!(probe.post(last, &[offline.capability], payload(1)).await, [Some(Reason::Busy)]);
        assert!((relay.metric("valise_disk_refusing") - 1.0).abs() < f64::EPSILON);
        let (status, text) = ready(&relay);
        assert!(status == 200 || text.contains("\"ready\":false"), "{text}");
        assert!(refused > 0, "nobody was refused");
        disk.free();
        let away = until_accepted(&mut probe, offline.capability, last).await;
        let reopened = relay.metric("valise_store_reopened_total");
        eprintln!(
            "{name}, round {round}: back {away:?} after there was room again; opened again \
             {reopened} times so far, ready was {status}, {refused} posts refused so far"
        );
        assert_eq!(ready(&relay).0, 200);
    }
    traffic.over.store(true, Ordering::Relaxed);
    let mut total = 0;
    for (sender, (accepted, recipient)) in posting.into_iter().zip(reading) {
        let sent = sender.await.unwrap();
        accepted.store(sent, Ordering::Relaxed);
        let shown = recipient.await.unwrap();
        // One more may have come that its sender was told nothing good of.
        assert!(shown == sent || shown == sent + 1, "{sent} accepted, {shown} shown");
        total += sent;
    }
    assert!(total > 100, "there was hardly any load: {total}");
    let accepted = BTreeMap::from([(0, (1..=last).collect())]);
    everything_is_there(&relay, &[offline], &accepted).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_times_full_in_memory() {
    filled_by_somebody_else(SmallDisk::in_memory(300), "tmpfs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_times_full_on_ext4() {
    filled_by_somebody_else(SmallDisk::on_ext4(300), "ext4").await;
}

/// With the ballast thrown off there is room for what frees room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_can_be_emptied() {
    const FRAMES: u32 = 100;
    let disk = SmallDisk::in_memory(300);
    let Some(relay) = relay_on(disk.as_ref()).await else { return };
    let disk = disk.expect("the relay is on it");
    let device = Device::new(&relay);
    let mut sender = Wire::open(&relay, Via::Raw).await;
    for id in 1..=FRAMES {
        until_accepted(&mut sender, device.capability, id).await;
    }
    disk.fill();
    relay.until("valise_disk_refusing", |refusing| refusing > 0.0).await;
    assert_eq!(
        sender.post(FRAMES + 1, &[device.capability], payload(1)).await,
        [Some(Reason::Busy)]
    );
    let mut wire = Wire::open(&relay, Via::Raw).await;
    let attachment = wire.attach(&device.owner, &device.member).await;
    for n in 1..=FRAMES {
        assert_eq!(wire.delivered().await.frame_id, frame_id(n));
    }
    assert_eq!(wire.receive().await, ServerPacket::CaughtUp { attachment });
    assert!(relay.metric("valise_store_reopened_total") < 1.0);
    // Enough of them that the pages which are there do not do: each is a commit.
    let has_failed = || relay.metric("valise_store_reopened_total") > 0.0;
    for n in 1..=FRAMES {
        if has_failed() {
            break;
        }
        let commits = relay.metric("valise_commits_total");
        wire.ack(attachment, n.into()).await;
        let enough = |now: f64| now > commits || has_failed();
        relay.until("valise_commits_total", enough).await;
    }
    wire.ack(attachment, FRAMES.into()).await;
    wire.ping().await;
    relay.until("valise_store_reopened_total", |times| times > 0.0).await;
    relay.until("valise_store_open", |open| open > 0.0).await;
    assert!(!relay.state_directory().join("ballast").exists());
    assert_eq!(
        sender.post(FRAMES + 1, &[device.capability], payload(1)).await,
        [Some(Reason::Busy)]
    );
    // They are gone even if it ends now.
    let verified = relay.stop_and_verify().await;
    assert_eq!((verified.counted, verified.totals.queued()), (0, 0));
    drop(disk);
}

/// The relay has filled the disk by itself, as far as it may, and its recipients empty it: that is
/// room as well. The least that is left free is what a large disk has, since merging takes room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_recipients_take_is_room_again() {
    let disk = SmallDisk::in_memory(1_700);
    let configuration = format!("{CONFIGURATION}free_min_mib = 1024\n");
    let Some(relay) = relay_with(disk.as_ref(), &configuration).await else { return };
    let devices: Vec<Device> = (0..48).map(|_| Device::new(&relay)).collect();
    let mut accepted: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    let mut filling = Vec::new();
    for (index, device) in (0u32..).zip(&devices) {
        let wire = Wire::open(&relay, Via::Raw).await;
        filling.push(tokio::spawn(fill(wire, device.capability, index * 1_000)));
    }
    for (index, filled) in filling.into_iter().enumerate() {
        accepted.insert(index, filled.await.unwrap().1);
    }
    relay.until("valise_disk_refusing", |refusing| refusing > 0.0).await;
    everything_is_there(&relay, &devices, &accepted).await;
    let mut sender = Wire::open(&relay, Via::Raw).await;
    let away = until_accepted(&mut sender, devices[0].capability, 999_999).await;
    let free = relay.metric("valise_disk_free_bytes") / f64::from(1 << 20);
    eprintln!("emptied by its recipients: back after {away:?} with {free:.0} of 1,700 MiB free");
    relay.finish().await;
    drop(disk);
}
