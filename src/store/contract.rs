//! One suite for every [`Store`]: each numbered MUST of the trait has its test here, and a
//! differential test drives the same steps through both.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use valise_proto::{FrameId, MailboxId, PacketPayload, PublicationId, PutId, SlotId};

use super::*;

/// A mailbox with an id that is easy to tell apart.
pub(crate) fn mailbox(number: u8) -> MailboxId {
    MailboxId::new([number; 16])
}

/// A frame whose every field follows from its place; some have the default time to live.
pub(crate) fn frame(mailbox_number: u8, seq: u64, bytes: usize) -> Frame {
    let mut id = [mailbox_number; 16];
    id[8..].copy_from_slice(&seq.to_be_bytes());
    Frame {
        mailbox: mailbox(mailbox_number),
        seq: Seq(seq),
        frame_id: FrameId::new(id),
        accepted: RunningHours(5),
        ttl_hours: if seq.is_multiple_of(3) { 24 } else { 720 },
        payload: Payload::from_packet(Bytes::from(vec![seq as u8; bytes])),
    }
}

/// A slot whose every field follows from its number.
pub(crate) fn slot(number: u8, bytes: usize) -> Slot {
    Slot {
        id: SlotId::new([number; 32]),
        put_id: PutId::new([number; 16]),
        written: RunningHours(number.into()),
        payload: Payload::from_packet(Bytes::from(vec![number; bytes])),
    }
}

/// An append of [`frame`].
pub(super) fn append(mailbox_number: u8, seq: u64, floor: u64) -> Step {
    Step::Append { frame: Arc::new(frame(mailbox_number, seq, 512)), floor: Seq(floor) }
}

/// A removal.
pub(super) fn remove(mailbox_number: u8, seqs: &[u64], floor: u64, emptied: bool) -> Step {
    Step::Remove(Removal {
        mailbox: mailbox(mailbox_number),
        seqs: seqs.iter().copied().map(Seq).collect(),
        floor: Seq(floor),
        emptied,
    })
}

/// A batch of these steps, with totals that fit nothing in particular.
pub(super) fn batch(steps: Vec<Step>) -> Batch {
    let totals = Totals { accepted: 4, acknowledged: 3, expired: 2, discarded: 1 };
    Batch { steps, totals, next_seq: Seq(100), hours: RunningHours(7) }
}

fn commit(store: &dyn Store, steps: Vec<Step>) {
    store.commit(&batch(steps)).expect("healthy");
}

/// What a mailbox holds, as numbers; read in both ways, which must agree in everything.
pub(super) fn seqs(store: &dyn Store, number: u8) -> Vec<u64> {
    let backlog = store.load(&mailbox(number)).expect("healthy");
    let all = store.read(&mailbox(number), backlog.floor, Seq(u64::MAX), usize::MAX);
    let all = all.expect("healthy");
    assert_eq!(backlog.frames, all.iter().map(BacklogEntry::from).collect::<Vec<_>>());
    for frame in &all {
        let expected = self::frame(number, frame.seq.0, frame.payload.len());
        assert_eq!(record::encode_frame(frame), record::encode_frame(&expected));
        assert_eq!(frame.mailbox, expected.mailbox);
    }
    all.iter().map(|frame| frame.seq.0).collect()
}

/// The suite. `open` gives an empty store.
pub(super) fn suite<S: Store>(open: impl Fn() -> S) {
    shows_a_batch_when_commit_returns(&open());
    applies_steps_in_their_order(&open());
    reads_in_order_and_within_bounds(&open());
    keeps_nothing_of_an_emptied_mailbox(&open());
    keeps_mailboxes_apart(&open());
    remembers_spent_codes(&open());
    keeps_slots_bundles_and_revocations(&open());
    finds_what_is_outdated(&open());
    finds_what_has_expired(&open());
    serves_many_threads(&open());
}

/// MUST 1 and 3.
fn shows_a_batch_when_commit_returns(store: &dyn Store) {
    assert_eq!(store.load(&mailbox(1)).expect("healthy"), Backlog::default());
    commit(store, vec![append(1, 4, 3), append(2, 5, 0), append(1, 9, 3)]);
    assert_eq!(seqs(store, 1), [4, 9]);
    assert_eq!(store.load(&mailbox(1)).expect("healthy").floor, Seq(3));
    assert_eq!(seqs(store, 2), [5]);
    assert_eq!(store.count().expect("healthy"), 3);
    commit(store, vec![]);
    assert_eq!(store.count().expect("healthy"), 3);
}

