//! Account records: which devices an account has. Each is signed by the account's root key and names
//! the hash of the one before it, so that there is one history of an account.

use aws_lc_rs::digest;
use prost::Message as _;

use super::{AccountId, DeviceId, RootKey, RootPublicKey};
use crate::wire;

/// An account has at most so many devices.
pub const DEVICES_MAX: usize = 16;
/// A record is at most so long, in bytes.
pub const RECORD_BYTES_MAX: usize = 4 * 1024;

const LABEL: &[u8] = b"valise account record 1";

/// The checked form of `wire::AccountRecord`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRecord {
    /// Whose it is.
    pub account: AccountId,
    /// 1, 2, 3, ...
    pub sequence: u64,
    /// SHA-256 of the record before; none in the first.
    pub previous: Option<[u8; 32]>,
    /// Who signs.
    pub root_key: RootPublicKey,
    /// The account's devices, the oldest first.
    pub devices: Vec<DeviceEntry>,
    /// X25519: notices to the account's owner are sealed to it.
    pub notice_key: [u8; 32],
}

/// A device of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceEntry {
    /// Its id.
    pub device: DeviceId,
    /// Its MLS signature key.
    pub signature_key: [u8; 32],
    /// Its key for greetings.
    pub hpke_key: [u8; 32],
    /// What its user calls it.
    pub name: String,
    /// Since when it belongs to the account, milliseconds since 1970 by its own clock.
    pub since_ms: u64,
}

/// A record whose signature by its own root key is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRecord {
    record: AccountRecord,
    wire: wire::SignedRecord,
}

/// A record that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A field is missing, too long, or there twice.
    #[error("the account record is not well formed: {0}")]
    Malformed(&'static str),
    /// Not signed by the root key it names.
    #[error("the account record is not signed by its root key")]
    Signature,
    /// It is about somebody else.
    #[error("the record is of another account")]
    OtherAccount,
    /// The device is there already, is not there, or there are too many.
    #[error("{0}")]
    Device(&'static str),
}

/// What a record means to somebody who knows an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was known.
    First,
    /// It is the one that is known.
    Same,
    /// It is older.
    Older,
    /// It follows.
    Newer {
        /// Devices that came.
        added: Vec<DeviceId>,
        /// Devices that went.
        removed: Vec<DeviceId>,
        /// The root key is another, and the old one has signed that.
        root_changed: bool,
        /// Records between were never seen: only the root's signature ties this one to the known one.
        skipped: bool,
        /// It is of another history than the known one, and counts: it is later, or of the same
        /// number with the smaller hash.
        forked: bool,
    },
    /// The root key is another, and the old one has not signed that: somebody else, or a reset.
    Reset,
    /// The same sequence number with other content and the larger hash: the known one counts.
    Fork,
}

