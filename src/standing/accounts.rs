//! What may be asked for by whom: budgets that are kept in memory, whatever keeps the rest.

use std::sync::Mutex;
use std::time::Instant;

use tokio::sync::{Semaphore, SemaphorePermit};
use valise_proto::{MailboxId, Reason};

use super::Refusal;
use crate::limits::STANDING_BYTES_WAITING_MAX;
use crate::rate::{Buckets, Rate};

/// The budgets of slots and bundles.
pub struct Accounts {
    /// Payload that may wait to become durable, in units of the smallest payload.
    waiting: Semaphore,
    // Guarded by their mutexes.
    slot_bytes: Mutex<Buckets<MailboxId>>,
    takes: Mutex<Buckets<[u8; 8]>>,
}

/// Payload is counted in so many bytes.
const WAITING_UNIT: usize = 512;

const LOCKED: &str = "no one panics while counting";

impl Default for Accounts {
    fn default() -> Self {
        Self {
            waiting: Semaphore::new(STANDING_BYTES_WAITING_MAX / WAITING_UNIT),
            slot_bytes: Mutex::default(),
            takes: Mutex::default(),
        }
    }
}

impl Accounts {
    /// A place for so many payload bytes among what waits.
    ///
    /// # Errors
    /// `busy` when there is none.
    pub fn wait_with(&self, bytes: usize) -> Result<SemaphorePermit<'_>, Refusal> {
        let units = u32::try_from(bytes.div_ceil(WAITING_UNIT)).map_err(|_| Reason::Busy)?;
        self.waiting.try_acquire_many(units).map_err(|_| Reason::Busy.into())
    }

    /// Takes so many bytes in a slot from the account of a mailbox.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn charge(
        &self,
        account: &MailboxId,
        bytes: usize,
        rate: &Rate,
        now: Instant,
    ) -> Result<(), Refusal> {
        let cost = u32::try_from(bytes).expect("a payload has at most 64 KiB");
        let mut buckets = self.slot_bytes.lock().expect(LOCKED);
        buckets.take_many(*account, rate, cost, now).map_err(Refusal::too_often)
    }

    /// Counts one item taken with a token.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn take(&self, serial: [u8; 8], rate: &Rate, now: Instant) -> Result<(), Refusal> {
        self.takes.lock().expect(LOCKED).take(serial, rate, now).map_err(Refusal::too_often)
    }

    /// Forgets which tokens and mailboxes have not been busy lately.
    pub fn forget_full(&self, now: Instant) {
        self.slot_bytes.lock().expect(LOCKED).forget_full(now);
        self.takes.lock().expect(LOCKED).forget_full(now);
    }
}
