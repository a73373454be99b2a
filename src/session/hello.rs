//! The opening: the relay has said `Welcome`, the client must say `Hello`, and nothing else.

use valise_proto::{Channel, CloseReason, FEATURES, Hello, Nonce, Token, VERSION};

/// A connection that was greeted and has not answered.
#[derive(Debug, Clone, Copy)]
pub struct Greeting {
    /// What the client was shown.
    pub nonce: Nonce,
    /// The certificate it was served with.
    pub channel: Channel,
    /// Whether the client can see the certificate: on the raw transport it always can.
    pub channel_required: bool,
}

/// What a valid `Hello` leaves to be looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    /// Lets the connection wait without attaching, if it is good.
    pub member_token: Option<Token>,
}

impl Greeting {
    /// Judges the client's choice.
    ///
    /// # Errors
    /// `version_unsupported` when it chose what was not offered.
    pub fn answer(&self, hello: Hello) -> Result<Opened, CloseReason> {
        if hello.version != VERSION || hello.features & !FEATURES != 0 {
            return Err(CloseReason::VersionUnsupported);
        }
        Ok(Opened { member_token: hello.member_token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_offered_can_be_chosen() {
        let greeting = Greeting {
            nonce: Nonce::new([0; 32]),
            channel: Channel::UNSEEN,
            channel_required: true,
        };
        let hello =
            |version, features| Hello { version, features, realm_epoch: 9, member_token: None };
        assert!(greeting.answer(hello(1, 0)).is_ok());
        assert_eq!(greeting.answer(hello(2, 0)), Err(CloseReason::VersionUnsupported));
        assert_eq!(greeting.answer(hello(0, 0)), Err(CloseReason::VersionUnsupported));
        assert_eq!(greeting.answer(hello(1, 1)), Err(CloseReason::VersionUnsupported));
    }
}
