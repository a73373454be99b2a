//! What is known of realms: their records, and where to begin. A record is proven by the realm's id, so
//! it does not matter who has shown it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use valise_client::proto::{RealmId, SignedRealmRecord};
use valise_client::{Dial, Update, Updates};

use super::RelayEvent;

/// What is known of one realm, to be kept for the next start.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownRealm {
    /// Which one.
    pub realm: RealmId,
    /// Its record of the highest epoch that was seen.
    pub record: SignedRealmRecord,
    /// The endpoint to begin with; of one's own realm, [`RelayEvent::Prefers`] tells it.
    pub prefer: Option<String>,
}

/// All of them; clones are one.
#[derive(Default, Clone)]
pub(super) struct Known(Arc<Mutex<HashMap<RealmId, KnownRealm>>>);

impl Known {
    pub(super) fn new(all: Vec<KnownRealm>) -> Self {
        let all = all.into_iter().map(|known| (known.realm, known)).collect();
        Self(Arc::new(Mutex::new(all)))
    }

    /// Dials as what is known of the realm says.
    pub(super) fn guide(&self, dial: &mut Dial) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&dial.address.realm) {
            dial.realm_record = Some(known.record.clone());
            dial.prefer = dial.prefer.take().or_else(|| known.prefer.clone());
        }
    }

    /// What is known now, if this is news.
    fn learn(&self, realm: RealmId, update: Update) -> Option<KnownRealm> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match update {
            Update::Realm(record) => {
                let prefer = all.remove(&realm).and_then(|known| known.prefer);
                all.insert(realm, KnownRealm { realm, record, prefer });
            }
            Update::Prefers(prefer) => all.get_mut(&realm)?.prefer = prefer,
            _ => return None,
        }
        all.get(&realm).cloned()
    }
}

/// Takes the updates of a client of a relay of others, of which nobody else wants any.
pub(super) async fn note(
    mut updates: Updates,
    realm: RealmId,
    known: Known,
    events: mpsc::WeakSender<RelayEvent>,
) {
    while let Some(update) = updates.next().await {
        let Some(news) = known.learn(realm, update) else { continue };
        // Whoever has ended keeps nothing any more.
        let Some(events) = events.upgrade() else { return };
        if events.send(RelayEvent::Realm(news)).await.is_err() {
            return;
        }
    }
}
