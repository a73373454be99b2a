//! Sealed tokens (docs/PROTOCOL.md, "Tokens"): a right that only this realm can make and open. The
//! relay needs no table of them, and nobody else can tell two of them apart or forge one.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{digest, rand};
use valise_proto::{MailboxId, RealmId, Token, TokenKind};

const KID_LEN: usize = 4;
const TAG_LEN: usize = 16;
const SERIAL_LEN: usize = 8;
const SEALED_AT: usize = KID_LEN + NONCE_LEN;
const TAG_AT: usize = SEALED_AT + RIGHT_LEN;

// Inside the seal: kind 1 | mailbox 16 | serial 8 | expiry day 2, big-endian | class 1.
const MAILBOX_AT: usize = 1;
const SERIAL_AT: usize = MAILBOX_AT + MailboxId::LEN;
const EXPIRY_AT: usize = SERIAL_AT + SERIAL_LEN;
const CLASS_AT: usize = EXPIRY_AT + 2;
const RIGHT_LEN: usize = CLASS_AT + 1;

const _: () = assert!(TAG_AT + TAG_LEN == Token::LEN);

/// What an opened token allows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// What may be done.
    pub kind: TokenKind,
    /// With which mailbox; zeros for an invite code.
    pub mailbox: MailboxId,
    /// Random: tells the tokens of one mailbox apart, for revoking and spending.
    pub serial: [u8; SERIAL_LEN],
    /// Its last day, in days since 1970-01-01.
    pub expiry_day: u16,
    /// The class of its rate limit; 0 is the default.
    pub class: u8,
}

impl Right {
    /// Whether its last day has passed.
    pub fn expired(&self, today: u16) -> bool {
        today > self.expiry_day
    }

    fn to_bytes(self) -> [u8; RIGHT_LEN] {
        let mut bytes = [0; RIGHT_LEN];
        bytes[0] = self.kind as u8;
        bytes[MAILBOX_AT..SERIAL_AT].copy_from_slice(self.mailbox.as_bytes());
        bytes[SERIAL_AT..EXPIRY_AT].copy_from_slice(&self.serial);
        bytes[EXPIRY_AT..CLASS_AT].copy_from_slice(&self.expiry_day.to_be_bytes());
        bytes[CLASS_AT] = self.class;
        bytes
    }

    fn from_bytes(bytes: &[u8; RIGHT_LEN]) -> Option<Self> {
        let mut mailbox = [0; MailboxId::LEN];
        mailbox.copy_from_slice(&bytes[MAILBOX_AT..SERIAL_AT]);
        let mut serial = [0; SERIAL_LEN];
        serial.copy_from_slice(&bytes[SERIAL_AT..EXPIRY_AT]);
        Some(Self {
            kind: TokenKind::from_number(bytes[0])?,
            mailbox: MailboxId::new(mailbox),
            serial,
            expiry_day: u16::from_be_bytes([bytes[EXPIRY_AT], bytes[EXPIRY_AT + 1]]),
            class: bytes[CLASS_AT],
        })
    }
}

impl fmt::Debug for Right {
    /// Without the serial: two log lines must not show that one token was used twice.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Right")
            .field("kind", &self.kind)
            .field("mailbox", &self.mailbox)
            .field("expiry_day", &self.expiry_day)
            .field("class", &self.class)
            .finish_non_exhaustive()
    }
}

/// The realm's token keys: the current one seals, all of them open. Read from `token.keys` by
/// [`crate::identity`]. Clones share them.
#[derive(Clone)]
pub struct TokenKeys {
    realm: RealmId,
    /// Never empty; the first is the current one.
    keys: Arc<[TokenKey]>,
}

/// Token keys that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenKeysError {
    /// There is no key to seal with.
    #[error("there is no token key")]
    Empty,
    /// The same key, or two keys of one key id.
    #[error("two token keys have the same key id")]
    SameKeyId,
}

struct TokenKey {
    kid: [u8; KID_LEN],
    key: LessSafeKey,
}

impl TokenKeys {
    /// Length of a token key, in bytes.
    pub const KEY_LEN: usize = 32;

