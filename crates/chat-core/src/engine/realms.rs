//! What is known of the realms of relays: it is kept, so that a start after a relay has moved finds it
//! where it is now, though every address still names the old place.

use valise_client::proto::{RealmId, Signature, SignedRealmRecord};

use super::fault::Fault;
use super::records::state;
use crate::relays::KnownRealm;
use crate::vault::{Transaction, VaultError};

/// All that is known. What is damaged is not: it is learnt again.
pub(super) fn load(tx: &Transaction<'_>) -> Result<Vec<KnownRealm>, VaultError> {
    let rows = tx.all::<state::Realm>()?.into_iter();
    Ok(rows.filter_map(|(_, row)| known(row)).collect())
}

/// Replaces what was known of this realm.
pub(super) fn keep(tx: &Transaction<'_>, known: KnownRealm) -> Result<(), Fault> {
    let row = state::Realm {
        id: known.realm.as_bytes().to_vec(),
        record: known.record.record.to_vec(),
        signature: known.record.signature.as_bytes().to_vec(),
        preferred_endpoint: known.prefer.unwrap_or_default(),
    };
    match tx.find::<state::Realm>(&row.id)? {
        Some((id, _)) => tx.put(id, &row)?,
        None => drop(tx.insert(&row)?),
    }
    Ok(())
}

fn known(row: state::Realm) -> Option<KnownRealm> {
    let realm = RealmId::try_from(row.id.as_slice()).ok()?;
    let signature = Signature::try_from(row.signature.as_slice()).ok()?;
    let record = SignedRealmRecord { record: row.record.into(), signature };
    let prefer = Some(row.preferred_endpoint).filter(|endpoint| !endpoint.is_empty());
    Some(KnownRealm { realm, record, prefer })
}
