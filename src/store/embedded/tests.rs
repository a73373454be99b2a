//! What only a store on a disk can get wrong.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::store::Step;
use crate::store::contract::{self, Action, Model, append, batch, frame, mailbox, remove, seqs};

fn key() -> ShardKey {
    ShardKey::new(&[9; 32])
}

fn open(dir: &Path) -> EmbeddedStore {
    EmbeddedStore::open(dir, key(), EmbeddedOptions::default()).expect("opens")
}

/// Changes one record behind the store's back.
fn tamper(dir: &Path, key: &[u8], change: impl Fn(&mut Vec<u8>)) {
    let (database, keyspace) = open_engine(dir, EmbeddedOptions::default()).expect("opens");
    let mut record = keyspace.get(key).expect("healthy").expect("is there").to_vec();
    change(&mut record);
    keyspace.insert(key, record).expect("healthy");
    database.persist(PersistMode::SyncAll).expect("healthy");
}

#[test]
fn the_embedded_store_keeps_the_contract() {
    let dirs = tempfile::tempdir().unwrap();
    let next = std::cell::Cell::new(0);
    contract::suite(|| {
        next.set(next.get() + 1);
        open(&dirs.path().join(next.get().to_string()))
    });
}

#[test]
fn everything_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.opened(), Opened::default());
    store.commit(&batch(vec![append(1, 1, 0), append(1, 2, 0), append(2, 3, 0)])).unwrap();
    store.commit(&batch(vec![remove(1, &[1], 1, false), remove(2, &[3], 3, true)])).unwrap();
    drop(store);
    let store = open(dir.path());
    let Batch { totals, next_seq, hours, .. } = batch(vec![]);
    assert_eq!(store.opened(), Opened { totals, next_seq, hours, commits: 2 });
    assert_eq!(seqs(&store, 1), [2]);
    assert_eq!(store.load(&mailbox(1)).unwrap().floor, Seq(1));
    assert_eq!(store.load(&mailbox(2)).unwrap(), Backlog::default());
}

/// MUST 6, to the byte: frames of both kinds of time to live, removed by the process that wrote
/// them and by a later one.
#[test]
fn an_emptied_mailbox_leaves_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let appends = (1..=6).map(|seq| append(1, seq, 0)).collect();
    store.commit(&batch(appends)).unwrap();
    assert_eq!(store.keys().len(), 6 + 2 + 1 + 2, "frames, expiry, floor, state and format");
    store.commit(&batch(vec![remove(1, &[1, 2, 3], 3, false)])).unwrap();
    drop(store);
    let store = open(dir.path());
    store.commit(&batch(vec![remove(1, &[4, 5, 6], 6, true)])).unwrap();
    assert_eq!(store.keys(), [b"s", b"v"]);
}

#[test]
fn a_frame_that_comes_and_goes_in_one_batch_is_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let steps = vec![append(1, 3, 0), remove(1, &[3], 3, true)];
    let of_batch = batch(steps);
    assert!(Changes::of(&of_batch, &key()).frames.is_empty());
    store.commit(&of_batch).unwrap();
    assert_eq!(store.keys(), [b"s", b"v"]);
}

/// MUST 5.
#[test]
fn a_damaged_frame_is_an_error_and_never_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let frame_key = record::frame_key(key().shard(&mailbox(1)), &mailbox(1), Seq(2));
    let appends = (1..=3).map(|seq| append(1, seq, 0)).collect();
    open(dir.path()).commit(&batch(appends)).unwrap();
    for byte in [0, 1, 17, 23, 100, 534, 538] {
        tamper(dir.path(), &frame_key, |record| record[byte] ^= 0x10);
        let store = open(dir.path());
        let damaged = |error| matches!(error, StoreError::Damaged { what: "frame" });
        assert!(damaged(store.load(&mailbox(1)).unwrap_err()));
        assert!(damaged(store.read(&mailbox(1), Seq(0), Seq(9), 9999).unwrap_err()));
        assert!(damaged(store.count().unwrap_err()));
        assert_eq!(store.read(&mailbox(1), Seq(2), Seq(9), 9999).unwrap().len(), 1);
        drop(store);
        tamper(dir.path(), &frame_key, |record| record[byte] ^= 0x10);
    }
    assert_eq!(seqs(&open(dir.path()), 1), [1, 2, 3]);
    tamper(dir.path(), &frame_key, |record| record.truncate(20));
    assert!(open(dir.path()).load(&mailbox(1)).is_err());
}

