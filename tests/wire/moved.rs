//! A realm that has moved into a data centre: whoever asks here is told so, and nothing is changed.

use std::sync::Arc;

use valise::store::{Batch, EmbeddedOptions, EmbeddedStore, ShardKey, Step, Store};
use valise_client::OwnerKeyPair;
use valise_migration::{Cursor, Migration, Record};
use valise_proto::{MailboxId, Reason, ServerPacket, TokenKind};

use crate::on_both_transports;
use crate::relay::Relay;
use crate::standing::reason;
use crate::wire::{Via, Wire, payload};

on_both_transports!(
    join_moved,
    attach_moved,
    post_moved,
    put_slot_moved,
    get_slots_moved,
    take_moved,
);

/// A relay whose shards have all moved, without an importer that would pass posts on.
async fn relay(configuration: &str) -> (Relay, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let key = ShardKey::new(&[7; 32]);
    let store = EmbeddedStore::open(directory.path(), key, EmbeddedOptions::default()).unwrap();
    let moved = Record::Forward { migration: Migration(1), end: Cursor::start() };
    let steps = (0..=u8::MAX).map(|shard| Step::Shard(shard, moved)).collect();
    store.commit(&Batch { steps, ..Batch::default() }).unwrap();
    (Relay::on_store(configuration, Arc::new(store)).await, directory)
}

async fn join_moved(via: Via) {
    let (relay, _directory) = relay("[relay]\naccess = \"codes\"\n").await;
    let code = relay.token(TokenKind::Join, &MailboxId::new([0; 16]), 3);
    let mut wire = Wire::open(&relay, via).await;
    let join = wire.make_join(&OwnerKeyPair::generate(), Some(code));
    assert_eq!(reason(wire.say_join(join).await), Reason::Moved);
}

async fn attach_moved(via: Via) {
    let (relay, _directory) = relay("").await;
    let mut wire = Wire::open(&relay, via).await;
    let owner = OwnerKeyPair::generate();
    let member = relay.token(TokenKind::Member, &owner.mailbox(&relay.realm()), 9);
    let attach = wire.make_attach(&owner, &member);
    assert_eq!(reason(wire.say_attach(attach).await), Reason::Moved);
    // The connection stays: other mailboxes may be asked for.
    wire.ping().await;
}

async fn post_moved(via: Via) {
    let (relay, _directory) = relay("").await;
    let mut wire = Wire::open(&relay, via).await;
    let to = |n: u8| relay.token(TokenKind::Post, &MailboxId::new([n; 16]), 9);
    let outcomes = wire.post(1, &[to(1), to(2)], payload(1)).await;
    assert_eq!(outcomes, [Some(Reason::Moved), Some(Reason::Moved)]);
    assert!(relay.metric("valise_frames_accepted_total").abs() < f64::EPSILON);
}

async fn put_slot_moved(via: Via) {
    let (relay, _directory) = relay("").await;
    let mut wire = Wire::open(&relay, via).await;
    let token = relay.token(TokenKind::Slot, &MailboxId::new([1; 16]), 9);
    assert_eq!(reason(wire.put(&token, 1, 1, payload(1)).await), Reason::Moved);
}

async fn get_slots_moved(via: Via) {
    let (relay, _directory) = relay("").await;
    let mut wire = Wire::open(&relay, via).await;
    assert_eq!(reason(wire.say_get([1, 2]).await), Reason::Moved);
}

async fn take_moved(via: Via) {
    let (relay, _directory) = relay("").await;
    let mut wire = Wire::open(&relay, via).await;
    let token = relay.token(TokenKind::Take, &MailboxId::new([1; 16]), 9);
    let answer: ServerPacket<_> = wire.take(&token).await;
    assert_eq!(reason(answer), Reason::Moved);
}
