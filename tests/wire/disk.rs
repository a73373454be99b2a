//! A disk that fills up: nothing is taken that needs room, what frees room works, and every key has
//! its effect. A disk that is really full is in `tests/full_disk.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use valise::store::Store;
use valise_client::OwnerKeyPair;
use valise_proto::limits::MAILBOX_BYTES_MAX;
use valise_proto::{ClientPacket, MailboxId, Reason, ServerPacket, TokenKind};

use crate::breakable::{Breakable, Health};
use crate::on_both_transports;
use crate::relay::Relay;
use crate::wire::{Via, Wire, frame_id, payload};

on_both_transports!(attach_busy, a_store_that_fails_comes_back);

const ACCEPTED: [Option<Reason>; 1] = [Some(Reason::Accepted)];
const BUSY: [Option<Reason>; 1] = [Some(Reason::Busy)];

async fn detach(wire: &mut Wire, attachment: u32) {
    wire.say(&ClientPacket::Detach { request: 900, attachment }).await;
    while !matches!(wire.receive().await, ServerPacket::Detached { .. }) {}
}

/// On a store that can be opened only while its disk does not fail.
async fn relay() -> (Relay, Arc<Breakable>) {
    let disk = Arc::new(Breakable::default());
    let opened = Arc::clone(&disk);
    let open = move || opened.write().map(|()| Arc::clone(&opened) as Arc<dyn Store>);
    (Relay::on_stores("", open).await, disk)
}