/// A mailbox that was long and busy holds the engine's marks of all its removals below its floor.
#[test]
fn nothing_below_the_floor_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let steps = vec![append(1, 1, 0), append(1, 2, 0), append(1, 3, 0), remove(1, &[], 2, false)];
    open(dir.path()).commit(&batch(steps)).unwrap();
    let frame_key = record::frame_key(key().shard(&mailbox(1)), &mailbox(1), Seq(1));
    tamper(dir.path(), &frame_key, |record| record[0] ^= 1);
    assert_eq!(seqs(&open(dir.path()), 1), [3]);
}

#[test]
fn other_damaged_records_are_errors_too() {
    let dir = tempfile::tempdir().unwrap();
    let code = crate::store::SpentCode { serial: [4; 8], mailbox: mailbox(1), last_day: 1 };
    let steps = vec![append(1, 1, 0), Step::Spend(code)];
    open(dir.path()).commit(&batch(steps)).unwrap();
    let flip = |record: &mut Vec<u8>| record[0] ^= 1;
    tamper(dir.path(), &record::floor_key(key().shard(&mailbox(1)), &mailbox(1)), flip);
    tamper(dir.path(), &record::spent_key(&[4; 8]), flip);
    let store = open(dir.path());
    assert!(matches!(store.load(&mailbox(1)), Err(StoreError::Damaged { what: "floor" })));
    assert!(matches!(store.spent(&[4; 8]), Err(StoreError::Damaged { what: "spent code" })));
    drop(store);
    tamper(dir.path(), &record::STATE_KEY, flip);
    let error = EmbeddedStore::open(dir.path(), key(), EmbeddedOptions::default()).err();
    assert!(matches!(error, Some(StoreError::Damaged { what: "state" })), "{error:?}");
}

#[test]
fn a_newer_format_is_refused_by_name() {
    const NEWER: u32 = record::FORMAT + 1;
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    tamper(dir.path(), &record::FORMAT_KEY, |record| {
        *record = record::encode_format(NEWER).to_vec();
    });
    let error = EmbeddedStore::open(dir.path(), key(), EmbeddedOptions::default()).err();
    let expected = StoreError::NewerFormat { found: NEWER, known: record::FORMAT }.to_string();
    assert_eq!(error.map(|error| error.to_string()), Some(expected));
}

/// Format 1 had frames and spent codes, in the records of today.
#[test]
fn an_older_format_opens_and_is_marked_with_ours() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(&batch(vec![append(1, 4, 3)])).unwrap();
    drop(store);
    tamper(dir.path(), &record::FORMAT_KEY, |record| {
        *record = record::encode_format(1).to_vec();
    });
    assert_eq!(seqs(&open(dir.path()), 1), [4]);
    tamper(dir.path(), &record::FORMAT_KEY, |record| {
        assert_eq!(record::decode_format(record).unwrap(), record::FORMAT);
    });
}

#[test]
fn a_second_opening_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    let error = EmbeddedStore::open(dir.path(), key(), EmbeddedOptions::default()).err();
    assert!(matches!(error, Some(StoreError::Locked(path)) if path == dir.path()));
}

