//! What the servers said, as far as it is judged. Everything in it may be missing or wrong: whoever
//! judges it has to find out.

use serde::Deserialize;
use serde_json::Value;

/// One look at a data centre.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    /// The addresses that were given, and the server found at each.
    pub(crate) seats: Vec<Seat>,
    /// Who answered.
    pub(crate) servers: Vec<Server>,
    /// What each server has of each stream, looked at once or more.
    pub(crate) samples: Vec<Vec<Held>>,
}

/// An address.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(crate) url: String,
    /// The server's name, or why none was reached.
    pub(crate) found: Result<String, String>,
}

/// A server that answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) id: String,
    /// What it has told, of what it was asked.
    pub(crate) told: Vec<&'static str>,
    /// How far its clock is ahead of this machine's.
    pub(crate) ahead: Between,
    /// Its settings, in the envelope they came in.
    pub(crate) varz: Value,
    /// What it says of JetStream, streams apart.
    pub(crate) jsz: Value,
    /// Why it is not well; none where it is, or does not say.
    pub(crate) unwell: Option<String>,
    pub(crate) connections: Vec<Connection>,
    /// The accounts it has.
    pub(crate) accounts: Vec<String>,
    /// The account of the relays.
    pub(crate) relays: Value,
}

/// Everything that a server is asked for beside its settings.
pub(crate) const ASKED: [&str; 5] = [HEALTH, ACCOUNTS, RELAYS, STREAMS, CONNECTIONS];
pub(crate) const HEALTH: &str = "health";
pub(crate) const ACCOUNTS: &str = "accounts";
pub(crate) const RELAYS: &str = "relays' account";
pub(crate) const STREAMS: &str = "streams";
pub(crate) const CONNECTIONS: &str = "connections";

/// Milliseconds, known to be between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Between {
    pub(crate) least: i64,
    pub(crate) most: i64,
}

impl Default for Between {
    /// Nothing is known.
    fn default() -> Self {
        Self { least: i64::MIN / 4, most: i64::MAX / 4 }
    }
}

impl Between {
    /// A server said this time; it was asked and heard at these. All in milliseconds since 1970.
    pub(crate) fn of(said: i64, asked: i64, heard: i64) -> Self {
        Self { least: said - heard, most: said - asked }
    }

    /// What both say. Two that cannot both be true were said while a clock was set: the later counts.
    pub(crate) fn and(self, later: Self) -> Self {
        let both = Self { least: self.least.max(later.least), most: self.most.min(later.most) };
        if both.least <= both.most { both } else { later }
    }

    /// How far it is from 0 at the least, and in which direction.
    pub(crate) fn certain(self) -> i64 {
        if self.least > 0 {
            self.least
        } else if self.most < 0 {
            self.most
        } else {
            0
        }
    }

    /// How far one is ahead of another.
    pub(crate) fn minus(self, other: Self) -> Self {
        Self { least: self.least - other.most, most: self.most - other.least }
    }

    /// The middle.
    pub(crate) fn middle(self) -> i64 {
        self.least.midpoint(self.most)
    }
}

/// A client of a server.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Connection {
    pub(crate) ip: String,
    pub(crate) name: String,
    pub(crate) account: String,
    pub(crate) authorized_user: String,
    #[serde(rename = "subscriptions_list_detail")]
    pub(crate) subscriptions: Vec<Subscription>,
}

impl Connection {
    /// Everyone in a list. Whoever cannot be read is there all the same, and known to nobody.
    pub(crate) fn all(list: &[Value]) -> Vec<Self> {
        let unknown = || Self { name: "(unreadable)".to_owned(), ..Self::default() };
        list.iter().map(|one| Self::deserialize(one).unwrap_or_else(|_| unknown())).collect()
    }
}

/// What a client listens to.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Subscription {
    pub(crate) subject: String,
}

/// A stream as one server has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    pub(crate) server: String,
    pub(crate) account: String,
    pub(crate) stream: Stream,
}

/// A stream.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Stream {
    pub(crate) name: String,
    pub(crate) config: Value,
    pub(crate) state: State,
    pub(crate) cluster: Group,
    pub(crate) consumer_detail: Vec<Named>,
}

/// What is in a copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    pub(crate) num_deleted: u64,
    pub(crate) consumer_count: u64,
}

/// Who has copies.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Group {
    pub(crate) leader: String,
    pub(crate) replicas: Vec<Replica>,
}

/// A copy beside the one of whoever says this.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) current: bool,
    pub(crate) offline: bool,
    pub(crate) lag: u64,
}

/// Something with a name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Named {
    pub(crate) name: String,
}

impl Said {
    /// The last look at the streams.
    pub(crate) fn streams(&self) -> &[Held] {
        self.samples.last().map_or(&[], Vec::as_slice)
    }

    /// Whether this server answered.
    pub(crate) fn has_answered(&self, server: &str) -> bool {
        self.servers.iter().any(|answered| answered.name == server)
    }
}

/// The streams in a server's answer.
pub(crate) fn streams_of(server: &str, jsz: &Value) -> Vec<Held> {
    let mut all = Vec::new();
    for account in jsz["account_details"].as_array().into_iter().flatten() {
        let name = account["name"].as_str().unwrap_or_default();
        for stream in account["stream_detail"].as_array().into_iter().flatten() {
            // What cannot be read is no stream: its absence is found.
            let Ok(stream) = Stream::deserialize(stream) else { continue };
            all.push(Held { server: server.to_owned(), account: name.to_owned(), stream });
        }
    }
    all
}
