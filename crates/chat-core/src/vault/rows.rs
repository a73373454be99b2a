//! Typed rows: protobuf messages, each sealed by itself and tied to its place.

use aws_lc_rs::hmac;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};

use super::VaultError;
use super::sealing::{Key, Sealer};

/// Something a profile keeps. Parent, lookup key and due time follow from the content alone: they
/// are compared with it when a row was found by them. So how they follow never changes for rows that
/// are stored already.
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
        Self {
            sealer: key.subkey("valise profile rows 1").sealer(),
            names: key.subkey("valise profile lookup 1").hmac(),
        }
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
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![T::KIND, id])?;
        rows.next()?.map(|row| self.open(id, row.get_ref(0)?)).transpose()
    }

    /// The row with this lookup key, and its id.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn find<T: Record>(&self, lookup: &[u8]) -> Result<Option<(i64, T)>, VaultError> {
        let sql = "SELECT id, value FROM rows WHERE kind = ?1 AND lookup = ?2";
        let name = self.name::<T>(lookup);
        let is_it = |record: &T| record.lookup().as_deref() == Some(lookup);
        Ok(self.select(sql, params![T::KIND, name], is_it)?.pop())
    }

    /// A new row; its id is larger than any its kind ever had.
    ///
    /// # Errors
    /// [`VaultError`]; [`VaultError::Taken`] if another row has its lookup key.
    pub fn insert<T: Record>(&self, record: &T) -> Result<i64, VaultError> {
        let sql = "INSERT INTO ids (kind, last) VALUES (?1, 1) \
                   ON CONFLICT (kind) DO UPDATE SET last = last + 1 RETURNING last";
        let id: i64 =
            self.connection.prepare_cached(sql)?.query_row(params![T::KIND], |row| row.get(0))?;
        let sql = "INSERT INTO rows (parent, lookup, due, value, kind, id) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        self.write(sql, id, record)?;
        Ok(id)
    }

    /// The row with this id, 1 or more, is this from now on.
    ///
    /// # Errors
    /// [`VaultError`]; [`VaultError::Taken`] if another row has its lookup key.
    pub fn put<T: Record>(&self, id: i64, record: &T) -> Result<(), VaultError> {
        let sql = "UPDATE rows SET parent = ?1, lookup = ?2, due = ?3, value = ?4 \
                   WHERE kind = ?5 AND id = ?6";
        if self.write(sql, id, record)? == 1 {
            return Ok(());
        }
        let sql = "INSERT INTO ids (kind, last) VALUES (?1, ?2) \
                   ON CONFLICT (kind) DO UPDATE SET last = max(last, ?2)";
        self.connection.prepare_cached(sql)?.execute(params![T::KIND, id])?;
        let sql = "INSERT INTO rows (parent, lookup, due, value, kind, id) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        self.write(sql, id, record)?;
        Ok(())
    }

    fn write<T: Record>(&self, sql: &str, id: i64, record: &T) -> Result<usize, VaultError> {
        let value = self.keys.sealer.seal(&place::<T>(id), record.encoded_len(), |bytes| {
            record.encode(bytes).expect("a vector has room");
        });
        let lookup = record.lookup().map(|lookup| self.name::<T>(&lookup));
        let values = params![record.parent(), lookup, record.due(), value, T::KIND, id];
        Ok(self.connection.prepare_cached(sql)?.execute(values)?)
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
        let sql = "SELECT id, value FROM rows WHERE kind = ?1 ORDER BY id";
        self.select(sql, params![T::KIND], |_| true)
    }

    /// The children of a row, in order of their ids.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn children<T: Record>(&self, parent: i64) -> Result<Vec<(i64, T)>, VaultError> {
        let sql = "SELECT id, value FROM rows WHERE kind = ?1 AND parent = ?2 ORDER BY id";
        self.select(sql, params![T::KIND, parent], |record: &T| record.parent() == parent)
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
        let values = params![T::KIND, parent, before.unwrap_or(i64::MAX), limit];
        let mut rows = self.select(sql, values, |record: &T| record.parent() == parent)?;
        rows.reverse();
        Ok(rows)
    }

    /// The first so many children after an id, in order.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn after<T: Record>(
        &self,
        parent: i64,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(i64, T)>, VaultError> {
        let sql = "SELECT id, value FROM rows WHERE kind = ?1 AND parent = ?2 AND id > ?3 \
                   ORDER BY id LIMIT ?4";
        let values = params![T::KIND, parent, after, limit];
        self.select(sql, values, |record: &T| record.parent() == parent)
    }

    /// How many children a row has.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn count<T: Record>(&self, parent: i64) -> Result<u64, VaultError> {
        let sql = "SELECT count(*) FROM rows WHERE kind = ?1 AND parent = ?2";
        let values = params![T::KIND, parent];
        let count: i64 =
            self.connection.prepare_cached(sql)?.query_row(values, |row| row.get(0))?;
        Ok(u64::try_from(count).expect("a count is not below zero"))
    }

    /// Rows that are due, the earliest first.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn due<T: Record>(&self, now: i64, limit: u32) -> Result<Vec<(i64, T)>, VaultError> {
        let sql =
            "SELECT id, value FROM rows WHERE kind = ?1 AND due <= ?2 ORDER BY due, id LIMIT ?3";
        let is_due = |record: &T| record.due().is_some_and(|due| due <= now);
        self.select(sql, params![T::KIND, now, limit], is_due)
    }

    /// When the next row is due.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn next_due<T: Record>(&self) -> Result<Option<i64>, VaultError> {
        let sql = "SELECT min(due) FROM rows WHERE kind = ?1 AND due IS NOT NULL";
        Ok(self.connection.prepare_cached(sql)?.query_row(params![T::KIND], |row| row.get(0))?)
    }

    /// Rows that a statement finds, and whose content says that it found the right ones.
    fn select<T: Record>(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
        fits: impl Fn(&T) -> bool,
    ) -> Result<Vec<(i64, T)>, VaultError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let id = row.get(0)?;
            let record = self.open(id, row.get_ref(1)?)?;
            if !fits(&record) {
                return Err(VaultError::Damaged("a row is not what it is found by"));
            }
            found.push((id, record));
        }
        Ok(found)
    }

    fn open<T: Record>(&self, id: i64, value: ValueRef<'_>) -> Result<T, VaultError> {
        let ValueRef::Blob(value) = value else {
            return Err(VaultError::Damaged("a column holds what it cannot hold"));
        };
        let plain = self.keys.sealer.open(&place::<T>(id), value);
        let plain = plain.ok_or(VaultError::Damaged("a row was changed or moved"))?;
        T::decode(plain.as_slice())
            .map_err(|_| VaultError::Damaged("a row has the content of another program"))
    }

    fn name<T: Record>(&self, lookup: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.keys.names);
        context.update(&[T::KIND]);
        context.update(lookup);
        context.sign().as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
    }
}

/// What ties a value to its row.
fn place<T: Record>(id: i64) -> [u8; 9] {
    let mut place = [T::KIND; 9];
    place[1..].copy_from_slice(&id.to_be_bytes());
    place
}
