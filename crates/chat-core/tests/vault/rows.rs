//! Typed rows, against a model of maps.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use valise_chat_core::vault::{Transaction, Vault, VaultError};

use crate::{Note, Other, Place, get, insert, named, note};

const PARENTS: i64 = 3;
const IDS: i64 = 12;

#[derive(Debug, Clone)]
enum Change {
    Insert(Note),
    Put(i64, Note),
    Remove(i64),
    RemoveAll(i64),
}

#[derive(Debug, Clone, Default)]
struct Model {
    rows: BTreeMap<i64, Note>,
    last: i64,
}

impl Model {
    /// What a change answers, or that a lookup key is taken.
    fn change(&mut self, change: &Change) -> Result<i64, ()> {
        match change {
            Change::Insert(note) => {
                self.free(0, note)?;
                self.last += 1;
                self.rows.insert(self.last, note.clone());
                Ok(self.last)
            }
            Change::Put(id, note) => {
                self.free(*id, note)?;
                self.last = self.last.max(*id);
                self.rows.insert(*id, note.clone());
                Ok(0)
            }
            Change::Remove(id) => Ok(i64::from(self.rows.remove(id).is_some())),
            Change::RemoveAll(parent) => {
                let before = self.rows.len();
                self.rows.retain(|_, note| note.parent != *parent);
                Ok(i64::try_from(before - self.rows.len()).unwrap())
            }
        }
    }

    fn free(&self, id: i64, note: &Note) -> Result<(), ()> {
        let taken = |(&other, row): (&i64, &Note)| other != id && row.name == note.name;
        if !note.name.is_empty() && self.rows.iter().any(taken) { Err(()) } else { Ok(()) }
    }

    fn children(&self, parent: i64) -> Vec<(i64, Note)> {
        let rows = self.rows.iter().filter(|(_, note)| note.parent == parent);
        rows.map(|(id, note)| (*id, note.clone())).collect()
    }

    fn due(&self, now: i64) -> Vec<(i64, Note)> {
        let rows = self.rows.iter().filter(|(_, note)| note.due > 0 && note.due <= now);
        let mut due: Vec<_> = rows.map(|(id, note)| (*id, note.clone())).collect();
        due.sort_by_key(|(id, note)| (note.due, *id));
        due
    }
}

fn change(tx: &Transaction<'_>, change: &Change) -> Result<i64, VaultError> {
    match change {
        Change::Insert(note) => tx.insert(note),
        Change::Put(id, note) => tx.put(*id, note).map(|()| 0),
        Change::Remove(id) => tx.remove::<Note>(*id).map(i64::from),
        Change::RemoveAll(parent) => {
            tx.remove_all::<Note>(*parent).map(|count| i64::try_from(count).unwrap())
        }
    }
}

fn compare(tx: &Transaction<'_>, model: &Model) -> Result<(), VaultError> {
    let all: Vec<_> = model.rows.clone().into_iter().collect();
    assert_eq!(tx.all::<Note>()?, all);
    for id in 0..IDS + 2 {
        assert_eq!(tx.get::<Note>(id)?.as_ref(), model.rows.get(&id));
        assert_eq!(tx.get::<Other>(id)?, None, "kinds do not mix");
    }
    for parent in 0..=PARENTS {
        let children = model.children(parent);
        assert_eq!(tx.children::<Note>(parent)?, children);
        assert_eq!(tx.count::<Note>(parent)?, children.len() as u64);
        assert_eq!(tx.last::<Note>(parent, None, 2)?, children[children.len().max(2) - 2..]);
        for id in [0, 3, IDS] {
            let (before, after): (Vec<_>, Vec<_>) = children
                .iter()
                .filter(|(other, _)| *other != id)
                .cloned()
                .partition(|row| row.0 < id);
            let last = &before[before.len().saturating_sub(2)..];
            assert_eq!(tx.last::<Note>(parent, Some(id), 2)?, last);
            assert_eq!(tx.after::<Note>(parent, id, 2)?, after[..after.len().min(2)]);
            assert_eq!(tx.after::<Note>(parent, id, 0)?, []);
        }
    }
    for name in 1..4_u8 {
        let found = all.iter().find(|(_, note)| note.name == [name]).cloned();
        assert_eq!(tx.find::<Note>(&[name])?, found);
    }
    assert_eq!(tx.find::<Note>(&[])?, None, "a row without a lookup key is not found by none");
    for now in [0, 2, 5] {
        let due = model.due(now);
        assert_eq!(tx.due::<Note>(now, 100)?, due);
        assert_eq!(tx.due::<Note>(now, 1)?, due[..due.len().min(1)]);
    }
    assert_eq!(tx.next_due::<Note>()?, model.due(i64::MAX).first().map(|(_, note)| note.due));
    assert_eq!(tx.next_due::<Other>()?, None);
    Ok(())
}

