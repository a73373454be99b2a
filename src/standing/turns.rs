//! Whose turn it is to change something: one lock for each of 256 classes of ids.

use std::hash::{BuildHasher, RandomState};

use tokio::sync::{Mutex, MutexGuard};

/// Locks by id. Two ids may share one; nobody can choose which, since the classes are keyed anew in
/// every process.
pub(super) struct Turns {
    classes: RandomState,
    locks: [Mutex<()>; 256],
}

impl Default for Turns {
    fn default() -> Self {
        Self { classes: RandomState::new(), locks: std::array::from_fn(|_| Mutex::new(())) }
    }
}

impl Turns {
    /// Waits for the turn to change what has this id.
    pub(super) async fn of(&self, id: &[u8]) -> MutexGuard<'_, ()> {
        let class = self.classes.hash_one(id) % 256;
        self.locks[usize::try_from(class).expect("below 256")].lock().await
    }
}
