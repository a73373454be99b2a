//! The rows of a profile: which kind each is, whose child, and by what it is looked up.

use crate::vault::Record;

/// The stored forms: `proto/valise/chat/v1/state.proto`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub(super) mod state {
    include!(concat!(env!("OUT_DIR"), "/valise.chat.state.v1.rs"));
}

/// The number of the one row that a kind has.
pub(super) const ONLY: i64 = 1;

/// A lookup key of several parts that cannot run into each other.
pub(super) fn key(parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::new();
    for part in parts {
        key.extend_from_slice(&(part.len() as u64).to_be_bytes());
        key.extend_from_slice(part);
    }
    key
}

/// The lookup key of something of a group.
pub(super) fn of_group(group: i64, parts: &[&[u8]]) -> Vec<u8> {
    let mut all = vec![0; 8];
    all.copy_from_slice(&group.to_be_bytes());
    all.extend(key(parts));
    all
}

impl Record for state::Me {
    const KIND: u8 = 1;
}

impl Record for state::Person {
    const KIND: u8 = 2;

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(self.account.clone())
    }
}

impl Record for state::Conversation {
    const KIND: u8 = 3;
}

impl Record for state::Group {
    const KIND: u8 = 4;

    fn parent(&self) -> i64 {
        self.conversation
    }

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(self.id.clone())
    }
}

impl Record for state::MlsEntry {
    const KIND: u8 = 5;

    fn parent(&self) -> i64 {
        self.group
    }

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(of_group(self.group, &[&self.key]))
    }
}

impl Record for state::Epoch {
    const KIND: u8 = 6;

    fn parent(&self) -> i64 {
        self.group
    }

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(of_group(self.group, &[&self.epoch.to_be_bytes()]))
    }
}

impl Record for state::KeyPackage {
    const KIND: u8 = 7;

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(self.reference.clone())
    }
}

impl Record for state::Stream {
    const KIND: u8 = 8;

    fn parent(&self) -> i64 {
        self.group
    }

    fn lookup(&self) -> Option<Vec<u8>> {
        // A stream is its sender's: somebody else who claims its name has another one.
        Some(of_group(self.group, &[&self.stream, &self.account, &self.device]))
    }
}

impl Record for state::Target {
    const KIND: u8 = 9;

    fn parent(&self) -> i64 {
        self.group
    }

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(of_group(self.group, &[&self.device]))
    }
}

impl Record for state::Message {
    const KIND: u8 = 10;

    fn parent(&self) -> i64 {
        self.conversation
    }

    fn due(&self) -> Option<i64> {
        (self.disappears_ms > 0).then_some(self.disappears_ms)
    }
}

impl Record for state::SendKey {
    const KIND: u8 = 11;

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(self.key.clone())
    }

    fn due(&self) -> Option<i64> {
        Some(self.due)
    }
}

impl Record for state::Outgoing {
    const KIND: u8 = 12;

    fn parent(&self) -> i64 {
        self.group
    }

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(of_group(self.group, &[&self.counter.to_be_bytes()]))
    }
}

impl Record for state::Frame {
    const KIND: u8 = 13;

    fn parent(&self) -> i64 {
        self.group
    }
}

impl Record for state::Delivery {
    const KIND: u8 = 14;

    fn parent(&self) -> i64 {
        self.frame
    }
}

impl Record for state::Parked {
    const KIND: u8 = 15;
}

impl Record for state::GreetingPart {
    const KIND: u8 = 16;

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(key(&[&self.transfer, &self.index.to_be_bytes()]))
    }
}

impl Record for state::MessagePart {
    const KIND: u8 = 17;

    fn parent(&self) -> i64 {
        self.group
    }

    fn lookup(&self) -> Option<Vec<u8>> {
        let (counter, index) = (self.counter.to_be_bytes(), self.index.to_be_bytes());
        Some(of_group(self.group, &[&self.stream, &counter, &index]))
    }
}

impl Record for state::PendingCommit {
    const KIND: u8 = 18;

    fn parent(&self) -> i64 {
        self.group
    }
}

impl Record for state::Invite {
    const KIND: u8 = 19;

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(self.secret.clone())
    }
}

impl Record for state::LinkAsk {
    const KIND: u8 = 20;

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(self.device.clone())
    }
}

impl Record for state::Sibling {
    const KIND: u8 = 21;

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(self.device.clone())
    }
}

impl Record for state::Revocation {
    const KIND: u8 = 22;

    fn due(&self) -> Option<i64> {
        Some(self.due)
    }
}

impl Record for state::Progress {
    const KIND: u8 = 23;

    fn parent(&self) -> i64 {
        self.group
    }

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(of_group(self.group, &[&self.stream, &self.account, &self.device]))
    }
}

impl Record for state::Relay {
    const KIND: u8 = 25;

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(self.address.clone().into_bytes())
    }
}

impl Record for state::ComingBack {
    const KIND: u8 = 24;

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(self.group.clone())
    }
}

impl Record for state::Acted {
    const KIND: u8 = 40;

    fn parent(&self) -> i64 {
        self.group
    }

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(of_group(self.group, &[&self.reference]))
    }
}

impl Record for state::Realm {
    const KIND: u8 = 26;

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(self.id.clone())
    }
}
