//! What a relay does by itself: it has its store back when that failed, watches the disk, and gives
//! up what is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::Kept;
use crate::admin::{Readiness, Realm};
use crate::cluster::Cluster;
use crate::committer::{Committer, Recovery, Room, Status};
use crate::disk::{Disk, Standing};
use crate::engines::Local;
use crate::limits::{DISK_LOOK_MS, RECLAIM_SECONDS, SWEEP_SECONDS};
use crate::metrics::{DiskTotals, Metrics};
use crate::migration::Shards;
use crate::relay::{Relay, today};
use crate::store::{RunningHours, Store, StoreError};

/// How the store is had back: with the ballast thrown off, if it was room that it had not.
pub(super) fn recovery(
    disk: &Arc<Disk>,
    open: Box<dyn FnMut() -> Result<Arc<dyn Store>, StoreError> + Send>,
) -> Recovery {
    let disk = Arc::clone(disk);
    let make_room = move |error: &StoreError| {
        if !error.is_no_space() && !disk.is_short() {
            Room::Enough
        } else if disk.make_room() {
            Room::Some
        } else {
            Room::None
        }
    };
    Recovery { open, make_room: Box::new(make_room) }
}

/// Tells others how it stands with the store, until that changes no more.
pub(super) async fn follow(
    metrics: Metrics,
    local: Arc<Local>,
    committer: Committer,
    readiness: Arc<Readiness>,
) {
    let mut status = committer.status();
    loop {
        {
            let status = status.borrow_and_update();
            match &*status {
                Status::Open => readiness.store_open(),
                Status::Recovering(reason) | Status::Failed(reason) => {
                    readiness.store_failed(reason);
                }
            }
            metrics.store_open(*status == Status::Open);
        }
        // It may be readable again, even if it does not take anything yet.
        local.ring();
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Tells others how it stands with the data centre, until this node is out of it.
pub(super) async fn follow_cluster(
    metrics: Metrics,
    cluster: Arc<Cluster>,
    readiness: Arc<Readiness>,
) {
    readiness.store_open();
    metrics.store_open(true);
    let reason = cluster.failed().await;
    readiness.store_failed(&reason);
    metrics.store_open(false);
}

/// Tells others whether the realm is still served here, once a second.
pub(super) async fn watch_realm(relay: Arc<Relay>, kept: Kept, readiness: Arc<Readiness>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let shards = match &kept {
        Kept::Local { committer, .. } => Shards::of(committer),
        Kept::Cluster(_) => None,
    };
    let mut was_left = false;
    loop {
        ticks.tick().await;
        let is_left = shards.as_ref().is_some_and(|shards| shards.phase().serves().is_err());
        if is_left && !std::mem::replace(&mut was_left, true) {
            tracing::error!("{FENCED}");
        }
        readiness.realm(match relay.claimed_epoch() {
            _ if is_left => Realm::Left(FENCED.to_owned()),
            Some(epoch) => Realm::Note(format!(
                "somebody claims to know epoch {epoch} of the realm, which is newer than this relay's"
            )),
            None => Realm::Served,
        });
    }
}

const FENCED: &str = "a newer record of the realm does not list this relay: it serves nobody; it was \
    signed out, or restored from an old backup: see OPERATIONS, Moving";

/// Looks at the disk once a second. Where it is full, the store gives back what room it can.
pub(super) async fn watch_disk(disk: Arc<Disk>, committer: Committer, metrics: Metrics) {
    let mut ticks = tokio::time::interval(Duration::from_millis(DISK_LOOK_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reclaimed = None;
    loop {
        ticks.tick().await;
        let disk = Arc::clone(&disk);
        let looked = tokio::task::spawn_blocking(move || disk.look()).await;
        let standing = match looked.expect("looking never panics") {
            Ok(standing) => standing,
            Err(error) => {
                tracing::error!(%error, "the disk cannot be looked at");
                continue;
            }
        };
        let Standing { found, verdict } = standing;
        metrics.disk(DiskTotals {
            free_bytes: found.free,
            used_bytes: found.used,
            budget_bytes: verdict.budget,
            mailbox_bytes_max: verdict.mailbox_bytes_max,
            takes: verdict.takes,
        });
        let rested = reclaimed.is_none_or(|at: Instant| at.elapsed().as_secs() >= RECLAIM_SECONDS);
        if !verdict.takes && rested {
            reclaimed = Some(Instant::now());
            committer.reclaim(found.free);
        }
    }
}

/// Looks after what nobody else looks after: idle mailboxes, and frames whose time is over.
pub(super) async fn sweep(
    local: Arc<Local>,
    committer: Committer,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut ticks = tokio::time::interval(Duration::from_secs(SWEEP_SECONDS));
    let mut expired_in = None;
    loop {
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|begun| *begun) => return,
            _ = ticks.tick() => {}
        }
        local.sweep(Instant::now());
        let hour = committer.hours();
        if expired_in != Some(hour) {
            match expire(&local, hour).await {
                Ok(()) => expired_in = Some(hour),
                Err(error) => tracing::error!(%error, "frames whose time is over stay for now"),
            }
            if let Err(error) = local.forget_outdated(hour, today()).await {
                tracing::error!(%error, "slots and bundles whose time is over stay for this hour");
            }
        }
    }
}

/// Gives up what was to be kept until before this hour. Nothing is interrupted in the middle of a
/// mailbox.
async fn expire(local: &Arc<Local>, hour: RunningHours) -> Result<(), StoreError> {
    let reader = Arc::clone(local);
    let found = tokio::task::spawn_blocking(move || reader.expired(hour));
    for mailbox in found.await.expect("reading the store never panics")? {
        local.expire(&mailbox, hour, Instant::now())?;
        tokio::task::yield_now().await;
    }
    Ok(())
}