    /// The keys of a realm, the current one first.
    ///
    /// # Errors
    /// [`TokenKeysError`] if there is none, or two share a key id.
    pub fn new(realm: RealmId, keys: &[[u8; Self::KEY_LEN]]) -> Result<Self, TokenKeysError> {
        let keys: Vec<_> = keys.iter().map(TokenKey::new).collect();
        if keys.is_empty() {
            return Err(TokenKeysError::Empty);
        }
        let same = |(i, key): (usize, &TokenKey)| keys[..i].iter().any(|k| k.kid == key.kid);
        if keys.iter().enumerate().any(same) {
            return Err(TokenKeysError::SameKeyId);
        }
        Ok(Self { realm, keys: keys.into() })
    }

    /// The realm whose tokens they are.
    pub fn realm(&self) -> RealmId {
        self.realm
    }

    /// Seals a right with a fresh serial under the current key.
    pub fn seal(&self, kind: TokenKind, mailbox: &MailboxId, expiry_day: u16, class: u8) -> Token {
        let mut random = [0; NONCE_LEN + SERIAL_LEN];
        rand::fill(&mut random).expect("the system's random source works");
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&random[..NONCE_LEN]);
        let mut serial = [0; SERIAL_LEN];
        serial.copy_from_slice(&random[NONCE_LEN..]);

        let right = Right { kind, mailbox: *mailbox, serial, expiry_day, class };
        self.seal_bytes(right.to_bytes(), nonce)
    }

    fn seal_bytes(&self, mut sealed: [u8; RIGHT_LEN], nonce: [u8; NONCE_LEN]) -> Token {
        let current = &self.keys[0];
        let tag = current
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(self.realm.as_bytes()),
                &mut sealed,
            )
            .expect("27 bytes are within the cipher's limits");
        let mut token = [0; Token::LEN];
        token[..KID_LEN].copy_from_slice(&current.kid);
        token[KID_LEN..SEALED_AT].copy_from_slice(&nonce);
        token[SEALED_AT..TAG_AT].copy_from_slice(&sealed);
        token[TAG_AT..].copy_from_slice(tag.as_ref());
        Token::new(token)
    }

    /// The right inside a token; `None` if this realm did not seal it. Whether it has expired is
    /// the caller's question. An unknown key id is tried with the current key all the same, so
    /// that it takes as long as a wrong tag.
    pub fn open(&self, token: &Token) -> Option<Right> {
        let bytes = token.as_bytes();
        let named = self.keys.iter().find(|key| key.kid == bytes[..KID_LEN]);
        let key = named.unwrap_or(&self.keys[0]);

        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&bytes[KID_LEN..SEALED_AT]);
        let mut right = [0; RIGHT_LEN];
        let opened = key.key.open_separate_gather(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(self.realm.as_bytes()),
            &bytes[SEALED_AT..TAG_AT],
            &bytes[TAG_AT..],
            &mut right,
        );
        if opened.is_err() || named.is_none() {
            return None;
        }
        Right::from_bytes(&right)
    }
}

impl fmt::Debug for TokenKeys {
    /// Redacted: whoever holds a key can make every right.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKeys({} keys, redacted)", self.keys.len())
    }
}