/// MUST 2.
fn applies_steps_in_their_order(store: &dyn Store) {
    commit(store, vec![append(1, 1, 0), append(1, 2, 0)]);
    commit(
        store,
        vec![
            remove(1, &[1], 1, false),
            append(1, 3, 1),
            append(1, 4, 1),
            remove(1, &[2, 3], 3, false),
            append(1, 5, 3),
        ],
    );
    assert_eq!(seqs(store, 1), [4, 5]);
    assert_eq!(store.load(&mailbox(1)).expect("healthy").floor, Seq(3));
    // Emptied and filled again within one batch, and the other way round.
    commit(store, vec![remove(1, &[4, 5], 5, true), append(1, 6, 5)]);
    assert_eq!(seqs(store, 1), [6]);
    commit(store, vec![append(1, 7, 5), remove(1, &[6, 7], 7, true)]);
    assert_eq!(seqs(store, 1), [] as [u64; 0]);
    assert_eq!(store.count().expect("healthy"), 0);
}

/// MUST 8: of [`frame`]s, every third has a life of 24 hours and the others have 720.
fn finds_what_has_expired(store: &dyn Store) {
    let expired = |hours| store.expired(RunningHours(hours)).expect("healthy");
    assert_eq!(expired(u32::MAX), []);
    commit(store, vec![append(1, 3, 0), append(1, 4, 0), append(2, 5, 0), append(3, 6, 0)]);
    assert_eq!(expired(29), [], "the last hour is not over");
    assert_eq!(expired(30), [mailbox(1), mailbox(3)]);
    assert_eq!(expired(725), [mailbox(1), mailbox(3)]);
    assert_eq!(expired(726), [mailbox(1), mailbox(2), mailbox(3)]);
    commit(store, vec![remove(1, &[3], 3, false), remove(3, &[6], 6, true)]);
    assert_eq!(expired(725), []);
    assert_eq!(expired(726), [mailbox(1), mailbox(2)]);
    // As a kill leaves it before the next frame is written.
    commit(store, vec![remove(1, &[4], 4, false)]);
    assert_eq!(expired(0), [mailbox(1)]);
    assert!(store.load(&mailbox(1)).expect("healthy").kept);
    commit(store, vec![remove(1, &[], 4, true)]);
    assert_eq!(expired(725), []);
    assert_eq!(store.load(&mailbox(1)).expect("healthy"), Backlog::default());
}

/// MUST 4.
fn reads_in_order_and_within_bounds(store: &dyn Store) {
    // Committed in another order, across the places where a shorter number would sort wrongly.
    commit(store, vec![append(1, 65_536, 0), append(1, 255, 0), append(1, 256, 0)]);
    commit(store, vec![append(1, 2, 0)]);
    assert_eq!(seqs(store, 1), [2, 255, 256, 65_536]);
    let read = |after, up_to, bytes| -> Vec<u64> {
        let frames = store.read(&mailbox(1), Seq(after), Seq(up_to), bytes).expect("healthy");
        frames.iter().map(|frame| frame.seq.0).collect()
    };
    assert_eq!(read(2, 256, usize::MAX), [255, 256]);
    assert_eq!(read(256, 256, usize::MAX), [] as [u64; 0]);
    assert_eq!(read(300, 200, usize::MAX), [] as [u64; 0]);
    assert_eq!(read(u64::MAX, u64::MAX, usize::MAX), [] as [u64; 0]);
    assert_eq!(read(0, u64::MAX, 0), [2], "at least one");
    assert_eq!(read(0, u64::MAX, 1023), [2]);
    assert_eq!(read(0, u64::MAX, 1024), [2, 255]);
}

