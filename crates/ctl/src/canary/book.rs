//! The canaries' mailboxes, and what is held in them. Pure, but for the random keys.

use data_encoding::{BASE64, HEXLOWER as HEX};
use serde::{Deserialize, Serialize};
use valise::store::{SHARDS, ShardKey};
use valise_client::OwnerKeyPair;
use valise_client::proto::{FrameId, RealmId, Token};

use crate::limits::CANARY_TTL_HOURS;

/// All of them, as they are kept.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Book {
    /// The realm they are in.
    pub(crate) realm: String,
    /// One for each partition, whose canaries come back at once.
    pub(crate) quick: Vec<Nest>,
    /// One for each partition, whose canaries are held.
    pub(crate) held: Vec<Nest>,
}

/// A mailbox of one partition.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Nest {
    /// The owner's key, in hex.
    seed: String,
    /// The tokens, once it has joined; and when, in days since 1970.
    #[serde(default)]
    pub(crate) tokens: Option<Tokens>,
    /// What is held, oldest first.
    #[serde(default)]
    pub(crate) frames: Vec<Held>,
    /// What was acknowledged last: it may come once more.
    #[serde(default)]
    pub(crate) done: Vec<Id>,
}

/// What was got by joining.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Tokens {
    member: String,
    capability: String,
    pub(crate) day: u64,
}

/// A frame's id, in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Id(String);

impl From<&FrameId> for Id {
    fn from(id: &FrameId) -> Self {
        Self(HEX.encode(id.as_bytes()))
    }
}

/// A canary that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) id: Id,
    /// When it was posted, in seconds since 1970.
    pub(crate) posted: u64,
    /// It was accepted; of one that was not it is not known whether it is there.
    pub(crate) accepted: bool,
}

impl std::fmt::Debug for Nest {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Nest({} held)", self.frames.len())
    }
}

impl Nest {
    fn new(owner: &OwnerKeyPair) -> Self {
        Self { seed: HEX.encode(owner.seed()), ..Self::default() }
    }

    /// Whose it is; none where the file is damaged.
    pub(crate) fn owner(&self) -> Option<OwnerKeyPair> {
        let seed = HEX.decode(self.seed.as_bytes()).ok()?;
        Some(OwnerKeyPair::from_seed(seed.as_slice().try_into().ok()?))
    }
}

impl Tokens {
    pub(crate) fn new(member: &Token, capability: &Token, day: u64) -> Self {
        let text = |token: &Token| BASE64.encode(token.as_bytes());
        Self { member: text(member), capability: text(capability), day }
    }

    /// The right to fetch and the right to post; none where the file is damaged.
    pub(crate) fn read(&self) -> Option<(Token, Token)> {
        let token =
            |text: &str| Token::try_from(BASE64.decode(text.as_bytes()).ok()?.as_slice()).ok();
        Some((token(&self.member)?, token(&self.capability)?))
    }
}

impl Book {
    /// New mailboxes, two for each partition: keys are tried until every partition has them. That is
    /// some thousand keys; whoever has no shard key could not.
    pub(crate) fn new(realm: &RealmId, shards: &ShardKey) -> Self {
        let mut nests: Vec<Vec<Nest>> = vec![Vec::new(); SHARDS];
        let mut missing = 2 * SHARDS;
        while missing > 0 {
            let owner = OwnerKeyPair::generate();
            let nests = &mut nests[usize::from(shards.shard(&owner.mailbox(realm)))];
            if nests.len() < 2 {
                nests.push(Nest::new(&owner));
                missing -= 1;
            }
        }
        let (quick, held) = nests
            .into_iter()
            .map(|two| {
                let mut two = two.into_iter();
                (two.next().unwrap_or_default(), two.next().unwrap_or_default())
            })
            .unzip();
        Self { realm: realm.to_text(), quick, held }
    }

    /// Whether it is one of this realm, and whole.
    pub(crate) fn is_of(&self, realm: &RealmId) -> bool {
        let whole = |nests: &[Nest]| {
            nests.len() == SHARDS && nests.iter().all(|nest| nest.owner().is_some())
        };
        self.realm == realm.to_text() && whole(&self.quick) && whole(&self.held)
    }

    /// Canaries that are held now.
    pub(crate) fn count_held(&self) -> usize {
        self.held.iter().map(|nest| nest.frames.len()).sum()
    }
}

/// What a count of a mailbox's held canaries has shown.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Accepted, not acknowledged, and not there.
    pub(crate) lost: usize,
    /// There more than once.
    pub(crate) doubled: usize,
    /// Of what was found, the first so many are done and may be acknowledged.
    pub(crate) done: usize,
}

