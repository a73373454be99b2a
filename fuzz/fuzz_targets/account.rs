//! Who somebody claims to be: account records, how they are judged, credentials, links.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use valise_chat_core::identity::{Credential, InviteLink, SignedRecord, Verdict, judge};
use valise_chat_core::wire;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(credential) = Credential::decode(bytes) {
        assert_eq!(credential.encode(), bytes, "there is one encoding");
    }
    let record = wire::SignedRecord::decode(bytes).ok();
    if let Some(record) = record.and_then(|record| SignedRecord::try_from(record).ok()) {
        assert!(matches!(judge(None, &record), Ok(Verdict::First)));
        assert!(matches!(judge(Some(&record), &record), Ok(Verdict::Same)));
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(link) = text.parse::<InviteLink>()
    {
        assert_eq!(link.to_string().parse(), Ok(link), "what is written is read");
    }
});