/// MUST 6, as far as it can be seen from here.
fn keeps_nothing_of_an_emptied_mailbox(store: &dyn Store) {
    commit(store, vec![append(1, 1, 0), append(1, 2, 0)]);
    commit(store, vec![remove(1, &[1], 1, false)]);
    commit(store, vec![remove(1, &[2], 2, true)]);
    assert_eq!(store.load(&mailbox(1)).expect("healthy"), Backlog::default());
    assert!(store.read(&mailbox(1), Seq(0), Seq(9), 9999).expect("healthy").is_empty());
    assert_eq!(store.count().expect("healthy"), 0);
}

fn keeps_mailboxes_apart(store: &dyn Store) {
    let steps = (0..=255).map(|number| append(number, u64::from(number) + 1, 0)).collect();
    commit(store, steps);
    commit(store, vec![remove(7, &[8], 8, true)]);
    for number in 0..=255 {
        let expected = if number == 7 { vec![] } else { vec![u64::from(number) + 1] };
        assert_eq!(seqs(store, number), expected);
    }
    assert_eq!(store.count().expect("healthy"), 255);
}

fn remembers_spent_codes(store: &dyn Store) {
    let spend =
        |number| Step::Spend(SpentCode { serial: [1; 8], mailbox: mailbox(number), last_day: 3 });
    assert_eq!(store.spent(&[1; 8]).expect("healthy"), None);
    commit(store, vec![spend(4)]);
    assert_eq!(store.spent(&[1; 8]).expect("healthy"), Some(mailbox(4)));
    commit(store, vec![spend(4), spend(5)]);
    assert_eq!(store.spent(&[1; 8]).expect("healthy"), Some(mailbox(5)));
    assert_eq!(store.spent(&[2; 8]).expect("healthy"), None);
}

/// An item of a bundle.
fn item(byte: u8) -> Payload {
    Payload::from_packet(Bytes::from(vec![byte; 512]))
}

fn bundle(number: u8, first: u32, next: u32, published: u32) -> BundleHead {
    BundleHead {
        publication_id: PublicationId::new([number; 16]),
        published: RunningHours(published),
        first,
        next,
        last_resort: true,
    }
}

fn revoke(number: u8, serial: u8, last_day: u16) -> Step {
    Step::Revoke(Revocation { mailbox: mailbox(number), serial: [serial; 8], last_day })
}

fn keeps_slots_bundles_and_revocations(store: &dyn Store) {
    assert!(store.slot(&slot(1, 0).id).expect("healthy").is_none());
    commit(store, vec![Step::Put(slot(1, 512)), Step::Put(slot(2, 2048))]);
    let read = store.slot(&slot(2, 0).id).expect("healthy").expect("there");
    assert_eq!(record::encode_slot(&read), record::encode_slot(&slot(2, 2048)));
    commit(store, vec![Step::Forget(Outdated::Slot(slot(1, 0).id))]);
    assert!(store.slot(&slot(1, 0).id).expect("healthy").is_none());

    assert_eq!(store.bundle(&mailbox(3)).expect("healthy"), None);
    let head = bundle(3, 1, 3, 9);
    let stored = vec![(1, item(1)), (2, item(2)), (LAST_RESORT, item(0))];
    let change =
        BundleChange { mailbox: mailbox(3), head: Some(head), stored, removed: Vec::new() };
    commit(store, vec![Step::Bundle(change)]);
    assert_eq!(store.bundle(&mailbox(3)).expect("healthy"), Some(head));
    let read = |number| store.bundle_item(&mailbox(3), number).expect("healthy");
    assert_eq!(record::encode_item(&read(2).expect("there")), record::encode_item(&item(2)));
    assert!(read(3).is_none());
    let (head, stored) = (Some(bundle(3, 2, 3, 9)), Vec::new());
    let change = BundleChange { mailbox: mailbox(3), head, stored, removed: vec![1] };
    commit(store, vec![Step::Bundle(change)]);
    assert!(read(1).is_none() && read(2).is_some() && read(LAST_RESORT).is_some());
    let removed = vec![2, LAST_RESORT];
    let change = BundleChange { mailbox: mailbox(3), head: None, stored: Vec::new(), removed };
    commit(store, vec![Step::Bundle(change)]);
    assert_eq!(store.bundle(&mailbox(3)).expect("healthy"), None);
    assert!(read(2).is_none() && read(LAST_RESORT).is_none());

    commit(store, vec![revoke(4, 2, 7), revoke(4, 1, 7), revoke(5, 3, 7), append(4, 8, 0)]);
    let backlog = store.load(&mailbox(4)).expect("healthy");
    assert_eq!((backlog.revoked, backlog.frames.len()), (vec![[1; 8], [2; 8]], 1));
    commit(store, vec![Step::Forget(Outdated::Revocation(mailbox(4), [1; 8]))]);
    commit(store, vec![remove(4, &[8], 8, true)]);
    assert_eq!(store.load(&mailbox(4)).expect("healthy").revoked, [[2; 8]]);
    assert_eq!(store.load(&mailbox(6)).expect("healthy"), Backlog::default());
}

