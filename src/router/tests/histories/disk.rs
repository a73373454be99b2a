//! What survives the relay: a memory store, or a directory of the embedded one, which can be left
//! behind as it is in the middle of a write.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::store::{EmbeddedOptions, EmbeddedStore, MemoryStore, ShardKey, Store};

/// Where a history's frames are kept.
pub(super) enum Disk {
    Memory(Arc<MemoryStore>),
    Embedded { home: TempDir, lives: u32, store: Option<Arc<EmbeddedStore>> },
}

impl Disk {
    pub(super) fn memory() -> Self {
        Self::Memory(Arc::new(MemoryStore::new()))
    }

    pub(super) fn embedded() -> Self {
        let memory = Path::new("/dev/shm");
        let home = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        Self::Embedded { home: home.unwrap(), lives: 0, store: None }
    }

    /// The store of the relay's next life.
    pub(super) fn open(&mut self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => store.clone(),
            Self::Embedded { home, lives, store } => {
                let options = EmbeddedOptions::default();
                let dir = home.path().join(lives.to_string());
                let opened = EmbeddedStore::open(&dir, ShardKey::new(&[9; 32]), options).unwrap();
                store.insert(Arc::new(opened)).clone()
            }
        }
    }

    /// The relay ended in order.
    pub(super) fn close(&mut self) {
        if let Self::Embedded { store, .. } = self {
            *store = None;
        }
    }

    /// The relay dies now: its next life finds the files as they are.
    pub(super) fn crash(&mut self) {
        if let Self::Embedded { home, lives, store } = self {
            let dirs = [0, 1].map(|later| home.path().join((*lives + later).to_string()));
            copy_files(&dirs[0], &dirs[1]);
            *store = None;
            fs::remove_dir_all(&dirs[0]).unwrap();
            *lives += 1;
        }
    }

    /// The relay dies while it writes what `write` does; `part` 256ths of that are on the disk.
    pub(super) fn tear(&self, part: u8, write: impl FnOnce()) -> Option<Torn> {
        let Self::Embedded { home, lives, .. } = self else { return None };
        let dir = home.path().join(lives.to_string());
        let high_water = fs::read(dir.join("high-water")).unwrap();
        let before = journal(&dir).1.len();
        write();
        let (path, bytes) = journal(&dir);
        let end = before + (bytes.len() - before) * usize::from(part) / 256;
        Some(Torn { journal: (path, bytes[..end].to_vec()), high_water })
    }

    /// Makes the files say what they said in the middle of the write.
    pub(super) fn put_back(&self, torn: Torn) {
        let Self::Embedded { home, lives, .. } = self else { return };
        let dir = home.path().join(lives.to_string());
        // Cut, and not filled up with zeros, which in its length fields the engine takes for a
        // mistake of its own where debug assertions are on.
        let (path, bytes) = torn.journal;
        fs::write(path, bytes).unwrap();
        fs::write(dir.join("high-water"), torn.high_water).unwrap();
    }

    /// How many things the store keeps, whatever they are, and how many it should keep: for so
    /// many frames, of which so many have an unusual time to live, in so many mailboxes.
    pub(super) fn keeps(&self, frames: usize, unusual: usize, mailboxes: usize) -> (usize, usize) {
        match self {
            Self::Memory(store) => (store.mailboxes(), mailboxes),
            Self::Embedded { store, .. } => {
                let keys = store.as_ref().map_or(0, |store| store.keys().len());
                // The format's key, and that of the state once there is something to say of it.
                let state = usize::from(keys > 1);
                (keys, frames + unusual + mailboxes + 1 + state)
            }
        }
    }
}

/// The files of a store in the middle of a write.
pub(super) struct Torn {
    journal: (PathBuf, Vec<u8>),
    high_water: Vec<u8>,
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy_files(&path, &target);
        } else {
            write_sparse(&target, &written(&path), entry.metadata().unwrap().len());
        }
    }
}

fn write_sparse(path: &Path, bytes: &[u8], len: u64) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file.set_len(len).unwrap();
}

/// What was written to a file that may have been made longer before: nothing the engine writes has
/// so many zeros in a row.
fn written(path: &Path) -> Vec<u8> {
    const CHUNK: u64 = 128 * 1024;
    let mut file = File::open(path).unwrap();
    let mut bytes = Vec::new();
    loop {
        let before = bytes.len();
        let read = (&mut file).take(CHUNK).read_to_end(&mut bytes).unwrap();
        if read == 0 || bytes[before..].iter().all(|byte| *byte == 0) {
            bytes.truncate(before);
            return bytes;
        }
    }
}

/// The engine's journal up to its last byte that is not zero, where its last batch ends.
fn journal(dir: &Path) -> (PathBuf, Vec<u8>) {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut journals = files.filter(|path| path.extension().is_some_and(|ext| ext == "jnl"));
    let path = journals.next().unwrap();
    assert!(journals.next().is_none(), "histories are short");
    let mut bytes = written(&path);
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1));
    (path, bytes)
}