fn notes() -> impl Strategy<Value = Note> {
    let name = prop_oneof![3 => Just(Vec::new()), 2 => (1..4_u8).prop_map(|name| vec![name])];
    let text = prop_oneof![9 => "[a-z]{0,20}", 1 => Just("long ".repeat(2_000))];
    let (parent, due) = (0..=PARENTS, prop_oneof![Just(0), 1..5_i64]);
    (parent, name, due, text).prop_map(|(parent, name, due, text)| Note { parent, name, due, text })
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => notes().prop_map(Change::Insert),
        4 => (1..IDS, notes()).prop_map(|(id, note)| Change::Put(id, note)),
        3 => (1..IDS).prop_map(Change::Remove),
        1 => (0..=PARENTS).prop_map(Change::RemoveAll),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Transactions of several changes; some are given up; the profile is closed in between.
    #[test]
    fn a_vault_is_a_map_that_lasts(
        transactions in prop::collection::vec(
            (prop::collection::vec(changes(), 1..5), prop::bool::weighted(0.8), any::<bool>()),
            1..12,
        ),
    ) {
        let place = Place::new();
        let mut vault = place.create();
        let mut model = Model::default();
        for (list, is_kept, is_closed) in transactions {
            let mut next = model.clone();
            let result = vault.write(|tx| {
                for one in &list {
                    match (change(tx, one), next.change(one)) {
                        (Ok(done), Ok(expected)) => assert_eq!(done, expected, "{one:?}"),
                        (Err(VaultError::Taken), Err(())) => return Err(VaultError::Taken),
                        (done, expected) => panic!("{one:?}: {done:?}, not {expected:?}"),
                    }
                }
                compare(tx, &next)?;
                if is_kept { Ok(()) } else { Err(VaultError::WrongPassphrase) }
            });
            if result.is_ok() {
                model = next;
            }
            if is_closed {
                drop(vault);
                vault = place.open();
            }
            vault.read(|tx| compare(tx, &model)).unwrap();
        }
    }
}

#[test]
fn an_id_is_never_used_again() {
    let place = Place::new();
    let mut vault = place.create();
    assert_eq!(insert(&mut vault, &note("one")), 1);
    assert_eq!(insert(&mut vault, &note("two")), 2);
    vault.write(|tx| tx.remove::<Note>(2)).unwrap();
    assert_eq!(insert(&mut vault, &note("three")), 3);
    vault.write(|tx| tx.put(10, &note("ten"))).unwrap();
    vault.write(|tx| tx.remove::<Note>(10)).unwrap();
    drop(vault);
    let mut vault = place.open();
    assert_eq!(insert(&mut vault, &note("eleven")), 11);
    assert_eq!(insert(&mut vault, &Other::default()), 1, "each kind counts for itself");
}

#[test]
fn a_lookup_key_belongs_to_one_row_of_its_kind() {
    let place = Place::new();
    let mut vault = place.create();
    let first = insert(&mut vault, &named("Ann", "first"));
    let taken = vault.write(|tx| tx.insert(&named("Ann", "second")));
    assert!(matches!(taken, Err(VaultError::Taken)));
    vault.write(|tx| tx.put(first, &named("Ann", "changed"))).unwrap();
    insert(&mut vault, &Other { name: b"Ann".to_vec(), ..Other::default() });
    let found = vault.read(|tx| tx.find::<Note>(b"Ann")).unwrap();
    assert_eq!(found, Some((first, named("Ann", "changed"))));
    vault.write(|tx| tx.put(first, &named("Bob", "renamed"))).unwrap();
    assert_eq!(vault.read(|tx| tx.find::<Note>(b"Ann")).unwrap(), None);
}

#[test]
fn a_panic_undoes_its_transaction() {
    let place = Place::new();
    let mut vault = place.create();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        vault.write::<(), VaultError>(|tx| {
            tx.insert(&note("undone"))?;
            panic!("on purpose");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(insert(&mut vault, &note("kept")), 1);
    assert_eq!(vault.read(|tx| tx.all::<Note>()).unwrap(), [(1, note("kept"))]);
}

#[test]
fn what_a_read_writes_is_not_kept() {
    let place = Place::new();
    let vault = place.create();
    vault.read(|tx| tx.insert(&note("lost"))).unwrap();
    assert_eq!(get::<Note>(&vault, 1), None);
}

#[test]
fn a_vault_can_go_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Vault>();
}
