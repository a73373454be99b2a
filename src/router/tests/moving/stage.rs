//! A supernode's engine over a store, and everything that happens to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::Bytes;
use valise_migration::real::{Real, RealLedger, RealRequest};
use valise_migration::shard::Request;
use valise_migration::{Boot, Epoch, Ledger, Migration, Refusal, Shard, Stage as Whose};
use valise_proto::{
    FrameId, MailboxId, PacketPayload, PublicationId, PublishBundle, PutId, PutSlot, Reason,
    ServerPacket, SlotId, Token,
};

use super::replica::Replica;
use crate::committer::{Committer, Recovery, Room};
use crate::disk::Allowed;
use crate::doorbell::Doorbell;
use crate::engine::{Attach, Engine};
use crate::engines::Local;
use crate::mailbox::{Allowance, Incoming, NotServed};
use crate::metrics::Metrics;
use crate::migration::{Mode, Shards};
use crate::payload::Payload;
use crate::rate::{Rate, RateClasses};
use crate::receipt::{Receipt, Waiter};
use crate::shards;
use crate::store::{
    EmbeddedOptions, EmbeddedStore, LAST_RESORT, Revocation, RunningHours, Seq, ShardKey,
    SpentCode, Store, StoreError,
};

/// Mailboxes whose shard is looked at; there are more in others.
const MAILBOXES: u8 = 3;

/// Numbers that follow from a seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// One life of the process.
struct Life {
    local: Local,
    committer: Committer,
    shards: Shards,
}

pub(super) struct Stage {
    pub(super) dice: Dice,
    directory: tempfile::TempDir,
    key: ShardKey,
    life: Option<Life>,
    /// The shard that is looked at, and mailboxes in it.
    shard: u8,
    mailboxes: Vec<MailboxId>,
    ledger: Option<RealLedger>,
    replica: Replica,
    next: u64,
    rate: Rate,
}

