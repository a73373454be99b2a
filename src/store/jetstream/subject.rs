//! What things are called on the bus. Pure.
//!
//! | subject | what |
//! |---|---|
//! | `m.<realm>.<v>.<mailbox>.f` | frames |
//! | `m.<realm>.<v>.<mailbox>.s` | the claim of whoever serves it: a nonce |
//! | `m.<realm>.<v>.<mailbox>.r` | revoked serials, one record |
//! | `m.<realm>.<v>.<mailbox>.b` | its bundle's head |
//! | `m.<realm>.<v>.<mailbox>.i.<n>` | its bundle's items |
//! | `m.<realm>.<v>.<slot>.w` | a slot's value |
//! | `m.<realm>.<v>.<serial>.j` | a used invite code |
//! | `m.<realm>.<v>._.o` | whose the shard is, in a realm that moved or moves here: its ledger |
//! | `live.` instead of `m.` | the same, as it is stored; never stored itself |
//! | `eph.<realm>.<v>.<mailbox>` | signals; never stored |
//! | `eph.<realm>.<v>.<mailbox>.<n>` | an item of its bundle was taken, `n` are left; never stored |
//! | `node.<realm>` | what nodes say of themselves; never stored |
//! | `dir.<realm>`, `live.dir.<realm>` | the realm's record, and the news of it |
//!
//! `v`, two hex digits, is the shard: a keyed hash, so that nobody can grind ids onto one.

use data_encoding::HEXLOWER as HEX;
use valise_proto::{MailboxId, RealmId, SlotId};

use crate::store::ShardKey;

/// Streams of mailboxes; 256 shards are spread over them.
pub(super) const STREAMS: u8 = 32;
/// Shards in one stream.
const SHARDS: u8 = 8;
/// The generation of streams: another one would have other streams for the same shards.
const GENERATION: u8 = 1;
/// What a bundle's items are known by.
const ITEM: char = 'i';
/// Digits of the realm in message ids.
const REALM_DIGITS: usize = 8;
/// The stream of realm records.
pub(super) const DIRECTORY: &str = "DIR";

const _: () = assert!(STREAMS as usize * SHARDS as usize == 256);

/// What a subject of a mailbox holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Frames,
    Claim,
    Revoked,
    Bundle,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Frames, Self::Claim, Self::Revoked, Self::Bundle];

    pub(super) const fn letter(self) -> char {
        match self {
            Self::Frames => 'f',
            Self::Claim => 's',
            Self::Revoked => 'r',
            Self::Bundle => 'b',
        }
    }
}

/// The names of one realm, for whoever knows which shard things are in.
#[derive(Clone)]
pub(super) struct RealmNames {
    realm: String,
}

/// The names of one realm, for its nodes: the shards follow from its shard key.
pub(super) struct Names {
    realm: RealmNames,
    shards: ShardKey,
}

impl RealmNames {
    pub(super) fn new(realm: &RealmId) -> Self {
        Self { realm: HEX.encode(realm.as_bytes()) }
    }

    pub(super) fn of(&self, shard: u8, mailbox: &MailboxId, kind: Kind) -> String {
        self.subject(shard, &HEX.encode(mailbox.as_bytes()), kind.letter())
    }

    pub(super) fn item(&self, shard: u8, mailbox: &MailboxId, number: u32) -> String {
        let subject = self.subject(shard, &HEX.encode(mailbox.as_bytes()), ITEM);
        format!("{subject}.{number}")
    }

    pub(super) fn slot(&self, shard: u8, slot: &SlotId) -> String {
        self.subject(shard, &HEX.encode(slot.as_bytes()), 'w')
    }

    pub(super) fn code(&self, shard: u8, serial: &[u8; 8]) -> String {
        self.subject(shard, &HEX.encode(serial), 'j')
    }

    /// The shard's ledger.
    pub(super) fn ledger(&self, shard: u8) -> String {
        self.subject(shard, "_", 'o')
    }

    /// The ledgers of all shards, as they are stored.
    pub(super) fn ledgers(&self) -> String {
        format!("m.{}.*._.o", self.realm)
    }

    /// The same, as they are told.
    pub(super) fn live_ledgers(&self) -> String {
        format!("live.{}.*._.o", self.realm)
    }

    /// Everything in a shard.
    pub(super) fn shard(&self, shard: u8) -> String {
        format!("m.{}.{shard:02x}.>", self.realm)
    }

