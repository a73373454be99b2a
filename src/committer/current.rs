//! The store in use. It is taken away while it is opened again after a failure: then nobody may
//! hold it, and readers are told to come back.

use std::ops::Deref;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use crate::store::{Store, StoreError};

/// Holds the store, or nothing while it is being opened again.
pub(super) struct Current(RwLock<Option<Arc<dyn Store>>>);

/// The store for one short use. It is not taken away before this is dropped, so this must not
/// be kept; it cannot be kept across an await.
pub struct InUse<'a>(RwLockReadGuard<'a, Option<Arc<dyn Store>>>);

impl Current {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self(RwLock::new(Some(store)))
    }

    /// The store, for reading or for a commit.
    ///
    /// # Errors
    /// [`StoreError::Reopening`] while there is none.
    pub(super) fn get(&self) -> Result<InUse<'_>, StoreError> {
        let store = self.0.read().expect("nothing panics while it reads the store");
        if store.is_some() { Ok(InUse(store)) } else { Err(StoreError::Reopening) }
    }

    /// Takes the store away, once nobody uses it. Closing it can take its time, so that is the
    /// caller's to do, with nobody waiting.
    pub(super) fn take(&self) -> Option<Arc<dyn Store>> {
        self.0.write().expect("nothing panics while it reads the store").take()
    }

    pub(super) fn put(&self, store: Arc<dyn Store>) {
        *self.0.write().expect("nothing panics while it reads the store") = Some(store);
    }
}

impl Deref for InUse<'_> {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        self.0.as_deref().expect("it was there, and is not taken while it is in use")
    }
}