/// Compares what is held with what was found, oldest first, and forgets what is done or gone. `now` is
/// in seconds since 1970; canaries are held for so many seconds.
pub(crate) fn count(nest: &mut Nest, found: &[Id], hold: u64, now: u64) -> Count {
    let times = |id: &Id| found.iter().filter(|found| *found == id).count();
    let mut counted = Count::default();
    let mut due: Vec<Id> = nest.done.clone();
    nest.frames.retain_mut(|held| match times(&held.id) {
        0 => {
            // After its time it went by itself: the watch was away.
            let over = now.saturating_sub(held.posted) >= u64::from(CANARY_TTL_HOURS) * 3_600;
            counted.lost += usize::from(held.accepted && !over);
            false
        }
        more => {
            counted.doubled += usize::from(more > 1);
            // Whatever was answered: it is there.
            held.accepted = true;
            let is_due = now.saturating_sub(held.posted) >= hold;
            if is_due {
                due.push(held.id.clone());
            }
            !is_due
        }
    });
    // An acknowledgement is one of everything before it, so it must not reach over what is held.
    let is_held = |id: &Id| nest.frames.iter().any(|held| held.id == *id);
    counted.done = found.iter().position(is_held).unwrap_or(found.len());
    due.retain(|id| !is_held(id));
    let kept = due.len().saturating_sub(REMEMBERED);
    nest.done = due.split_off(kept);
    counted
}

/// Ids of acknowledged canaries that are remembered in a mailbox.
const REMEMBERED: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::HELD_SECONDS;

    fn id(n: u8) -> Id {
        Id::from(&FrameId::new([n; 16]))
    }

    fn nest(frames: &[(u8, u64, bool)]) -> Nest {
        let held = |(n, posted, accepted): &(u8, u64, bool)| Held {
            id: id(*n),
            posted: *posted,
            accepted: *accepted,
        };
        Nest { frames: frames.iter().map(held).collect(), ..Nest::default() }
    }

    #[test]
    fn what_is_held_is_counted() {
        const HOUR: u64 = 3_600;
        let now = 200 * HOUR;
        // (what is held, what is found, lost, doubled, done, what is still held)
        type Case = (&'static [(u8, u64, bool)], &'static [u8], usize, usize, usize, &'static [u8]);
        let cases: [Case; 9] = [
            (&[], &[], 0, 0, 0, &[]),
            (&[(1, 190 * HOUR, true), (2, 196 * HOUR, true)], &[1, 2], 0, 0, 0, &[1, 2]),
            (&[(1, 170 * HOUR, true), (2, 196 * HOUR, true)], &[1, 2], 0, 0, 1, &[2]),
            (&[(1, 190 * HOUR, true), (2, 196 * HOUR, true)], &[2], 1, 0, 0, &[2]),
            (&[(1, 190 * HOUR, true), (2, 196 * HOUR, true)], &[], 2, 0, 0, &[]),
            (&[(1, 190 * HOUR, true)], &[1, 1], 0, 1, 0, &[1]),
            // Nobody knew whether it was stored: it may be there or not.
            (&[(1, 190 * HOUR, false), (2, 191 * HOUR, false)], &[2], 0, 0, 0, &[2]),
            // Somebody else's is passed over and goes with the others.
            (&[(1, 170 * HOUR, true)], &[9, 1], 0, 0, 2, &[]),
            // Its time was over before anyone looked.
            (&[(1, 104 * HOUR, true), (2, 105 * HOUR, true)], &[], 1, 0, 0, &[]),
        ];
        for (held, found, lost, doubled, done, still) in cases {
            let mut nest = nest(held);
            let found: Vec<Id> = found.iter().copied().map(id).collect();
            let counted = count(&mut nest, &found, HELD_SECONDS, now);
            assert_eq!(counted, Count { lost, doubled, done }, "{held:?}");
            let ids: Vec<Id> = nest.frames.iter().map(|held| held.id.clone()).collect();
            assert_eq!(ids, still.iter().copied().map(id).collect::<Vec<_>>(), "{held:?}");
        }
    }

    /// What was acknowledged comes again when the relay that was told so has died since.
    #[test]
    fn what_comes_again_is_nothing_new() {
        let mut nest = nest(&[(1, 0, true), (2, 90_000, true)]);
        let counted = count(&mut nest, &[id(1), id(2)], HELD_SECONDS, 100_000);
        assert_eq!(counted, Count { done: 1, ..Count::default() });
        let counted = count(&mut nest, &[id(1), id(2)], HELD_SECONDS, 100_060);
        assert_eq!(counted, Count { done: 1, ..Count::default() });
        assert_eq!(nest.done, [id(1)]);
    }

    #[test]
    fn every_partition_has_its_mailboxes() {
        let (realm, shards) = (RealmId::new([9; 20]), ShardKey::new(&[7; 32]));
        let book = Book::new(&realm, &shards);
        for nests in [&book.quick, &book.held] {
            for (partition, nest) in nests.iter().enumerate() {
                let mailbox = nest.owner().expect("it has a key").mailbox(&realm);
                assert_eq!(usize::from(shards.shard(&mailbox)), partition);
            }
        }
        assert!(book.is_of(&realm));
        assert!(!book.is_of(&RealmId::new([8; 20])));
        let text = serde_json::to_string(&book).expect("JSON can be written");
        let again: Book = serde_json::from_str(&text).expect("it was written so");
        assert!(again.is_of(&realm));
        let tokens = Tokens::new(&Token::new([1; Token::LEN]), &Token::new([2; Token::LEN]), 7);
        let read = tokens.read().expect("they are whole");
        assert_eq!(read, (Token::new([1; Token::LEN]), Token::new([2; Token::LEN])));
        assert!(!format!("{book:?}").contains(&book.quick[0].seed));
    }
}
