//! Where a client's realm is served: which endpoints are tried in which order, and which `Move` is
//! obeyed. Pure: time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use valise_proto::limits::{
    EPOCH_AHEAD_MAX, MOVE_SPREAD_MS_MAX, MOVES_PER_MINUTE, REALM_RECORD_LIST_MAX,
};
use valise_proto::{Move, MovePhase, RealmId, RealmRecord, RelayAddress, SignedRealmRecord};

use crate::{Dial, is_public_host};

/// The places that are known of one realm.
#[derive(Debug)]
pub(crate) struct Places {
    // Static after construction.
    given: RelayAddress,
    public_only: bool,
    // Learnt.
    /// The best first.
    preferred: Vec<RelayAddress>,
    /// The realm's record that counts: the one of the highest epoch that was seen.
    record: Option<Kept>,
    /// Those that it lists.
    listed: Vec<RelayAddress>,
    /// Those that did not answer when they were tried last.
    silent: Vec<RelayAddress>,
    /// Those that did not prove the realm; not tried again.
    untrusted: Vec<RelayAddress>,
    /// Those that said lately that what was asked is served elsewhere; the latest last.
    elsewhere: Vec<RelayAddress>,
    /// When a `Move` was obeyed, and when one has brought a newer record.
    obeyed: VecDeque<Instant>,
    admitted: VecDeque<Instant>,
}

/// A record that was found genuine, and as it was signed.
#[derive(Debug)]
struct Kept {
    record: RealmRecord,
    signed: SignedRealmRecord,
}

