//! OpenMLS's cryptography (RustCrypto), and a storage in memory that knows what has changed.

use std::collections::HashMap;
use std::sync::PoisonError;

use openmls_memory_storage::MemoryStorage;
use openmls_rust_crypto::RustCrypto;
use openmls_traits::OpenMlsProvider;

use super::Entry;

#[derive(Default)]
pub(super) struct Provider {
    crypto: RustCrypto,
    storage: MemoryStorage,
    /// As it was written last.
    saved: HashMap<Vec<u8>, Vec<u8>>,
}

impl Provider {
    pub(super) fn with(entries: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        let saved: HashMap<_, _> = entries.into_iter().collect();
        let provider = Self { saved, ..Default::default() };
        provider.values().clone_from(&provider.saved);
        provider
    }

    fn values(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<Vec<u8>, Vec<u8>>> {
        self.storage.values.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn entries(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.values().iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Everything is as it was.
    pub(super) fn reset(&self, entries: Vec<(Vec<u8>, Vec<u8>)>) {
        *self.values() = entries.into_iter().collect();
    }

    /// Everything counts as new from now on; what is only there from before goes.
    pub(super) fn forget_saved(&mut self) {
        let saved = std::mem::take(&mut self.saved);
        self.values().retain(|key, value| saved.get(key) != Some(value));
    }

    pub(super) fn changes(&mut self) -> Vec<Entry> {
        let values = self.values().clone();
        let mut changes = Vec::new();
        for (key, value) in &values {
            if self.saved.get(key) != Some(value) {
                changes.push(Entry { key: key.clone(), value: Some(value.clone()) });
            }
        }
        for key in self.saved.keys().filter(|key| !values.contains_key(*key)) {
            changes.push(Entry { key: key.clone(), value: None });
        }
        self.saved = values;
        changes
    }
}

impl OpenMlsProvider for Provider {
    type CryptoProvider = RustCrypto;
    type RandProvider = RustCrypto;
    type StorageProvider = MemoryStorage;

    fn storage(&self) -> &MemoryStorage {
        &self.storage
    }

    fn crypto(&self) -> &RustCrypto {
        &self.crypto
    }

    fn rand(&self) -> &RustCrypto {
        &self.crypto
    }
}
