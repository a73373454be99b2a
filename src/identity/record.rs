//! When the realm record has to be signed again, and what the new one says: pure decisions.

use valise_proto::limits::{EPOCH_AHEAD_MAX, REALM_RECORD_LIST_MAX};
use valise_proto::{RealmId, RealmRecord, RelayKey, SigningKey};

/// How long a relay key may sign, in days.
pub(super) const RELAY_KEY_DAYS: u32 = 400;

/// When fewer days are left, a new relay key is made: half the life of a key.
pub(super) const RELAY_KEY_RENEWAL_DAYS: u32 = RELAY_KEY_DAYS / 2;

/// What the stored record and signing key ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// All is well.
    Nothing,
    /// A new record with the same signing key: the endpoints changed.
    Endpoints,
    /// A new signing key soon, and with it a new record.
    RenewalBefore {
        /// The key's last valid day.
        last_day: u32,
    },
    /// A new signing key now: the old one's last day has passed.
    Expired {
        /// That day.
        last_day: u32,
    },
    /// A new signing key now: there is none.
    NoSigningKey,
    /// Nothing: the record does not list this relay any more.
    Unlisted,
}

/// Compares the record with how the relay is run today (days since 1970-01-01).
pub(super) fn need(
    record: &RealmRecord,
    signing: Option<&SigningKey>,
    endpoints: &[String],
    today: u32,
) -> Need {
    let Some(signing) = signing else { return Need::NoSigningKey };
    let listed = record.relay_keys.iter().find(|relay| relay.key == *signing);
    let Some(RelayKey { last_day, .. }) = listed.copied() else { return Need::Unlisted };
    if today > last_day {
        Need::Expired { last_day }
    } else if last_day - today < RELAY_KEY_RENEWAL_DAYS {
        Need::RenewalBefore { last_day }
    } else if record.endpoints != endpoints {
        Need::Endpoints
    } else {
        Need::Nothing
    }
}

/// The first record of a realm, with a new relay key.
pub(super) fn first(
    root_key: SigningKey,
    signing: SigningKey,
    endpoints: &[String],
    today: u32,
) -> RealmRecord {
    RealmRecord {
        realm: RealmId::of_root_key(&root_key),
        root_key,
        epoch: first_epoch(today),
        endpoints: endpoints.to_vec(),
        relay_keys: vec![RelayKey { key: signing, last_day: today + RELAY_KEY_DAYS }],
        key_log_url: String::new(),
    }
}

/// The record that follows. A signing key it does not know yet is new and comes first; the others
/// stay until they end, and the one that is replaced stays even then: a stop between writing record and
/// key leaves a pair that belongs together.
pub(super) fn next(
    record: &RealmRecord,
    signing: SigningKey,
    replaced: Option<&SigningKey>,
    endpoints: &[String],
    today: u32,
) -> RealmRecord {
    let stays = |relay: &RelayKey| today <= relay.last_day || Some(&relay.key) == replaced;
    let mut relay_keys: Vec<_> = record.relay_keys.iter().copied().filter(stays).collect();
    if !relay_keys.iter().any(|relay| relay.key == signing) {
        relay_keys.insert(0, RelayKey { key: signing, last_day: today + RELAY_KEY_DAYS });
        relay_keys.truncate(REALM_RECORD_LIST_MAX);
    }
    RealmRecord {
        epoch: next_epoch(record.epoch, today),
        endpoints: endpoints.to_vec(),
        relay_keys,
        ..record.clone()
    }
}

/// The endpoints of a record and those of one more node.
pub(super) fn with_endpoints(record: &RealmRecord, more: &[String]) -> Vec<String> {
    let mut endpoints = record.endpoints.clone();
    endpoints.extend(more.iter().filter(|more| !record.endpoints.contains(more)).cloned());
    endpoints
}

/// Epochs follow the day number where they can: then a realm that is made anew from its root key
/// alone, after everything else was lost, is above every epoch its clients have seen.
fn first_epoch(today: u32) -> u64 {
    u64::from(today).max(1)
}

fn next_epoch(epoch: u64, today: u32) -> u64 {
    first_epoch(today).clamp(epoch + 1, epoch + EPOCH_AHEAD_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SigningKey = SigningKey::new([1; 32]);
    const OTHER: SigningKey = SigningKey::new([2; 32]);

    fn here() -> Vec<String> {
        vec!["a.example:443".to_owned()]
    }

    fn record() -> RealmRecord {
        first(SigningKey::new([9; 32]), KEY, &here(), 1_000)
    }

    #[test]
    fn what_each_day_needs() {
        let there = vec!["b.example:443".to_owned()];
        let cases = [
            (Some(&KEY), here(), 1_000, Need::Nothing),
            (Some(&KEY), here(), 1_200, Need::Nothing),
            (Some(&KEY), here(), 1_201, Need::RenewalBefore { last_day: 1_400 }),
            (Some(&KEY), here(), 1_400, Need::RenewalBefore { last_day: 1_400 }),
            (Some(&KEY), here(), 1_401, Need::Expired { last_day: 1_400 }),
            (Some(&KEY), here(), 0, Need::Nothing),
            (Some(&KEY), there.clone(), 1_000, Need::Endpoints),
            (Some(&KEY), there, 1_201, Need::RenewalBefore { last_day: 1_400 }),
            (Some(&OTHER), here(), 1_000, Need::Unlisted),
            (None, here(), 1_000, Need::NoSigningKey),
        ];
        for (signing, endpoints, today, expected) in cases {
            assert_eq!(need(&record(), signing, &endpoints, today), expected, "day {today}");
        }
    }

    #[test]
    fn a_renewed_record_lists_the_new_key_first_and_the_old_until_it_ends() {
        let renewed = next(&record(), OTHER, None, &here(), 1_300);
        let keys: Vec<_> = renewed.relay_keys.iter().map(|k| (k.key, k.last_day)).collect();
        assert_eq!(keys, [(OTHER, 1_700), (KEY, 1_400)]);
        let later = next(&renewed, OTHER, None, &here(), 1_401);
        let keys: Vec<_> = later.relay_keys.iter().map(|k| (k.key, k.last_day)).collect();
        assert_eq!(keys, [(OTHER, 1_700)], "a new record does not lengthen a key's life");
    }

    #[test]
    fn a_record_never_lists_too_many_keys() {
        let mut record = record();
        for i in 0..40 {
            record = next(&record, SigningKey::new([i; 32]), None, &here(), 1_000);
        }
        assert_eq!(record.relay_keys.len(), REALM_RECORD_LIST_MAX);
        assert_eq!(record.relay_keys[0].key, SigningKey::new([39; 32]));
    }

    #[test]
    fn epochs_rise_and_are_never_too_far_ahead() {
        let cases = [(5, 1, 6), (5, 5, 6), (5, 300, 300), (5, 1_006, 1_005), (5, 20_000, 1_005)];
        for (epoch, today, expected) in cases {
            assert_eq!(next_epoch(epoch, today), expected, "{epoch} on day {today}");
        }
        assert_eq!(first_epoch(0), 1);
        assert_eq!(first_epoch(20_700), 20_700);
    }
}
