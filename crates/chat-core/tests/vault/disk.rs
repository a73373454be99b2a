//! What the disk shows, and what somebody with the disk can do.

use std::fs;

use valise_chat_core::vault::{Transaction, Vault, VaultError};

use crate::{Note, Other, Place, get, insert, named, note, passphrase};

const CANARY: &str = "canary of Tenerife";
const NAME: &str = "name of the canary";

#[test]
fn no_file_shows_content_or_lookup_keys() {
    let place = Place::new();
    let mut vault = place.create();
    for copy in 0..20_usize {
        let text = CANARY.repeat(1 + copy * 50);
        insert(&mut vault, &named(&format!("{NAME} {copy}"), &text));
        vault.write(|tx| tx.put(100, &note(&text))).unwrap();
    }
    vault.write(|tx| tx.remove::<Note>(3)).unwrap();
    let hidden = [CANARY, NAME, "correct horse"];
    let check = |when: &str| {
        // The log has the tables' definitions, or the database has: the scan can see.
        assert!(place.shows(b"CREATE TABLE rows"), "{when}");
        for canary in hidden {
            assert!(!place.shows(canary.as_bytes()), "{canary:?} {when}");
            assert!(!place.shows(&canary.as_bytes()[..8]), "a part of {canary:?} {when}");
        }
    };
    check("while it is open");
    vault.sweep().unwrap();
    check("after a sweep");
    drop(vault);
    check("when it is closed");
    assert_eq!(get(&place.open(), 100), Some(note(&CANARY.repeat(951))));
}

/// Not even as ciphertext: who learns the passphrase later finds no old keys and no messages that
/// have disappeared.
#[test]
fn what_was_removed_or_replaced_leaves_the_files() {
    let place = Place::new();
    let long = "disappears ".repeat(500);
    let mut vault = place.create();
    let removed = insert(&mut vault, &note(&long));
    let replaced = insert(&mut vault, &note(&long));
    insert(&mut vault, &note("stays"));
    drop(vault);
    let sealed = |id: i64| -> Vec<u8> {
        let sql = "SELECT value FROM rows WHERE kind = 200 AND id = ?1";
        place.raw().query_row(sql, [id], |row| row.get(0)).unwrap()
    };
    // Long values go over several pages.
    let parts: Vec<Vec<u8>> = [removed, replaced]
        .into_iter()
        .flat_map(|id| sealed(id).chunks_exact(16).map(<[u8]>::to_vec).collect::<Vec<_>>())
        .collect();
    let seen = || parts.iter().filter(|part| place.shows(part)).count();
    assert!(seen() > parts.len() * 9 / 10, "the scan finds what is there");
    let mut vault = place.open();
    // Once more, so that they are in the log too.
    vault.write(|tx| tx.put(removed, &note(&long))).unwrap();
    vault
        .write::<_, VaultError>(|tx| {
            tx.remove::<Note>(removed)?;
            tx.put(replaced, &note("short"))
        })
        .unwrap();
    assert!(place.file("profile.db-wal").metadata().unwrap().len() > 0);
    vault.sweep().unwrap();
    assert_eq!(place.file("profile.db-wal").metadata().unwrap().len(), 0);
    assert_eq!(seen(), 0);
    drop(vault);
    assert_eq!(seen(), 0);
    assert_eq!(get(&place.open(), replaced), Some(note("short")));
}

