//! An account whose record was changed in two ways at once: told once, and brought together. Among
//! records of one number the one with the smaller hash counts for everyone; the device whose record
//! has lost makes its change again upon the other. `docs/decisions/0018-*.md` says why.

use prost::Message as _;

use super::core::Core;
use super::fault::Fault;
use super::records::state;
use crate::identity::{Change, DeviceId, SignedRecord, Verdict, reapply};
use crate::vault::Transaction;
use crate::wire;

/// So many hashes are kept of records whose fork was told, and so many changes of one's own.
const KEPT_MAX: usize = 32;

/// Whether this fork is to be told: once for each record that is of another history. What follows
/// upon a record that was told of is its continuation, and no news.
pub(super) fn is_news(
    forks: &mut Vec<Vec<u8>>,
    known: &SignedRecord,
    incoming: &SignedRecord,
) -> bool {
    let is_known = |hash: [u8; 32]| forks.iter().any(|told| told[..] == hash);
    let is_rival = known.record().sequence == incoming.record().sequence;
    let follows = !is_rival && incoming.record().previous.is_some_and(is_known);
    let is_news = !follows && !is_known(incoming.hash());
    for hash in [known.hash(), incoming.hash()] {
        if !forks.iter().any(|told| told[..] == hash) {
            forks.push(hash.to_vec());
        }
    }
    let excess = forks.len().saturating_sub(KEPT_MAX);
    forks.drain(..excess);
    is_news
}

impl Core {
    /// This device changes the account's record: in case that another one does so at the same moment,
    /// it remembers what it was.
    pub(super) fn set_own_record(
        &mut self,
        tx: &Transaction<'_>,
        record: SignedRecord,
        added: Option<&wire::DeviceRecord>,
        removed: Option<DeviceId>,
    ) -> Result<(), Fault> {
        self.me.changes.push(state::OwnChange {
            sequence: record.record().sequence,
            added: added.map(wire::DeviceRecord::encode_to_vec).unwrap_or_default(),
            removed: removed.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
        });
        let excess = self.me.changes.len().saturating_sub(KEPT_MAX);
        self.me.changes.drain(..excess);
        self.put_own_record(tx, record)
    }

    fn put_own_record(&mut self, tx: &Transaction<'_>, record: SignedRecord) -> Result<(), Fault> {
        self.me.signed_record = wire::SignedRecord::from(record).encode_to_vec();
        self.me.card_version += 1;
        self.save_me(tx)
    }

    /// Another device of the account says which record is the latest.
    pub(super) fn take_own_record(
        &mut self,
        tx: &Transaction<'_>,
        card: &wire::Card,
    ) -> Result<(), Fault> {
        let Some(record) = card.record.clone() else { return Ok(()) };
        let Ok(incoming) = SignedRecord::try_from(record) else { return Ok(()) };
        let Ok(known) = SignedRecord::try_from(self.own_record()?) else { return Ok(()) };
        let Ok(verdict) = crate::identity::judge(Some(&known), &incoming) else { return Ok(()) };
        // What a device of this version never makes, and could not sign upon.
        if incoming.record().root_key != known.record().root_key {
            return Ok(());
        }
        let is_fork = matches!(verdict, Verdict::Fork | Verdict::Newer { forked: true, .. });
        if is_fork && is_news(&mut self.me.forks, &known, &incoming) {
            self.save_me(tx)?;
            self.notice(
                "Two devices of your account changed its list of devices at the same moment. Both changes are kept: look \
                 at your devices. If that was not you, somebody has your account key: begin a new account, and tell \
                 your contacts in person.",
            );
        }
        let Verdict::Newer { skipped, forked, .. } = verdict else { return Ok(()) };
        self.put_own_record(tx, incoming.clone())?;
        if !skipped && !forked {
            // It was made upon what this device has changed.
            self.me.changes.clear();
            return self.save_me(tx);
        }
        let lost_from = forked.then_some(known.record().sequence);
        self.change_again(tx, &incoming, lost_from)
    }

    /// Makes the changes of this device again upon a record that was made without knowing of them.
    fn change_again(
        &mut self,
        tx: &Transaction<'_>,
        record: &SignedRecord,
        lost_from: Option<u64>,
    ) -> Result<(), Fault> {
        let root = super::own::root(&self.me)?;
        let changes: Vec<_> = self.me.changes.iter().filter_map(change).collect();
        let Ok((next, left_out)) = reapply(record, &root, &changes, lost_from) else {
            return Ok(());
        };
        for name in left_out {
            let name = super::people::presentable(&name);
            self.notice(format!(
                "The device {name:?} is not in your account any more. If you did not remove it, link it again."
            ));
        }
        let Some(next) = next else { return Ok(()) };
        let sequence = next.record().sequence;
        for change in &mut self.me.changes {
            change.sequence = sequence;
        }
        self.put_own_record(tx, next)?;
        self.tell_own_card(tx)
    }
}

fn change(stored: &state::OwnChange) -> Option<Change> {
    if stored.removed.is_empty() {
        let added = wire::DeviceRecord::decode(stored.added.as_slice()).ok()?;
        return Some(Change::Added(stored.sequence, added));
    }
    Some(Change::Removed(DeviceId(stored.removed.as_slice().try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{AccountId, RootKey};

    #[test]
    fn a_fork_is_told_once_for_each_record() {
        let root = RootKey::generate();
        let device = |number: u8| wire::DeviceRecord {
            device: vec![number; 16],
            signature_key: vec![number; 32],
            hpke_key: vec![number; 32],
            ..Default::default()
        };
        let first = SignedRecord::first(&root, AccountId([9; 32]), device(1), [5; 32]).unwrap();
        let with =
            |record: &SignedRecord, number| record.with_device(&root, device(number)).unwrap();
        let (one, other, third) = (with(&first, 2), with(&first, 3), with(&first, 4));
        let mut forks = Vec::new();
        assert!(is_news(&mut forks, &one, &other));
        assert!(!is_news(&mut forks, &one, &other), "again");
        assert!(!is_news(&mut forks, &other, &one), "the same two the other way around");
        assert!(is_news(&mut forks, &one, &third), "another one");
        assert!(!is_news(&mut forks, &one, &with(&other, 5)), "the other goes on");
        assert!(is_news(&mut forks, &with(&one, 6), &with(&other, 7)), "both go on");
        for number in 10..100 {
            is_news(&mut forks, &first, &with(&first, number));
        }
        assert_eq!(forks.len(), KEPT_MAX);
    }
}
