//! The tables, and how older ones become the newest.

use rusqlite::{Connection, TransactionBehavior, params};

use super::VaultError;

/// `PRAGMA application_id`: says whose file it is.
const APPLICATION: i64 = 0x5641_4C31;

/// What brings a profile from the format of its index to the next. Only ever appended to.
const STEPS: &[&str] = &[
    "CREATE TABLE header (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
     CREATE TABLE ids (kind INTEGER PRIMARY KEY, last INTEGER NOT NULL);
     CREATE TABLE rows (
         kind INTEGER NOT NULL, id INTEGER NOT NULL, parent INTEGER NOT NULL,
         lookup BLOB, due INTEGER, value BLOB NOT NULL,
         PRIMARY KEY (kind, id)
     ) WITHOUT ROWID;
     CREATE INDEX rows_by_parent ON rows (kind, parent, id);
     CREATE UNIQUE INDEX rows_by_lookup ON rows (kind, lookup) WHERE lookup IS NOT NULL;
     CREATE INDEX rows_by_due ON rows (kind, due) WHERE due IS NOT NULL;",
];

/// Makes the tables of an empty database, with the wrapped key.
pub(super) fn create(connection: &mut Connection, wrapped: &[u8]) -> Result<(), VaultError> {
    prepare(connection)?;
    connection.pragma_update(None, "application_id", APPLICATION)?;
    migrate(connection, STEPS)?;
    set_key(connection, wrapped)
}

/// Brings the tables up to date and returns the wrapped key.
pub(super) fn open(connection: &mut Connection) -> Result<Vec<u8>, VaultError> {
    let whose: i64 = connection
        .pragma_query_value(None, "application_id", |row| row.get(0))
        .map_err(|_| VaultError::Damaged("its file is no database"))?;
    if whose != APPLICATION {
        return Err(VaultError::Damaged("its file is not of this program"));
    }
    prepare(connection)?;
    migrate(connection, STEPS)?;
    let sql = "SELECT value FROM header WHERE name = 'key'";
    let key = connection.query_row(sql, [], |row| row.get(0));
    key.map_err(|_| VaultError::Damaged("its header"))
}

pub(super) fn set_key(connection: &Connection, wrapped: &[u8]) -> Result<(), VaultError> {
    let sql = "INSERT OR REPLACE INTO header (name, value) VALUES ('key', ?1)";
    connection.execute(sql, params![wrapped])?;
    Ok(())
}

/// A commit is on the disk when it returns; what is removed is overwritten.
pub(super) fn prepare(connection: &Connection) -> Result<(), VaultError> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// All steps that are missing, in one transaction.
fn migrate(connection: &mut Connection, steps: &[&str]) -> Result<(), VaultError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(VaultError::Newer { found, known });
    }
    for step in &steps[usize::try_from(found).unwrap_or(0)..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_profile_is_brought_up_to_date_and_a_new_one_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        let (first, second) = (
            "CREATE TABLE a (x); INSERT INTO a VALUES (7);",
            "ALTER TABLE a ADD COLUMN y DEFAULT 8;",
        );
        migrate(&mut connection, &[first]).unwrap();
        migrate(&mut connection, &[first, second]).unwrap();
        migrate(&mut connection, &[first, second]).unwrap();
        let row = connection.query_row("SELECT x, y FROM a", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        });
        assert_eq!(row.unwrap(), (7, 8));
        let newer = migrate(&mut connection, &[first]);
        assert!(matches!(newer, Err(VaultError::Newer { found: 2, known: 1 })));
        let broken = migrate(&mut connection, &[first, second, "CREATE TABLE b (x); nonsense;"]);
        assert!(broken.is_err());
        assert!(connection.query_row("SELECT * FROM b", [], |_| Ok(())).is_err(), "rolled back");
    }
}