type Attempt = fn(&Transaction<'_>) -> Result<(), VaultError>;

/// What somebody with the disk does by SQL, and what finds the row then.
#[test]
fn rows_that_were_changed_or_moved_are_refused() {
    let all: Attempt = |tx| tx.all::<Note>().map(drop);
    let get_one: Attempt = |tx| tx.get::<Note>(1).map(drop);
    let get_other: Attempt = |tx| tx.get::<Other>(1).map(drop);
    let children: Attempt = |tx| tx.children::<Note>(7).map(drop);
    let last: Attempt = |tx| tx.last::<Note>(7, None, 5).map(drop);
    let after: Attempt = |tx| tx.after::<Note>(7, 0, 5).map(drop);
    let find: Attempt = |tx| tx.find::<Note>(b"Ann").map(drop);
    let due: Attempt = |tx| tx.due::<Note>(50, 5).map(drop);
    let swap_values = "UPDATE rows SET value = (SELECT value FROM rows other \
                       WHERE other.kind = 200 AND other.id = 3 - rows.id) \
                       WHERE kind = 200 AND id IN (1, 2)";
    let cases: &[(&str, Attempt)] = &[
        (swap_values, get_one),
        (swap_values, all),
        ("UPDATE rows SET id = 9 WHERE kind = 200 AND id = 1", all),
        (
            "UPDATE rows SET value = (SELECT value FROM rows o WHERE o.kind = 200 AND o.id = 1) \
          WHERE kind = 201",
            get_other,
        ),
        ("UPDATE rows SET value = substr(value, 1, length(value) - 1)", get_one),
        ("UPDATE rows SET value = x''", get_one),
        ("UPDATE rows SET value = 'text'", get_one),
        ("UPDATE rows SET value = 5", get_one),
        // A message in another conversation.
        ("UPDATE rows SET parent = 7 WHERE kind = 200 AND id = 2", children),
        ("UPDATE rows SET parent = 7 WHERE kind = 200 AND id = 2", last),
        ("UPDATE rows SET parent = 7 WHERE kind = 200 AND id = 2", after),
        // Bob, who is taken for Ann.
        (
            "CREATE TEMP TABLE t AS SELECT id, lookup FROM rows WHERE kind = 200; \
          UPDATE rows SET lookup = NULL WHERE kind = 200; \
          UPDATE rows SET lookup = (SELECT lookup FROM t WHERE t.id = 3 - rows.id) \
          WHERE kind = 200",
            find,
        ),
        // Something that is done too early.
        ("UPDATE rows SET due = 1 WHERE kind = 200 AND id = 2", due),
    ];
    for (number, (sql, attempt)) in cases.iter().enumerate() {
        let place = Place::new();
        fill(&place);
        {
            let vault = place.open();
            vault.read(attempt).unwrap_or_else(|error| panic!("{number}: before: {error}"));
        }
        place.raw().execute_batch(sql).unwrap();
        let refused = place.open().read(attempt);
        assert!(matches!(refused, Err(VaultError::Damaged(_))), "{number}: {sql}: {refused:?}");
    }
}

fn fill(place: &Place) {
    let mut vault = place.create();
    let ann = Note { parent: 7, due: 5, ..named("Ann", "of Ann") };
    let bob = Note { parent: 8, due: 500, ..named("Bob", "of Bob") };
    insert(&mut vault, &ann);
    insert(&mut vault, &bob);
    insert(&mut vault, &Other { parent: 7, text: "other".to_owned(), ..Other::default() });
}

/// Somebody with the disk runs code in nobody's place: what they put into the tables' definitions
/// is not run.
#[test]
fn triggers_do_not_run() {
    let place = Place::new();
    fill(&place);
    let sql = "CREATE TRIGGER t AFTER INSERT ON rows BEGIN DELETE FROM rows; END";
    place.raw().execute_batch(sql).unwrap();
    let mut vault = place.open();
    insert(&mut vault, &note("third"));
    assert_eq!(vault.read(|tx| tx.all::<Note>()).unwrap().len(), 3);
}

/// Every flipped bit is an error or makes no difference to what is read; nothing panics, and no row
/// has another content than was written.
#[test]
fn flipped_bits_do_no_harm() {
    let place = Place::new();
    let mut vault = place.create();
    for number in 0..30_usize {
        let text = format!("{number} ").repeat(1 + number * number * 3);
        insert(&mut vault, &Note { parent: 7, due: 1, ..named(&format!("name {number}"), &text) });
    }
    let written = vault.read(|tx| tx.all::<Note>()).unwrap();
    drop(vault);
    let whole = fs::read(place.file("profile.db")).unwrap();
    // All of the header of the file and of the first page, then here and there.
    let places = (0..200).chain((200..whole.len()).step_by(whole.len() / 500));
    let (mut refused, mut read) = (0, 0);
    for at in places {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(place.file("profile.db"), &flipped).unwrap();
        fs::remove_file(place.file("profile.db-wal")).ok();
        match look(&place, &written) {
            Ok(()) => read += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 100, "{refused} refused, {read} read");
    assert!(read > 10, "{refused} refused, {read} read");
}

/// Uses a profile in every way. What it gives must be what was written.
fn look(place: &Place, written: &[(i64, Note)]) -> Result<(), VaultError> {
    let check = |rows: Vec<(i64, Note)>| {
        for row in rows {
            assert!(written.contains(&row), "row {} has another content", row.0);
        }
    };
    let mut vault = Vault::open(&place.path(), &passphrase())?;
    let mut results = vec![
        vault.read(|tx| tx.all::<Note>()).map(check),
        vault.read(|tx| tx.children::<Note>(7)).map(check),
        vault.read(|tx| tx.last::<Note>(7, Some(20), 10)).map(check),
        vault.read(|tx| tx.after::<Note>(7, 20, 10)).map(check),
        vault.read(|tx| tx.due::<Note>(9, 10)).map(check),
        vault.read(|tx| tx.next_due::<Note>()).map(drop),
        vault.read(|tx| tx.count::<Note>(7)).map(drop),
        vault
            .read(|tx| tx.get::<Note>(4))
            .map(|row| check(row.map(|row| (4, row)).into_iter().collect())),
        vault.read(|tx| tx.find::<Note>(b"name 9")).map(|row| check(row.into_iter().collect())),
    ];
    results.push(vault.write(|tx| tx.put(5, &note("over it"))));
    results.push(vault.write(|tx| tx.insert(&note("new"))).map(drop));
    results.push(vault.write(|tx| tx.remove_all::<Note>(7)).map(drop));
    results.push(vault.sweep());
    results.into_iter().collect()
}
