//! The machines one by one, as tables: what each answers where.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs, dead_code)]

#[path = "../model/tiny.rs"]
mod tiny;

use tiny::{Tiny, TinyCursor, TinyEntry, TinyLedger, TinyShard};
use valise_migration::client::{Berth, Errand, Errands, News, Reply, Side};
use valise_migration::plan::{Plan, Removal};
use valise_migration::realm::{Census, Realm};
use valise_migration::shard::Admitted;
use valise_migration::{
    Boot, Cursor, Entry, Epoch, Ledger, Line, Migration, Position, Record, Refusal, Request, Seal,
    Shard, Stage, Version,
};

const BOOT: Boot = Boot(7);
const FIRST: Migration = Migration(1);

fn post(frame: u16) -> TinyEntry {
    Entry::Appended { mailbox: 0, frame }
}

fn log(entries: &[TinyEntry]) -> TinyCursor {
    entries.iter().fold(Cursor::start(), Cursor::after)
}

fn opened() -> TinyLedger {
    Ledger::open(None, FIRST, BOOT).unwrap()
}

fn shards() -> [(&'static str, TinyShard); 7] {
    let end = log(&[post(1)]);
    let seal = Seal { migration: FIRST, version: Version(1), end };
    let to = Record::Local { migration: FIRST, version: Version(1) };
    [
        ("plain", Shard::Plain),
        ("local", Shard::Local { migration: FIRST, version: Version(1), log: end }),
        ("unsure", Shard::Unsure { migration: FIRST, log: end }),
        ("writing", Shard::Writing { to, log: end }),
        ("sealed", Shard::Sealed(seal)),
        ("forward", Shard::Forward { migration: FIRST, end }),
        ("gone", Shard::Gone { migration: FIRST }),
    ]
}

#[test]
fn a_shard_enters_only_where_it_serves() {
    let revoke = Entry::Revoked { mailbox: 0, token: 0 };
    let expected = [
        (Ok(Admitted::Store), Ok(Admitted::Store), Ok(())),
        (Ok(Admitted::Log(Position(1))), Ok(Admitted::Log(Position(1))), Ok(())),
        (Err(Refusal::Busy), Err(Refusal::Busy), Err(Refusal::Busy)),
        (Err(Refusal::Busy), Err(Refusal::Busy), Err(Refusal::Busy)),
        (Err(Refusal::Busy), Err(Refusal::Busy), Err(Refusal::Busy)),
        (Ok(Admitted::Forward), Err(Refusal::Moved), Err(Refusal::Moved)),
        (Err(Refusal::Moved), Err(Refusal::Moved), Err(Refusal::Moved)),
    ];
    for ((name, shard), (posts, others, attach)) in shards().into_iter().zip(expected) {
        assert_eq!(shard.enter(&post(2)).map(|(_, admitted)| admitted), posts, "{name}");
        assert_eq!(shard.enter(&revoke).map(|(_, admitted)| admitted), others, "{name}");
        assert_eq!(shard.attach(), attach, "{name}");
        assert_eq!(shard.keeps_attachments(), !matches!(name, "forward" | "gone"), "{name}");
    }
}

#[test]
fn a_process_that_starts_serves_only_where_there_is_no_migration() {
    let end = log(&[post(1)]);
    let local = Record::Local { migration: FIRST, version: Version(1) };
    assert_eq!(TinyShard::restart(Record::Plain, end), Shard::Plain);
    assert_eq!(TinyShard::restart(local, end), Shard::Unsure { migration: FIRST, log: end });
}

/// A sealed or unsure shard serves again for a version that was made for this boot, and only
/// where the log that was copied is its own.
#[test]
fn what_lets_a_shard_serve_again() {
    let own = Some(TinyCursor::start().digest);
    let show = |ledger, own| Request::Show { ledger, own };
    let renewed = opened().renew(BOOT).unwrap();
    let [.., (_, unsure), _, (_, sealed), _, _] = shards();
    assert_eq!(sealed.step(BOOT, show(opened(), own)), Err(Refusal::Overtaken));
    assert_eq!(sealed.step(Boot(8), show(renewed, own)), Err(Refusal::OtherBoot));
    assert_eq!(sealed.step(BOOT, show(renewed, Some(1))), Err(Refusal::Diverged));
    let (writing, record) = sealed.step(BOOT, show(renewed, own)).unwrap();
    assert_eq!(record, Some(Record::Local { migration: FIRST, version: Version(2) }));
    assert_eq!(writing.step(BOOT, show(renewed, own)), Err(Refusal::Busy));
    assert!(matches!(writing.step(BOOT, Request::Written), Ok((Shard::Local { .. }, None))));
    assert_eq!(unsure.step(Boot(8), show(opened(), own)), Err(Refusal::OtherBoot));
    assert!(matches!(unsure.step(BOOT, show(opened(), own)), Ok((Shard::Local { .. }, None))));
}

#[test]
fn the_ledger_is_activated_once_for_one_seal() {
    let end = log(&[post(1), Entry::Sealed]);
    let seal = Seal { migration: FIRST, version: Version(1), end };
    assert_eq!(opened().activate(seal), Err(Refusal::NotThere));
    let full = opened().advance(Position(0), end).unwrap();
    assert_eq!(full.advance(Position(0), end), Err(Refusal::NotThere));
    let other = Seal { end: Cursor { digest: 1, ..end }, ..seal };
    assert_eq!(full.activate(other), Err(Refusal::Diverged));
    assert_eq!(full.renew(BOOT).unwrap().activate(seal), Err(Refusal::Overtaken));
    assert_eq!(full.abort(BOOT).unwrap().activate(seal), Err(Refusal::GivenUp));
    let owned = full.activate(seal).unwrap();
    assert_eq!((owned.stage, owned.version), (Stage::Owned(end), Version(2)));
    for change in [owned.abort(BOOT), owned.renew(BOOT), owned.activate(seal)] {
        assert_eq!(change, Err(Refusal::Owned));
    }
    assert_eq!(Ledger::open(Some(owned), Migration(2), BOOT), Err(Refusal::Owned));
    assert_eq!(Ledger::open(Some(full), Migration(2), BOOT), Err(Refusal::OtherMigration));
    let aborted = full.abort(BOOT).unwrap();
    assert_eq!(Ledger::open(Some(aborted), FIRST, BOOT), Err(Refusal::OtherMigration));
    assert_eq!(Ledger::open(Some(aborted), Migration(2), BOOT).unwrap().version, Version(3));
    for (ledger, answer) in [
        (None, Err(Refusal::Moved)),
        (Some(&full), Err(Refusal::Moved)),
        (Some(&aborted), Err(Refusal::Moved)),
        (Some(&owned), Ok(())),
    ] {
        assert_eq!(Ledger::accepts(ledger), answer, "{ledger:?}");
    }
}

#[test]
fn a_stretch_of_a_log_is_removals_and_writes() {
    let entries = [
        post(1),
        post(2),
        Entry::Acknowledged { mailbox: 0, below: Position(1) },
        Entry::Offered { mailbox: 0, item: 5 },
        Entry::Taken { mailbox: 0, item: 5 },
        Entry::Acknowledged { mailbox: 0, below: Position(1) },
        Entry::Expired { mailbox: 0, at: Position(9) },
        Entry::Spent { code: 3 },
        Entry::Sealed,
    ];
    let lines = entries.map(|entry| Line::<Tiny, ()> { entry, body: Some(()) });
    let plan = Plan::of(Cursor::start(), lines.to_vec()).unwrap();
    assert_eq!((plan.from, plan.to), (Position(0), log(&entries)));
    let written: Vec<_> = plan.writes.iter().map(|write| (write.at.0, write.entry)).collect();
    assert_eq!(written, [(1, post(2)), (7, Entry::Spent { code: 3 })]);
    assert_eq!(
        plan.removals,
        [
            Removal::Item { mailbox: 0, item: 5 },
            Removal::Frames { mailbox: 0, below: Position(1) },
            Removal::Frame { mailbox: 0, at: Position(9) },
        ]
    );
    let gone = vec![Line::<Tiny, ()> { entry: post(1), body: None }];
    assert_eq!(Plan::of(Cursor::start(), gone).unwrap().writes, []);
}

#[test]
fn phases_follow_from_the_shards() {
    let census =
        |plain, local, sealed, forward, gone| Census { plain, local, sealed, forward, gone };
    let epoch = Epoch(3);
    let way = [
        (census(1, 1, 0, 0, 0), Realm::Preparing(epoch, FIRST)),
        (census(0, 2, 0, 0, 0), Realm::Copying(epoch, FIRST)),
        (census(0, 1, 1, 0, 0), Realm::Cutting(epoch, FIRST)),
        (census(0, 1, 0, 1, 0), Realm::Cutting(epoch, FIRST)),
        (census(1, 0, 0, 1, 0), Realm::Cutting(epoch, FIRST)),
        (census(0, 0, 0, 2, 0), Realm::Draining(epoch, FIRST)),
        (census(0, 0, 0, 0, 2), Realm::Retired(epoch, FIRST)),
    ];
    let mut realm = Realm::Active(epoch);
    for (census, phase) in way {
        realm = realm.observe(census, FIRST);
        assert_eq!(realm, phase);
    }
    let aborted = Realm::Copying(epoch, FIRST).observe(census(2, 0, 0, 0, 0), FIRST);
    assert_eq!(aborted, Realm::Active(epoch));
    assert_eq!(Realm::Active(epoch).hello(Epoch(4)), Realm::Fenced(epoch));
    assert_eq!(Realm::Fenced(epoch).serves(), Err(Refusal::Moved));
    let copying = Realm::Copying(epoch, FIRST);
    assert_eq!(copying.hello(Epoch(4)), copying, "it knows of the next one");
    assert_eq!(copying.hello(Epoch(5)), Realm::Fenced(epoch));
}

#[test]
fn a_client_is_moved_and_not_taken_over() {
    let there = Berth::At(Side::Supernode);
    let attach = Errands::Attach(Side::DataCentre);
    assert_eq!(there.step(News::Prepare), (there, Errands::Hold));
    let (going, errand) = there.step(News::Go);
    assert_eq!((going, errand), (Berth::Away(Side::DataCentre), attach));
    assert_eq!(going.step(News::Replaced(Side::Supernode)).0, going, "it has turned away");
    let (arrived, _) = going.step(News::Attached(Side::DataCentre));
    assert_eq!(arrived.step(News::Go).0, arrived);
    assert_eq!(arrived.step(News::Lost(Side::Supernode)).0, arrived);
    assert_eq!(arrived.step(News::Replaced(Side::DataCentre)).0, Berth::TakenOver);
    let moved = News::Refused(Side::Supernode, Refusal::Moved);
    let (away, _) = Berth::Away(Side::Supernode).step(moved);
    assert_eq!(away, Berth::Away(Side::DataCentre));
    let errand = Errand { side: Side::Supernode };
    let busy = Reply::Refused(Side::Supernode, Refusal::Busy);
    assert_eq!(errand.step(busy), Some(errand));
    assert_eq!(errand.step(Reply::Unknown), Some(errand));
    let moved = Reply::Refused(Side::Supernode, Refusal::Moved);
    assert_eq!(errand.step(moved), Some(Errand { side: Side::DataCentre }));
    assert_eq!(errand.step(Reply::Decided), None);
}