/// A `Move` that is obeyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) phase: MovePhase,
    /// In order of preference.
    pub(crate) places: Vec<RelayAddress>,
    pub(crate) spread: Duration,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Places {
    pub(crate) fn new(dial: &Dial) -> Self {
        let given = dial.address.clone();
        let preferred = dial.prefer.as_deref().and_then(|prefer| place(prefer, given.realm));
        let mut places = Self {
            public_only: dial.public_only,
            preferred: preferred.into_iter().collect(),
            given,
            record: None,
            listed: Vec::new(),
            silent: Vec::new(),
            untrusted: Vec::new(),
            elsewhere: Vec::new(),
            obeyed: VecDeque::new(),
            admitted: VecDeque::new(),
        };
        if let Some(signed) = &dial.realm_record
            && let Ok(record) = signed.verify(&places.given.realm)
        {
            places.keep(record, signed);
        }
        places
    }

    /// What to try, in order: what is preferred, what was given, what the record lists. What has
    /// said lately that others serve comes after them, and what did not answer comes last.
    pub(crate) fn candidates(&self) -> Vec<RelayAddress> {
        let all = self.preferred.iter().chain([&self.given]).chain(&self.listed);
        let mut candidates: Vec<RelayAddress> = Vec::new();
        for place in all.filter(|place| self.may_dial(place)) {
            if !candidates.contains(place) && !self.untrusted.contains(place) {
                candidates.push(place.clone());
            }
        }
        if candidates.is_empty() {
            // Its user is told why it cannot be used.
            candidates.push(self.given.clone());
        }
        candidates.sort_by_key(|place| {
            let said_moved = self.elsewhere.iter().position(|other| other == place);
            (self.silent.contains(place), said_moved.map_or(0, |since| since + 1))
        });
        candidates
    }

    /// As [`Self::candidates`], without the place where one is.
    pub(crate) fn others(&self, at: &RelayAddress) -> Vec<RelayAddress> {
        let mut others = self.candidates();
        others.retain(|place| place != at);
        others
    }

    /// The epoch of the record that counts, 0 for none.
    pub(crate) fn epoch(&self) -> u64 {
        self.record.as_ref().map_or(0, |kept| kept.record.epoch)
    }

    /// The record that counts, as it was signed.
    pub(crate) fn signed(&self) -> Option<&SignedRealmRecord> {
        self.record.as_ref().map(|kept| &kept.signed)
    }

    /// There is a record that does not list the address that was given: it may be anybody's by now.
    pub(crate) fn given_is_left(&self) -> bool {
        self.record.is_some() && !self.listed.contains(&self.given)
    }

    /// What was asked of this place is served elsewhere, it says: it is tried after all others.
    pub(crate) fn said_moved(&mut self, at: &RelayAddress) {
        self.elsewhere.retain(|place| place != at);
        self.elsewhere.push(at.clone());
    }

    /// What was asked is served by this place, which is where to begin next time.
    pub(crate) fn found(&mut self, at: &RelayAddress) {
        self.elsewhere.retain(|place| place != at);
        if self.listed.contains(at) && !self.preferred.contains(at) {
            self.preferred = vec![at.clone()];
        }
    }

    /// A record that a `Move` has brought counts from now on if it is newer. False: it is not
    /// genuine, or not in range, or comes too often, and nothing that came with it is to be believed.
    pub(crate) fn admit(&mut self, now: Instant, signed: &SignedRealmRecord) -> bool {
        let Ok(record) = signed.verify(&self.given.realm) else { return false };
        let known = self.epoch();
        if !(known..=known.saturating_add(EPOCH_AHEAD_MAX)).contains(&record.epoch) {
            return false;
        }
        // The application writes each of them down.
        if record.epoch > known && !allows(&mut self.admitted, now) {
            return false;
        }
        self.keep(record, signed);
        true
    }

    /// The first one of an epoch stays: nothing is taken back by a lower one, or by a second.
    fn keep(&mut self, record: RealmRecord, signed: &SignedRealmRecord) {
        if self.record.is_some() && record.epoch <= self.epoch() {
            return;
        }
        let realm = self.given.realm;
        self.listed =
            record.endpoints.iter().filter_map(|endpoint| place(endpoint, realm)).collect();
        self.preferred.retain(|place| self.listed.contains(place));
        self.record = Some(Kept { record, signed: signed.clone() });
    }

    /// The endpoint to begin with next time, as the record lists it.
    pub(crate) fn prefers(&self) -> Option<String> {
        self.preferred.first().map(endpoint)
    }

    /// There is a connection to this place, and this is the record it has shown.
    pub(crate) fn reached(
        &mut self,
        at: &RelayAddress,
        record: &RealmRecord,
        signed: &SignedRealmRecord,
    ) {
        self.silent.retain(|place| place != at);
        self.keep(record.clone(), signed);
    }

    /// This place did not answer.
    pub(crate) fn silent(&mut self, at: &RelayAddress) {
        if !self.silent.contains(at) {
            self.silent.push(at.clone());
        }
    }

    /// This place has not proven the realm.
    pub(crate) fn untrusted(&mut self, at: &RelayAddress) {
        self.untrusted.push(at.clone());
        self.preferred.retain(|place| place != at);
    }

    /// What to do about a `Move` that came over the connection to `at`; nothing, where it is to be
    /// ignored. Its record was [admitted](Self::admit) before.
    pub(crate) fn judge(&mut self, now: Instant, moved: &Move, at: &RelayAddress) -> Option<Order> {
        let phase = moved.phase?;
        let listed = &self.record.as_ref()?.record.endpoints;
        let in_range = (1..=REALM_RECORD_LIST_MAX).contains(&moved.endpoints.len());
        if !in_range || !moved.endpoints.iter().all(|endpoint| listed.contains(endpoint)) {
            return None;
        }
        let realm = self.given.realm;
        let places = moved.endpoints.iter().map(|endpoint| place(endpoint, realm));
        let places: Vec<_> = places.collect::<Option<_>>()?;
        if places[0] == *at || !places.iter().all(|place| self.may_dial(place)) {
            return None;
        }
        if !allows(&mut self.obeyed, now) {
            return None;
        }
        let mut places = places;
        places.retain(|place| !self.untrusted.contains(place));
        if phase == MovePhase::Go {
            self.silent.retain(|place| !places.contains(place));
            self.elsewhere.retain(|place| !places.contains(place));
            self.preferred.clone_from(&places);
        }
        places.retain(|place| place != at);
        let spread = Duration::from_millis(moved.spread_ms.min(MOVE_SPREAD_MS_MAX).into());
        Some(Order { phase, places, spread })
    }

    /// What was given is judged when it is dialled, so that its user hears of it.
    fn may_dial(&self, place: &RelayAddress) -> bool {
        *place == self.given || !self.public_only || is_public_host(&place.host)
    }
}

/// Whether it may be done once more within this minute; notes that it is.
fn allows(done: &mut VecDeque<Instant>, now: Instant) -> bool {
    while done.front().is_some_and(|then| now.duration_since(*then) >= MINUTE) {
        done.pop_front();
    }
    let allows = done.len() < MOVES_PER_MINUTE;
    if allows {
        done.push_back(now);
    }
    allows
}

fn place(endpoint: &str, realm: RealmId) -> Option<RelayAddress> {
    format!("valise://{endpoint}/{}", realm.to_text()).parse().ok()
}

fn endpoint(place: &RelayAddress) -> String {
    let RelayAddress { host, port, .. } = place;
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests;
