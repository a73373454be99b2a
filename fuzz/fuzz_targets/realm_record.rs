//! A realm record with its signature in front: read as the realm it claims to be about, so that
//! every check before the signature is reached. What is believed was signed.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use valise_proto::{RealmId, Signature, SignedRealmRecord, statement};

fuzz_target!(|bytes: &[u8]| {
    let Some((signature, record)) = bytes.split_at_checked(Signature::LEN) else { return };
    let signature = Signature::try_from(signature).unwrap();
    // The realm is the record's first field: a tag, a length, the id.
    let claimed = record.get(2..2 + RealmId::LEN).unwrap_or(&[0; RealmId::LEN]);
    let claimed = RealmId::try_from(claimed).unwrap();
    let signed = SignedRealmRecord { record: Bytes::copy_from_slice(record), signature };
    if let Ok(believed) = signed.verify(&claimed) {
        assert_eq!(believed.realm, claimed);
        assert_eq!(RealmId::of_root_key(&believed.root_key), claimed);
        assert!(believed.root_key.verifies(&statement::realm_record(record), &signature));
    }
});
