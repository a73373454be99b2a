//! The texts that people paste: addresses, realm ids, invite codes. What is read, reads the same
//! once written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use valise_proto::{RealmId, RelayAddress, Token};

fuzz_target!(|text: &str| {
    if let Ok(address) = text.parse::<RelayAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    if let Ok(realm) = RealmId::from_text(text) {
        assert_eq!(realm.to_text(), text.to_lowercase());
    }
    if let Ok(token) = Token::from_text(text) {
        assert_eq!(token.to_text(), text.trim().to_lowercase());
    }
});
