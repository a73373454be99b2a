//! The invariants, each with a name and a sentence.

use valise_migration::{Entry, Shard};

use super::world::{SPENT, Shape, VOID, Wish, World, frame};

/// What must never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// A frame that was answered `accepted` and not shown yet is on the disk of whoever owns the
    /// shard, unless it expired.
    Lost,
    /// An app is shown a lane's frames in their order, without a gap and none twice.
    Order,
    /// Where the data centre owns a shard, the supernode does not serve it.
    TwoOwners,
    /// A supernode that knows it is fenced answers nothing `accepted`.
    FencedAccepts,
    /// Everyone who asks for a slot is told the same value.
    SlotTwoWinners,
    /// An item of a bundle is handed out once.
    ItemTwice,
    /// A code is good for one.
    CodeTwice,
    /// A token whose end was confirmed stays ended, whoever owns the shard.
    Unrevoked,
    /// What is wiped is at the data centre, or was there and has been acknowledged.
    WipedTooMuch,
    /// From every state everything can still end well.
    Stuck,
    /// The machines never contradict each other.
    Contradiction,
}

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub Invariant, pub String);

impl Shape {
    /// Of every state.
    pub fn check(&self, world: &World) -> Result<(), Violation> {
        for (number, site) in world.sites.iter().enumerate() {
            let serves = matches!(site.shard, Shard::Local { .. })
                || site.shard == Shard::Plain && !site.rogue;
            if site.owned() && serves && world.sups[usize::from(self.sites[number])].up {
                return violated(Invariant::TwoOwners, format!("shard {number} is served by both"));
            }
        }
        for lane in 0..world.lanes.len() {
            self.check_lane(world, lane)?;
        }
        self.check_answers(world)
    }

    fn check_lane(&self, world: &World, lane: usize) -> Result<(), Violation> {
        let state = &world.lanes[lane];
        let mailbox = usize::from(self.lanes[lane]);
        let site = &world.sites[self.site_of_lane(lane)];
        for n in state.shown + 1..=state.accepted {
            if state.excused & 1 << n != 0 {
                continue;
            }
            let id = frame(lane, n);
            let kept = if site.owned() {
                world.boxes[mailbox].frames.iter().any(
                    |thing| matches!(thing.entry, Entry::Appended { frame, .. } if frame == id),
                )
            } else {
                site.queued(mailbox as u8).any(|(at, frame)| frame == id && at < site.durable)
            };
            if !kept {
                let whose = if site.owned() { "data centre" } else { "supernode" };
                return violated(
                    Invariant::Lost,
                    format!("lane {lane} frame {n}: not at the {whose}"),
                );
            }
        }
        Ok(())
    }

    fn check_answers(&self, world: &World) -> Result<(), Violation> {
        let told = |pick: fn(&Wish) -> bool| {
            let ops = self.ops.iter().zip(&world.ops);
            ops.filter(move |((_, wish), _)| pick(wish))
                .filter_map(|(_, op)| op.told.filter(|answer| *answer != VOID))
        };
        let mut slots = told(|wish| matches!(wish, Wish::Put(_)));
        if let Some(first) = slots.next()
            && let Some(other) = slots.find(|value| *value != first)
        {
            return violated(Invariant::SlotTwoWinners, format!("slot 0: {first} and {other}"));
        }
        let mut items: Vec<u8> =
            told(|wish| *wish == Wish::Take).filter(|item| *item < SPENT).collect();
        items.sort_unstable();
        if items.windows(2).any(|pair| pair[0] == pair[1]) {
            return violated(Invariant::ItemTwice, format!("handed out: {items:?}"));
        }
        if told(|wish| matches!(wish, Wish::Spend(_))).filter(|answer| *answer == 0).count() > 1 {
            return violated(Invariant::CodeTwice, "code 0".to_owned());
        }
        for lane in 0..world.lanes.len() {
            let site = &world.sites[self.site_of_lane(lane)];
            let ended = Entry::Revoked { mailbox: self.lanes[lane], token: lane as u8 };
            let known = if site.owned() {
                site.things.iter().any(|thing| thing.entry == ended)
            } else {
                site.log[..site.durable].contains(&ended)
            };
            if self.revoked_told(world, lane) && !known {
                return violated(Invariant::Unrevoked, format!("lane {lane}"));
            }
        }
        Ok(())
    }

    /// A supernode's shard is about to be gone.
    pub fn check_wipe(&self, world: &World, number: usize) -> Result<(), Violation> {
        let site = &world.sites[number];
        for (mailbox, _) in
            self.boxes.iter().enumerate().filter(|(_, of)| usize::from(**of) == number)
        {
            for (_, id) in site.queued(mailbox as u8) {
                let (lane, n) = (usize::from(id >> 8), (id & 255) as u8);
                let state = &world.lanes[lane];
                let there = world.boxes[mailbox].frames.iter().any(
                    |thing| matches!(thing.entry, Entry::Appended { frame, .. } if frame == id),
                );
                if !there && n > state.shown && state.excused & 1 << n == 0 {
                    return violated(Invariant::WipedTooMuch, format!("lane {lane} frame {n}"));
                }
            }
        }
        if site.owned() {
            Ok(())
        } else {
            violated(Invariant::WipedTooMuch, "S owns it".to_owned())
        }
    }
}

pub fn violated<T>(invariant: Invariant, what: String) -> Result<T, Violation> {
    Err(Violation(invariant, what))
}
