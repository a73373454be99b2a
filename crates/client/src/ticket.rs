//! One string that says where to post to: a relay's address and a capability.

use std::fmt;
use std::str::FromStr;

use valise_proto::{AddressError, RelayAddress, Token};

/// Written `valise://host:port/REALM+CAPABILITY`. Whoever has it can post; it is not redacted when
/// shown, for that is what it is for.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The relay.
    pub address: RelayAddress,
    /// The right to post into one mailbox there.
    pub capability: Token,
}

/// A text that is no ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// There is no plus sign in it.
    #[error("a ticket looks like valise://host:port/REALM+CAPABILITY; was it cut off?")]
    NoCapability,
    /// What follows the plus sign is no capability.
    #[error("the part after + has 96 characters from a-z and 2-7; was it cut off?")]
    Capability,
    /// What precedes it is no address.
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.address, self.capability.to_text())
    }
}

impl fmt::Debug for Ticket {
    /// Without the capability: debug output ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({}, redacted)", self.address)
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let (address, capability) = text.trim().split_once('+').ok_or(TicketError::NoCapability)?;
        let capability = Token::from_text(capability).map_err(|_| TicketError::Capability)?;
        Ok(Self { address: address.parse()?, capability })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valise_proto::RealmId;

    #[test]
    fn tickets_round_trip_and_cut_ones_are_named() {
        let realm = RealmId::new([4; 20]);
        let address = RelayAddress { host: "::1".to_owned(), port: 7443, realm };
        let ticket = Ticket { address, capability: Token::new([9; 60]) };
        let text = ticket.to_string();
        assert_eq!(text.parse(), Ok(ticket.clone()));
        assert_eq!(format!(" {text}\n").parse(), Ok(ticket.clone()));
        let parse = |text: &str| text.parse::<Ticket>().unwrap_err();
        assert_eq!(parse(&text[..text.len() - 1]), TicketError::Capability);
        assert_eq!(parse(&ticket.address.to_string()), TicketError::NoCapability);
        assert!(matches!(parse(&text[1..]), TicketError::Address(_)));
        assert!(!format!("{ticket:?}").contains(&ticket.capability.to_text()));
    }
}
