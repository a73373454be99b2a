//! What can be wrong with a data centre: each kind has a name, a weight, and what to do about it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Look at it in the daytime.
    Warning,
    /// Look at it now: frames, or who can read them, are at stake.
    Critical,
}

impl Severity {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// How long an alarm of a kind stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stays {
    /// While it is seen.
    WhileSeen,
    /// Until an operator has acknowledged it, or it has been gone for
    /// [`crate::limits::ALARM_LASTS_SECONDS`].
    UntilAcknowledged,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $severity:ident, $rounds:literal, $stays:ident, $fix:literal;)*) => {
        /// What is wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub(crate) enum Kind { $($(#[$doc])* #[serde(rename = $name)] $kind,)* }

        impl Kind {
            /// Every kind.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// The name in reports, in metrics and in the document.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// How much it matters.
            pub(crate) const fn severity(self) -> Severity {
                match self { $(Self::$kind => Severity::$severity,)* }
            }

            /// In how many rounds on end it has to be seen before it is an alarm.
            pub(crate) const fn rounds(self) -> u32 {
                match self { $(Self::$kind => $rounds,)* }
            }

            /// How long the alarm stays.
            pub(crate) const fn stays(self) -> Stays {
                match self { $(Self::$kind => Stays::$stays,)* }
            }

            /// What to do.
            pub(crate) const fn fix(self) -> &'static str {
                match self { $(Self::$kind => $fix,)* }
            }
        }
    };
}