/// The engine cuts a damaged journal silently; the guard counts what is gone.
#[test]
fn commits_lost_by_the_engine_are_missed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut ends = Vec::new();
    for seq in 1..=5 {
        store.commit(&batch(vec![append(1, seq, 0)])).unwrap();
        ends.push(journal_end(dir.path()));
    }
    drop(store);
    // The start marker of the fourth batch.
    let (journal, mut bytes) = journal(dir.path());
    bytes[ends[2]] ^= 0x40;
    std::fs::write(journal, bytes).unwrap();

    let opened = |accept_missing_commits| {
        let options = EmbeddedOptions { accept_missing_commits, ..EmbeddedOptions::default() };
        EmbeddedStore::open(dir.path(), key(), options)
    };
    for accepted in [0, 1] {
        assert!(matches!(
            opened(accepted),
            Err(StoreError::MissingCommits { recorded: 5, recovered: 3, missing: 2 })
        ));
    }
    assert_eq!(seqs(&opened(2).expect("accepted"), 1), [1, 2, 3]);
    let store = opened(0).expect("accepted for good");
    store.commit(&batch(vec![append(1, 6, 0)])).unwrap();
    drop(store);
    assert_eq!(seqs(&open(dir.path()), 1), [1, 2, 3, 6]);
}

#[test]
fn nothing_is_committed_after_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.writer().finished = true;
    assert!(store.commit(&batch(vec![append(1, 1, 0)])).is_err());
    assert_eq!(store.count().unwrap(), 0);
}

/// A power cut leaves what was not synced in any state: a part of the last batch may be on the disk
/// and a part before it not. Nobody was told of that batch. The store opens without it, or the engine
/// says that its journal is damaged (it does where the hole is in the middle of a value, and asserts
/// it in a debug build); it never opens with a part of it.
#[test]
fn a_batch_with_a_hole_is_never_half_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(&batch(vec![append(1, 1, 0)])).unwrap();
    let before = journal_end(dir.path());
    let high_water = std::fs::read(dir.path().join("high-water")).unwrap();
    let appends = (2..30).map(|seq| append(1, seq, 0)).collect();
    store.commit(&batch(appends)).unwrap();
    drop(store);
    let (path, mut whole) = journal(dir.path());
    whole.truncate(journal_end(dir.path()));
    let (first, last) = (before / 512 + 1, whole.len() / 512 - 1);
    assert!(last - first > 20);
    let mut opens = 0;
    for hole in first..=last {
        let mut bytes = whole.clone();
        bytes[hole * 512..][..512].fill(0);
        std::fs::write(&path, bytes).unwrap();
        std::fs::write(dir.path().join("high-water"), &high_water).unwrap();
        let options = EmbeddedOptions::default();
        match std::panic::catch_unwind(|| EmbeddedStore::open(dir.path(), key(), options)) {
            Ok(Ok(store)) => {
                assert_eq!(store.count().unwrap(), 1, "with a hole at sector {hole}");
                opens += 1;
            }
            Ok(Err(StoreError::Engine(::fjall::Error::JournalRecovery(_)))) | Err(_) => {}
            Ok(Err(error)) => panic!("with a hole at sector {hole}: {error}"),
        }
    }
    assert!(opens > 20, "{opens}");
}

/// What a kill leaves at any instant: a copy of the files, taken while another thread commits, opens
/// with every batch that was durable before and with no part of one.
#[test]
fn a_copy_taken_in_the_middle_opens() {
    let (live, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(live.path());
    let [begun, durable] = [0, 0].map(std::sync::atomic::AtomicU64::new);
    let at_last = std::sync::atomic::Ordering::SeqCst;
    let mut opened = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=400u64 {
                begun.store(number, at_last);
                let appends = (1..=5).map(|n| append(1, number * 5 + n, 0)).collect();
                store.commit(&batch(appends)).unwrap();
                durable.store(number, at_last);
            }
        });
        for copy in 0..12 {
            let target = copies.path().join(copy.to_string());
            std::thread::sleep(Duration::from_millis(copy));
            let at_least = durable.load(at_last);
            copy_now(live.path(), &target);
            let at_most = begun.load(at_last);
            // In a debug build the engine asserts that no length field is cut.
            let Ok(Ok(copied)) = std::panic::catch_unwind(|| {
                EmbeddedStore::open(&target, key(), EmbeddedOptions::default())
            }) else {
                continue;
            };
            opened += 1;
            let frames = copied.count().unwrap();
            assert_eq!(frames % 5, 0, "batches are whole");
            assert!(
                (at_least * 5..=at_most * 5).contains(&frames),
                "{at_least} {at_most} {frames}"
            );
        }
    });
    assert!(opened >= 9, "{opened} of 12 open");
}