    /// Everything of the realm.
    pub(super) fn everything(&self) -> String {
        format!("m.{}.>", self.realm)
    }

    pub(super) fn record(&self) -> String {
        format!("dir.{}", self.realm)
    }

    /// The id that makes a repeated append one append. The mailbox is in it because a stream knows an
    /// id once: without, all copies of a fan-out but the first would be taken for repetitions. So is
    /// the realm, since several have their mailboxes in one stream.
    pub(super) fn message_id(&self, id: &[u8], mailbox: &MailboxId) -> String {
        let (id, mailbox) = (HEX.encode(id), HEX.encode(mailbox.as_bytes()));
        format!("{id}.{}.{mailbox}", &self.realm[..REALM_DIGITS])
    }

    fn subject(&self, shard: u8, token: &str, letter: char) -> String {
        format!("m.{}.{shard:02x}.{token}.{letter}", self.realm)
    }
}

impl Names {
    pub(super) fn new(realm: &RealmId, shards: ShardKey) -> Self {
        Self { realm: RealmNames::new(realm), shards }
    }

    /// The names that need no shard key.
    pub(super) fn realm(&self) -> &RealmNames {
        &self.realm
    }

    pub(super) fn shard(&self, mailbox: &MailboxId) -> u8 {
        self.shards.shard(mailbox)
    }

    pub(super) fn slot_shard(&self, slot: &SlotId) -> u8 {
        self.shards.slot_shard(slot)
    }

    pub(super) fn serial_shard(&self, serial: &[u8; 8]) -> u8 {
        self.shards.serial_shard(serial)
    }

    pub(super) fn of(&self, mailbox: &MailboxId, kind: Kind) -> String {
        self.realm.of(self.shard(mailbox), mailbox, kind)
    }

    pub(super) fn item(&self, mailbox: &MailboxId, number: u32) -> String {
        self.realm.item(self.shard(mailbox), mailbox, number)
    }

    /// A slot, and the stream it is in.
    pub(super) fn slot(&self, slot: &SlotId) -> (String, String) {
        let shard = self.slot_shard(slot);
        (self.realm.slot(shard, slot), stream(shard))
    }

    /// A used code, and the stream it is in.
    pub(super) fn code(&self, serial: &[u8; 8]) -> (String, String) {
        let shard = self.serial_shard(serial);
        (self.realm.code(shard, serial), stream(shard))
    }

    /// What a mailbox's things of a shard are published to as they are stored.
    pub(super) fn live(&self, shard: u8, kind: Kind) -> String {
        format!("live.{}.{shard:02x}.*.{}", self.realm.realm, kind.letter())
    }

    /// The revocations of all shards, as they are stored.
    pub(super) fn live_revoked(&self) -> String {
        format!("live.{}.*.*.{}", self.realm.realm, Kind::Revoked.letter())
    }

    pub(super) fn signal(&self, mailbox: &MailboxId) -> String {
        let shard = self.shard(mailbox);
        format!("eph.{}.{shard:02x}.{}", self.realm.realm, HEX.encode(mailbox.as_bytes()))
    }

    pub(super) fn signals(&self, shard: u8) -> String {
        format!("eph.{}.{shard:02x}.>", self.realm.realm)
    }

    pub(super) fn low(&self, mailbox: &MailboxId, items: u32) -> String {
        format!("{}.{items}", self.signal(mailbox))
    }

    /// See [`RealmNames::message_id`].
    pub(super) fn message_id(&self, id: &[u8], mailbox: &MailboxId) -> String {
        self.realm.message_id(id, mailbox)
    }

    pub(super) fn record(&self) -> String {
        self.realm.record()
    }

    pub(super) fn live_record(&self) -> String {
        format!("live.dir.{}", self.realm.realm)
    }

    pub(super) fn nodes(&self) -> String {
        format!("node.{}", self.realm.realm)
    }
}

