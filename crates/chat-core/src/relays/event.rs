//! What one's own mailbox tells the engine.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use valise_client::proto::{FrameId, RealmId, Reason};
use valise_client::{Receipt, Stop, Update, Updates};

use super::KnownRealm;

/// Something happened at one's own mailbox.
#[derive(Debug, Clone, PartialEq)]
pub enum RelayEvent {
    /// There is a connection, and the relay has proven itself. What it has stored follows.
    Online,
    /// There is none; the next try comes by itself.
    Offline {
        /// What happened, in words.
        why: String,
        /// When the next try comes.
        retry_in: Duration,
    },
    /// A frame. Acknowledge it once its content is committed; until then it comes again after every
    /// reconnect.
    Frame {
        /// The frame's id.
        frame_id: FrameId,
        /// The frame.
        payload: Bytes,
        /// For [`Relays::acknowledge`](super::Relays::acknowledge).
        receipt: Receipt,
    },
    /// A signal: never stored, never acknowledged.
    Signal {
        /// What was signaled.
        payload: Bytes,
    },
    /// Everything that was stored when the mailbox was attached has come.
    CaughtUp,
    /// Few one-time items are left in the bundle: publish more.
    BundleLow {
        /// How many.
        items: u32,
    },
    /// This endpoint of the relay's realm is the best to begin with; none is. To be kept for the next
    /// start; nobody has to be told.
    Prefers(Option<String>),
    /// What is known of a relay's realm, one's own or another. To be kept for the next start, which may
    /// find nobody at the relay's address any more; nobody has to be told.
    Realm(KnownRealm),
    /// The last event: the mailbox is not connected again by itself.
    Stopped {
        /// Why, in words: attached elsewhere, not served by its relay, or a relay that cannot be
        /// trusted.
        why: String,
    },
}

/// Hands the updates of one's own client on, until the end or until nobody listens.
pub(super) async fn hand_on(
    mut updates: Updates,
    realm: RealmId,
    events: mpsc::Sender<RelayEvent>,
) {
    while let Some(update) = updates.next().await {
        let Some(event) = RelayEvent::of(update, realm) else { continue };
        let is_last = matches!(event, RelayEvent::Stopped { .. });
        if events.send(event).await.is_err() || is_last {
            return;
        }
    }
}

impl RelayEvent {
    fn of(update: Update, realm: RealmId) -> Option<Self> {
        Some(match update {
            Update::Connected => Self::Online,
            Update::Disconnected { why, retry_in } => Self::Offline { why, retry_in },
            Update::Message { frame_id, payload, receipt, .. } => {
                Self::Frame { frame_id, payload, receipt }
            }
            Update::Signaled { payload, .. } => Self::Signal { payload },
            Update::BundleLow { items, .. } => Self::BundleLow { items },
            Update::CaughtUp { .. } => Self::CaughtUp,
            Update::Prefers(endpoint) => Self::Prefers(endpoint),
            Update::Realm(record) => Self::Realm(KnownRealm { realm, record, prefer: None }),
            // The only mailbox there is.
            Update::Replaced { .. } => Self::Stopped { why: Stop::Replaced.to_string() },
            Update::NotServed { reason, .. } => Self::Stopped {
                why: format!(
                    "the relay does not serve this mailbox: {}",
                    reason.map_or("for a reason this version does not know", Reason::name)
                ),
            },
            Update::GaveUp(stop) => Self::Stopped { why: stop.to_string() },
            // Of messages in the client's own outbox, where nothing is put.
            Update::Settled(_) => return None,
        })
    }
}
