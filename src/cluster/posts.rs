//! Posts on their way into the store. Frames of one capability to one mailbox go one after the
//! other, since a publication that was given up may still be stored later; those of different
//! capabilities go together.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures_util::future::join_all;
use valise_proto::Reason;

use super::account::Account;
use super::node::Node;
use crate::limits::{COMMIT_QUEUE_BYTES_MAX, FULL_RETRY_MS};
use crate::mailbox::{Allowance, Incoming};
use crate::receipt::Waiter;
use crate::store::jetstream::{BusError, Revocations, hours_now};
use crate::store::{Frame, Seq};

/// A post that waits for its turn.
pub(super) struct Waiting {
    frame: Frame,
    serial: [u8; 8],
    waiter: Waiter,
    _bytes: Bytes,
}

/// Payload bytes that are counted while they wait.
struct Bytes {
    node: Arc<Node>,
    bytes: usize,
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.node.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Posts to one mailbox that are under way together, at most.
const TOGETHER: usize = 64;

/// Takes a frame in, or says why not.
pub(super) fn append(
    node: &Arc<Node>,
    account: &Arc<Account>,
    incoming: Incoming,
    allowance: &Allowance,
    now: Instant,
    waiter: Waiter,
) {
    let Incoming { frame_id, payload, ttl_hours, serial, class } = incoming;
    let mut known = account.known();
    known.touched = Some(now);
    if known.knows_revoked(&serial) {
        return waiter.decide(Reason::TokenRevoked);
    }
    if let Err(wait) = known.rates.take(serial, allowance.posts.of(class), now) {
        let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
        return waiter.decide_with_retry(Reason::RateLimited, retry_after_ms);
    }
    let bytes = payload.len();
    let waiting = node.waiting.fetch_add(bytes, Ordering::Relaxed);
    let counted = Bytes { node: Arc::clone(node), bytes };
    let room = waiting + bytes <= COMMIT_QUEUE_BYTES_MAX;
    if !room || node.is_fenced() || !node.streams.takes(&account.mailbox) {
        return waiter.decide(Reason::Busy);
    }
    let mailbox = account.mailbox;
    let frame = Frame { mailbox, seq: Seq(0), frame_id, accepted: hours_now(), ttl_hours, payload };
    known.waiting.push_back(Waiting { frame, serial, waiter, _bytes: counted });
    if !known.posting {
        known.posting = true;
        tokio::spawn(see_to(Arc::clone(node), Arc::clone(account)));
    }
}

/// Sees to what waits, until nothing does.
async fn see_to(node: Arc<Node>, account: Arc<Account>) {
    while let Some(round) = next_round(&account) {
        // Here, where posts go one after the other, so that none overtakes one that waits for this.
        if let Err(reason) = node.serves(&account.mailbox).await {
            round.into_iter().for_each(|post| post.waiter.decide(reason));
            continue;
        }
        match node.revoked(&account).await {
            Ok(revoked) => {
                join_all(round.into_iter().map(|post| store(&node, post, &revoked))).await;
            }
            Err(_) => round.into_iter().for_each(|post| post.waiter.decide(Reason::Busy)),
        }
    }
}

/// The oldest posts, each of another capability.
fn next_round(account: &Account) -> Option<Vec<Waiting>> {
    let mut known = account.known();
    let mut round: Vec<Waiting> = Vec::new();
    while round.len() < TOGETHER
        && let Some(next) = known.waiting.front()
        && round.iter().all(|post| post.serial != next.serial)
    {
        round.extend(known.waiting.pop_front());
    }
    known.posting = !round.is_empty();
    known.posting.then_some(round)
}

async fn store(node: &Node, post: Waiting, revoked: &Revocations) {
    if revoked.contains(&post.serial) {
        return post.waiter.decide(Reason::TokenRevoked);
    }
    match node.streams.append(&post.frame).await {
        // Whoever is out of the realm has no say, whatever the bus says.
        Ok(_) | Err(_) if node.is_fenced() => post.waiter.decide(Reason::Busy),
        Ok(repeated) => {
            if repeated {
                node.metrics.frame_repeated();
            } else {
                node.metrics.frames_accepted(1);
            }
            post.waiter.decide(Reason::Accepted);
        }
        Err(error) if error.is_mailbox_full() => {
            post.waiter.decide_with_retry(Reason::MailboxFull, FULL_RETRY_MS);
        }
        Err(error) => {
            if !matches!(error, BusError::Silent | BusError::InProcess) {
                tracing::warn!(%error, "a post was not stored");
            }
            post.waiter.decide(Reason::Busy);
        }
    }
}
