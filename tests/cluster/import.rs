//! The importer's half of the bus, against real servers: a ledger is changed by comparing, a batch is
//! all or nothing, and what was imported is removed by its place, also by an importer that did not put
//! it there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;
use valise::limits::BUS_ANSWER_MS;
use valise::payload::Payload;
use valise::store::SpentCode;
use valise::store::jetstream::{
    BusError, BusOptions, Center, Changed, ImportError, JetStream, ShardImport, fitting, hours_now,
};
use valise::store::{BundleHead, Carried, Frame, Revocation, RunningHours, Seq, ShardKey, Slot};
use valise_client::testing::TestNats;
use valise_migration::ledger::Seal;
use valise_migration::plan::{Plan, Removal};
use valise_migration::real::{RealCursor, RealEntry, RealLedger, RealLine};
use valise_migration::{Boot, Entry, Ledger, Line, Migration, Position};
use valise_proto::{FrameId, MailboxId, PacketPayload, PublicationId, PutId, RealmId, SlotId};

use crate::nats;

const MIGRATION: Migration = Migration(3);
const BOOT: Boot = Boot(9);

/// A data centre, a node of a realm of its own in it, and an importer of that realm.
struct Stage {
    nodes: JetStream,
    center: Arc<Center>,
    mailbox: MailboxId,
    shard: u8,
    /// Gone after it.
    _nats: Arc<TestNats>,
}

impl Stage {
    async fn start(realm: u8) -> Option<Self> {
        // As large as those of the nodes that share these servers: whoever comes first makes them.
        Some(Self::on(nats::shared()?, realm, 64 << 20).await)
    }

    /// On these servers, with streams of this size.
    async fn on(nats: Arc<TestNats>, realm: u8, stream_bytes: u64) -> Self {
        let options = BusOptions { servers: nats.urls(), tls: None };
        let realm = RealmId::new([realm; 20]);
        let opening = JetStream::open(&options, stream_bytes, &realm, ShardKey::new(&[7; 32]));
        let nodes = Box::pin(opening).await.unwrap();
        let center = Arc::new(Box::pin(Center::open(&options, &realm)).await.unwrap());
        let mailbox = MailboxId::new([1; 16]);
        let shard = nodes.shard(&mailbox);
        Self { nodes, center, mailbox, shard, _nats: nats }
    }

    fn importer(&self) -> ShardImport {
        ShardImport::new(Arc::clone(&self.center), self.shard)
    }

    async fn opened(&self) -> (ShardImport, RealLedger) {
        let mut importer = self.importer();
        assert_eq!(importer.read_ledger().await.unwrap(), None);
        let ledger = Ledger::open(None, MIGRATION, BOOT).unwrap();
        assert_eq!(change(&mut importer, None, ledger).await.unwrap(), Changed::Done);
        (importer, ledger)
    }

    async fn ids(&self) -> Vec<u8> {
        let window = self.nodes.read(&self.mailbox, Seq(0), 1 << 20).await.unwrap();
        window.frames.iter().map(|frame| frame.frame_id.as_bytes()[0]).collect()
    }