impl TokenKey {
    /// The key id is a hash of the key: a damaged key cannot pass for the one it was.
    fn new(key: &[u8; TokenKeys::KEY_LEN]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"valise token key 1");
        context.update(key);
        let mut kid = [0; KID_LEN];
        kid.copy_from_slice(&context.finish().as_ref()[..KID_LEN]);
        let key = UnboundKey::new(&AES_256_GCM_SIV, key).expect("a key has 32 bytes");
        Self { kid, key: LessSafeKey::new(key) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REALM: RealmId = RealmId::new([3; 20]);
    const MAILBOX: MailboxId = MailboxId::new([9; 16]);

    fn keys(realm: RealmId, keys: &[u8]) -> TokenKeys {
        let keys: Vec<_> = keys.iter().map(|byte| [*byte; 32]).collect();
        TokenKeys::new(realm, &keys).unwrap()
    }

    #[test]
    fn a_sealed_right_opens_as_it_was() {
        let keys = keys(REALM, &[1]);
        for kind in TokenKind::ALL {
            let right = keys.open(&keys.seal(kind, &MAILBOX, 0x1234, 7)).unwrap();
            assert_eq!((right.kind, right.mailbox), (kind, MAILBOX));
            assert_eq!((right.expiry_day, right.class), (0x1234, 7));
        }
    }

    #[test]
    fn two_tokens_of_one_right_have_nothing_in_common_but_the_key_id() {
        let keys = keys(REALM, &[1]);
        let a = keys.seal(TokenKind::Post, &MAILBOX, 1, 0);
        let b = keys.seal(TokenKind::Post, &MAILBOX, 1, 0);
        let same = a.as_bytes().iter().zip(b.as_bytes()).skip(KID_LEN).filter(|(a, b)| a == b);
        assert!(same.count() < 8, "56 random bytes");
        assert_ne!(keys.open(&a).unwrap().serial, keys.open(&b).unwrap().serial);
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let keys = keys(REALM, &[1, 2]);
        let token = keys.seal(TokenKind::Member, &MAILBOX, 1, 0);
        for bit in 0..Token::LEN * 8 {
            let mut bytes = *token.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(keys.open(&Token::new(bytes)), None, "bit {bit}");
        }
    }

    #[test]
    fn another_realm_or_key_opens_nothing() {
        let token = keys(REALM, &[1]).seal(TokenKind::Post, &MAILBOX, 1, 0);
        assert_eq!(keys(RealmId::new([4; 20]), &[1]).open(&token), None);
        assert_eq!(keys(REALM, &[2]).open(&token), None);
    }

    #[test]
    fn an_older_key_still_opens() {
        let token = keys(REALM, &[1]).seal(TokenKind::Post, &MAILBOX, 1, 0);
        let rotated = keys(REALM, &[2, 1]);
        assert!(rotated.open(&token).is_some());
        let fresh = rotated.seal(TokenKind::Post, &MAILBOX, 1, 0);
        assert_eq!(keys(REALM, &[1]).open(&fresh), None, "the current key seals");
    }

    #[test]
    fn an_unknown_kind_is_no_right() {
        let keys = keys(REALM, &[1]);
        for kind in [0, 7, 255] {
            let mut bytes = [0; RIGHT_LEN];
            bytes[0] = kind;
            assert_eq!(keys.open(&keys.seal_bytes(bytes, [5; NONCE_LEN])), None);
        }
    }

    #[test]
    fn the_last_day_is_included() {
        let keys = keys(REALM, &[1]);
        let right = keys.open(&keys.seal(TokenKind::Post, &MAILBOX, 100, 0)).unwrap();
        assert!(!right.expired(99));
        assert!(!right.expired(100));
        assert!(right.expired(101));
    }

    #[test]
    fn key_sets_that_cannot_work_are_named() {
        assert_eq!(TokenKeys::new(REALM, &[]).unwrap_err(), TokenKeysError::Empty);
        assert_eq!(
            TokenKeys::new(REALM, &[[1; 32], [2; 32], [1; 32]]).unwrap_err(),
            TokenKeysError::SameKeyId
        );
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", keys(REALM, &[0x5a])), "TokenKeys(1 keys, redacted)");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_open_nothing(bytes: [u8; 32], more: [u8; 28]) {
            let mut token = [0; Token::LEN];
            token[..32].copy_from_slice(&bytes);
            token[32..].copy_from_slice(&more);
            prop_assert_eq!(keys(REALM, &[1]).open(&Token::new(token)), None);
        }

        #[test]
        fn any_right_round_trips(mailbox: [u8; 16], day: u16, class: u8) {
            let keys = keys(REALM, &[1]);
            let token = keys.seal(TokenKind::Take, &MailboxId::new(mailbox), day, class);
            let right = keys.open(&token).unwrap();
            prop_assert_eq!(right.mailbox, MailboxId::new(mailbox));
            prop_assert_eq!((right.expiry_day, right.class), (day, class));
        }
    }
}
