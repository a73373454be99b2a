//! What stands at the relay until its own time is over, and is not a frame: slots, bundles,
//! revoked tokens and spent invite codes. Each change reads, decides and waits for the disk, in its
//! turn: two changes of one thing never overlap.

mod accounts;
mod bundles;
mod slots;
mod turns;

use std::time::{Duration, Instant};

use tokio::sync::SemaphorePermit;
use valise_proto::limits::{BUNDLE_HOURS, REVOCATION_DAYS_AFTER, SLOT_HOURS};
use valise_proto::{MailboxId, Reason};

use crate::committer::{CommitFailed, Committer};
use crate::disk::Allowed;
use crate::limits::BUSY_RETRY_MS;
use crate::store::{
    BundleChange, Cutoff, Outdated, Revocation, RunningHours, SpentCode, Step, StoreError,
};
use turns::Turns;

pub use accounts::Accounts;
pub use bundles::{Taken, low, published, taken};
pub use slots::Put;

/// A request that was not carried out, and when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// In milliseconds; 0: not as it stands.
    pub retry_after_ms: u32,
}

impl Refusal {
    /// Too often, for so long.
    pub fn too_often(wait: Duration) -> Self {
        let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
        Self { reason: Reason::RateLimited, retry_after_ms }
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        let retry_after_ms = if reason == Reason::Busy { BUSY_RETRY_MS } else { 0 };
        Self { reason, retry_after_ms }
    }
}

impl From<StoreError> for Refusal {
    /// What cannot be read now is not known.
    fn from(_: StoreError) -> Self {
        Reason::Busy.into()
    }
}

impl From<CommitFailed> for Refusal {
    fn from(_: CommitFailed) -> Self {
        Reason::Busy.into()
    }
}

/// One per relay, shared by all connections.
pub struct Standing {
    // Static after construction.
    committer: Committer,
    disk: Allowed,
    turns: Turns,
    accounts: Accounts,
}

/// Outdated things that are looked for, and removed, at a time.
const SWEPT_AT_A_TIME: usize = 256;

impl Standing {
    /// Over this committer's store. What needs room is refused while this disk has none.
    pub fn new(committer: Committer, disk: Allowed) -> Self {
        Self { committer, disk, turns: Turns::default(), accounts: Accounts::default() }
    }

    /// Spends an invite code for this mailbox; durable when it returns. The same mailbox may do so
    /// again.
    ///
    /// # Errors
    /// `code_spent` by another mailbox, or `busy` when the store cannot tell.
    pub async fn spend(&self, code: SpentCode) -> Result<(), Reason> {
        let _turn = self.turns.of(&code.serial).await;
        let spent = self.committer.store().and_then(|store| store.spent(&code.serial));
        match spent {
            Ok(Some(earlier)) if earlier == code.mailbox => Ok(()),
            Ok(Some(_)) => Err(Reason::CodeSpent),
            Ok(None) if !self.disk.takes() => Err(Reason::Busy),
            Ok(None) => self.write(Step::Spend(code)).await.map_err(|_| Reason::Busy),
            Err(_) => Err(Reason::Busy),
        }
    }

    /// Remembers an ended token; durable when it returns.
    ///
    /// # Errors
    /// `busy` when the store failed.
    pub async fn revoke(&self, revocation: Revocation) -> Result<(), Refusal> {
        Ok(self.write(Step::Revoke(revocation)).await?)
    }

    /// The turn to change what belongs to this mailbox.
    pub async fn turn_of(&self, mailbox: &MailboxId) -> tokio::sync::MutexGuard<'_, ()> {
        self.turns.of(mailbox.as_bytes()).await
    }

    /// Removes everything that is outdated, a few things at a time.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn sweep(&self, hour: RunningHours, today: u16) -> Result<(), StoreError> {
        let before = |hours: u32| RunningHours(hour.0.saturating_sub(hours));
        let days = u16::try_from(REVOCATION_DAYS_AFTER).expect("60 is a u16");
        let cutoff = Cutoff {
            slots: before(SLOT_HOURS),
            bundles: before(BUNDLE_HOURS),
            tokens: today.saturating_sub(days),
        };
        loop {
            let committer = self.committer.clone();
            let found = tokio::task::spawn_blocking(move || {
                committer.store()?.outdated(&cutoff, SWEPT_AT_A_TIME)
            });
            let found = found.await.expect("reading the store never panics")?;
            let removals = found.iter().map(|outdated| self.forget(outdated, &cutoff));
            // Together, so that they share their commits.
            let removed = futures_util::future::join_all(removals).await;
            let all: bool = removed.into_iter().all(|result| result.is_ok());
            if found.len() < SWEPT_AT_A_TIME || !all {
                return Ok(());
            }
        }
    }

    /// Looks again in its turn: it may have been renewed meanwhile.
    async fn forget(&self, outdated: &Outdated, cutoff: &Cutoff) -> Result<(), Refusal> {
        let step = match outdated {
            Outdated::Slot(id) => {
                let _turn = self.turns.of(id.as_bytes()).await;
                return Ok(self.write(Step::Forget(Outdated::Slot(*id))).await?);
            }
            Outdated::Bundle(mailbox) => {
                let _turn = self.turn_of(mailbox).await;
                let Some(head) = self.committer.store()?.bundle(mailbox)? else { return Ok(()) };
                if head.published >= cutoff.bundles {
                    return Ok(());
                }
                let removed = bundles::numbers(&head).collect();
                let change =
                    BundleChange { mailbox: *mailbox, head: None, stored: Vec::new(), removed };
                return Ok(self.write(Step::Bundle(change)).await?);
            }
            Outdated::Revocation(..) | Outdated::Code(_) => Step::Forget(*outdated),
        };
        Ok(self.write(step).await?)
    }

    /// Forgets which tokens and mailboxes have not been busy lately.
    pub fn forget_full(&self, now: Instant) {
        self.accounts.forget_full(now);
    }

    async fn write(&self, step: Step) -> Result<(), CommitFailed> {
        self.committer.write(step).await
    }

    /// A place for so many payload bytes among what waits, if the disk has room for them too.
    fn wait_with(&self, bytes: usize) -> Result<SemaphorePermit<'_>, Refusal> {
        if !self.disk.takes() {
            return Err(Reason::Busy.into());
        }
        self.accounts.wait_with(bytes)
    }
}
