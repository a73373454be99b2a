//! The tables, and how older ones become the newest.

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};

use super::{Opener, VaultError};

/// `PRAGMA application_id`: says whose file it is.
const APPLICATION: i64 = 0x5641_4C31;

/// Step N brings a profile from format N to format N + 1. Only ever appended to. The header stays
/// as it is in every format, because it is read before the passphrase is known to be right.
const STEPS: &[&str] =
    &["CREATE TABLE header (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
     CREATE TABLE ids (kind INTEGER PRIMARY KEY, last INTEGER NOT NULL);
     CREATE TABLE rows (
         kind INTEGER NOT NULL, id INTEGER NOT NULL, parent INTEGER NOT NULL,
         lookup BLOB, due INTEGER, value BLOB NOT NULL,
         PRIMARY KEY (kind, id)
     ) WITHOUT ROWID;
     CREATE INDEX rows_by_parent ON rows (kind, parent, id);
     CREATE UNIQUE INDEX rows_by_lookup ON rows (kind, lookup) WHERE lookup IS NOT NULL;
     CREATE INDEX rows_by_due ON rows (kind, due) WHERE due IS NOT NULL;"];

/// Makes the tables of an empty database that is not a profile yet, with the wrapped key. Nobody
/// reads it before it is whole, so it needs no log of its own.
pub(super) fn create(
    connection: &mut Connection,
    wrapped: &[u8],
    opener: &Opener,
) -> Result<(), VaultError> {
    connection.pragma_update(None, "journal_mode", "DELETE")?;
    settle(connection)?;
    connection.pragma_update(None, "application_id", APPLICATION)?;
    migrate(connection, STEPS)?;
    set_key(connection, wrapped, opener)
}

/// Opens a database that is there, and that may be hostile: it gets no code to run.
pub(super) fn connect(path: &Path) -> Result<Connection, VaultError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    for (switch, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
    ] {
        connection.set_db_config(switch, on)?;
    }
    // The profile's lock keeps others out, so SQLite need not share its index of the log.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "cell_size_check", "ON")?;
    Ok(connection)
}

/// The wrapped key of a profile that this program can read. Nothing is written.
///
/// # Errors
/// [`VaultError::Newer`], [`VaultError::Damaged`].
pub(super) fn wrapped_key(connection: &Connection) -> Result<Vec<u8>, VaultError> {
    header(connection, "key")?.ok_or(VaultError::Damaged("its header has no key"))
}

/// Where the secret is that the key is wrapped under. Nothing is written.
///
/// # Errors
/// As [`wrapped_key`], and [`VaultError::Opener`].
pub(super) fn opener(connection: &Connection) -> Result<Opener, VaultError> {
    header(connection, "opener")?.map_or(Ok(Opener::Passphrase), |stored| Opener::decode(&stored))
}

fn header(connection: &Connection, name: &str) -> Result<Option<Vec<u8>>, VaultError> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if pragma("application_id")? != APPLICATION {
        return Err(VaultError::Damaged("its file is not of this program"));
    }
    let found = pragma("user_version")?;
    if let Err(refused) = missing(found, STEPS) {
        // Whoever knows this format finds all as it was, the log too.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        return Err(refused);
    }
    let sql = "SELECT value FROM header WHERE name = ?1";
    Ok(connection.query_row(sql, [name], |row| row.get(0)).optional()?)
}

/// Brings the tables up to date and makes the database ready for use.
pub(super) fn prepare(connection: &mut Connection) -> Result<(), VaultError> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    settle(connection)?;
    migrate(connection, STEPS)
}

/// The key is wrapped like this from now on, under a secret that is to be found there.
pub(super) fn set_key(
    connection: &Connection,
    wrapped: &[u8],
    opener: &Opener,
) -> Result<(), VaultError> {
    let sql = "INSERT OR REPLACE INTO header (name, value) VALUES ('key', ?1), ('opener', ?2)";
    connection.execute(sql, params![wrapped, opener.encode()])?;
    Ok(())
}

/// Moves the log into the database, where what was removed is overwritten, and empties it.
pub(super) fn sweep(connection: &Connection) -> Result<(), VaultError> {
    let busy: bool =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy {
        Err(VaultError::Damaged("its log is in use by a program of another kind"))
    } else {
        Ok(())
    }
}

/// A commit is on the disk when it returns; what is removed is overwritten, and what the log had of
/// it goes with the next sweep.
fn settle(connection: &Connection) -> Result<(), VaultError> {
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "journal_size_limit", 0)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// The steps that a profile of this format still needs.
fn missing<'a>(found: i64, steps: &'a [&'a str]) -> Result<&'a [&'a str], VaultError> {
    let known = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(VaultError::Newer { found, known });
    }
    let done = usize::try_from(found).map_err(|_| VaultError::Damaged("its format"))?;
    Ok(&steps[done..])
}

/// All steps that are missing, in one transaction.
fn migrate(connection: &mut Connection, steps: &[&str]) -> Result<(), VaultError> {
    let version = |connection: &Connection| {
        connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
    };
    if missing(version(connection)?, steps)?.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in missing(version(&transaction)?, steps)? {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(
        None,
        "user_version",
        i64::try_from(steps.len()).unwrap_or(i64::MAX),
    )?;
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "CREATE TABLE a (x); INSERT INTO a VALUES (7);";
    const SECOND: &str = "ALTER TABLE a ADD COLUMN y DEFAULT 8;";

    fn row(connection: &Connection) -> (i64, i64) {
        let row =
            connection.query_row("SELECT x, y FROM a", [], |row| Ok((row.get(0)?, row.get(1)?)));
        row.unwrap()
    }

    #[test]
    fn an_old_profile_is_brought_up_to_date() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, &[FIRST]).unwrap();
        migrate(&mut connection, &[FIRST, SECOND]).unwrap();
        migrate(&mut connection, &[FIRST, SECOND]).unwrap();
        assert_eq!(row(&connection), (7, 8), "each step was made once");
    }

    #[test]
    fn a_newer_profile_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, &[FIRST, SECOND]).unwrap();
        let newer = migrate(&mut connection, &[FIRST]);
        assert!(matches!(newer, Err(VaultError::Newer { found: 2, known: 1 })));
        assert_eq!(row(&connection), (7, 8));
    }

    #[test]
    fn a_migration_that_fails_changes_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, &[FIRST]).unwrap();
        let steps = [FIRST, SECOND, "CREATE TABLE b (x); nonsense;"];
        assert!(migrate(&mut connection, &steps).is_err());
        assert!(connection.prepare("SELECT y FROM a").is_err(), "the second step was undone too");
        assert!(connection.prepare("SELECT x FROM b").is_err());
        migrate(&mut connection, &[FIRST, SECOND]).unwrap();
        assert_eq!(row(&connection), (7, 8));
    }

    #[test]
    fn a_format_below_zero_is_damage() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", -1).unwrap();
        let migrated = migrate(&mut connection, &[FIRST]);
        assert!(matches!(migrated, Err(VaultError::Damaged(_))));
    }
}