kinds! {
    /// No server could be asked: nothing is known.
    Unseen = "cluster_unseen", Critical, 1, WhileSeen,
        "see that the servers run and that this machine reaches them; then run `valisectl check cluster`";
    /// An address that nobody answers at.
    Unreachable = "server_unreachable", Critical, 1, WhileSeen,
        "start the server again, on the store it had; see that its port is reachable from here";
    /// A server the others know that does not answer.
    Silent = "server_silent", Critical, 1, WhileSeen,
        "start it again on the store it had; one that hangs has to be killed first; never remove it from the \
         cluster while another one is away";
    /// A server that nobody named.
    ForeignServer = "server_foreign", Critical, 1, UntilAcknowledged,
        "name it in the configuration if it is yours; if it is not, take it off the network and change the \
         servers' certificates: it sees what the others see";
    /// Fewer than there have to be.
    TooFew = "servers_few", Critical, 1, WhileSeen,
        "run three servers, in three power domains";
    /// A setting by which frames would be lost.
    ServerSetting = "server_setting", Critical, 1, WhileSeen,
        "give the server the configuration of deploy/nats and restart it";
    /// It says itself that it is not well.
    Unhealthy = "server_unhealthy", Warning, 2, WhileSeen,
        "read its log; one that has just been started may take minutes to have all its streams again";
    /// It does not say something that is judged.
    Blind = "server_blind", Critical, 2, WhileSeen,
        "what it does not say is not known, and silence is not consent: run the version and the configuration of \
         deploy/nats, and read its log";
    /// Servers that do not see each other.
    Routes = "routes_missing", Critical, 1, WhileSeen,
        "see that the servers reach each other on their cluster ports";
    /// Clocks that differ.
    Skew = "clock_skew", Critical, 1, WhileSeen,
        "set the clock right (chrony, or another NTP client, on each machine): times to live are kept by each \
         server's own clock";
    /// Streams that are not there.
    StreamMissing = "stream_missing", Critical, 1, WhileSeen,
        "start a relay, which makes what is not there; streams that were there have been deleted by somebody, with \
         all frames in them: find out by whom";
    /// A setting of a stream.
    StreamSetting = "stream_setting", Critical, 1, WhileSeen,
        "set it back (`nats stream edit`); relays refuse to start until it is; find out who changed it";
    /// Streams nobody leads.
    Leaderless = "leaderless", Critical, 1, WhileSeen,
        "bring a majority of the servers back: nothing is accepted for these mailboxes until then; without a \
         failure, an election takes up to 9 s";
    /// Copies that are behind.
    Lagging = "replica_lagging", Warning, 2, WhileSeen,
        "see whether its disk or network is slow; while it is behind, the stream has fewer copies than it should";
    /// Copies that differ.
    Mismatch = "replica_mismatch", Critical, 2, UntilAcknowledged,
        "this copy is damaged: it must not lead. Stop that server, check its disk, remove its JetStream store and \
         start it, so that it is built anew from the others; then acknowledge";
    /// Nearly no room.
    Full = "stream_full", Critical, 1, WhileSeen,
        "posts to its mailboxes are `busy`: give it more (`nats stream edit --max-bytes`), and see that recipients \
         fetch their mail";
    /// Little room.
    Filling = "stream_filling", Warning, 1, WhileSeen,
        "give it more before it is full (`nats stream edit --max-bytes`)";
    /// Somebody reads along.
    Consumer = "consumer", Critical, 1, UntilAcknowledged,
        "no relay makes consumers: delete it (`nats consumer rm`), find out who made it, and change the credentials \
         he used";
    /// Somebody gets copies.
    Mirror = "mirror", Critical, 1, UntilAcknowledged,
        "no relay makes mirrors: delete the stream, find out who made it, and change the credentials he used";
    /// Somebody gets copies.
    Source = "source", Critical, 1, UntilAcknowledged,
        "no relay makes streams that source others: delete it, find out who made it, and change the credentials he \
         used";
    /// A stream of somebody else.
    ForeignStream = "foreign_stream", Critical, 1, UntilAcknowledged,
        "it is none of a relay's: delete it, find out who made it, and change the credentials he used";
    /// Somebody listens.
    ForeignSubscription = "foreign_subscription", Critical, 1, UntilAcknowledged,
        "no node listens to this: whoever does gets copies of sealed frames. End the connection, and change the \
         credentials he used";
    /// Somebody is there.
    ForeignConnection = "foreign_connection", Critical, 1, UntilAcknowledged,
        "it is no node of a relay: end the connection, and change the credentials he used";
    /// Somebody is in the system account.
    ForeignOperator = "foreign_operator", Warning, 1, WhileSeen,
        "if it is none of your operators, change the operators' certificates";
    /// More nodes than there should be.
    TooManyNodes = "nodes_many", Critical, 1, UntilAcknowledged,
        "compare with the nodes you run (`--nodes`): somebody may have a node's credentials";
    /// An account that is none of ours.
    ForeignAccount = "foreign_account", Warning, 1, WhileSeen,
        "the configuration of deploy/nats has the accounts SYS and RELAY only: remove it from every server's \
         configuration";
    /// The account lets something out, or changes where it goes.
    AccountSetting = "account_setting", Critical, 1, UntilAcknowledged,
        "the relays' account exports nothing, imports no stream and maps no subject: remove it from the server's \
         configuration, reload, and find out who added it";
    /// Other servers are linked.
    ForeignLink = "foreign_link", Critical, 1, UntilAcknowledged,
        "a data centre has no leaf nodes and no gateways: remove them from the server's configuration";
    /// A canary was accepted and is gone.
    CanaryLost = "canary_lost", Critical, 1, UntilAcknowledged,
        "an accepted frame is gone: look for replica_mismatch of its stream, for streams that were purged or \
         restored, and for who may write to the bus";
    /// A canary came late.
    CanaryLate = "canary_late", Warning, 1, WhileSeen,
        "look at the disks and the network of the servers, and at the relay's `valise_bus_*` metrics";
    /// A canary came twice.
    CanaryDoubled = "canary_doubled", Critical, 1, UntilAcknowledged,
        "one frame is stored twice: see whether the stream's duplicate_window is a minute, and whether the relay's \
         version is the one you expect";
    /// A canary was not taken.
    CanaryRefused = "canary_refused", Critical, 2, WhileSeen,
        "people of these partitions cannot post or fetch either: look for leaderless, stream_full and whether the \
         relay is ready";
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What.
    pub(crate) kind: Kind,
    /// At what: a server, a stream, a client. The same fault has the same one each time.
    pub(crate) subject: String,
    /// How it is.
    pub(crate) cause: String,
}

impl Finding {
    pub(crate) fn new(kind: Kind, subject: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { kind, subject: subject.into(), cause: cause.into() }
    }
}

/// Names, the first few of them and how many more there are.
pub(crate) fn few(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_one_kind() {
        let mut names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            let text = serde_json::to_string(kind).expect("JSON can be written");
            assert_eq!(text, format!("\"{kind}\""));
        }
    }

    #[test]
    fn many_names_are_few() {
        assert_eq!(few(&["a", "b"]), "a, b");
        assert_eq!(few(&["a", "b", "c", "d", "e", "f"]), "a, b, c, d and 2 more");
    }
}