impl SignedRecord {
    /// An account's first record.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn first(
        root: &RootKey,
        account: AccountId,
        device: wire::DeviceRecord,
        notice_key: [u8; 32],
    ) -> Result<Self, RecordError> {
        let record = AccountRecord {
            account,
            sequence: 1,
            previous: None,
            root_key: root.public(),
            devices: vec![DeviceEntry::try_from(device)?],
            notice_key,
        };
        Self::sign(root, record, None)
    }

    /// The next record, with one device more.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn with_device(
        &self,
        root: &RootKey,
        device: wire::DeviceRecord,
    ) -> Result<Self, RecordError> {
        let device = DeviceEntry::try_from(device)?;
        let mut next = self.next(root);
        if next.devices.iter().any(|found| found.device == device.device) {
            return Err(RecordError::Device("the account has this device already"));
        }
        next.devices.push(device);
        Self::sign(root, next, None)
    }

    /// The next record, with one device less.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn without_device(&self, root: &RootKey, device: DeviceId) -> Result<Self, RecordError> {
        let mut next = self.next(root);
        let before = next.devices.len();
        next.devices.retain(|found| found.device != device);
        if next.devices.len() == before {
            return Err(RecordError::Device("the account has no such device"));
        }
        Self::sign(root, next, None)
    }

    /// The next record, with this device instead of all others.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn with_only(
        &self,
        root: &RootKey,
        device: wire::DeviceRecord,
    ) -> Result<Self, RecordError> {
        let devices = vec![DeviceEntry::try_from(device)?];
        Self::sign(root, AccountRecord { devices, ..self.next(root) }, None)
    }

    /// The next record, under a new root key that the old one signs.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn with_root(&self, old: &RootKey, new: &RootKey) -> Result<Self, RecordError> {
        Self::sign(new, self.next(new), Some(old))
    }

    fn next(&self, root: &RootKey) -> AccountRecord {
        AccountRecord {
            sequence: self.record.sequence + 1,
            previous: Some(self.hash()),
            root_key: root.public(),
            ..self.record.clone()
        }
    }

    fn sign(
        root: &RootKey,
        record: AccountRecord,
        old: Option<&RootKey>,
    ) -> Result<Self, RecordError> {
        let bytes = record.encode();
        let statement = [LABEL, &bytes].concat();
        Self::try_from(wire::SignedRecord {
            record: bytes,
            signature: root.sign(&statement).to_vec(),
            previous_signature: old.map(|old| old.sign(&statement).to_vec()).unwrap_or_default(),
        })
    }

    /// What it says.
    pub fn record(&self) -> &AccountRecord {
        &self.record
    }

    /// What the next one names.
    pub fn hash(&self) -> [u8; 32] {
        let hash = digest::digest(&digest::SHA256, &self.wire.record);
        hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

impl From<SignedRecord> for wire::SignedRecord {
    fn from(record: SignedRecord) -> Self {
        record.wire
    }
}

impl TryFrom<wire::SignedRecord> for SignedRecord {
    type Error = RecordError;

    fn try_from(wire: wire::SignedRecord) -> Result<Self, RecordError> {
        if wire.record.len() > RECORD_BYTES_MAX {
            return Err(RecordError::Malformed("it is too long"));
        }
        let record = AccountRecord::decode(&wire.record)?;
        let statement = [LABEL, &wire.record].concat();
        if !record.root_key.verifies(&statement, &wire.signature) {
            return Err(RecordError::Signature);
        }
        Ok(Self { record, wire })
    }
}

impl AccountRecord {
    fn encode(&self) -> Vec<u8> {
        let device = |entry: &DeviceEntry| wire::DeviceRecord {
            device: entry.device.as_bytes().to_vec(),
            signature_key: entry.signature_key.to_vec(),
            hpke_key: entry.hpke_key.to_vec(),
            name: entry.name.clone(),
            since_ms: entry.since_ms,
        };
        wire::AccountRecord {
            account: self.account.as_bytes().to_vec(),
            sequence: self.sequence,
            previous: self.previous.map(|hash| hash.to_vec()).unwrap_or_default(),
            root_key: self.root_key.as_bytes().to_vec(),
            devices: self.devices.iter().map(device).collect(),
            notice_key: self.notice_key.to_vec(),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        use RecordError::Malformed;
        let wire = wire::AccountRecord::decode(bytes).map_err(|_| Malformed("its encoding"))?;
        if wire.devices.is_empty() || wire.devices.len() > DEVICES_MAX {
            return Err(Malformed("an account has 1 to 16 devices"));
        }
        let devices: Result<Vec<_>, _> =
            wire.devices.into_iter().map(DeviceEntry::try_from).collect();
        let devices = devices?;
        for (i, device) in devices.iter().enumerate() {
            if devices[..i].iter().any(|other| other.device == device.device) {
                return Err(Malformed("a device twice"));
            }
        }
        let previous = match (wire.sequence, wire.previous.len()) {
            (0, _) => return Err(Malformed("its sequence number")),
            (1, 0) => None,
            (1, _) => return Err(Malformed("a first record with one before it")),
            _ => Some(fixed(&wire.previous, "the hash of the one before")?),
        };
        Ok(Self {
            account: AccountId(fixed(&wire.account, "its account")?),
            sequence: wire.sequence,
            previous,
            root_key: RootPublicKey(fixed(&wire.root_key, "its root key")?),
            devices,
            notice_key: fixed(&wire.notice_key, "its notice key")?,
        })
    }
}

impl TryFrom<wire::DeviceRecord> for DeviceEntry {
    type Error = RecordError;

    fn try_from(wire: wire::DeviceRecord) -> Result<Self, RecordError> {
        if wire.name.len() > 128 {
            return Err(RecordError::Malformed("a device's name is too long"));
        }
        Ok(Self {
            device: DeviceId(fixed(&wire.device, "a device's id")?),
            signature_key: fixed(&wire.signature_key, "a device's signature key")?,
            hpke_key: fixed(&wire.hpke_key, "a device's HPKE key")?,
            name: wire.name,
            since_ms: wire.since_ms,
        })
    }
}

fn fixed<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N], RecordError> {
    bytes.try_into().map_err(|_| RecordError::Malformed(what))
}

/// Judges a record by the one that is known. Pure.
///
/// # Errors
/// [`RecordError::OtherAccount`].
pub fn judge(
    known: Option<&SignedRecord>,
    incoming: &SignedRecord,
) -> Result<Verdict, RecordError> {
    let Some(known) = known else { return Ok(Verdict::First) };
    let (old, new) = (&known.record, &incoming.record);
    if old.account != new.account {
        return Err(RecordError::OtherAccount);
    }
    if new.root_key != old.root_key {
        let statement = [LABEL, &incoming.wire.record].concat();
        let is_chained = new.sequence > old.sequence
            && old.root_key.verifies(&statement, &incoming.wire.previous_signature);
        if !is_chained {
            return Ok(Verdict::Reset);
        }
    }
    if new.sequence < old.sequence {
        return Ok(Verdict::Older);
    }
    let is_rival = new.sequence == old.sequence;
    if is_rival && known.wire.record == incoming.wire.record {
        return Ok(Verdict::Same);
    }
    // Whoever has seen both keeps the same one, in whatever order they came.
    if is_rival && known.hash() < incoming.hash() {
        return Ok(Verdict::Fork);
    }
    let skipped = new.sequence > old.sequence + 1;
    let forked = is_rival || (!skipped && new.previous != Some(known.hash()));
    let missing = |from: &AccountRecord, of: &AccountRecord| -> Vec<DeviceId> {
        let is_there =
            |device: &&DeviceEntry| from.devices.iter().any(|d| d.device == device.device);
        of.devices.iter().filter(|device| !is_there(device)).map(|d| d.device).collect()
    };
    Ok(Verdict::Newer {
        added: missing(old, new),
        removed: missing(new, old),
        root_changed: new.root_key != old.root_key,
        skipped,
        forked,
    })
}

/// What a device of an account has changed in its record.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A device came, in the record with this sequence number.
    Added(u64, wire::DeviceRecord),
    /// A device went.
    Removed(DeviceId),
}