/// Whether a node of some realm listens to this: its shards, revocations, ledgers, signals, the realm's
/// record and nodes, who leads a stream, and answers to what it asked itself. Whatever else is listened to is none of a node.
pub fn is_subscription_of_node(subject: &str) -> bool {
    let tokens: Vec<&str> = subject.split('.').collect();
    let is_realm =
        |token: &str| token.len() == 2 * RealmId::LEN && HEX.decode(token.as_bytes()).is_ok();
    let is_shard = |token: &str| token.len() == 2 && HEX.decode(token.as_bytes()).is_ok();
    // What the client library makes up for each connection, or for each question.
    let is_own =
        |token: &str| token.len() == 22 && token.bytes().all(|b| b.is_ascii_alphanumeric());
    match tokens[..] {
        ["_INBOX", own] | ["_INBOX", own, "*"] => is_own(own),
        ["live", "dir", realm] | ["node", realm] => is_realm(realm),
        ["$JS", "EVENT", "ADVISORY", "STREAM", "LEADER_ELECTED", "*"] => true,
        ["live", realm, "*", "*", "r"] | ["live", realm, "*", "_", "o"] => is_realm(realm),
        ["live", realm, shard, "*", "f" | "s"] | ["eph", realm, shard, ">"] => {
            is_realm(realm) && is_shard(shard)
        }
        _ => false,
    }
}

/// The stream of a shard.
pub fn stream(shard: u8) -> String {
    stream_name(shard / SHARDS)
}

/// The name of a stream by its number.
pub(super) fn stream_name(number: u8) -> String {
    format!("MB_{GENERATION}_{number}")
}

/// The number of a stream of mailboxes by its name.
pub(super) fn number_of_stream(name: &str) -> Option<u8> {
    (0..STREAMS).find(|number| stream_name(*number) == name)
}

/// The number of a shard's stream.
pub(super) fn stream_number(shard: u8) -> u8 {
    shard / SHARDS
}

/// The subjects of a stream by its number.
pub(super) fn stream_subjects(number: u8) -> Vec<String> {
    let first = number * SHARDS;
    (first..=first + (SHARDS - 1)).map(|shard| format!("m.*.{shard:02x}.>")).collect()
}

/// The mailbox and the kind of a subject, stored or live.
pub(super) fn parse(subject: &str) -> Option<(MailboxId, Kind)> {
    let mut tokens = subject.split('.').skip(3);
    let mailbox = parse_mailbox(tokens.next()?)?;
    let letter = tokens.next()?;
    let kind = Kind::ALL.into_iter().find(|kind| letter.chars().eq([kind.letter()]))?;
    tokens.next().is_none().then_some((mailbox, kind))
}

/// Something that an importer may have to remove again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removable {
    Frame(MailboxId),
    Item(MailboxId, u32),
}

/// What an importer may have to remove again, by its subject.
pub(super) fn parse_removable(subject: &str) -> Option<Removable> {
    if let Some((mailbox, Kind::Frames)) = parse(subject) {
        return Some(Removable::Frame(mailbox));
    }
    let mut tokens = subject.split('.').skip(3);
    let mailbox = parse_mailbox(tokens.next()?)?;
    let is_item = tokens.next()?.chars().eq([ITEM]);
    let number = tokens.next()?.parse().ok()?;
    (is_item && tokens.next().is_none()).then_some(Removable::Item(mailbox, number))
}

/// The shard of a ledger's subject, stored or live.
pub(super) fn parse_ledger(subject: &str) -> Option<u8> {
    let mut tokens = subject.split('.').skip(2);
    let shard = HEX.decode(tokens.next()?.as_bytes()).ok()?;
    let (["_", "o"], [shard]) = (&*tokens.collect::<Vec<_>>(), &*shard) else { return None };
    Some(*shard)
}

/// The mailbox a signal is for; with a number, how many items its bundle has left.
pub(super) fn parse_signal(subject: &str) -> Option<(MailboxId, Option<u32>)> {
    let mut tokens = subject.split('.').skip(3);
    let mailbox = parse_mailbox(tokens.next()?)?;
    let items = tokens.next().map(|items| items.parse().ok());
    match items {
        None => Some((mailbox, None)),
        Some(items) => Some((mailbox, Some(items?))),
    }
}

