//! Slots, bundles, revocations and used codes over the bus: each change looks, decides, and is made
//! only if nothing has changed meanwhile.

use std::time::{Duration, Instant};

use valise_proto::limits::{REVOCATIONS_MAX, SLOTS_BYTES_MAX};
use valise_proto::{MailboxId, PublishBundle, PutSlot, Reason, SlotId};

use super::account::Account;
use super::node::Node;
use super::random;
use crate::payload::Payload;
use crate::rate::Rate;
use crate::standing::{Accounts, Put, Refusal, Taken, low, published, taken};
use crate::store::jetstream::{BusError, Changed, hours_now};
use crate::store::{BundleChange, BundleHead, LAST_RESORT, Revocation, Slot, SpentCode};

/// How often a change is tried that others are ahead of.
const TRIES: u32 = 16;

/// Lets others who are ahead get through: longer each time, and not all as long.
async fn pause(tried: u32) {
    let most = 4_u64 << tried.min(5);
    let jitter = u64::from(random()[0]) % most;
    tokio::time::sleep(Duration::from_millis(most + jitter)).await;
}

/// What cannot be known or done now is `busy`; whether it was done is found out by asking again.
fn refused(error: BusError) -> Refusal {
    if !error.is_passing() {
        tracing::warn!(%error, "a change was not made");
    }
    Reason::Busy.into()
}

/// Ends a token.
pub(super) async fn revoke(
    node: &Node,
    account: &Account,
    revocation: Revocation,
) -> Result<(), Refusal> {
    node.serves(&revocation.mailbox).await?;
    for tried in 0..TRIES {
        let (now, gaps) = (Instant::now(), node.gaps());
        let earlier = node.streams.revocations(&revocation.mailbox).await.map_err(refused)?;
        let already = earlier.contains(&revocation.serial);
        let count = earlier.serials.len();
        let changed = match already {
            true => Changed::Done,
            false if count >= REVOCATIONS_MAX => return Err(Reason::RevocationsFull.into()),
            false => node.streams.revoke(revocation, &earlier).await.map_err(refused)?,
        };
        if changed == Changed::Done {
            // Here it is known when the owner hears of it.
            let read = node.streams.revocations(&revocation.mailbox).await.map_err(refused)?;
            account.known().read(read, now, gaps);
            return Ok(());
        }
        pause(tried).await;
    }
    Err(Reason::Busy.into())
}

/// Spends an invite code.
pub(super) async fn spend(node: &Node, code: SpentCode) -> Result<(), Reason> {
    node.serves_shard(node.streams.code_shard(&code.serial)).await?;
    for tried in 0..TRIES {
        match node.streams.spend(code).await.map_err(|error| refused(error).reason)? {
            Some(owner) if owner == code.mailbox => return Ok(()),
            Some(_) => return Err(Reason::CodeSpent),
            None => pause(tried).await,
        }
    }
    Err(Reason::Busy)
}

/// Puts a value into a slot.
pub(super) async fn put_slot(
    node: &Node,
    accounts: &Accounts,
    put: PutSlot<Payload>,
    account: &MailboxId,
    (bytes_a_second, now): (&Rate, Instant),
) -> Result<Put, Refusal> {
    node.serves_shard(node.streams.slot_shard(&put.slot_id)).await?;
    let _waiting = accounts.wait_with(put.payload.len())?;
    let winner = |slot: Slot| {
        if slot.put_id == put.put_id { Put::Stored } else { Put::Taken(slot.payload) }
    };
    let mut charged = false;
    for tried in 0..TRIES {
        if let Some(slot) = node.streams.slot(&put.slot_id).await.map_err(refused)? {
            return Ok(winner(slot));
        }
        if !charged {
            accounts.charge(account, put.payload.len(), bytes_a_second, now)?;
            charged = true;
        }
        let slot = Slot {
            id: put.slot_id,
            put_id: put.put_id,
            written: hours_now(),
            payload: put.payload.clone(),
        };
        if node.streams.put_slot(&slot).await.map_err(refused)? == Changed::Done {
            return Ok(Put::Stored);
        }
        // Another put is ahead, and may not be stored yet.
        pause(tried).await;
    }
    Err(Reason::Busy.into())
}

