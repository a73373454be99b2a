//! What a node says of itself to the others of its realm.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One announcement. Whoever writes to the bus can make one, so it says nothing that is believed
/// against the realm's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Announcement {
    /// Its own `host:port`, as the realm's record lists it.
    pub(super) endpoint: String,
    /// The short form of its signing key.
    pub(super) key: String,
    /// Drawn at its start: a node that has restarted is another one.
    pub(super) start: u64,
    /// Whether it takes clients.
    pub(super) state: State,
}

/// Whether a node takes clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// It does.
    Up,
    /// It leads its clients elsewhere and ends.
    Leaving,
}

/// Longer ones are not read.
const BYTES_MAX: usize = 1024;

impl Announcement {
    pub(super) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("JSON can be written").into()
    }

    /// None for what is no announcement.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > BYTES_MAX {
            return None;
        }
        serde_json::from_slice(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read() {
        let said = Announcement {
            endpoint: "[2001:db8::1]:443".to_owned(),
            key: "0123456789abcdef".to_owned(),
            start: u64::MAX,
            state: State::Leaving,
        };
        assert_eq!(Announcement::decode(&said.encode()), Some(said.clone()));
        let long = Announcement { endpoint: "a".repeat(BYTES_MAX), ..said };
        for other in [&b""[..], b"{}", b"[1]", &long.encode()] {
            assert_eq!(Announcement::decode(other), None);
        }
    }
}
