//! Where this process has put what it imported, so that a removal is one request, or none. What an
//! earlier importer has put is not known until the shard was read once.

use std::collections::{HashMap, VecDeque};

use valise_migration::plan::Removal;
use valise_migration::real::Real;
use valise_migration::{Migration, Position};

use crate::store::jetstream::subject::Removable;

type Mailbox = [u8; 16];

/// A place in the supernode's log, and one in the stream.
type Pair = (Position, u64);

/// What one migration has imported into a shard and not removed.
#[derive(Debug, Default)]
pub(super) struct Placed {
    migration: Option<Migration>,
    /// The place in the log up to which everything is known that this process has put.
    next: Option<Position>,
    /// Nothing was put by others before.
    whole: bool,
    frames: HashMap<Mailbox, VecDeque<Pair>>,
    items: HashMap<(Mailbox, u32), Pair>,
}

/// A request by which something is removed. Places in a stream are never used again, so each is true
/// whenever it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// The frames of a mailbox up to this place in the stream.
    Frames(Mailbox, u64),
    /// One message.
    One(u64),
    /// An item up to this place in the stream.
    Item(Mailbox, u32, u64),
}

impl Placed {
    /// A stretch of this migration's log begins here. What is known is kept only if it ends here.
    pub(super) fn begin(&mut self, migration: Migration, from: Position) {
        if self.migration != Some(migration) || self.next != Some(from) {
            let whole = from == Position(0);
            *self = Self { migration: Some(migration), next: Some(from), whole, ..Self::default() };
        }
    }

    /// Whether removals can be told from what is known.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Everything that the shard holds of this migration is told from now on.
    pub(super) fn reread(&mut self) {
        self.frames.clear();
        self.items.clear();
    }

    /// It has been told.
    pub(super) fn all_told(&mut self) {
        self.whole = true;
    }

    /// A batch is stored up to this place of the log.
    pub(super) fn advanced(&mut self, to: Position) {
        self.next = Some(to);
    }

    /// Nobody knows what became of the last batch.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Something is in the stream: told in the stream's order.
    pub(super) fn put(&mut self, what: Removable, at: Position, seq: u64) {
        match what {
            Removable::Frame(mailbox) => {
                self.frames.entry(*mailbox.as_bytes()).or_default().push_back((at, seq));
            }
            Removable::Item(mailbox, item) => {
                self.items.insert((*mailbox.as_bytes(), item), (at, seq));
            }
        }
    }

    /// What to ask for, so that this is removed.
    pub(super) fn requests(&self, removal: &Removal<Real>) -> Vec<Request> {
        match *removal {
            Removal::Frames { mailbox, below } => {
                let frames = self.frames.get(&mailbox).into_iter().flatten();
                let last = frames.take_while(|(at, _)| *at < below).last();
                last.map(|(_, seq)| Request::Frames(mailbox, *seq)).into_iter().collect()
            }
            Removal::Frame { mailbox, at } => {
                let mut frames = self.frames.get(&mailbox).into_iter().flatten();
                let found = frames.find(|(place, _)| *place == at);
                found.map(|(_, seq)| Request::One(*seq)).into_iter().collect()
            }
            Removal::Item { mailbox, item } => {
                let found = self.items.get(&(mailbox, item));
                found.map(|(_, seq)| Request::Item(mailbox, item, *seq)).into_iter().collect()
            }
            Removal::Items { mailbox, below } => {
                let mine =
                    |((of, _), (at, _)): &(&(Mailbox, u32), &Pair)| *of == mailbox && *at < below;
                let items = self.items.iter().filter(mine);
                items.map(|((_, item), (_, seq))| Request::Item(mailbox, *item, *seq)).collect()
            }
        }
    }

    /// It is removed.
    pub(super) fn removed(&mut self, removal: &Removal<Real>) {
        match *removal {
            Removal::Frames { mailbox, below } => {
                if let Some(frames) = self.frames.get_mut(&mailbox) {
                    while frames.front().is_some_and(|(at, _)| *at < below) {
                        frames.pop_front();
                    }
                    if frames.is_empty() {
                        self.frames.remove(&mailbox);
                    }
                }
            }
            Removal::Frame { mailbox, at } => {
                if let Some(frames) = self.frames.get_mut(&mailbox) {
                    frames.retain(|(place, _)| *place != at);
                }
            }
            Removal::Item { mailbox, item } => {
                self.items.remove(&(mailbox, item));
            }
            Removal::Items { mailbox, below } => {
                self.items.retain(|(of, _), (at, _)| *of != mailbox || *at >= below);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valise_proto::MailboxId;

    const MINE: Mailbox = [1; 16];

    fn put(placed: &mut Placed, at: u64, seq: u64) {
        placed.put(Removable::Frame(MailboxId::new(MINE)), Position(at), seq);
    }

    #[test]
    fn what_was_never_put_costs_nothing() {
        let mut placed = Placed::default();
        placed.begin(Migration(1), Position(0));
        assert!(placed.is_whole());
        let below = |below| Removal::Frames { mailbox: MINE, below: Position(below) };
        assert_eq!(placed.requests(&below(9)), []);
        put(&mut placed, 3, 70);
        put(&mut placed, 5, 71);
        assert_eq!(placed.requests(&below(3)), []);
        assert_eq!(placed.requests(&below(5)), [Request::Frames(MINE, 70)]);
        assert_eq!(placed.requests(&below(6)), [Request::Frames(MINE, 71)]);
        let one = Removal::Frame { mailbox: MINE, at: Position(5) };
        assert_eq!(placed.requests(&one), [Request::One(71)]);
        placed.removed(&below(5));
        assert_eq!(placed.requests(&below(5)), []);
        placed.removed(&one);
        assert_eq!(placed.requests(&below(9)), []);
    }

    #[test]
    fn an_item_is_the_one_of_its_newest_place() {
        let mut placed = Placed::default();
        placed.begin(Migration(1), Position(0));
        let item = Removable::Item(MailboxId::new(MINE), 0);
        placed.put(item, Position(1), 10);
        let taken = Removal::Item { mailbox: MINE, item: 0 };
        assert_eq!(placed.requests(&taken), [Request::Item(MINE, 0, 10)]);
        placed.removed(&taken);
        placed.put(item, Position(2), 12);
        let earlier = Removal::Items { mailbox: MINE, below: Position(2) };
        assert_eq!(placed.requests(&earlier), []);
        assert_eq!(placed.requests(&taken), [Request::Item(MINE, 0, 12)]);
    }

    #[test]
    fn what_others_put_is_not_known() {
        let mut placed = Placed::default();
        placed.begin(Migration(1), Position(0));
        put(&mut placed, 0, 70);
        placed.advanced(Position(4));
        placed.begin(Migration(1), Position(4));
        assert!(placed.is_whole(), "it goes on");
        placed.begin(Migration(1), Position(9));
        assert!(!placed.is_whole(), "somebody else was here");
        placed.begin(Migration(2), Position(0));
        assert!(placed.is_whole(), "there is nothing of a new migration");
    }
}