fn parse_mailbox(token: &str) -> Option<MailboxId> {
    MailboxId::try_from(HEX.decode(token.as_bytes()).ok()?.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new(&RealmId::new([9; 20]), ShardKey::new(&[7; 32]))
    }

    #[test]
    fn a_subject_is_read_back() {
        let mailbox = MailboxId::new([1; 16]);
        for kind in Kind::ALL {
            let subject = names().of(&mailbox, kind);
            assert_eq!(parse(&subject), Some((mailbox, kind)), "{subject}");
            assert_eq!(parse(&subject.replacen("m.", "live.", 1)), Some((mailbox, kind)));
        }
        assert_eq!(parse_signal(&names().signal(&mailbox)), Some((mailbox, None)));
        assert_eq!(parse_signal(&names().low(&mailbox, 7)), Some((mailbox, Some(7))));
        assert_eq!(parse(&names().item(&mailbox, 3)), None);
        assert_eq!(parse(&names().slot(&SlotId::new([3; 32])).0), None);
        assert_eq!(parse("m.a.13.zz.f"), None);
        let item = parse_removable(&names().item(&mailbox, 3));
        assert_eq!(item, Some(Removable::Item(mailbox, 3)));
        let frame = parse_removable(&names().of(&mailbox, Kind::Frames));
        assert_eq!(frame, Some(Removable::Frame(mailbox)));
        assert_eq!(parse_removable(&names().of(&mailbox, Kind::Bundle)), None);
        let ledger = names().realm().ledger(0x13);
        assert_eq!(parse_ledger(&ledger), Some(0x13));
        assert_eq!(parse_ledger(&ledger.replacen("m.", "live.", 1)), Some(0x13));
        assert_eq!(parse_ledger(&names().of(&mailbox, Kind::Frames)), None);
        assert_eq!(parse(&ledger), None);
    }

    /// What is stored under a name must be found under it by the next version.
    #[test]
    fn names_are_stable() {
        let realm = "09".repeat(20);
        let mailbox = MailboxId::new([1; 16]);
        let frames = format!("m.{realm}.13.{}.f", "01".repeat(16));
        assert_eq!(names().of(&mailbox, Kind::Frames), frames);
        assert_eq!(stream(0x13), "MB_1_2");
        assert_eq!(stream_subjects(31).last().map(String::as_str), Some("m.*.ff.>"));
        assert_eq!(names().live(0x13, Kind::Claim), format!("live.{realm}.13.*.s"));
        assert_eq!(names().realm().ledger(0x13), format!("m.{realm}.13._.o"));
    }

    #[test]
    fn what_a_node_listens_to_is_told_from_what_it_does_not() {
        let names = names();
        let own = [
            names.live(0x13, Kind::Frames),
            names.live(0x13, Kind::Claim),
            names.live_revoked(),
            names.realm().live_ledgers(),
            names.signals(0x13),
            names.live_record(),
            names.nodes(),
            "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.*".to_owned(),
            "_INBOX.fdWJYv9zH1r37ut9zfCQ1S.*".to_owned(),
            "_INBOX.fdWJYv9zH1r37ut9zfCQ1S".to_owned(),
        ];
        for subject in own {
            assert!(is_subscription_of_node(&subject), "{subject}");
        }
        let realm = "09".repeat(20);
        let foreign = [
            ">".to_owned(),
            "*.>".to_owned(),
            "m.>".to_owned(),
            "live.>".to_owned(),
            "live.*.13.*.f".to_owned(),
            "live.*.*._.o".to_owned(),
            format!("live.{realm}.*.*.f"),
            format!("live.{realm}.>"),
            format!("live.{realm}.13.{}.f", "01".repeat(16)),
            format!("m.{realm}.13.*.f"),
            "eph.>".to_owned(),
            format!("eph.{realm}.*.>"),
            "dir.>".to_owned(),
            "_INBOX.>".to_owned(),
            "_INBOX.*.*".to_owned(),
            "$JS.API.>".to_owned(),
            String::new(),
        ];
        for subject in foreign {
            assert!(!is_subscription_of_node(&subject), "{subject}");
        }
    }

    #[test]
    fn every_shard_is_in_one_stream() {
        let subjects: Vec<_> = (0..STREAMS).flat_map(stream_subjects).collect();
        let all: Vec<_> = (0..=u8::MAX).map(|shard| format!("m.*.{shard:02x}.>")).collect();
        assert_eq!(subjects, all);
        for shard in 0..=u8::MAX {
            let subject = format!("m.*.{shard:02x}.>");
            assert!(stream_subjects(stream_number(shard)).contains(&subject));
        }
    }

    #[test]
    fn one_frame_in_two_mailboxes_has_two_ids() {
        let (one, other) = (MailboxId::new([1; 16]), MailboxId::new([2; 16]));
        assert_ne!(names().message_id(&[7; 16], &one), names().message_id(&[7; 16], &other));
        let elsewhere = Names::new(&RealmId::new([8; 20]), ShardKey::new(&[7; 32]));
        assert_ne!(names().message_id(&[7; 16], &one), elsewhere.message_id(&[7; 16], &one));
        let id = format!("07.09090909.{}", "01".repeat(16));
        assert_eq!(names().message_id(&[7], &one), id);
    }
}
