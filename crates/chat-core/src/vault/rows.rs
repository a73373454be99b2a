//! Typed rows: protobuf messages, each sealed by itself and tied to its place.

use aws_lc_rs::hmac;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::VaultError;
use super::sealing::{Key, Sealer};

/// Something a profile keeps.
pub trait Record: prost::Message + Default {
    /// The kind's number: one for each type, for ever.
    const KIND: u8;

    /// Whose child the row is; 0: nobody's.
    fn parent(&self) -> i64 {
        0
    }

    /// What the row is found by, once in its kind. The disk sees only a keyed hash of it.
    fn lookup(&self) -> Option<Vec<u8>> {
        None
    }

    /// When something is to be done about it, milliseconds since 1970.
    fn due(&self) -> Option<i64> {
        None
    }
}

/// The keys of the rows.
pub(super) struct RowKeys {
    sealer: Sealer,
    names: hmac::Key,
}

impl RowKeys {
    pub(super) fn new(key: &Key) -> Self {
        Self { sealer: key.subkey("rows").sealer(), names: key.subkey("names").names() }
    }
}

/// One transaction of the vault.
pub struct Transaction<'a> {
    connection: &'a Connection,
    keys: &'a RowKeys,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(connection: &'a Connection, keys: &'a RowKeys) -> Self {
        Self { connection, keys }
    }

    /// The row with this id.
    ///
    /// # Errors
    /// [`VaultError`], as all of these.
    pub fn get<T: Record>(&self, id: i64) -> Result<Option<T>, VaultError> {
        let sql = "SELECT value FROM rows WHERE kind = ?1 AND id = ?2";
        let value: Option<Vec<u8>> = self
            .connection
            .prepare_cached(sql)?
            .query_row(params![T::KIND, id], |row| row.get(0))
            .optional()?;
        value.map(|value| self.open(id, &value)).transpose()
    }

    /// The row with this lookup key, and its id.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn find<T: Record>(&self, lookup: &[u8]) -> Result<Option<(i64, T)>, VaultError> {
        let sql = "SELECT id, value FROM rows WHERE kind = ?1 AND lookup = ?2";
        let name = self.name::<T>(lookup);
        let found: Option<(i64, Vec<u8>)> = self
            .connection
            .prepare_cached(sql)?
            .query_row(params![T::KIND, name], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        found.map(|(id, value)| Ok((id, self.open(id, &value)?))).transpose()
    }

    /// A new row; its id is larger than any its kind ever had.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn insert<T: Record>(&self, record: &T) -> Result<i64, VaultError> {
        let sql = "INSERT INTO ids (kind, last) VALUES (?1, 1) \
                   ON CONFLICT (kind) DO UPDATE SET last = last + 1 RETURNING last";
        let id: i64 =
            self.connection.prepare_cached(sql)?.query_row(params![T::KIND], |row| row.get(0))?;
        self.write(id, record)?;
        Ok(id)
    }

    /// The row with this id is this from now on.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn put<T: Record>(&self, id: i64, record: &T) -> Result<(), VaultError> {
        let sql = "INSERT INTO ids (kind, last) VALUES (?1, ?2) \
                   ON CONFLICT (kind) DO UPDATE SET last = max(last, ?2)";
        self.connection.prepare_cached(sql)?.execute(params![T::KIND, id])?;
        self.write(id, record)
    }

    fn write<T: Record>(&self, id: i64, record: &T) -> Result<(), VaultError> {
        let value = self.keys.sealer.seal(&place::<T>(id), record.encode_to_vec());
        let lookup = record.lookup().map(|lookup| self.name::<T>(&lookup));
        // A lookup key that another row has is an error of ours, not a reason to replace that row.
        let sql = "INSERT INTO rows (kind, id, parent, lookup, due, value) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (kind, id) DO UPDATE SET \
                   parent = ?3, lookup = ?4, due = ?5, value = ?6";
        let values = params![T::KIND, id, record.parent(), lookup, record.due(), value];
        self.connection.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }

    /// Whether there was such a row; there is none now.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn remove<T: Record>(&self, id: i64) -> Result<bool, VaultError> {
        let sql = "DELETE FROM rows WHERE kind = ?1 AND id = ?2";
        Ok(self.connection.prepare_cached(sql)?.execute(params![T::KIND, id])? > 0)
    }

    /// Removes all children; how many there were.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn remove_all<T: Record>(&self, parent: i64) -> Result<u64, VaultError> {
        let sql = "DELETE FROM rows WHERE kind = ?1 AND parent = ?2";
        Ok(self.connection.prepare_cached(sql)?.execute(params![T::KIND, parent])? as u64)
    }

    /// All rows of the kind, in order of their ids.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn all<T: Record>(&self) -> Result<Vec<(i64, T)>, VaultError> {
        self.select("SELECT id, value FROM rows WHERE kind = ?1 ORDER BY id", params![T::KIND])
    }

    /// The children of a row, in order of their ids.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn children<T: Record>(&self, parent: i64) -> Result<Vec<(i64, T)>, VaultError> {
        let sql = "SELECT id, value FROM rows WHERE kind = ?1 AND parent = ?2 ORDER BY id";
        self.select(sql, params![T::KIND, parent])
    }

    /// The last so many children before an id, in order.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn last<T: Record>(
        &self,
        parent: i64,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<(i64, T)>, VaultError> {
        let sql = "SELECT id, value FROM rows WHERE kind = ?1 AND parent = ?2 AND id < ?3 \
                   ORDER BY id DESC LIMIT ?4";
        let before = before.unwrap_or(i64::MAX);
        let mut rows = self.select(sql, params![T::KIND, parent, before, limit])?;
        rows.reverse();
        Ok(rows)
    }

    /// How many children a row has.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn count<T: Record>(&self, parent: i64) -> Result<u64, VaultError> {
        let sql = "SELECT count(*) FROM rows WHERE kind = ?1 AND parent = ?2";
        let count: i64 = self
            .connection
            .prepare_cached(sql)?
            .query_row(params![T::KIND, parent], |row| row.get(0))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Rows that are due, the earliest first.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn due<T: Record>(&self, now: i64, limit: u32) -> Result<Vec<(i64, T)>, VaultError> {
        let sql = "SELECT id, value FROM rows WHERE kind = ?1 AND due <= ?2 ORDER BY due LIMIT ?3";
        self.select(sql, params![T::KIND, now, limit])
    }

    /// When the next row is due.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn next_due<T: Record>(&self) -> Result<Option<i64>, VaultError> {
        let sql = "SELECT min(due) FROM rows WHERE kind = ?1 AND due IS NOT NULL";
        Ok(self.connection.prepare_cached(sql)?.query_row(params![T::KIND], |row| row.get(0))?)
    }

    fn select<T: Record>(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
    ) -> Result<Vec<(i64, T)>, VaultError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let pair = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let mut rows = Vec::new();
        for row in statement.query_map(values, pair)? {
            let (id, value): (i64, Vec<u8>) = row?;
            rows.push((id, self.open(id, &value)?));
        }
        Ok(rows)
    }

    fn open<T: Record>(&self, id: i64, value: &[u8]) -> Result<T, VaultError> {
        let plain = self.keys.sealer.open(&place::<T>(id), value);
        let plain = plain.ok_or(VaultError::Damaged("a row that was changed or moved"))?;
        T::decode(plain.as_slice()).map_err(|_| VaultError::Damaged("a row's content"))
    }

    fn name<T: Record>(&self, lookup: &[u8]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.keys.names);
        context.update(&[T::KIND]);
        context.update(lookup);
        context.sign().as_ref().to_vec()
    }
}

/// What ties a value to its row.
fn place<T: Record>(id: i64) -> [u8; 9] {
    let mut place = [T::KIND; 9];
    place[1..].copy_from_slice(&id.to_be_bytes());
    place
}