impl Stage {
    pub(super) fn new(seed: u64) -> Self {
        let key = ShardKey::new(&[7; 32]);
        let shard = key.shard(&MailboxId::new([1; 16]));
        // Ids of one shard, found by trying.
        let ids = (0_u32..).map(|n| {
            let mut id = [9; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            MailboxId::new(id)
        });
        let mailboxes = ids.filter(|id| key.shard(id) == shard).take(MAILBOXES.into()).collect();
        let mut stage = Self {
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            directory: tempfile::tempdir().expect("a directory"),
            key,
            life: None,
            shard,
            mailboxes,
            ledger: None,
            replica: Replica::new(),
            next: 0,
            rate: Rate::new(1_000_000, 1_000_000),
        };
        stage.open();
        stage
    }

    fn open(&mut self) {
        let options = EmbeddedOptions::default();
        let store = EmbeddedStore::open(self.directory.path(), self.key.clone(), options);
        let store: Arc<dyn Store> = Arc::new(store.expect("it opens"));
        self.next += 1;
        let boot = Boot(u128::from(self.next));
        let shards = Arc::new(shards::Shards::new(self.key.clone(), boot, Epoch(5)));
        shards.restart(store.logs().expect("it keeps logs")).expect("they can be read");
        let recovery = Recovery {
            open: Box::new(|| Err(StoreError::Reopening)),
            make_room: Box::new(|_| Room::Enough),
        };
        let committer = Committer::start_with(store, recovery, Some(shards));
        let local = Local::new(committer.clone(), Allowed::default(), Metrics::new());
        let shards = Shards::of(&committer).expect("they can move");
        self.life = Some(Life { local, committer, shards });
    }

    fn life(&self) -> &Life {
        self.life.as_ref().expect("it runs")
    }

    fn id(&mut self) -> [u8; 16] {
        self.next += 1;
        u128::from(self.next).to_be_bytes()
    }

    fn payload(&mut self) -> Payload {
        self.next += 1;
        Payload::from_packet(Bytes::from(self.next.to_be_bytes().repeat(64)))
    }

    fn mailbox(&mut self) -> MailboxId {
        let at = self.dice.below(self.mailboxes.len() as u64);
        self.mailboxes[usize::try_from(at).expect("few")]
    }

    /// An id of this length's first bytes whose shard is the one that is looked at.
    fn slot(&mut self) -> SlotId {
        loop {
            self.next += 1;
            let mut id = [3; 32];
            id[..8].copy_from_slice(&self.next.to_be_bytes());
            if self.key.slot_shard(&SlotId::new(id)) == self.shard {
                return SlotId::new(id);
            }
        }
    }

    fn code(&mut self) -> [u8; 8] {
        loop {
            self.next += 1;
            if self.key.serial_shard(&self.next.to_be_bytes()) == self.shard {
                return self.next.to_be_bytes();
            }
        }
    }

    /// Posts, to some mailboxes at once, some of which are served; returns the outcomes.
    async fn post(&mut self) -> Vec<Reason> {
        let mut outcomes = Vec::new();
        for door in self.append_some() {
            outcomes.push(outcome(&door).await);
        }
        outcomes
    }

    /// The doors at which the outcomes will be.
    fn append_some(&mut self) -> Vec<Arc<Doorbell>> {
        let frames = 1 + self.dice.below(6);
        let mut doors = Vec::new();
        let served = self.mailbox();
        let attached = (self.dice.below(3) == 0).then(|| self.attach(&served)).and_then(Result::ok);
        for _ in 0..frames {
            let door = Arc::new(Doorbell::default());
            let frame_id = FrameId::new(self.id());
            let receipt = Arc::new(Receipt::new(1, frame_id, 1, Arc::clone(&door)));
            let ttl_hours = if self.dice.below(4) == 0 { 1 } else { 720 };
            let mailbox =
                if attached.is_some() && self.dice.below(2) == 0 { served } else { self.mailbox() };
            let payload = self.payload();
            let incoming = Incoming { frame_id, payload, ttl_hours, serial: [1; 8], class: 0 };
            let allowance = self.allowance();
            let waiter = Waiter::new(receipt, 0);
            self.life().local.append(&mailbox, incoming, &allowance, Instant::now(), waiter);
            doors.push(door);
        }
        if let Some(attached) = attached {
            self.acknowledge(&attached);
        }
        doors
    }

    fn allowance(&mut self) -> Allowance {
        // A ring with little room spills, and then some frames are patient and others are not.
        let ring_bytes = if self.dice.below(2) == 0 { 600 } else { 1 << 20 };
        let posts = RateClasses::new(self.rate, Vec::new());
        Allowance { posts, ring_bytes, slot_bytes: self.rate, takes: self.rate }
    }

    fn attach(&self, mailbox: &MailboxId) -> Result<crate::mailbox::Attachment, NotServed> {
        let who = Attach {
            mailbox: *mailbox,
            serial: [2; 8],
            doorbell: Arc::new(Doorbell::default()),
            slot: 0,
            number: 1,
            now: Instant::now(),
        };
        self.life().local.attach_now(&who).map(|attached| attached.attachment)
    }

    /// Acknowledges some of what is there.
    fn acknowledge(&mut self, attached: &crate::mailbox::Attachment) {
        let mut after = attached.floor;
        let mut seqs = Vec::new();
        loop {
            let pulled = attached.pull(after, 1 << 20).expect("readable");
            let Some(last) = pulled.last() else { break };
            after = last.seq;
            seqs.extend(pulled.iter().map(|frame| frame.seq));
        }
        let some = self.dice.below(seqs.len() as u64 + 1);
        if let Some(up_to) = usize::try_from(some).ok().and_then(|some| seqs.get(some)) {
            attached.acknowledge(*up_to, Instant::now());
        }
    }

    /// So many random things.
    pub(super) async fn live(&mut self, things: u64) {
        for _ in 0..things {
            match self.dice.below(12) {
                0..5 => {
                    let outcomes = self.post().await;
                    assert!(outcomes.iter().all(|o| *o == Reason::Accepted), "{outcomes:?}");
                }
                5 | 6 => {
                    let mailbox = self.mailbox();
                    let attached = self.attach(&mailbox).expect("served");
                    self.acknowledge(&attached);
                }
                7 => {
                    // Those that were to be kept for an hour.
                    let mailbox = self.mailbox();
                    let hour = RunningHours(3);
                    self.life().local.expire(&mailbox, hour, Instant::now()).expect("readable");
                }
                8 => {
                    let mailbox = self.mailbox();
                    let serial = self.code();
                    let revocation = Revocation { mailbox, serial, last_day: 20_000 };
                    self.life().local.revoke(revocation).await.expect("room");
                }
                9 => {
                    let put = self.put();
                    let mailbox = self.mailbox();
                    let local = &self.life().local;
                    local.put_slot(put, &mailbox, &self.rate, Instant::now()).await.expect("free");
                }
                10 => {
                    let publish = self.publication();
                    let mailbox = self.mailbox();
                    self.life().local.publish(&mailbox, publish).await.expect("room");
                    if self.dice.below(2) == 0 {
                        let local = &self.life().local;
                        let taken = local.take(&mailbox, [5; 8], &self.rate, Instant::now());
                        taken.await.expect("there is one");
                    }
                }
                _ => {
                    let (serial, mailbox) = (self.code(), self.mailbox());
                    let code = SpentCode { serial, mailbox, last_day: 20_000 };
                    self.life().local.spend(code).await.expect("not spent");
                }
            }
        }
    }

    fn put(&mut self) -> PutSlot<Payload> {
        PutSlot {
            request: 1,
            slot_id: self.slot(),
            put_id: PutId::new(self.id()),
            slot_token: Token::new([0; Token::LEN]),
            payload: self.payload(),
        }
    }

    fn publication(&mut self) -> PublishBundle<Payload> {
        let items = (0..self.dice.below(4) + 1).map(|_| self.payload()).collect();
        PublishBundle {
            request: 1,
            attachment: 1,
            publication_id: PublicationId::new(self.id()),
            replace: self.dice.below(2) == 0,
            last_resort: (self.dice.below(2) == 0).then(|| self.payload()),
            items,
        }
    }

    /// Nothing that would change anything may be.
    pub(super) async fn live_sealed(&mut self) {
        let outcomes = self.post().await;
        assert!(outcomes.iter().all(|o| *o == Reason::Busy), "{outcomes:?}");
        let put = self.put();
        let mailbox = self.mailbox();
        let local = &self.life().local;
        let put = local.put_slot(put, &mailbox, &self.rate, Instant::now()).await;
        assert_eq!(put.expect_err("sealed").reason, Reason::Busy);
        let revocation = Revocation { mailbox, serial: [9; 8], last_day: 20_000 };
        let revoked = self.life().local.revoke(revocation).await;
        assert_eq!(revoked.expect_err("sealed").reason, Reason::Busy);
        self.life().local.expire(&mailbox, RunningHours(3), Instant::now()).expect("readable");
    }

    async fn tell(&self, request: RealRequest) -> Result<(), Refusal> {
        let shards = &self.life().shards;
        shards.tell(self.shard, shards.boot(), request).await
    }

    /// Begins every shard's log: the realm has to be past that before one is sealed.
    pub(super) async fn begin(&mut self) {
        let meanwhile = self.append_some();
        let life = self.life();
        let boot = life.shards.boot();
        let migration = self.ledger.map_or(Migration(1), |ledger| ledger.migration.next());
        let ledger = Ledger::open(self.ledger, migration, boot).expect("it may begin");
        let existing = valise_migration::Cursor::start();
        let begun = (0..=u8::MAX)
            .map(|shard| life.shards.tell(shard, boot, Request::Begin { ledger, existing }));
        for begun in futures_util::future::join_all(begun).await {
            begun.expect("it begins");
        }
        for door in meanwhile {
            assert_eq!(outcome(&door).await, Reason::Accepted);
        }
        self.ledger = Some(ledger);
        self.replica = Replica::new();
        assert_eq!(self.life().shards.mode(self.shard), Mode::Serves);
    }

    /// Reads one answer's worth.
    pub(super) fn copy(&mut self) -> bool {
        let cursor = self.replica.cursor;
        let (own, lines) = self.life().shards.fetch(self.shard, cursor.next).expect("readable");
        assert_eq!(own, Some(cursor.digest));
        let more = !lines.is_empty();
        self.replica.take(lines);
        let ledger = self.ledger.as_mut().expect("begun");
        ledger.stage = Whose::Importing(self.replica.cursor);
        more
    }

    pub(super) fn copy_everything(&mut self) {
        while self.copy() {}
    }

    /// Sometimes the process ends, and another waits for leave.
    pub(super) async fn disturb(&mut self) {
        if self.dice.below(3) > 0 {
            return;
        }
        self.restart();
        let report = self.life().shards.report(self.shard);
        assert!(matches!(report.shard, Shard::Unsure { .. }), "{report:?}");
        let outcomes = self.post().await;
        assert!(outcomes.iter().all(|o| *o == Reason::Busy), "{outcomes:?}");
        let mailbox = self.mailbox();
        assert!(matches!(self.attach(&mailbox), Err(NotServed::Store(StoreError::Reopening))));
        let old = self.ledger.expect("begun");
        let other = self.tell(Request::Show { ledger: old, own: None }).await;
        assert_eq!(other, Err(Refusal::OtherBoot));
        self.show(old.renew(self.life().shards.boot()).expect("not owned")).await;
        assert_eq!(self.life().shards.mode(self.shard), Mode::Serves);
    }

    fn restart(&mut self) {
        let life = self.life.take().expect("it runs");
        life.committer.close();
        drop(life);
        self.open();
    }

    /// Shows the ledger to every shard, as if it were everyone's: each has its own digest.
    async fn show(&mut self, ledger: RealLedger) {
        self.ledger = Some(ledger);
        self.tell(Request::Show { ledger, own: None }).await.expect("it is believed");
    }

    pub(super) async fn seal(&mut self) {
        let ledger = self.ledger.expect("begun");
        let (migration, version) = (ledger.migration, ledger.version);
        if !matches!(self.life().shards.phase(), valise_migration::realm::Realm::Copying(..)) {
            // After a restart the other shards are unsure, and count as begun.
            assert!(matches!(
                self.life().shards.phase(),
                valise_migration::realm::Realm::Cutting(..)
            ));
        }
        let before = self.append_some();
        let shards = self.life().shards.clone();
        let request = Request::Seal { migration, version };
        let (shard, boot) = (self.shard, shards.boot());
        let mut sealing = Box::pin(shards.tell(shard, boot, request));
        // It is asked for now, and more comes before it is done.
        let asked = futures_util::poll!(&mut sealing);
        let after = self.append_some();
        if asked.is_pending() {
            sealing.as_mut().await.expect("it is sealed");
        }
        drop(sealing);
        drop(shards);
        let meanwhile = before.into_iter().chain(after);
        for door in meanwhile {
            // Those that were written before it are in the log.
            assert!(matches!(outcome(&door).await, Reason::Accepted | Reason::Busy));
        }
        assert_eq!(self.life().shards.mode(self.shard), Mode::Busy);
        if self.dice.below(3) == 0 {
            self.restart();
            let report = self.life().shards.report(self.shard);
            assert!(matches!(report.shard, Shard::Sealed(_)), "{report:?}");
        }
    }

    pub(super) async fn release(&mut self) {
        let ledger = self.ledger.expect("begun");
        let same = self.tell(Request::Show { ledger, own: None }).await;
        if ledger.boot == self.life().shards.boot() {
            assert_eq!(same, Err(Refusal::Overtaken));
        }
        self.show(ledger.renew(self.life().shards.boot()).expect("not owned")).await;
        assert_eq!(self.life().shards.mode(self.shard), Mode::Serves);
    }

    pub(super) async fn abort(&mut self) {
        let aborted = self.ledger.expect("begun").abort(self.life().shards.boot());
        let aborted = aborted.expect("not owned");
        self.ledger = Some(aborted);
        for shard in 0..=u8::MAX {
            let shards = &self.life().shards;
            let show = Request::Show { ledger: aborted, own: None };
            shards.tell(shard, shards.boot(), show).await.expect("given up");
            assert_eq!(shards.report(shard).shard, Shard::Plain);
        }
        assert!(!self.life().shards.is_moving());
        let store = self.life().committer.store().expect("open");
        let logs = store.logs().expect("it keeps logs");
        assert_eq!(logs.shards().expect("readable"), []);
        assert_eq!(logs.log_end(self.shard).expect("readable"), self.replica_start());
    }

    fn replica_start(&self) -> valise_migration::real::RealCursor {
        valise_migration::Cursor::<Real>::start()
    }

    /// The data centre owns it.
    pub(super) async fn hand_over(&mut self) {
        let Shard::Sealed(seal) = self.life().shards.report(self.shard).shard else {
            panic!("it is sealed");
        };
        let ledger = self.ledger.expect("begun").activate(seal).expect("everything is there");
        self.show(ledger).await;
        if self.dice.below(2) == 0 {
            self.restart();
        }
        assert_eq!(self.life().shards.mode(self.shard), Mode::Forward);
        let outcomes = self.post().await;
        assert!(outcomes.iter().all(|o| *o == Reason::Moved), "{outcomes:?}");
        let mailbox = self.mailbox();
        assert!(matches!(self.attach(&mailbox), Err(NotServed::Moved)));
        let put = self.put();
        let local = &self.life().local;
        let put = local.put_slot(put, &mailbox, &self.rate, Instant::now()).await;
        assert_eq!(put.expect_err("moved").reason, Reason::Moved);
        // It never serves again.
        let boot = self.life().shards.boot();
        assert_eq!(ledger.renew(boot), Err(Refusal::Owned));
    }

    /// Whatever the realm's other shards are doing: this one is wiped.
    pub(super) async fn wipe(&mut self) {
        let ledger = self.ledger.expect("owned");
        let life = self.life();
        let too_early = self.tell(Request::Wipe { ledger, users: 0 }).await;
        assert_eq!(too_early, Err(Refusal::Left), "others have not moved");
        let used = life.committer.tell(self.shard, Request::Wipe { ledger, users: 1 }).await;
        assert_eq!(used, Err(Refusal::Left));
        life.committer.tell(self.shard, Request::Wipe { ledger, users: 0 }).await.expect("wiped");
        let store = life.committer.store().expect("open");
        assert_eq!(life.committer.totals().queued(), store.count().expect("readable"));
        for mailbox in &self.mailboxes {
            assert_eq!(store.load(mailbox).expect("readable"), crate::store::Backlog::default());
        }
        let existing = store.logs().expect("logs").existing(self.shard).expect("readable");
        assert_eq!(existing, []);
        assert_eq!(life.shards.mode(self.shard), Mode::Moved);
    }

    /// What was read is what is there.
    pub(super) fn compare(&self) {
        let life = self.life();
        let store = life.committer.store().expect("open");
        let logs = store.logs().expect("logs");
        let end = logs.log_end(self.shard).expect("readable");
        assert_eq!(self.replica.cursor, end);
        let Shard::Sealed(seal) = life.shards.report(self.shard).shard else { panic!("sealed") };
        assert_eq!(seal.end, end);
        for mailbox in &self.mailboxes {
            let frames = store.read(mailbox, Seq(0), Seq(u64::MAX), usize::MAX).expect("readable");
            let there: Vec<_> = frames
                .into_iter()
                .map(|frame| (*frame.frame_id.as_bytes(), frame))
                .map(|(id, frame)| (id, crate::store::Carried::Frame(frame).encode()))
                .collect();
            assert_eq!(self.replica.queue(*mailbox.as_bytes()), there);
            let revoked = store.load(mailbox).expect("readable").revoked;
            let read = self.replica.revoked.keys().filter(|(of, _)| of == mailbox.as_bytes());
            assert_eq!(read.map(|(_, serial)| *serial).collect::<Vec<_>>(), revoked);
            self.compare_bundle(&*store, mailbox);
        }
        let existing = logs.existing(self.shard).expect("readable");
        let slots = existing.iter().filter_map(|(entry, _)| match entry {
            valise_migration::Entry::Put { slot, .. } => Some(*slot),
            _ => None,
        });
        assert_eq!(
            self.replica.slots.keys().copied().collect::<Vec<_>>(),
            slots.collect::<Vec<_>>()
        );
        for serial in self.replica.spent.keys() {
            assert!(store.spent(serial).expect("readable").is_some());
        }
        let frames = existing.iter().filter(|(_, frame)| frame.is_some()).count();
        assert_eq!(self.replica.frames.len(), frames);
    }

    fn compare_bundle(&self, store: &dyn Store, mailbox: &MailboxId) {
        let id = *mailbox.as_bytes();
        let head = store.bundle(mailbox).expect("readable");
        let read = self.replica.heads.get(&id).cloned();
        assert_eq!(read, head.map(|head| crate::store::Carried::Head(head).encode()));
        let Some(head) = head else { return };
        let last_resort = head.last_resort.then_some(LAST_RESORT);
        let items: BTreeMap<u32, Bytes> = last_resort
            .into_iter()
            .chain(head.first..head.next)
            .map(|number| {
                let item = store.bundle_item(mailbox, number).expect("readable").expect("there");
                (number, crate::store::Carried::Item(head, item).encode())
            })
            .collect();
        let read: BTreeMap<u32, Bytes> = (self.replica.items.range((id, 0)..=(id, u32::MAX)))
            .map(|((_, number), body)| (*number, body.slice(body.len() - items[number].len()..)))
            .collect();
        // Each has the head of its time.
        let tail = |bytes: &Bytes| bytes.slice(33..);
        assert_eq!(read.keys().collect::<Vec<_>>(), items.keys().collect::<Vec<_>>());
        for (number, body) in &read {
            assert_eq!(tail(body), tail(&items[number]), "{number}");
        }
    }
}

/// Waits for the answer that is left at this door.
async fn outcome(door: &Doorbell) -> Reason {
    let until = Instant::now() + std::time::Duration::from_secs(30);
    while Instant::now() < until {
        let left = door.take(&Context::from_waker(Waker::noop()), true);
        if let Some(ServerPacket::Posted(posted)) =
            left.and_then(|left| left.answers.into_iter().next())
        {
            return posted.outcomes[0].expect("known");
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("there is no answer");
}
