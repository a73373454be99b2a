//! What a node does by itself: it hears of revocations and of the realm's record, looks how full the
//! streams are and how the servers are set up, and forgets who is idle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use super::account::Account;
use super::node::Node;
use super::steering::Places;
use crate::limits::{CLUSTER_SWEEP_SECONDS, ROOM_LOOK_SECONDS, SWEEP_SECONDS};
use crate::registry::Mailboxes;
use crate::standing::Accounts;
use crate::store::jetstream::{BusError, Changed, Live, LiveFrames, RealmNews, Told};

/// Who this node is in the realm. Records are opaque here.
pub trait Membership: Send + Sync {
    /// Judges the record that the cluster has; empty when it has none.
    fn judge(&self, told: &[u8]) -> Verdict;

    /// Where the realm is served, as the record in force says.
    fn places(&self) -> Places;

    /// Whether the realm was a supernode's: its nodes serve by ledgers alone.
    fn serves_by_ledgers(&self) -> bool;

    /// The short form of this node's signing key.
    fn key(&self) -> String;
}

/// What follows from the cluster's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is as this node has it, or newer and with this node in it.
    Member,
    /// This node's is newer: tell it.
    Newer(Vec<u8>),
    /// This node is in the realm no more, or this is not the realm's record: nothing may be
    /// accepted. The reason is for the operator.
    Out(String),
}

/// How often a record is told that others are ahead of.
const TRIES: u32 = 16;

/// Compares the cluster's record with this node's, and tells or obeys.
pub(super) async fn check_membership(
    node: &Node,
    membership: &dyn Membership,
) -> Result<(), BusError> {
    for _ in 0..TRIES {
        let told = node.streams.realm_record().await?;
        match membership.judge(&told.record) {
            Verdict::Member => return Ok(()),
            Verdict::Out(reason) => {
                node.fence(reason.clone());
                return Err(BusError::Fenced(reason));
            }
            Verdict::Newer(record) => {
                let told = Told { version: told.version, record: record.into() };
                if node.streams.tell_realm_record(&told).await? == Changed::Done {
                    return Ok(());
                }
            }
        }
    }
    Err(BusError::Silent)
}

/// Follows the realm's record; the node ends when it is not in it.
pub(super) async fn follow_realm(
    node: Arc<Node>,
    mut news: RealmNews,
    membership: Arc<dyn Membership>,
    nudged: Arc<Notify>,
) {
    let mut ticks = every(CLUSTER_SWEEP_SECONDS);
    loop {
        tokio::select! {
            biased;
            more = news.next() => if !more { return },
            () = nudged.notified() => {}
            _ = ticks.tick() => {}
        }
        match check_membership(&node, &*membership).await {
            Ok(()) => {}
            Err(BusError::Fenced(reason)) => {
                return tracing::error!(%reason, "this node is out of its realm");
            }
            Err(error) => tracing::debug!(%error, "the realm's record is looked at later"),
        }
    }
}

/// Passes on what is revoked, to the mailboxes that are used here.
pub(super) async fn hear_of_revocations(mut live: LiveFrames, mailboxes: Arc<Mailboxes<Account>>) {
    while let Some(live) = live.next().await {
        if let Live::Revoked(mailbox, revocations) = live
            && let Some(account) = mailboxes.get(&mailbox)
        {
            account.known().told(revocations);
        }
    }
}

pub(super) async fn look_at_room(node: Arc<Node>) {
    let mut ticks = every(ROOM_LOOK_SECONDS);
    loop {
        ticks.tick().await;
        if let Err(error) = node.streams.look_at_room().await {
            tracing::debug!(%error, "the streams are looked at later");
        }
    }
}

/// A server may come back with other settings.
pub(super) async fn check_servers(node: Arc<Node>) {
    let mut ticks = every(2 * CLUSTER_SWEEP_SECONDS);
    loop {
        ticks.tick().await;
        match node.streams.check_servers().await {
            Err(BusError::Unsafe(unsafe_)) if unsafe_.is_a_setting() => {
                tracing::error!(error = %unsafe_, "nothing is accepted any more");
                return node.fence(unsafe_.to_string());
            }
            Ok(()) | Err(_) => {}
        }
    }
}

pub(super) async fn forget_idle(mailboxes: Arc<Mailboxes<Account>>, accounts: Arc<Accounts>) {
    let mut ticks = every(SWEEP_SECONDS);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        accounts.forget_full(now);
        mailboxes.forget(|account| account.is_idle(now));
    }
}

/// Ticks, the first one after a whole period.
fn every(seconds: u64) -> tokio::time::Interval {
    let period = Duration::from_secs(seconds);
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