    /// A replica may be behind for a moment.
    async fn until_ids(&self, expected: &[u8]) {
        let give_up = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let ids = self.ids().await;
            if ids == expected {
                return;
            }
            assert!(std::time::Instant::now() < give_up, "{ids:?} and not {expected:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn appended(&self, id: u8) -> RealLine {
        let frame = Frame {
            mailbox: self.mailbox,
            seq: Seq(0),
            frame_id: FrameId::new([id; 16]),
            accepted: RunningHours(2),
            ttl_hours: 48,
            payload: payload(id),
        };
        let entry = Entry::Appended { mailbox: *self.mailbox.as_bytes(), frame: [id; 16] };
        Line { entry, body: Some(Carried::Frame(frame).encode()) }
    }
}

fn payload(byte: u8) -> Payload {
    Payload::from_packet(Bytes::from(vec![byte; 512]))
}

/// Changes a ledger. A change that was not answered may have been made, and is then refused the second
/// time: what stands there says which, as it does to an importer.
pub async fn change(
    importer: &mut ShardImport,
    before: Option<RealLedger>,
    after: RealLedger,
) -> Result<Changed, ImportError> {
    loop {
        let changed = importer.change(before, after, &[]).await;
        if let Some(changed) = settled(importer, changed, before, after).await {
            return changed;
        }
    }
}

/// What came of a change, or none if it was not made.
async fn settled(
    importer: &mut ShardImport,
    changed: Result<Changed, ImportError>,
    before: Option<RealLedger>,
    after: RealLedger,
) -> Option<Result<Changed, ImportError>> {
    let is_open = matches!(
        changed,
        Ok(Changed::Outdated) | Err(ImportError::Bus(BusError::Silent | BusError::InProcess))
    );
    if !is_open {
        return Some(changed);
    }
    let stands = loop {
        match importer.read_ledger().await {
            Err(BusError::Silent) => {}
            stands => break stands.unwrap(),
        }
    };
    match stands {
        stands if stands == Some(after) => Some(Ok(Changed::Done)),
        stands if stands == before => None,
        _ => Some(Ok(Changed::Outdated)),
    }
}

/// Imports these lines as the machine would have it.
async fn import(
    importer: &mut ShardImport,
    before: RealLedger,
    lines: Vec<RealLine>,
) -> Result<(Changed, RealLedger), ImportError> {
    loop {
        let (changed, after) = import_once(importer, before, lines.clone()).await;
        if let Some(changed) = settled(importer, changed, Some(before), after).await {
            return Ok((changed?, after));
        }
    }
}

/// The same, and what the bus says of it is taken as it is.
async fn import_once(
    importer: &mut ShardImport,
    before: RealLedger,
    lines: Vec<RealLine>,
) -> (Result<Changed, ImportError>, RealLedger) {
    let cursor = before.importing().unwrap();
    let lines = fitting(lines);
    let plan = Plan::of(cursor, lines.clone()).unwrap();
    let after = before.advance(plan.from, plan.to).unwrap();
    let changed = async {
        importer.comes(&lines)?;
        importer.remove((before.migration, cursor.next), &plan.removals).await?;
        importer.change(Some(before), after, &plan.writes).await
    };
    (changed.await, after)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_is_changed_by_comparing() {
    let Some(stage) = Stage::start(0x41).await else { return };
    let mut news = stage.nodes.listen_to_ledgers().await.unwrap();
    stage.nodes.flush().await;
    assert!(stage.nodes.shards_with_ledgers().await.unwrap().is_empty());
    let (mut first, ledger) = stage.opened().await;
    assert_eq!(news.next().await, Some((stage.shard, ledger)));
    assert_eq!(stage.nodes.ledger(stage.shard).await.unwrap(), Some(ledger));
    let with = stage.nodes.shards_with_ledgers().await.unwrap();
    assert_eq!(with.into_iter().collect::<Vec<_>>(), [stage.shard]);

    // Who has read an older one changes nothing.
    let mut second = stage.importer();
    assert_eq!(second.read_ledger().await.unwrap(), Some(ledger));
    let renewed = ledger.renew(Boot(10)).unwrap();
    assert_eq!(change(&mut second, Some(ledger), renewed).await.unwrap(), Changed::Done);
    let aborted = ledger.abort(BOOT).unwrap();
    assert_eq!(first.change(Some(ledger), aborted, &[]).await.unwrap(), Changed::Outdated);
    assert_eq!(stage.nodes.ledger(stage.shard).await.unwrap(), Some(renewed));
    // Who has not read it since asks nobody.
    assert_eq!(first.change(Some(ledger), aborted, &[]).await.unwrap(), Changed::Outdated);
    assert_eq!(first.read_ledger().await.unwrap(), Some(renewed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_all_or_nothing_and_refused_the_second_time() {
    let Some(stage) = Stage::start(0x42).await else { return };
    let (mut importer, ledger) = stage.opened().await;
    let lines: Vec<_> = (0..3).map(|id| stage.appended(id)).collect();
    // Another one has read the same ledger, and is later with the same batch.
    let mut late = stage.importer();
    late.read_ledger().await.unwrap();
    let (changed, after) = import(&mut importer, ledger, lines.clone()).await.unwrap();
    assert_eq!(changed, Changed::Done);
    let (again, _) = import_once(&mut late, ledger, lines).await;
    assert_eq!(again.unwrap(), Changed::Outdated);
    stage.until_ids(&[0, 1, 2]).await;
    assert_eq!(stage.nodes.ledger(stage.shard).await.unwrap(), Some(after));

    // One too many for a mailbox: nothing of the batch is stored, and the ledger stays.
    let mut ledger = after;
    for _ in 0..2 {
        let lines = (0..450).map(|_| stage.appended(9)).collect();
        (_, ledger) = import(&mut importer, ledger, lines).await.unwrap();
    }
    let lines = (0..98).map(|_| stage.appended(10)).collect();
    let refused = import(&mut importer, ledger, lines).await;
    assert!(matches!(refused, Err(ImportError::MailboxFull)), "{refused:?}");
    assert_eq!(importer.read_ledger().await.unwrap(), Some(ledger));
    // With a removal before it, it fits. What was put is known no more after the refusal: it is read.
    let below = ledger.importing().unwrap().next;
    let acknowledged = Line { entry: Entry::Acknowledged { mailbox: [1; 16], below }, body: None };
    let lines = [acknowledged].into_iter().chain((0..98).map(|_| stage.appended(10)));
    let (changed, _) = import(&mut importer, ledger, lines.collect()).await.unwrap();
    assert_eq!(changed, Changed::Done);
    stage.until_ids(&[10; 98]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_importer_that_starts_anew_removes_what_the_last_one_put() {
    let Some(stage) = Stage::start(0x43).await else { return };
    let (mut first, ledger) = stage.opened().await;
    let lines: Vec<_> = (0..6).map(|id| stage.appended(id)).collect();
    let (_, ledger) = import(&mut first, ledger, lines).await.unwrap();
    drop(first);

    let mut second = stage.importer();
    assert_eq!(second.read_ledger().await.unwrap(), Some(ledger));
    let mailbox = *stage.mailbox.as_bytes();
    let gone = |entry: RealEntry| Line { entry, body: None };
    let lines = vec![
        stage.appended(6),
        gone(Entry::Acknowledged { mailbox, below: Position(2) }),
        gone(Entry::Expired { mailbox, at: Position(4) }),
    ];
    let (changed, ledger) = import(&mut second, ledger, lines).await.unwrap();
    assert_eq!(changed, Changed::Done);
    stage.until_ids(&[2, 3, 5, 6]).await;
    // And again, of what is gone; and of a migration that has put nothing here.
    let lines = vec![gone(Entry::Expired { mailbox, at: Position(4) })];
    let (_, ledger) = import(&mut second, ledger, lines).await.unwrap();
    let all = [Removal::Frames { mailbox, below: Position(99) }];
    second.remove((Migration(8), Position(5)), &all).await.unwrap();
    stage.until_ids(&[2, 3, 5, 6]).await;

    // After an abort everything goes, and the ledger stays.
    let aborted = ledger.abort(BOOT).unwrap();
    assert_eq!(change(&mut second, Some(ledger), aborted).await.unwrap(), Changed::Done);
    second.clear(&aborted).await.unwrap();
    stage.until_ids(&[]).await;
    assert_eq!(second.read_ledger().await.unwrap(), Some(aborted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_imported_is_what_nodes_read() {
    let Some(stage) = Stage::start(0x44).await else { return };
    let (mut importer, ledger) = stage.opened().await;
    let mailbox = *stage.mailbox.as_bytes();
    let head = |first, next| BundleHead {
        publication_id: PublicationId::new([4; 16]),
        published: RunningHours(5),
        first,
        next,
        last_resort: true,
    };
    let offered = |item: u32| Line {
        entry: Entry::Offered { mailbox, item },
        body: Some(Carried::Item(head(1, 3), payload(item as u8)).encode()),
    };
    let revoked = |serial: u8| {
        let revocation =
            Revocation { mailbox: stage.mailbox, serial: [serial; 8], last_day: 30_000 };
        let entry = Entry::Revoked { mailbox, token: [serial; 8] };
        Line { entry, body: Some(Carried::Revoked(revocation).encode()) }
    };
    let slot = Slot {
        id: SlotId::new([5; 32]),
        put_id: PutId::new([6; 16]),
        written: RunningHours(1),
        payload: payload(5),
    };
    let code = SpentCode { serial: [8; 8], mailbox: stage.mailbox, last_day: 30_000 };
    let lines = vec![offered(0), offered(1), offered(2), revoked(1), revoked(2)];
    let (changed, ledger) = import(&mut importer, ledger, lines).await.unwrap();
    assert_eq!(changed, Changed::Done);
    let taken = Line {
        entry: Entry::Taken { mailbox, item: 1 },
        body: Some(Carried::Head(head(2, 3)).encode()),
    };
    let (changed, ledger) = import(&mut importer, ledger, vec![revoked(3), taken]).await.unwrap();
    assert_eq!(changed, Changed::Done);

    let revocations = stage.nodes.revocations(&stage.mailbox).await.unwrap();
    let serials: Vec<_> = revocations.serials.iter().map(|(serial, _)| serial[0]).collect();
    assert_eq!(serials, [1, 2, 3]);
    let read = stage.nodes.bundle(&stage.mailbox).await.unwrap().head.unwrap();
    let published = RunningHours(hours_now().0 - 5);
    assert!(read.published == published || read.published.0 == published.0 - 1);
    assert_eq!((read.first, read.next, read.last_resort), (2, 3, true));
    for (number, is_there) in [(0, true), (1, false), (2, true)] {
        let item = stage.nodes.bundle_item(&stage.mailbox, number).await.unwrap();
        assert_eq!(item.is_some(), is_there, "{number}");
    }

    // Slots and codes are in shards of their own.
    let shards = [stage.nodes.slot_shard(&slot.id), stage.nodes.code_shard(&code.serial)];
    let entries = [
        (Entry::Put { slot: [5; 32], put: [6; 16] }, Carried::Slot(slot.clone()).encode()),
        (Entry::Spent { code: [8; 8] }, Carried::Spent(code).encode()),
    ];
    for (shard, (entry, body)) in shards.into_iter().zip(entries) {
        let mut importer = ShardImport::new(Arc::clone(&stage.center), shard);
        assert_eq!(importer.read_ledger().await.unwrap(), None, "another shard");
        let opened = Ledger::open(None, MIGRATION, BOOT).unwrap();
        assert_eq!(change(&mut importer, None, opened).await.unwrap(), Changed::Done);
        let line = Line { entry, body: Some(body) };
        import(&mut importer, opened, vec![line]).await.unwrap();
    }
    assert_eq!(stage.nodes.slot(&slot.id).await.unwrap().unwrap().put_id, slot.put_id);
    let other = SpentCode { mailbox: MailboxId::new([3; 16]), ..code };
    assert_eq!(stage.nodes.spend(other).await.unwrap(), Some(stage.mailbox), "it is spent");

    // The commit point, and what comes after it is not imported.
    let end = ledger.importing().unwrap();
    let seal = Seal { migration: MIGRATION, version: ledger.version, end };
    let owned = ledger.activate(seal).unwrap();
    assert_eq!(change(&mut importer, Some(ledger), owned).await.unwrap(), Changed::Done);
    let mut late = stage.importer();
    assert_eq!(late.read_ledger().await.unwrap(), Some(owned));
    let next = RealCursor { next: end.next.next(), ..end };
    let later = ledger.advance(end.next, next).unwrap();
    assert_eq!(late.change(Some(ledger), later, &[]).await.unwrap(), Changed::Outdated);
}

/// An importer is started again by whoever killed a server beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_importer_waits_for_a_majority_of_the_servers() {
    let Some(nats) = nats::start() else { return };
    drop(Stage::on(Arc::clone(&nats), 0x46, 64 << 20).await);
    (1..3).for_each(|i| nats.kill(i).unwrap());
    let options = BusOptions { servers: nats.urls(), tls: None };
    let opening =
        tokio::spawn(
            async move { Box::pin(Center::open(&options, &RealmId::new([0x46; 20]))).await },
        );
    sleep(Duration::from_millis(BUS_ANSWER_MS) + Duration::from_secs(1)).await;
    assert!(!opening.is_finished(), "{:?}", opening.await.unwrap().err());
    nats.restart(1).unwrap();
    opening.await.unwrap().unwrap();
}

/// The rest of a stream is for what drains it: an importer knows before it is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_nearly_full_is_known() {
    let Some(nats) = nats::start() else { return };
    let stage = Stage::on(nats, 0x45, 600_000).await;
    let (mut importer, mut ledger) = stage.opened().await;
    stage.center.look_at_room().await.unwrap();
    assert!(!stage.center.is_full(stage.shard));
    for _ in 0..40 {
        let lines = (0..40).map(|id| stage.appended(id)).collect();
        (_, ledger) = import(&mut importer, ledger, lines).await.unwrap();
        stage.center.look_at_room().await.unwrap();
        if stage.center.is_full(stage.shard) {
            assert!(!stage.center.is_full(stage.shard ^ 0x80), "another stream");
            return;
        }
    }
    panic!("it is never full");
}