/// Brings a device's own changes into a record that was made without knowing of them. A device that
/// went never comes back under its id, so going is repeated wherever it is missing; coming only where
/// it is certain that the other side did not know of it: it was made in the record that has lost, or
/// `lost_from` and later. Returns the next record, and devices that could not be had again; `None`: the record has it all. Pure.
///
/// # Errors
/// [`RecordError`].
pub fn reapply(
    record: &SignedRecord,
    root: &RootKey,
    changes: &[Change],
    lost_from: Option<u64>,
) -> Result<(Option<SignedRecord>, Vec<String>), RecordError> {
    let mut next = record.next(root);
    let mut left_out = Vec::new();
    for change in changes {
        match change {
            Change::Removed(device) => next.devices.retain(|found| found.device != *device),
            Change::Added(sequence, device) => {
                let entry = DeviceEntry::try_from(device.clone())?;
                let is_there = next.devices.iter().any(|found| found.device == entry.device);
                let is_gone = changes.contains(&Change::Removed(entry.device));
                if is_there || is_gone {
                    continue;
                }
                let is_lost = lost_from.is_some_and(|from| *sequence >= from);
                if is_lost && next.devices.len() < DEVICES_MAX {
                    next.devices.push(entry);
                } else {
                    left_out.push(entry.name);
                }
            }
        }
    }
    if next.devices == record.record.devices || next.devices.is_empty() {
        return Ok((None, left_out));
    }
    SignedRecord::sign(root, next, None).map(|next| (Some(next), left_out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: u8) -> wire::DeviceRecord {
        wire::DeviceRecord {
            device: vec![number; 16],
            signature_key: vec![number; 32],
            hpke_key: vec![number; 32],
            name: format!("device {number}"),
            since_ms: 7,
        }
    }

    fn first(root: &RootKey) -> SignedRecord {
        SignedRecord::first(root, AccountId([9; 32]), device(1), [5; 32]).unwrap()
    }

    #[test]
    fn a_history_is_followed_and_nothing_else_is() {
        let (root, other) = (RootKey::generate(), RootKey::generate());
        let one = first(&root);
        let two = one.with_device(&root, device(2)).unwrap();
        let three = two.without_device(&root, DeviceId([1; 16])).unwrap();
        let rooted = three.with_root(&root, &other).unwrap();
        let judged = |known: &SignedRecord, new: &SignedRecord| judge(Some(known), new).unwrap();
        let ids = |numbers: &[u8]| numbers.iter().map(|n| DeviceId([*n; 16])).collect();
        let newer = |added: &[u8], removed: &[u8], root_changed, skipped| Verdict::Newer {
            added: ids(added),
            removed: ids(removed),
            root_changed,
            skipped,
            forked: false,
        };
        let forked = |added: &[u8], removed: &[u8]| Verdict::Newer {
            added: ids(added),
            removed: ids(removed),
            root_changed: false,
            skipped: false,
            forked: true,
        };
        assert_eq!(judge(None, &one), Ok(Verdict::First));
        assert_eq!(judged(&one, &one), Verdict::Same);
        assert_eq!(judged(&two, &one), Verdict::Older);
        assert_eq!(judged(&one, &two), newer(&[2], &[], false, false));
        assert_eq!(judged(&one, &three), newer(&[2], &[1], false, true));
        assert_eq!(judged(&three, &rooted), newer(&[], &[], true, false));
        assert_eq!(judged(&rooted, &three), Verdict::Reset, "the old root is not the account now");
        // Another first record, another second, a root of somebody else's.
        let again = SignedRecord::first(&root, AccountId([9; 32]), device(4), [5; 32]).unwrap();
        let (smaller, larger) =
            if one.hash() < again.hash() { (&one, &again) } else { (&again, &one) };
        assert_eq!(judged(smaller, larger), Verdict::Fork, "whoever has both keeps the smaller");
        let of = |record: &SignedRecord| if *record == one { [1] } else { [4] };
        assert_eq!(judged(larger, smaller), forked(&of(smaller), &of(larger)));
        let fork = again.with_device(&root, device(3)).unwrap();
        assert_eq!(judged(&one, &fork), forked(&[4, 3], &[1]), "a later one counts");
        assert_eq!(judged(&fork, &one), Verdict::Older);
        assert_eq!(judged(&two, &first(&other)), Verdict::Reset);
        let reset = two.with_root(&other, &other).unwrap();
        assert_eq!(judged(&two, &reset), Verdict::Reset, "signed by nobody who is known");
        let stranger = SignedRecord::first(&root, AccountId([8; 32]), device(1), [5; 32]).unwrap();
        assert_eq!(judge(Some(&one), &stranger), Err(RecordError::OtherAccount));
    }

    #[test]
    fn changes_that_lost_are_made_again() {
        let root = RootKey::generate();
        let mut base = first(&root);
        for number in 2..=3 {
            base = base.with_device(&root, device(number)).unwrap();
        }
        let id = |number: u8| DeviceId([number; 16]);
        let ids = |record: &SignedRecord| -> Vec<_> {
            record.record().devices.iter().map(|device| device.device).collect()
        };
        // One device links 4 and removes 2 while another removes 3, all upon the same record.
        let ours = [Change::Added(4, device(4)), Change::Removed(id(2))];
        let theirs = base.without_device(&root, id(3)).unwrap();
        let (merged, left) = reapply(&theirs, &root, &ours, Some(4)).unwrap();
        let merged = merged.unwrap();
        assert_eq!(ids(&merged), [id(1), id(4)]);
        assert!(left.is_empty());
        assert!(matches!(judge(Some(&theirs), &merged), Ok(Verdict::Newer { forked: false, .. })));
        assert_eq!(reapply(&merged, &root, &ours, Some(4)), Ok((None, vec![])), "once is enough");
        // What is not certain to be unknown there is not brought back, but said; going is repeated.
        let (merged, left) = reapply(&theirs, &root, &ours, None).unwrap();
        assert_eq!(ids(&merged.unwrap()), [id(1)]);
        assert_eq!(left, ["device 4"]);
        // A device that came and went stays away, and an account keeps one device at least.
        let again = [Change::Added(4, device(4)), Change::Removed(id(4))];
        assert_eq!(reapply(&theirs, &root, &again, Some(4)), Ok((None, vec![])));
        let all: Vec<_> = (1..=2).map(|number| Change::Removed(id(number))).collect();
        assert_eq!(reapply(&theirs, &root, &all, Some(4)), Ok((None, vec![])));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let root = RootKey::generate();
        let good = wire::SignedRecord::from(first(&root));
        for at in 0..good.record.len() {
            let mut bad = good.clone();
            bad.record[at] ^= 1;
            assert!(SignedRecord::try_from(bad).is_err(), "byte {at}");
        }
        let mut bad = good.clone();
        bad.signature[3] ^= 1;
        assert_eq!(SignedRecord::try_from(bad), Err(RecordError::Signature));
        let one = SignedRecord::try_from(good).unwrap();
        assert!(one.with_device(&root, device(1)).is_err());
        assert!(one.without_device(&root, DeviceId([2; 16])).is_err());
        assert!(one.without_device(&root, DeviceId([1; 16])).is_err(), "none is left");
        let mut many = one;
        for number in 2..=16 {
            many = many.with_device(&root, device(number)).unwrap();
        }
        assert!(many.with_device(&root, device(17)).is_err());
    }
}
