//! A disk that fails: nothing is accepted that is not kept, and whoever asks is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use valise::payload::Payload;
use valise::store::{
    Backlog, Batch, BundleHead, Cutoff, Frame, MemoryStore, Opened, Outdated, RunningHours, Seq,
    Slot, Store, StoreError,
};
use valise_client::OwnerKeyPair;
use valise_proto::{CloseReason, MailboxId, Reason, ServerPacket, SlotId, TokenKind};

use crate::on_both_transports;
use crate::relay::Relay;
use crate::wire::{Via, Wire, payload};

on_both_transports!(join_busy, post_busy, attach_store_failed);

/// The store for tests, on a disk that can break.
#[derive(Default)]
struct Breakable {
    store: MemoryStore,
    broken: AtomicBool,
}

impl Breakable {
    fn break_now(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }

    fn disk(&self) -> Result<(), StoreError> {
        if !self.broken.load(Ordering::SeqCst) {
            return Ok(());
        }
        let source = std::io::Error::other("the disk is broken");
        Err(StoreError::Io { path: "disk".into(), source })
    }
}

impl Store for Breakable {
    fn opened(&self) -> Opened {
        self.store.opened()
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        self.disk().and_then(|()| self.store.commit(batch))
    }

    fn load(&self, mailbox: &MailboxId) -> Result<Backlog, StoreError> {
        self.disk().and_then(|()| self.store.load(mailbox))
    }

    fn read(
        &self,
        mailbox: &MailboxId,
        after: Seq,
        up_to: Seq,
        bytes_max: usize,
    ) -> Result<Vec<Frame>, StoreError> {
        self.disk().and_then(|()| self.store.read(mailbox, after, up_to, bytes_max))
    }

    fn spent(&self, serial: &[u8; 8]) -> Result<Option<MailboxId>, StoreError> {
        self.disk().and_then(|()| self.store.spent(serial))
    }

    fn slot(&self, id: &SlotId) -> Result<Option<Slot>, StoreError> {
        self.disk().and_then(|()| self.store.slot(id))
    }

    fn bundle(&self, mailbox: &MailboxId) -> Result<Option<BundleHead>, StoreError> {
        self.disk().and_then(|()| self.store.bundle(mailbox))
    }

    fn bundle_item(&self, mailbox: &MailboxId, number: u32) -> Result<Option<Payload>, StoreError> {
        self.disk().and_then(|()| self.store.bundle_item(mailbox, number))
    }

    fn outdated(&self, cutoff: &Cutoff, max: usize) -> Result<Vec<Outdated>, StoreError> {
        self.disk().and_then(|()| self.store.outdated(cutoff, max))
    }

    fn expired(&self, now: RunningHours) -> Result<Vec<MailboxId>, StoreError> {
        self.disk().and_then(|()| self.store.expired(now))
    }

    fn count(&self) -> Result<u64, StoreError> {
        self.disk().and_then(|()| self.store.count())
    }
}

async fn relay(configuration: &str) -> (Relay, Arc<Breakable>) {
    let disk = Arc::new(Breakable::default());
    (Relay::on_store(configuration, disk.clone()).await, disk)
}

async fn join_busy(via: Via) {
    let (relay, disk) = relay("[relay]\naccess = \"codes\"\n").await;
    let code = relay.token(TokenKind::Join, &MailboxId::new([0; 16]), 3);
    let mut wire = Wire::open(&relay, via).await;
    disk.break_now();
    for _ in 0..2 {
        let join = wire.make_join(&OwnerKeyPair::generate(), Some(code));
        let ServerPacket::Refused(refused) = wire.say_join(join).await else { panic!("joined") };
        assert_eq!(refused.reason, Some(Reason::Busy));
        assert!(refused.retry_after_ms > 0);
    }
}

async fn post_busy(via: Via) {
    let (relay, disk) = relay("").await;
    let (wire, mine) = Wire::serve(&relay, via).await;
    drop(wire);
    let mut sender = Wire::open(&relay, via).await;
    assert_eq!(sender.post(1, &[mine.capability], payload(1)).await, [Some(Reason::Accepted)]);
    disk.break_now();
    // The first finds the disk broken, the others a relay that knows it; the second is a retry.
    for id in [2, 2, 3] {
        sender.say_post(id, &[mine.capability], payload(1)).await;
        let posted = sender.posted().await;
        assert_eq!(posted.outcomes, [Some(Reason::Busy)]);
        assert!(posted.retry_after_ms > 0);
    }
    let accepted = relay.metric("valise_frames_accepted_total");
    assert!((accepted - 1.0).abs() < f64::EPSILON, "{accepted} accepted");
    assert!(!relay.running().store_failed().await.is_empty());
}

async fn attach_store_failed(via: Via) {
    let (relay, disk) = relay("").await;
    let mut wire = Wire::open(&relay, via).await;
    let owner = OwnerKeyPair::generate();
    let member = wire.join(&owner).await;
    disk.break_now();
    let attach = wire.make_attach(&owner, &member);
    let closing = wire.say_attach(attach).await;
    assert_eq!(closing, ServerPacket::Closing(Some(CloseReason::StoreFailed)));
    assert_eq!(wire.receive_or_end().await, None);
}
