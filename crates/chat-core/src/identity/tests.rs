//! Properties of what comes from outside: it is read back as it was written, or refused.

use proptest::collection::vec;
use proptest::prelude::*;
use valise_proto::{RealmId, RelayAddress};

use super::{AccountId, Credential, DeviceId, InviteLink, RootKey, SignedRecord, Verdict, judge};
use crate::wire;

fn device(number: u8) -> wire::DeviceRecord {
    wire::DeviceRecord {
        device: vec![number; 16],
        signature_key: vec![number; 32],
        hpke_key: vec![number; 32],
        name: String::new(),
        since_ms: 0,
    }
}

proptest! {
    #[test]
    fn ids_round_trip(account: [u8; 32], device: [u8; 16]) {
        let (account, device) = (AccountId(account), DeviceId(device));
        prop_assert_eq!(AccountId::from_text(&account.to_text()), Ok(account));
        prop_assert_eq!(DeviceId::from_text(&device.to_text()), Ok(device));
    }

    #[test]
    fn credentials_round_trip(seed: [u8; 32], account: [u8; 32], device: [u8; 16], key: [u8; 32]) {
        let root = RootKey::from_seed(&seed);
        let credential = root.certify(AccountId(account), DeviceId(device), &key);
        let read = Credential::decode(&credential.encode());
        prop_assert_eq!(read.as_ref(), Ok(&credential));
        prop_assert_eq!(credential.verify(&key), Ok(()));
    }

    #[test]
    fn links_round_trip_in_either_case(
        host in "[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?",
        port in 1..=u16::MAX,
        realm: [u8; 20],
        secret: [u8; 16],
    ) {
        let link = InviteLink::new(RelayAddress { host, port, realm: RealmId::new(realm) }, secret);
        let text = link.to_string();
        prop_assert_eq!(text.to_uppercase().parse(), Ok(link.clone()));
        for len in 0..text.len() {
            prop_assert!(text[..len].parse::<InviteLink>().is_err(), "{} characters", len);
        }
        prop_assert_eq!(text.parse(), Ok(link));
    }

    #[test]
    fn arbitrary_input_is_refused(
        bytes in vec(any::<u8>(), 0..300),
        signature in vec(any::<u8>(), 0..70),
        text in "(valise://)?[a-z:/#]{0,40}.{0,20}",
    ) {
        prop_assert!(Credential::decode(&bytes).is_err());
        let signed = wire::SignedRecord { record: bytes, signature, ..Default::default() };
        prop_assert!(SignedRecord::try_from(signed).is_err());
        prop_assert!(text.parse::<InviteLink>().is_err());
    }

    /// However an account changes: whoever knows a record takes each later one over, and no
    /// earlier one; and it sees as added and removed what makes the one list the other.
    #[test]
    fn every_later_record_is_newer(changes in vec((any::<bool>(), 2u8..20), 1..12)) {
        let root = RootKey::from_seed(&[1; 32]);
        let mut history = vec![
            SignedRecord::first(&root, AccountId([9; 32]), device(1), [5; 32]).unwrap(),
        ];
        for (adds, number) in changes {
            let last = &history[history.len() - 1];
            let next = match adds {
                true => last.with_device(&root, device(number)),
                false => last.without_device(&root, DeviceId([number; 16])),
            };
            history.extend(next);
        }
        let list = |record: &SignedRecord| {
            let mut ids: Vec<_> = record.record().devices.iter().map(|d| d.device).collect();
            ids.sort();
            ids
        };
        for (i, known) in history.iter().enumerate() {
            for (j, incoming) in history.iter().enumerate() {
                match judge(Some(known), incoming).unwrap() {
                    Verdict::Same => prop_assert_eq!(i, j),
                    Verdict::Older => prop_assert!(j < i),
                    Verdict::Newer { added, removed, root_changed, skipped, forked } => {
                        prop_assert!(j > i && !root_changed && !forked);
                        prop_assert_eq!(skipped, j > i + 1);
                        let mut after = list(known);
                        after.retain(|id| !removed.contains(id));
                        after.extend(added);
                        after.sort();
                        prop_assert_eq!(after, list(incoming));
                    }
                    other => prop_assert!(false, "{i} {j} {other:?}"),
                }
            }
        }
    }
}