/// MUST 10, too: nothing goes by itself.
fn finds_what_is_outdated(store: &dyn Store) {
    let put = |number, published| {
        Step::Bundle(BundleChange {
            mailbox: mailbox(number),
            head: Some(bundle(number, 1, 1, published)),
            stored: Vec::new(),
            removed: Vec::new(),
        })
    };
    let code = |serial, last_day| {
        Step::Spend(SpentCode { serial: [serial; 8], mailbox: mailbox(9), last_day })
    };
    commit(store, vec![Step::Put(slot(10, 512)), Step::Put(slot(11, 512))]);
    commit(store, vec![put(1, 20), put(2, 21), revoke(3, 4, 30), revoke(3, 5, 31)]);
    commit(store, vec![code(6, 30), code(7, 31)]);
    let cutoff = |slots, bundles, tokens| Cutoff {
        slots: RunningHours(slots),
        bundles: RunningHours(bundles),
        tokens,
    };
    let found = |cutoff: Cutoff, max| {
        let mut found = store.outdated(&cutoff, max).expect("healthy");
        found.sort_unstable();
        found
    };
    assert_eq!(found(cutoff(10, 20, 30), 99), []);
    let expected = [
        Outdated::Slot(slot(10, 0).id),
        Outdated::Bundle(mailbox(1)),
        Outdated::Revocation(mailbox(3), [4; 8]),
        Outdated::Code([6; 8]),
    ];
    assert_eq!(found(cutoff(11, 21, 31), 99), expected);
    assert_eq!(found(cutoff(12, 22, 32), 99).len(), 8);
    assert_eq!(found(cutoff(12, 22, 32), 3).len(), 3);
    assert_eq!(found(cutoff(12, 22, 32), 1), found(cutoff(11, 0, 0), 9));
    commit(store, vec![Step::Forget(Outdated::Code([6; 8]))]);
    assert_eq!(store.spent(&[6; 8]).expect("healthy"), None);
}

/// MUST 7, and that a reader sees a batch whole: each one replaces the mailbox's only frame.
fn serves_many_threads(store: &dyn Store) {
    commit(store, vec![append(1, 1, 0)]);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut last = 1;
                    while last < 200 {
                        let backlog = store.load(&mailbox(1)).expect("healthy");
                        let [entry] = backlog.frames[..] else { panic!("{backlog:?}") };
                        assert_eq!(backlog.floor.0, entry.seq.0 - 1);
                        assert!(entry.seq.0 >= last, "time runs forward");
                        last = entry.seq.0;
                    }
                })
            })
            .collect();
        for seq in 2..=200 {
            commit(store, vec![remove(1, &[seq - 1], seq - 1, false), append(1, seq, seq - 1)]);
        }
        readers.into_iter().for_each(|reader| reader.join().expect("a reader's assertions hold"));
    });
}

/// What the differential test does to four mailboxes.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// Appends a frame of so many bytes.
    Append(u8, u16),
    /// Removes the oldest so many frames.
    RemoveOldest(u8, u8),
    /// Removes one frame from the middle.
    RemoveOne(u8, u8),
    /// Uses an invite code.
    Spend(u8, u8),
    /// Ends the batch.
    Commit,
    /// Ends the batch and opens the store again.
    Reopen,
}

