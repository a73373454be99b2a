//! A disk that is full: the relay says so, and never says that it has kept what it has not. Needs
//! root, to mount a small file system of its own: `cargo test --test full_disk`.
#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(unreachable_pub, dead_code)] // the harness is that of tests/wire

#[path = "wire/relay.rs"]
mod relay;
#[path = "wire/wire.rs"]
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use valise::limits::COMMIT_SECONDS_MAX;
use valise_client::OwnerKeyPair;
use valise_proto::limits::PAYLOAD_BYTES_MAX;
use valise_proto::{CloseReason, FrameId, MailboxId, Reason, ServerPacket, Token, TokenKind};

use relay::Relay;
use wire::{Via, Wire, frame_id, payload};

/// A file system in memory; gone with the value, whatever becomes of the test.
struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(mib: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m,mode=0700");
        run("mount", &["-t", "tmpfs", "-o", &size, "valise-test"], directory.path());
        Self { directory }
    }

    fn grow(&self, mib: u32) {
        run("mount", &["-o", &format!("remount,size={mib}m")], self.directory.path());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a store that hangs may still have files open.
        run("umount", &["-l"], self.directory.path());
    }
}

fn run(command: &str, arguments: &[&str], at: &Path) {
    let status = Command::new(command).args(arguments).arg(at).status().unwrap();
    assert!(status.success(), "{command} {arguments:?}: {status}; this test needs root");
}

const CONFIGURATION: &str = "[relay]\naccess = \"codes\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
    [limits]\nposts_per_second = 100000\nposts_burst = 100000\npackets_per_second = 100000\n\
    packets_burst = 100000\n";

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
            Some(Reason::Busy) => refused.push(id),
            other => panic!("neither accepted nor busy: {other:?}"),
        }
        assert!(next < first + 250, "the disk does not fill up");
    }
    (wire, accepted, refused)
}

fn ready(relay: &Relay) -> u16 {
    let admin = relay.running().admin_address().unwrap();
    let mut tcp = std::net::TcpStream::connect(admin).unwrap();
    write!(tcp, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    answer[9..12].parse().unwrap()
}

/// The whole story on a disk of this size, with so many mailboxes to fill it.
async fn story(mib: u32, mailboxes: u32) {
    let disk = SmallDisk::mount(mib);
    let directory = tempfile::tempdir_in(disk.directory.path()).unwrap();
    let mut relay = Relay::configured_in(directory, CONFIGURATION).await;
    let live = Device::new(&relay);
    let mut recipient = Wire::open(&relay, Via::Raw).await;
    recipient.attach_and_catch_up(&live.owner, &live.member).await;
    assert_eq!(ready(&relay), 200);

    let devices: Vec<Device> = (0..mailboxes).map(|_| Device::new(&relay)).collect();
    let mut filling = Vec::new();
    for (index, device) in (0u32..).zip(&devices) {
        let wire = Wire::open(&relay, Via::Raw).await;
        filling.push(tokio::spawn(fill(wire, device.capability, index * 1_000)));
    }
    let mut accepted: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    let mut senders = Vec::new();
    for (index, filled) in filling.into_iter().enumerate() {
        let (mut wire, kept, refused) = filled.await.unwrap();
        // A retry of what failed is not a way round it.
        let again = Bytes::from(vec![refused[0] as u8; PAYLOAD_BYTES_MAX]);
        let outcomes = wire.post(refused[0], &[devices[index].capability], again).await;
        assert_eq!(outcomes, [Some(Reason::Busy)]);
        accepted.insert(index, kept);
        senders.push(wire);
    }
    let kept = accepted.values().map(Vec::len).sum::<usize>();
    assert!(kept * PAYLOAD_BYTES_MAX >= (mib as usize) << 18, "only {kept} were accepted");
    nothing_is_promised(&relay, &mut senders[0], &devices[0], &live).await;

    disk.grow(8 * mib);
    timeout(Duration::from_secs(30), relay.restart()).await.expect("it does not stop");
    everything_is_there(&relay, &devices, &accepted).await;
    relay.finish().await;
}

/// On a disk that was full.
async fn nothing_is_promised(relay: &Relay, sender: &mut Wire, filled: &Device, live: &Device) {
    let failed = timeout(Duration::from_secs(5), relay.running().store_failed());
    let reason = failed.await.expect("nobody hears that the store failed");
    assert!(reason.starts_with("the store failed") || reason.contains("not returned"), "{reason}");
    assert_eq!(ready(relay), 503);
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
    // What can be read may be served; what cannot ends with its name.
    let attach = stranger.make_attach(&filled.owner, &filled.member);
    match stranger.say_attach(attach).await {
        ServerPacket::Attached { .. } | ServerPacket::Closing(Some(CloseReason::StoreFailed)) => {}
        other => panic!("neither served nor told why not: {other:?}"),
    }
}

/// Every frame that was accepted, in order. More may be there: nobody knows what became of those
/// that were answered busy while the disk failed.
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
        assert!(distinct.iter().is_sorted(), "in order");
        let kept: Vec<FrameId> = accepted[&index].iter().map(|id| frame_id(*id)).collect();
        assert!(found.starts_with(&kept), "{} of {} are there", found.len(), kept.len());
        wire.ping().await;
        // And the relay accepts again.
        let last = u32::try_from(index).unwrap() + 990_000;
        wire.say_post(last, &[device.capability], payload(1)).await;
        assert_eq!(wire.delivered().await.frame_id, frame_id(last));
        wire.ack(attachment, found.len() as u64 + 1).await;
        assert_eq!(wire.posted().await.outcomes, [Some(Reason::Accepted)]);
    }
}

/// The journal finds no room before anything else is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_finds_no_room() {
    story(20, 4).await;
}

/// There is room for the journal and for some tables; the engine's background thread is writing as
/// well when the disk is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tables_find_no_room() {
    for mib in [60, 90, 130] {
        story(mib, 16).await;
    }
}
