//! Why something was refused and why a connection ended. One name each: it is the wire code, the
//! metric label, the log field and the word in docs/PROTOCOL.md.

use std::fmt;

use crate::pb;

macro_rules! names {
    (
        $(#[$doc:meta])* $name:ident from $pb:ident {
            $($(#[$item_doc:meta])* $item:ident = $text:literal),* $(,)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$item_doc])* $item,)*
        }

        impl $name {
            /// Every value, in the order of the wire numbers.
            pub const ALL: &'static [Self] = &[$(Self::$item),*];

            /// The one name: wire, metric label, log field, document.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$item => $text),* }
            }

            pub(crate) const fn to_wire(self) -> i32 {
                match self { $(Self::$item => pb::$pb::$item as i32),* }
            }

            pub(crate) fn from_wire(number: i32) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.to_wire() == number)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

names! {
    /// The outcome of one target of a post, or the reason of a refusal.
    Reason from Reason {
        /// The frame is durable in its mailbox, or its recipient has already acknowledged it.
        Accepted = "accepted",
        /// The relay cannot decide now; retry with the same frame id.
        Busy = "busy",
        /// Too often; retry after the time given.
        RateLimited = "rate_limited",
        /// The token was not sealed by this realm, or is of another kind.
        TokenInvalid = "token_invalid",
        /// The token's last day has passed.
        TokenExpired = "token_expired",
        /// Its owner has revoked the token.
        TokenRevoked = "token_revoked",
        /// The mailbox has reached its quota of frames or bytes.
        MailboxFull = "mailbox_full",
        /// Targets times payload exceed the fan-out limit.
        TooLarge = "too_large",
        /// The payload is not exactly one of the padded sizes.
        NotPadded = "not_padded",
        /// More than 1,024 targets, or none.
        TooManyTargets = "too_many_targets",
        /// The time to live is above 90 days.
        TtlInvalid = "ttl_invalid",
        /// The owner key is not the one the mailbox is named after.
        NotOwner = "not_owner",
        /// No such attachment on this connection.
        NotAttached = "not_attached",
        /// The connection serves 16 mailboxes already.
        TooManyAttachments = "too_many_attachments",
        /// The signature does not verify over this connection's statement.
        SignatureInvalid = "signature_invalid",
        /// A raw connection must sign with its channel.
        ChannelRequired = "channel_required",
        /// This relay asks for an invite code to join.
        CodeRequired = "code_required",
        /// The invite code was used by another owner key.
        CodeSpent = "code_spent",
        /// The owner key is not on this relay's allow list.
        NotAllowed = "not_allowed",
        /// The realm is being moved, and this part of it is served at another of its endpoints.
        Moved = "moved",
        /// Tokens of this kind are not issued.
        KindInvalid = "kind_invalid",
        /// Count, days or rate class are out of range.
        LimitsInvalid = "limits_invalid",
        /// The mailbox has 4,096 revoked tokens: it is to be replaced.
        RevocationsFull = "revocations_full",
        /// The bundle would have more than 100 items.
        BundleFull = "bundle_full",
        /// The bundle has no item, not even a last resort.
        BundleEmpty = "bundle_empty",
    }
}

impl Reason {
    /// Its number on the wire.
    pub const fn number(self) -> u32 {
        self.to_wire().unsigned_abs()
    }

    /// The reason of this number, if this version knows it.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::from_wire(number.try_into().ok()?)
    }

    /// Whether the same request may succeed later without being changed.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Busy | Self::RateLimited | Self::MailboxFull | Self::Moved)
    }
}

names! {
    /// Why the relay ended a connection.
    CloseReason from CloseReason {
        /// The relay is restarting; see the preceding `Restarting`.
        Restarting = "restarting",
        /// Neither attached nor posted in time.
        EstablishmentTimeout = "establishment_timeout",
        /// Nothing heard for 90 seconds.
        Idle = "idle",
        /// A packet that does not decode.
        Malformed = "malformed",
        /// A declared length above the limit.
        PacketTooLarge = "packet_too_large",
        /// A packet before `Hello`, or a second `Hello`.
        OutOfOrder = "out_of_order",
        /// The client's version or features are not among those offered.
        VersionUnsupported = "version_unsupported",
        /// An `Ack` beyond what was delivered.
        AckInvalid = "ack_invalid",
        /// The client did not take what it was sent in time.
        TooSlow = "too_slow",
        /// The relay's store failed.
        StoreFailed = "store_failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_wire_names() {
        for reason in Reason::ALL {
            let wire = pb::Reason::try_from(reason.to_wire()).unwrap().as_str_name();
            assert_eq!(wire, format!("REASON_{}", reason.name().to_uppercase()));
            assert_eq!(Reason::from_wire(reason.to_wire()), Some(*reason));
        }
        for reason in CloseReason::ALL {
            let wire = pb::CloseReason::try_from(reason.to_wire()).unwrap().as_str_name();
            assert_eq!(wire, format!("CLOSE_REASON_{}", reason.name().to_uppercase()));
        }
        assert_eq!(Reason::from_wire(25), None, "unknown numbers decode to nothing");
    }
}