/// What the first of these slots hold. Where one is served elsewhere, the others before it are the
/// first: whoever asks again begins with that one, and is told so.
pub(super) async fn get_slots(node: &Node, ids: &[SlotId]) -> Result<Vec<Option<Payload>>, Reason> {
    let mut payloads = Vec::new();
    let mut room = SLOTS_BYTES_MAX;
    // A few at a time: together they may be asked for, and one after the other they have to fit.
    for some in ids.chunks(8) {
        let (some, elsewhere) = served_here(node, some).await;
        let slots = some.iter().map(|id| node.streams.slot(id));
        for slot in futures_util::future::join_all(slots).await {
            let payload = slot.map_err(|error| refused(error).reason)?.map(|slot| slot.payload);
            let bytes = payload.as_ref().map_or(0, Payload::len);
            if bytes > room {
                return Ok(payloads);
            }
            room -= bytes;
            payloads.push(payload);
        }
        match elsewhere {
            Some(reason) if payloads.is_empty() => return Err(reason),
            Some(_) => break,
            None => {}
        }
    }
    Ok(payloads)
}

/// Those of these slots, from the first one on, that are served here; and why no more.
async fn served_here<'a>(node: &Node, ids: &'a [SlotId]) -> (&'a [SlotId], Option<Reason>) {
    for (index, id) in ids.iter().enumerate() {
        if let Err(reason) = node.serves_shard(node.streams.slot_shard(id)).await {
            return (&ids[..index], Some(reason));
        }
    }
    (ids, None)
}

/// Adds to a bundle.
pub(super) async fn publish(
    node: &Node,
    accounts: &Accounts,
    mailbox: &MailboxId,
    publish: PublishBundle<Payload>,
) -> Result<u32, Refusal> {
    let bytes: usize = publish.last_resort.iter().chain(&publish.items).map(Payload::len).sum();
    node.serves(mailbox).await?;
    let _waiting = accounts.wait_with(bytes)?;
    for tried in 0..TRIES {
        let bundle = node.streams.bundle(mailbox).await.map_err(refused)?;
        let done = |head: &BundleHead| head.publication_id == publish.publication_id;
        if let Some(head) = bundle.head.filter(done) {
            return Ok(head.items());
        }
        let change = published(*mailbox, bundle.head, publish.clone(), hours_now())?;
        let items = change.head.map_or(0, |head| head.items());
        match node.streams.change_bundle(change, bundle.version, &random()).await {
            Ok(Changed::Done) => return Ok(items),
            // Whether it was done is seen in the next round.
            Ok(Changed::Outdated) | Err(BusError::Silent | BusError::InProcess) => {
                pause(tried).await;
            }
            Err(error) => return Err(refused(error)),
        }
    }
    Err(Reason::Busy.into())
}

/// Hands out an item: whoever moves the head on has it.
pub(super) async fn take(
    node: &Node,
    accounts: &Accounts,
    mailbox: &MailboxId,
    serial: [u8; 8],
    (rate, now): (&Rate, Instant),
) -> Result<Taken, Refusal> {
    node.serves(mailbox).await?;
    accounts.take(serial, rate, now)?;
    for tried in 0..TRIES {
        let bundle = node.streams.bundle(mailbox).await.map_err(refused)?;
        let head = bundle.head.ok_or(Reason::BundleEmpty)?;
        let item = |number| node.streams.bundle_item(mailbox, number);
        let Some((number, change)) = taken(*mailbox, head) else {
            let payload = item(LAST_RESORT).await.map_err(refused)?.ok_or(Reason::BundleEmpty)?;
            return Ok(Taken { payload, last_resort: true, low: Some(0) });
        };
        // One whose time was over before its bundle's is passed over.
        let payload = item(number).await.map_err(refused)?;
        let left: BundleChange = change;
        let low = left.head.and_then(|head| low(&head));
        match node.streams.change_bundle(left, bundle.version, &random()).await {
            Ok(Changed::Done) => {
                if let Some(payload) = payload {
                    return Ok(Taken { payload, last_resort: false, low });
                }
            }
            // Nobody knows whether the item was handed out: it must not be handed out twice.
            Ok(Changed::Outdated) | Err(BusError::Silent | BusError::InProcess) => {
                pause(tried).await;
            }
            Err(error) => return Err(refused(error)),
        }
    }
    Err(Reason::Busy.into())
}
