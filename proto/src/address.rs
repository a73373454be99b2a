//! Relay addresses, `valise://host:port/REALM`, and the text form of ids and codes: base32 in
//! lower case (RFC 4648, section 6, without padding), which survives being read aloud.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};

use crate::{RealmId, Token};

/// Where a relay is and which realm it must prove to serve.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RelayAddress {
    /// A host name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// The only trust: a relay that cannot prove it is refused.
    pub realm: RealmId,
}

/// A text that is no relay address, realm id or invite code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It does not begin with `valise://`.
    #[error("a relay address begins with valise://")]
    Scheme,
    /// It has no path.
    #[error("a relay address ends with its realm: valise://host:port/REALM")]
    NoRealm,
    /// Host or port are missing or wrong.
    #[error("a relay address names host and port: valise://host:port/REALM")]
    HostPort,
    /// The realm is not 32 characters of base32.
    #[error("a realm id has 32 characters from a-z and 2-7")]
    Realm,
    /// The code is not 96 characters of base32.
    #[error("an invite code has 96 characters from a-z and 2-7")]
    Code,
}

static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.translate.from.push_str("ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    specification.translate.to.push_str("abcdefghijklmnopqrstuvwxyz");
    specification.encoding().expect("32 different symbols make an encoding")
});

/// Bytes in lower-case base32 without padding: the text form of every id, code and secret.
pub fn to_base32(bytes: &[u8]) -> String {
    BASE32.encode(bytes)
}

/// Reads [`to_base32`] back, in either case. None: other characters, or bits left over that are not
/// zero.
pub fn from_base32(text: &str) -> Option<Vec<u8>> {
    BASE32.decode(text.as_bytes()).ok()
}

impl RealmId {
    /// The 32 characters of the realm id.
    pub fn to_text(&self) -> String {
        to_base32(self.as_bytes())
    }

    /// Reads [`Self::to_text`] back, in either case.
    ///
    /// # Errors
    /// [`AddressError::Realm`].
    pub fn from_text(text: &str) -> Result<Self, AddressError> {
        let bytes = from_base32(text).ok_or(AddressError::Realm)?;
        Self::try_from(&bytes[..]).map_err(|_| AddressError::Realm)
    }
}

impl Token {
    /// The 96 characters of an invite code.
    pub fn to_text(&self) -> String {
        to_base32(self.as_bytes())
    }

    /// Reads [`Self::to_text`] back, in either case.
    ///
    /// # Errors
    /// [`AddressError::Code`].
    pub fn from_text(text: &str) -> Result<Self, AddressError> {
        let bytes = from_base32(text.trim_ascii()).ok_or(AddressError::Code)?;
        Self::try_from(&bytes[..]).map_err(|_| AddressError::Code)
    }
}

impl fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "valise://{open}{}{close}:{}/{}", self.host, self.port, self.realm.to_text())
    }
}

impl FromStr for RelayAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = text.trim_ascii().strip_prefix("valise://").ok_or(AddressError::Scheme)?;
        let (place, realm) = rest.split_once('/').ok_or(AddressError::NoRealm)?;
        let (host, port) = place.rsplit_once(':').ok_or(AddressError::HostPort)?;
        let host = parse_host(host).ok_or(AddressError::HostPort)?;
        // `u16::from_str` would take a plus sign.
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(AddressError::HostPort);
        }
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(AddressError::HostPort)?;
        Ok(Self { host: host.to_owned(), port, realm: RealmId::from_text(realm)? })
    }
}

/// The host without brackets: an IPv6 address inside them, a name or an IPv4 address without. What
/// a resolver, a terminal or a log could misread has no place in an address.
fn parse_host(host: &str) -> Option<&str> {
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']')?;
        return inner.parse::<Ipv6Addr>().is_ok().then_some(inner);
    }
    let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (!host.is_empty() && host.bytes().all(of_a_name)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for host in ["relay.example", "127.0.0.1", "::1"] {
            let address =
                RelayAddress { host: host.to_owned(), port: 7443, realm: RealmId::new([5; 20]) };
            assert_eq!(address.to_string().parse(), Ok(address));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let realm = RealmId::new([5; 20]).to_text();
        let parse = |text: &str| text.parse::<RelayAddress>().unwrap_err();
        assert_eq!(parse("https://a:1/x"), AddressError::Scheme);
        assert_eq!(parse("valise://a:1"), AddressError::NoRealm);
        assert_eq!(parse(&format!("valise://a/{realm}")), AddressError::HostPort);
        assert_eq!(parse(&format!("valise://::1:7/{realm}")), AddressError::HostPort);
        assert_eq!(parse(&format!("valise://a:0/{realm}")), AddressError::HostPort);
        assert_eq!(parse("valise://a:1/abc"), AddressError::Realm);
        for place in [":1", "[]:1", "[[a]:1", "[a]:1", "a]:1", "a b:1", "u@a:1", "a:+1", "a:65536"]
        {
            assert_eq!(parse(&format!("valise://{place}/{realm}")), AddressError::HostPort);
        }
    }
}