/// A store that is being opened again cannot be asked what a mailbox holds; the connection lives.
async fn attach_busy(via: Via) {
    let (relay, disk) = relay().await;
    let (mut sender, mine) = Wire::serve(&relay, via).await;
    detach(&mut sender, mine.attachment).await;
    let mut wire = Wire::open(&relay, via).await;
    let owner = OwnerKeyPair::generate();
    let member = wire.join(&owner).await;
    disk.set(Health::Full);
    assert_eq!(sender.post(1, &[mine.capability], payload(1)).await, BUSY);
    relay.until("valise_store_open", |open| open < 1.0).await;
    // It is read from until it is closed.
    let give_up = Instant::now() + Duration::from_secs(30);
    while !matches!(sender.say_get([1]).await, ServerPacket::Refused(_)) {
        assert!(Instant::now() < give_up, "it is not closed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let attach = wire.make_attach(&owner, &member);
    let ServerPacket::Refused(refused) = wire.say_attach(attach).await else { panic!("attached") };
    assert_eq!(refused.reason, Some(Reason::Busy));
    assert!(refused.retry_after_ms > 0);
    disk.set(Health::Healthy);
    relay.until("valise_store_open", |open| open > 0.0).await;
    wire.attach(&owner, &member).await;
}

/// Nobody is sent away, nobody is told something wrong, and everything that was accepted comes once.
async fn a_store_that_fails_comes_back(via: Via) {
    let (relay, disk) = relay().await;
    let (mut recipient, mine) = Wire::serve(&relay, via).await;
    let (mut offline, other) = Wire::serve(&relay, via).await;
    detach(&mut offline, other.attachment).await;
    let mut sender = Wire::open(&relay, via).await;
    let both = [mine.capability, other.capability];
    assert_eq!(sender.post(1, &both[1..], payload(1)).await, ACCEPTED);
    disk.set(Health::Full);
    for id in [2, 2, 3] {
        assert_eq!(sender.post(id, &both, payload(2)).await, [BUSY, BUSY].concat());
    }
    relay.until("valise_store_open", |open| open < 0.5).await;

    disk.set(Health::Healthy);
    relay.until("valise_store_open", |open| open > 0.0).await;
    relay.until("valise_store_reopened_total", |times| times >= 1.0).await;
    for id in [2, 3] {
        assert_eq!(sender.post(id, &both[1..], payload(2)).await, ACCEPTED);
    }
    let attachment = offline.attach(&other.owner, &other.member).await;
    for id in 1..=3 {
        assert_eq!(offline.delivered().await.frame_id, frame_id(id));
    }
    assert_eq!(offline.receive().await, ServerPacket::CaughtUp { attachment });
    offline.ack(attachment, 3).await;
    offline.ping().await;
    // Whoever is here may have had what the disk has not, in its order.
    sender.say_post(4, &both[..1], payload(4)).await;
    let (mut last, mut expected) = (0, [2, 3, 4].map(frame_id).into_iter());
    while expected.len() > 0 {
        let delivered = recipient.delivered().await;
        last += 1;
        assert_eq!(delivered.n, last);
        assert!(expected.any(|id| id == delivered.frame_id), "{:?}", delivered.frame_id);
    }
    recipient.ack(mine.attachment, last).await;
    assert_eq!(sender.posted().await.outcomes, ACCEPTED);
    relay.stop().await;
    let totals = disk.opened().totals;
    assert_eq!((totals.queued(), disk.count().unwrap()), (0, 0), "{totals:?}");
}

/// A mebibyte short of everything there is: no disk has that much free.
const NEVER_ENOUGH: &str = "[relay]\naccess = \"codes\"\n[store]\nfree_min_mib = 1048575\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nearly_full_disk_takes_nothing_and_lets_everything_go() {
    let mut relay = Relay::configured("").await;
    let (mut wire, mine) = Wire::serve(&relay, Via::Raw).await;
    let mut sender = Wire::open(&relay, Via::Raw).await;
    detach(&mut wire, mine.attachment).await;
    for id in [1, 2] {
        assert_eq!(sender.post(id, &[mine.capability], payload(1)).await, ACCEPTED);
    }
    relay.configure(NEVER_ENOUGH);
    relay.restart().await;
    relay.until("valise_disk_refusing", |refusing| refusing > 0.0).await;
    let mut sender = Wire::open(&relay, Via::Raw).await;
    let mut wire = Wire::open(&relay, Via::Raw).await;
    let attachment = wire.attach(&mine.owner, &mine.member).await;
    for id in [1, 2] {
        assert_eq!(wire.delivered().await.frame_id, frame_id(id));
    }
    assert_eq!(wire.receive().await, ServerPacket::CaughtUp { attachment });
    // Whoever is attached is refused like everyone else; what is there already is there.
    sender.say_post(3, &[mine.capability], payload(1)).await;
    let posted = sender.posted().await;
    assert_eq!(posted.outcomes, BUSY);
    assert!(posted.retry_after_ms > 0);
    assert_eq!(sender.post(2, &[mine.capability], payload(1)).await, ACCEPTED);
    let code = relay.token(TokenKind::Join, &MailboxId::new([0; 16]), 3);
    let join = sender.make_join(&OwnerKeyPair::generate(), Some(code));
    let ServerPacket::Refused(refused) = sender.say_join(join).await else { panic!("joined") };
    assert_eq!(refused.reason, Some(Reason::Busy));
    wire.ack(attachment, 2).await;
    wire.ping().await;
    relay.finish().await;
}

/// Two journals' worth of other people's files leave one mailbox the sixteenth part of its quota, and
/// beyond the budget there is nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_is_shared_and_ends() {
    let relay =
        Relay::configured("[store]\njournal_mib = 64\nbudget_mib = 128\nballast_mib = 1\n").await;
    let (mut wire, mine) = Wire::serve(&relay, Via::Raw).await;
    detach(&mut wire, mine.attachment).await;
    let (mut sender, capability) = (Wire::open(&relay, Via::Raw).await, [mine.capability]);
    assert_eq!(sender.post(1, &capability, payload(1)).await, ACCEPTED);
    let full = MAILBOX_BYTES_MAX as f64;
    relay.until("valise_mailbox_quota_bytes", |quota| (quota - full).abs() < 1.0).await;
    assert!((relay.metric("valise_disk_budget_bytes") - f64::from(128 << 20)).abs() < 1.0);

    let file = relay.state_directory().join("somebody-else's");
    std::fs::write(&file, vec![7; 123 << 20]).unwrap();
    relay.until("valise_mailbox_quota_bytes", |quota| (quota - full / 8.0).abs() < 1.0).await;
    let large = |id: u32| Bytes::from(vec![id as u8; 64 * 1024]);
    let mut taken = 0;
    while sender.post(100 + taken, &capability, large(taken)).await == ACCEPTED {
        taken += 1;
    }
    // The first one is 512 bytes.
    assert_eq!(taken, (2 << 20) / (64 * 1024) - 1);
    assert_eq!(sender.post(300, &capability, large(1)).await, [Some(Reason::MailboxFull)]);

    std::fs::write(&file, vec![7; 130 << 20]).unwrap();
    relay.until("valise_disk_refusing", |refusing| refusing > 0.0).await;
    assert_eq!(sender.post(301, &capability, payload(1)).await, BUSY);
    std::fs::remove_file(&file).unwrap();
    relay.until("valise_disk_refusing", |refusing| refusing < 1.0).await;
    assert_eq!(sender.post(301, &capability, payload(1)).await, ACCEPTED);
    tokio::time::sleep(Duration::from_millis(50)).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ballast_is_as_large_as_configured() {
    use std::os::unix::fs::MetadataExt;
    let mut relay = Relay::configured("[store]\nballast_mib = 3\n").await;
    let ballast = relay.state_directory().join("ballast");
    assert!(ballast.metadata().unwrap().blocks() * 512 >= 3 << 20, "it is really there");
    relay.configure("[store]\nballast_mib = 0\n");
    relay.restart().await;
    assert!(!ballast.exists());
    relay.finish().await;
}
