//! The values that labels have: fixed lists, so that the number of series never depends on who uses
//! the relay.

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$item_doc])* $item),* }

        impl $name {
            pub(super) const ALL: &'static [&'static str] = &[$($text),*];

            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$item => $text),* }
            }
        }
    };
}

label! {
    /// Why a signal went nowhere.
    SignalDrop {
        /// Nobody is attached to the mailbox.
        NotAttached = "not_attached",
        /// The recipient's connection does not keep up.
        Window = "window",
        /// The capability was not sealed here.
        TokenInvalid = "token_invalid",
        /// The capability's last day has passed.
        TokenExpired = "token_expired",
        /// Its owner has revoked the capability.
        TokenRevoked = "token_revoked",
        /// The capability is used too often.
        RateLimited = "rate_limited",
        /// The payload has none of the padded sizes.
        NotPadded = "not_padded",
        /// Targets times payload are too much.
        TooLarge = "too_large",
        /// Too many targets, or none.
        TooManyTargets = "too_many_targets",
    }
}

label! {
    /// Why a connection was not accepted.
    AcceptRefused {
        /// Its address prefix connects too often.
        PrefixRate = "prefix_rate",
        /// The system could not (descriptors, memory).
        System = "system",
    }
}

label! {
    /// What a connection is at the moment.
    ConnectionKind {
        /// In its TLS handshake.
        Handshaking = "handshaking",
        /// Packets under ALPN `valise/1`.
        Raw = "raw",
        /// Packets in WebSocket messages.
        WebSocket = "websocket",
    }
}

label! {
    /// What was asked for over HTTPS.
    HttpPath {
        /// The WebSocket.
        Relay = "relay",
        /// The discovery document.
        WellKnown = "well_known",
        /// The page that says what this host is.
        Page = "page",
        /// Nothing we have.
        Other = "other",
    }
}

label! {
    /// Why a connection was asked to move.
    MoveReason {
        /// Another node is preferred for its mailbox.
        Preferred = "preferred",
        /// This node ends.
        Leaving = "leaving",
        /// It is to be ready for the data centre.
        Preparing = "preparing",
        /// Its mailboxes are the data centre's.
        Migrated = "migrated",
    }
}

label! {
    /// How it stands with a shard of a supernode.
    ShardState {
        /// It does not migrate.
        Plain = "plain",
        /// It serves, with a log.
        Local = "local",
        /// It waits for the importer, since the process was started.
        Unsure = "unsure",
        /// A change of state is on its way to the disk.
        Writing = "writing",
        /// It waits for the data centre.
        Sealed = "sealed",
        /// Posts are passed on.
        Forward = "forward",
        /// Wiped.
        Gone = "gone",
    }
}

label! {
    /// How a reload went.
    Reload {
        /// The new configuration is in force.
        Done = "done",
        /// The old one stays in force.
        Failed = "failed",
    }
}

pub(super) const GROUPS: &[&str] = &["X25519MLKEM768", "X25519", "other"];

/// Packets that can be refused by name. A post's outcomes are counted apart.
pub(super) const REFUSABLE: &[&str] = &[
    "join",
    "attach",
    "detach",
    "issue",
    "revoke",
    "post",
    "put_slot",
    "get_slots",
    "publish_bundle",
    "take_bundle",
];

/// Ends that are not a `CloseReason`.
pub(super) const OTHER_ENDS: &[&str] =
    &["peer_closed", "transport_error", "tls_failed", "http_answered"];
