//! Frames whose time to live is over.

use std::path::Path;
use std::time::{Duration, Instant};

use valise_proto::limits::{TTL_HOURS_DEFAULT, TTL_HOURS_MAX};
use valise_proto::{ClientPacket, Post, Reason};

use crate::on_both_transports;
use crate::relay::{IN_USE_MAX, Relay};
use crate::wire::{Mine, Via, Wire, frame_id, payload};

on_both_transports!(each_frame_goes_after_its_own_time);

async fn post(wire: &mut Wire, mine: &Mine, id: u32, ttl_hours: u32) {
    let request = wire.next_request();
    let capabilities = vec![mine.capability];
    let post =
        Post { request, frame_id: frame_id(id), capabilities, ttl_hours, payload: payload(1) };
    wire.say(&ClientPacket::Post(post)).await;
    assert_eq!(wire.posted().await.outcomes, [Some(Reason::Accepted)]);
}

/// As if the relay had run for so many hours more: running time is a field of the state record.
pub fn let_pass(state: &Path, hours: u32) {
    const HOURS_AT: usize = 5 * size_of::<u64>();
    let database = open(&state.join("store"));
    let keyspace = database.keyspace("valise", Default::default).unwrap();
    let mut record = keyspace.get(b"s").unwrap().unwrap().to_vec();
    let hour = u32::from_be_bytes(record[HOURS_AT..HOURS_AT + 4].try_into().unwrap()) + hours;
    record[HOURS_AT..HOURS_AT + 4].copy_from_slice(&hour.to_be_bytes());
    let end = record.len() - 4;
    let crc = crc32fast::hash(&record[..end]).to_be_bytes();
    record[end..].copy_from_slice(&crc);
    keyspace.insert(b"s", record).unwrap();
    database.persist(fjall::PersistMode::SyncAll).unwrap();
}

fn open(store: &Path) -> fjall::Database {
    let give_up = Instant::now() + IN_USE_MAX;
    loop {
        match fjall::Database::builder(store).open() {
            Err(fjall::Error::Locked) if Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(20));
            }
            database => return database.unwrap(),
        }
    }
}

async fn each_frame_goes_after_its_own_time(via: Via) {
    let mut relay = Relay::start().await;
    if relay.is_node() {
        return; // the servers keep the time: tests/cluster/nodes.rs sees what they are told
    }
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let other = wire.join_and_attach(valise_client::OwnerKeyPair::generate()).await;
    drop(wire);
    relay.until("valise_attachments", |count| count < 1.0).await;
    let mut sender = Wire::open(&relay, via).await;
    // One goes from the middle, one from the front, one from a mailbox that has no other.
    for (id, ttl_hours) in [(1, 0), (2, 1), (3, TTL_HOURS_MAX), (4, 2)] {
        post(&mut sender, &mine, id, ttl_hours).await;
    }
    post(&mut sender, &other, 5, 1).await;

    let mut expired = 0.0;
    let mut passed = 0;
    let steps: [(u32, f64, &[u32]); 4] = [
        // It may have been accepted at the end of its first hour.
        (1, 0.0, &[1, 2, 3, 4]),
        (2, 2.0, &[1, 3, 4]),
        (TTL_HOURS_DEFAULT + 1, 2.0, &[3]),
        (TTL_HOURS_MAX + 1, 1.0, &[]),
    ];
    for (hours, go, stay) in steps {
        relay.restart_after(|state| let_pass(state, hours - passed)).await;
        passed = hours;
        relay.until("valise_frames_expired_total", |count| count >= go).await;
        let count = relay.metric("valise_frames_expired_total");
        assert!((count - go).abs() < f64::EPSILON, "{count} after {hours} hours");
        expired += go;
        let queued = relay.metric("valise_frames_queued");
        assert!((queued - (5.0 - expired)).abs() < f64::EPSILON, "{queued} after {hours} hours");
        let mut wire = Wire::open(&relay, via).await;
        let (_, mail) = wire.attach_and_catch_up(&mine.owner, &mine.member).await;
        let ids: Vec<_> = mail.iter().map(|deliver| deliver.frame_id).collect();
        let expected: Vec<_> = stay.iter().copied().map(frame_id).collect();
        assert_eq!(ids, expected, "after {hours} hours");
    }
    relay.finish().await;
}
