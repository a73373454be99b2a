//! Links: host, realm and a secret. What the link opens lies in a slot that only the secret finds.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::{digest, hmac};
use valise_proto::{AddressError, RelayAddress, SlotId, from_base32, to_base32};
use zeroize::Zeroizing;

use crate::seal::ItemKey;

/// Written `valise://host:port/REALM#SECRET`. Whoever has it can follow it; it is not redacted when
/// shown, for that is what it is for.
#[derive(Clone, PartialEq, Eq)]
pub struct InviteLink {
    /// The relay that keeps the slot.
    pub relay: RelayAddress,
    secret: Zeroizing<[u8; 16]>,
}

/// A text that is no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// There is no number sign in it.
    #[error("a link looks like valise://host:port/REALM#SECRET; was it cut off?")]
    NoSecret,
    /// What follows the number sign is no secret.
    #[error("the part after # has 26 characters from a-z and 2-7; was it cut off?")]
    Secret,
    /// What precedes it is no address.
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl InviteLink {
    /// A link with a fresh secret.
    pub fn new(relay: RelayAddress, secret: [u8; 16]) -> Self {
        Self { relay, secret: Zeroizing::new(secret) }
    }

    /// The secret.
    pub fn secret(&self) -> &[u8; 16] {
        &self.secret
    }

    /// Where an invite's card lies: `SHA-256("valise invite slot 1" | secret)`.
    pub fn slot(&self) -> SlotId {
        self.slot_of(b"valise invite slot 1")
    }

    /// What opens it: `HMAC-SHA-256(secret, "valise invite key 1")`.
    pub fn key(&self) -> ItemKey {
        self.key_of(b"valise invite key 1")
    }

    /// As [`Self::slot`], of the link of a new device: `"valise link slot 1"`.
    pub fn device_slot(&self) -> SlotId {
        self.slot_of(b"valise link slot 1")
    }

    /// As [`Self::key`], of the link of a new device: `"valise link key 1"`.
    pub fn device_key(&self) -> ItemKey {
        self.key_of(b"valise link key 1")
    }

    fn slot_of(&self, label: &[u8]) -> SlotId {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(label);
        context.update(&*self.secret);
        let hash = context.finish();
        SlotId::try_from(hash.as_ref()).expect("SHA-256 is as long as a slot id")
    }

    fn key_of(&self, label: &[u8]) -> ItemKey {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.secret);
        let tag = hmac::sign(&key, label);
        ItemKey::new(tag.as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for InviteLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.relay, to_base32(&*self.secret))
    }
}

impl fmt::Debug for InviteLink {
    /// Without the secret: debug output ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InviteLink({}, redacted)", self.relay)
    }
}

impl FromStr for InviteLink {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let text = text.trim();
        let (address, secret) = text.split_once('#').ok_or(LinkError::NoSecret)?;
        let secret = from_base32(secret).ok_or(LinkError::Secret)?;
        let secret = <[u8; 16]>::try_from(secret.as_slice()).map_err(|_| LinkError::Secret)?;
        // A link that was shouted is a link: only the scheme and the realm have letters' case.
        let address = match address.parse() {
            Err(AddressError::Scheme) => address.to_lowercase().parse(),
            parsed => parsed,
        };
        Ok(Self::new(address?, secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valise_proto::RealmId;

    #[test]
    fn links_round_trip_and_cut_ones_are_named() {
        let realm = RealmId::new([4; 20]);
        let relay = RelayAddress { host: "chat.example.org".to_owned(), port: 7443, realm };
        let link = InviteLink::new(relay, [7; 16]);
        let text = link.to_string();
        assert_eq!(text.parse(), Ok(link.clone()));
        assert_eq!(format!("  {}\n", text.to_uppercase()).parse(), Ok(link.clone()));
        let parse = |text: &str| text.parse::<InviteLink>().unwrap_err();
        assert_eq!(parse(&text[..text.len() - 1]), LinkError::Secret);
        assert_eq!(parse(&link.relay.to_string()), LinkError::NoSecret);
        assert!(matches!(parse(&text[1..]), LinkError::Address(_)));
        assert!(!format!("{link:?}").contains(&to_base32(link.secret())));
        assert_ne!(link.slot(), link.device_slot());
        assert!(link.key().as_bytes() != link.device_key().as_bytes());
    }
}