/// Copies the files, the guard's first: it must not be ahead of the others.
fn copy_now(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    let copy = |path: &Path, to: &Path| {
        if path.is_dir() { copy_now(path, to) } else { drop(std::fs::copy(path, to)) }
    };
    if from.join("high-water").exists() {
        copy(&from.join("high-water"), &to.join("high-water"));
    }
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        if name != "high-water" {
            copy(&entry.path(), &to.join(name));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn both_stores_say_the_same(actions in contract::actions()) {
        let dir = tempfile::tempdir().unwrap();
        let memory = super::super::MemoryStore::new();
        let mut embedded = open(dir.path());
        let mut model = Model::default();
        for action in actions.iter().chain([&Action::Reopen]) {
            model.act(action);
            if matches!(action, Action::Commit | Action::Reopen) {
                memory.commit(&model.batch).unwrap();
                embedded.commit(&model.batch).unwrap();
                model.batch.steps.clear();
                if matches!(action, Action::Reopen) {
                    drop(embedded);
                    embedded = open(dir.path());
                    prop_assert_eq!(embedded.opened(), model.opened());
                    prop_assert_eq!(memory.opened(), model.opened());
                }
                model.check(&embedded, &memory);
            }
        }
    }
}

fn journal(dir: &Path) -> (PathBuf, Vec<u8>) {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut journals: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|ext| ext == "jnl")).collect();
    assert_eq!(journals.len(), 1);
    let path = journals.remove(0);
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

/// Where the journal's zeros begin: each batch ends in a magic string without any.
fn journal_end(dir: &Path) -> usize {
    let (_, bytes) = journal(dir);
    bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

#[test]
fn the_engine_gets_its_options() {
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions { cache_bytes: 5 << 20, ..EmbeddedOptions::default() };
    let store = EmbeddedStore::open(dir.path(), key(), options).expect("opens");
    assert_eq!(store.database.cache_capacity(), 5 << 20);
}

/// What the engine's tables take.
fn tables_bytes(dir: &Path) -> u64 {
    let tables = std::fs::read_dir(dir.join("keyspaces/1/tables")).unwrap();
    tables.map(|table| table.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn the_room_of_removed_frames_is_given_back() {
    const FRAMES: u64 = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for first in (1..=FRAMES).step_by(50) {
        let steps = (first..first + 50).map(|seq| {
            let frame = Arc::new(frame(1, seq, 64 * 1024));
            Step::Append { frame, floor: Seq(0) }
        });
        store.commit(&batch(steps.collect())).unwrap();
    }
    assert!(!store.reclaim(FRAMES, u64::MAX).unwrap(), "all of them are to stay");
    let removed: Vec<u64> = (1..=FRAMES - 10).collect();
    store.commit(&batch(vec![remove(1, &removed, FRAMES - 10, false)])).unwrap();
    assert!(!store.reclaim(10, 0).unwrap(), "what stays has no room");
    assert!(store.reclaim(10, u64::MAX).unwrap());
    let left = tables_bytes(dir.path());
    assert!((10 * 64 * 1024..2 << 20).contains(&left), "{left} bytes are left");
    assert_eq!(store.count().unwrap(), 10);
    assert!(!store.reclaim(10, u64::MAX).unwrap(), "there is nothing more to gain");
    drop(store);
    assert_eq!(open(dir.path()).count().unwrap(), 10);
}
