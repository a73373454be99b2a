//! How a stretch of a log is brought into the data centre: what is removed there, and what is
//! written in the one batch that moves the cursor.
//!
//! Removals cannot be part of a batch, so they are made, and confirmed, *before* it: each is true
//! whenever it is made, and can be repeated. The other way round, an importer that dies in between
//! would leave an item that was handed out.

use crate::entry::{Cursor, Entry, Line};
use crate::scheme::{Position, Scheme};

/// What to do with a stretch of the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Plan<S: Scheme, B> {
    /// Where it begins.
    pub from: Position,
    /// Where it ends.
    pub to: Cursor<S>,
    /// What an earlier batch of the same migration has brought and is no more.
    pub removals: Vec<Removal<S>>,
    /// What is there at the end of it.
    pub writes: Vec<Write<S, B>>,
}

/// Something to be removed. Only what the named migration has imported is meant: places are those
/// of its log. Each imported message carries its migration and place in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Removal<S: Scheme> {
    /// Frames of a mailbox from places before this one.
    Frames {
        /// Whose.
        mailbox: S::Mailbox,
        /// The first place that stays.
        below: Position,
    },
    /// The frame from this place.
    Frame {
        /// Whose.
        mailbox: S::Mailbox,
        /// Its place.
        at: Position,
    },
    /// Items of a mailbox's bundle from places before this one.
    Items {
        /// Whose.
        mailbox: S::Mailbox,
        /// The first place that stays.
        below: Position,
    },
    /// One item.
    Item {
        /// Whose.
        mailbox: S::Mailbox,
        /// Which.
        item: S::Item,
    },
}

/// Something to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Write<S: Scheme, B> {
    /// Its place in the log.
    pub at: Position,
    /// What it is.
    pub entry: Entry<S>,
    /// What belongs to it; a revoked token or a spent code has nothing.
    pub body: Option<B>,
}

impl<S: Scheme, B> Plan<S, B> {
    /// Reads a stretch that begins at the cursor; none if it is empty.
    #[must_use]
    pub fn of(cursor: Cursor<S>, lines: Vec<Line<S, B>>) -> Option<Self> {
        if lines.is_empty() {
            return None;
        }
        let mut plan =
            Self { from: cursor.next, to: cursor, removals: Vec::new(), writes: Vec::new() };
        for line in lines {
            plan.take(line);
        }
        Some(plan)
    }

    fn take(&mut self, line: Line<S, B>) {
        let at = self.to.next;
        self.to = self.to.after(&line.entry);
        match line.entry {
            Entry::Acknowledged { mailbox, below } => {
                self.remove(Removal::Frames { mailbox, below });
            }
            Entry::Expired { mailbox, at } => self.remove(Removal::Frame { mailbox, at }),
            Entry::Withdrawn { mailbox, below } => self.remove(Removal::Items { mailbox, below }),
            Entry::Taken { mailbox, item } => self.remove(Removal::Item { mailbox, item }),
            // Without its body it has ended already, by an entry that comes or by its age.
            Entry::Appended { .. } | Entry::Put { .. } | Entry::Offered { .. }
                if line.body.is_none() => {}
            Entry::Appended { .. }
            | Entry::Put { .. }
            | Entry::Offered { .. }
            | Entry::Revoked { .. }
            | Entry::Spent { .. } => {
                self.writes.push(Write { at, entry: line.entry, body: line.body });
            }
            Entry::Sealed => {}
        }
    }

    /// Nothing that this batch would write is written first; a later removal covers an earlier.
    fn remove(&mut self, removal: Removal<S>) {
        self.writes.retain(|write| !removal.covers(write.at, &write.entry));
        self.removals.retain(|earlier| !removal.outdoes(earlier));
        self.removals.push(removal);
    }
}

impl<S: Scheme> Removal<S> {
    /// Whether it removes what was entered at this place.
    #[must_use]
    pub fn covers(&self, place: Position, entry: &Entry<S>) -> bool {
        match (*self, *entry) {
            (Self::Frames { mailbox, below }, Entry::Appended { mailbox: of, .. })
            | (Self::Items { mailbox, below }, Entry::Offered { mailbox: of, .. }) => {
                mailbox == of && place < below
            }
            (Self::Frame { mailbox, at }, Entry::Appended { mailbox: of, .. }) => {
                mailbox == of && place == at
            }
            (Self::Item { mailbox, item }, Entry::Offered { mailbox: of, item: offered }) => {
                mailbox == of && item == offered
            }
            _ => false,
        }
    }

    fn outdoes(&self, earlier: &Self) -> bool {
        match (*self, *earlier) {
            (Self::Frames { mailbox, below }, Self::Frames { mailbox: of, below: less })
            | (Self::Items { mailbox, below }, Self::Items { mailbox: of, below: less }) => {
                mailbox == of && less <= below
            }
            _ => self == earlier,
        }
    }
}