/// Lists of actions.
pub(super) fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        8 => (0..4u8, 0..2000u16).prop_map(|(number, bytes)| Action::Append(number, bytes)),
        3 => (0..4u8, 1..6u8).prop_map(|(number, count)| Action::RemoveOldest(number, count)),
        2 => (0..4u8, any::<u8>()).prop_map(|(number, at)| Action::RemoveOne(number, at)),
        1 => (0..4u8, 0..3u8).prop_map(|(number, serial)| Action::Spend(number, serial)),
        4 => Just(Action::Commit),
        1 => Just(Action::Reopen),
    ];
    proptest::collection::vec(action, 1..80)
}

/// Turns actions into steps that a mailbox could have sent.
#[derive(Default)]
pub(super) struct Model {
    mailboxes: BTreeMap<u8, (Seq, Vec<Seq>)>,
    last_seq: u64,
    pub(super) batch: Batch,
}

impl Model {
    /// Adds the action's step to the batch.
    pub(super) fn act(&mut self, action: &Action) {
        match *action {
            Action::Append(number, bytes) => {
                self.last_seq += 1;
                let (floor, held) = self.mailboxes.entry(number).or_default();
                held.push(Seq(self.last_seq));
                let frame = Arc::new(frame(number, self.last_seq, bytes.into()));
                self.batch.steps.push(Step::Append { frame, floor: *floor });
                self.batch.totals.accepted += 1;
                self.batch.next_seq = Seq(self.last_seq + 1);
            }
            Action::RemoveOldest(number, count) => self.remove(number, 0, count.into()),
            Action::RemoveOne(number, at) => {
                let held = self.mailboxes.entry(number).or_default().1.len();
                self.remove(number, usize::from(at) % held.max(1), 1);
            }
            Action::Spend(number, serial) => {
                let code = SpentCode { serial: [serial; 8], mailbox: mailbox(number), last_day: 1 };
                self.batch.steps.push(Step::Spend(code));
            }
            Action::Commit | Action::Reopen => self.batch.hours.0 += 1,
        }
    }

    fn remove(&mut self, number: u8, from: usize, count: usize) {
        let (floor, held) = self.mailboxes.entry(number).or_default();
        let count = count.min(held.len() - from);
        let seqs: Vec<Seq> = held.drain(from..from + count).collect();
        let Some(last) = seqs.last() else { return };
        if from == 0 {
            *floor = *last;
        }
        self.batch.totals.acknowledged += seqs.len() as u64;
        let (floor, emptied) = (*floor, held.is_empty());
        self.batch.steps.push(Step::Remove(Removal {
            mailbox: mailbox(number),
            seqs,
            floor,
            emptied,
        }));
    }

    /// Compares a store with the other one and with what should be there.
    pub(super) fn check(&self, one: &dyn Store, other: &dyn Store) {
        for (number, (_, held)) in &self.mailboxes {
            assert_eq!(seqs(one, *number), held.iter().map(|seq| seq.0).collect::<Vec<_>>());
            assert_eq!(
                one.load(&mailbox(*number)).expect("healthy"),
                other.load(&mailbox(*number)).expect("healthy")
            );
        }
        for serial in 0..3 {
            assert_eq!(
                one.spent(&[serial; 8]).expect("healthy"),
                other.spent(&[serial; 8]).expect("healthy")
            );
        }
        for hours in [30, 726].map(RunningHours) {
            assert_eq!(
                one.expired(hours).expect("healthy"),
                other.expired(hours).expect("healthy")
            );
        }
        assert_eq!(one.count().expect("healthy"), other.count().expect("healthy"));
        assert_eq!(one.count().expect("healthy"), self.batch.totals.queued());
    }

    /// What the stores should know when they are opened now.
    pub(super) fn opened(&self) -> Opened {
        let Batch { totals, next_seq, hours, .. } = self.batch;
        // Each commit of the model is an hour of its own.
        Opened { totals, next_seq, hours, commits: hours.0.into() }
    }
}

#[test]
fn the_memory_store_keeps_the_contract() {
    suite(MemoryStore::new);
}

#[test]
fn an_emptied_mailbox_costs_the_memory_store_nothing() {
    let store = MemoryStore::new();
    commit(&store, vec![append(1, 1, 0), append(2, 2, 0), remove(1, &[1], 1, true)]);
    assert_eq!(store.mailboxes(), 1);
}
