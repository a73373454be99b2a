//! What somebody has who has read the logs.

use std::collections::BTreeMap;

use bytes::Bytes;
use valise_migration::plan::{Plan, Removal};
use valise_migration::real::{Real, RealCursor, RealLine};
use valise_migration::{Entry, Position};

use crate::store::Carried;

/// A shard's things, by what they are known by; values are what was carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replica {
    pub(super) cursor: RealCursor,
    pub(super) frames: BTreeMap<([u8; 16], Position), ([u8; 16], Bytes)>,
    pub(super) items: BTreeMap<([u8; 16], u32), Bytes>,
    pub(super) heads: BTreeMap<[u8; 16], Bytes>,
    pub(super) slots: BTreeMap<[u8; 32], Bytes>,
    pub(super) revoked: BTreeMap<([u8; 16], [u8; 8]), Bytes>,
    pub(super) spent: BTreeMap<[u8; 8], Bytes>,
}

impl Replica {
    pub(super) fn new() -> Self {
        Self {
            cursor: RealCursor::start(),
            frames: BTreeMap::new(),
            items: BTreeMap::new(),
            heads: BTreeMap::new(),
            slots: BTreeMap::new(),
            revoked: BTreeMap::new(),
            spent: BTreeMap::new(),
        }
    }

    /// As an importer does it: removals first, then what is new.
    pub(super) fn take(&mut self, lines: Vec<RealLine>) {
        for line in &lines {
            let (Entry::Offered { mailbox, .. } | Entry::Taken { mailbox, .. }) = line.entry else {
                continue;
            };
            let Some(body) = &line.body else { continue };
            let head = match Carried::decode(&line.entry, body).expect("intact") {
                Carried::Item(head, _) | Carried::Head(head) => head,
                other => panic!("{other:?}"),
            };
            self.heads.insert(mailbox, Carried::Head(head).encode());
        }
        let Some(plan) = Plan::of(self.cursor, lines) else { return };
        plan.removals.iter().for_each(|removal| self.remove(removal));
        for write in plan.writes {
            let body = write.body.expect("what is written has a body");
            match write.entry {
                Entry::Appended { mailbox, frame } => {
                    self.frames.insert((mailbox, write.at), (frame, body));
                }
                Entry::Offered { mailbox, item } => {
                    self.items.insert((mailbox, item), body);
                }
                Entry::Put { slot, .. } => {
                    self.slots.entry(slot).or_insert(body);
                }
                Entry::Revoked { mailbox, token } => {
                    self.revoked.insert((mailbox, token), body);
                }
                Entry::Spent { code } => {
                    self.spent.insert(code, body);
                }
                other => panic!("{other:?} is not written"),
            }
        }
        self.cursor = plan.to;
    }

    fn remove(&mut self, removal: &Removal<Real>) {
        match *removal {
            Removal::Frames { mailbox, below } => {
                self.frames.retain(|(of, at), _| *of != mailbox || *at >= below);
            }
            Removal::Frame { mailbox, at } => {
                self.frames.remove(&(mailbox, at));
            }
            Removal::Item { mailbox, item } => {
                self.items.remove(&(mailbox, item));
            }
            Removal::Items { .. } => panic!("a supernode names each item"),
        }
    }

    /// A mailbox's frames in their order.
    pub(super) fn queue(&self, mailbox: [u8; 16]) -> Vec<([u8; 16], Bytes)> {
        let all = (mailbox, Position(0))..=(mailbox, Position(u64::MAX));
        self.frames.range(all).map(|(_, frame)| frame.clone()).collect()
    }
}
