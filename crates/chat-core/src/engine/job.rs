//! The network work of the engine: each job is one exchange with a relay, or a few.

use valise_client::SlotPut;
use valise_proto::limits::TOKEN_DAYS_MAX;
use valise_proto::{PutId, RelayAddress, SlotId, Token, TokenKind};

use super::effect::{CommitPut, Gather, Gathered, Job, Outcome, open_item};
use crate::relays::{RelayError, Relays};
use bytes::Bytes;

/// Does a job and says what came of it.
pub(super) async fn run(relays: &Relays, job: Job) -> Option<Outcome> {
    Some(match job {
        Job::Post(post) => {
            let ttl_hours = 0; // the relay's default: thirty days
            let result = relays
                .post(&post.relay, post.frame_id, &post.capabilities, ttl_hours, post.payload)
                .await;
            Outcome::Posted(post.deliveries, result)
        }
        Job::Gather(purpose, gather) => {
            let result = self::gather(relays, gather).await;
            Outcome::Gathered(purpose, result)
        }
        Job::ReadInvite(ticket, link) => {
            let result = relays.get_slots(&link.relay, &[link.slot()]).await;
            let result = result.map(|values| values.into_iter().next().flatten());
            Outcome::Invite(ticket, link, result)
        }
        Job::PutInvite { ticket, link, is_link, token, payload } => {
            let slot = if is_link { link.device_slot() } else { link.slot() };
            let put_id = PutId::new(valise_client::random::bytes());
            let result = relays.put_slot(&link.relay, &token, slot, put_id, payload).await;
            Outcome::InvitePut(ticket, link, result)
        }
        Job::PutCommit { group, relay, token, puts } => {
            let result = put_commit(relays, &relay, &token, &puts).await;
            Outcome::Committed { group, result }
        }
        Job::Walk { relay, heads } => {
            let ids: Vec<_> = heads.iter().map(|(.., id)| *id).collect();
            let result = relays.get_slots(&relay, &ids).await;
            let heads = heads.into_iter().map(|(group, epoch, attempt, _)| (group, epoch, attempt));
            Outcome::Walked { heads: heads.collect(), result }
        }
        Job::FetchParts { group, epoch, attempt, relay, ids } => {
            let result = relays.get_slots(&relay, &ids).await;
            Outcome::Parts { group, epoch, attempt, result }
        }
        Job::PutVoid { group, epoch, attempt, part, relay, token, slot, payload } => {
            // A void whose answer was lost is put again under another id: the one that lies there
            // then says the same.
            let put_id = PutId::new(valise_client::random::bytes());
            let result = relays.put_slot(&relay, &token, slot, put_id, payload).await;
            Outcome::Voided { group, epoch, attempt, part, result }
        }
        Job::Publish(id, publication) => Outcome::Published(relays.publish(id, publication).await),
        Job::Revoke(row, token) => Outcome::Revoked(row, relays.revoke(&token).await),
        Job::RenewMember => Outcome::MemberRenewed(relays.renew_member().await),
        Job::Wait(time, outcome) => {
            tokio::time::sleep(time).await;
            *outcome
        }
    })
}

/// Puts the values of a commit, the one that decides last.
async fn put_commit(
    relays: &Relays,
    relay: &RelayAddress,
    token: &Token,
    puts: &[(SlotId, PutId, Bytes)],
) -> Result<CommitPut, RelayError> {
    let Some((decision, _, own)) = puts.last() else { return Ok(CommitPut::Stored) };
    let mut refused = None;
    for (slot, put_id, payload) in puts {
        match relays.put_slot(relay, token, *slot, *put_id, payload.clone()).await {
            Ok(SlotPut::Stored) => {}
            // An earlier put of the very same value, whose id is not remembered.
            Ok(SlotPut::Taken(value)) if value == *payload => {}
            Ok(SlotPut::Taken(value)) if slot == decision => return Ok(CommitPut::Taken(value)),
            Ok(SlotPut::Taken(_)) => return Ok(CommitPut::Spoilt),
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let Some(refused) = refused else { return Ok(CommitPut::Stored) };
    // An earlier try may have been stored and its answer lost: what is in the slot counts.
    match relays.get_slots(relay, &[*decision]).await {
        Ok(values) => match values.into_iter().next().flatten() {
            Some(value) if value == *own => Ok(CommitPut::Stored),
            Some(value) => Ok(CommitPut::Taken(value)),
            None => Err(refused),
        },
        // Nothing ever reached such a relay.
        Err(error @ RelayError::Forbidden(_)) => Err(error),
        Err(error) => Err(RelayError::Unknown(error.to_string())),
    }
}

/// Tokens of one's own are needed; a key package that cannot be had is only missing.
async fn gather(relays: &Relays, gather: Gather) -> Result<Gathered, RelayError> {
    let mut gathered = Gathered::default();
    if gather.post > 0 {
        gathered.post = relays.issue(TokenKind::Post, gather.post, TOKEN_DAYS_MAX).await?;
    }
    if gather.take > 0 {
        gathered.take = relays.issue(TokenKind::Take, gather.take, TOKEN_DAYS_MAX).await?;
    }
    if gather.slot {
        gathered.slot = relays.issue(TokenKind::Slot, 1, TOKEN_DAYS_MAX).await?.pop();
    }
    for card in gather.cards {
        match take(relays, &card).await {
            Ok(package) => gathered.packages.push((card, package)),
            Err(why) => gathered.missing = Some(why),
        }
    }
    Ok(gathered)
}

async fn take(relays: &Relays, card: &crate::wire::DeviceCard) -> Result<Bytes, String> {
    let address = card.address.as_ref().map(|address| address.relay.parse());
    let Some(Ok(relay)) = address else { return Err("its address is not valid".to_owned()) };
    let token = Token::try_from(card.take_token.as_slice())
        .map_err(|_| "its card has no token".to_owned())?;
    let item = relays.take_bundle(&relay, &token).await.map_err(|error| match error {
        RelayError::Refused { reason: Some(valise_proto::Reason::TokenRevoked), .. } => {
            "the invite was used already; ask for a new one".to_owned()
        }
        other => other.to_string(),
    })?;
    open_item(card, &item).ok_or_else(|| "what its relay keeps cannot be opened".to_owned())
}
