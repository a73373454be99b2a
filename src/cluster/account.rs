//! What this node knows of a mailbox that is used here: which tokens are revoked, how busy its
//! capabilities are, and the posts on their way to it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use valise_proto::MailboxId;

use super::posts::Waiting;
use crate::limits::CLUSTER_SWEEP_SECONDS;
use crate::rate::Buckets;
use crate::store::Seq;
use crate::store::jetstream::Revocations;

/// One mailbox.
pub(super) struct Account {
    pub(super) mailbox: MailboxId,
    state: Mutex<Known>,
}

/// Behind the lock.
#[derive(Default)]
pub(super) struct Known {
    revoked: Option<Read>,
    pub(super) rates: Buckets<[u8; 8]>,
    /// Posts that wait, in order.
    pub(super) waiting: VecDeque<Waiting>,
    /// Somebody sees to them.
    pub(super) posting: bool,
    /// What was acknowledged here; the store may not have forgotten it yet.
    pub(super) floor: Seq,
    pub(super) touched: Option<Instant>,
}

/// Revocations as they were read.
struct Read {
    revocations: Arc<Revocations>,
    at: Instant,
    /// Of how many gaps the bus had told then.
    gaps: u64,
}

impl Account {
    pub(super) fn new(mailbox: MailboxId) -> Self {
        Self { mailbox, state: Mutex::default() }
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.state.lock().expect("no one panics while changing an account")
    }

    /// Nothing waits, and nothing is remembered that counts.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let mut known = self.known();
        known.rates.forget_full(now);
        let quiet = Duration::from_secs(2 * CLUSTER_SWEEP_SECONDS);
        !known.posting
            && known.waiting.is_empty()
            && known.rates.is_empty()
            && known.touched.is_none_or(|at| now.duration_since(at) >= quiet)
    }
}

impl Known {
    /// The revoked tokens, if what is known of them is good: nothing that was told since can have
    /// been missed, and it is not old.
    pub(super) fn revoked(&self, now: Instant, gaps: u64) -> Option<Arc<Revocations>> {
        let fresh = |read: &&Read| {
            read.gaps == gaps
                && now.saturating_duration_since(read.at).as_secs() < CLUSTER_SWEEP_SECONDS
        };
        self.revoked.as_ref().filter(fresh).map(|read| Arc::clone(&read.revocations))
    }

    /// Whether it is known that this token is revoked; a revocation is never taken back.
    pub(super) fn knows_revoked(&self, serial: &[u8; 8]) -> bool {
        self.revoked.as_ref().is_some_and(|read| read.revocations.contains(serial))
    }

    /// They were asked for when the bus had told of so many gaps, at this time.
    pub(super) fn read(&mut self, read: Revocations, at: Instant, gaps: u64) {
        let earlier = self.revoked.as_ref().map(|earlier| &earlier.revocations);
        // What was pushed meanwhile may be newer than what was read.
        let revocations = match earlier {
            Some(earlier) if earlier.version > read.version => Arc::clone(earlier),
            _ => Arc::new(read),
        };
        self.revoked = Some(Read { revocations, at, gaps });
    }

    /// They were changed by somebody.
    pub(super) fn told(&mut self, told: Revocations) {
        match &mut self.revoked {
            Some(read) if read.revocations.version < told.version => {
                read.revocations = Arc::new(told);
            }
            Some(_) => {}
            // Somebody may be reading them just now. Never good enough by itself.
            None => {
                let at = Instant::now();
                self.revoked = Some(Read { revocations: Arc::new(told), at, gaps: u64::MAX });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revocations(version: u64, serial: u8) -> Revocations {
        Revocations { version, serials: vec![([serial; 8], 9)] }
    }

    #[test]
    fn what_was_read_is_good_until_something_may_be_missed() {
        let now = Instant::now();
        let mut known = Known::default();
        assert!(known.revoked(now, 1).is_none());
        known.read(revocations(3, 1), now, 1);
        assert!(known.revoked(now, 1).expect("fresh").contains(&[1; 8]));
        assert!(known.revoked(now, 2).is_none(), "after a gap");
        let later = now + Duration::from_secs(CLUSTER_SWEEP_SECONDS);
        assert!(known.revoked(later, 1).is_none(), "it is old");
        known.told(revocations(4, 2));
        assert!(known.revoked(now, 1).expect("fresh").contains(&[2; 8]));
        known.told(revocations(3, 5));
        assert!(known.knows_revoked(&[2; 8]), "an older one says nothing");
    }

    #[test]
    fn what_is_pushed_while_it_is_read_wins() {
        let now = Instant::now();
        let mut known = Known::default();
        known.told(revocations(7, 2));
        assert!(known.revoked(now, 1).is_none(), "not good enough by itself");
        known.read(revocations(6, 1), now, 1);
        assert!(known.revoked(now, 1).expect("fresh").contains(&[2; 8]));
    }
}
