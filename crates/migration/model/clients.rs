//! Senders, devices, and what they meet on either side.

use valise_migration::client::{Berth, Errand, Errands, News, Reply, Side};
use valise_migration::shard::Admitted;
use valise_migration::{Entry, Ledger, Position, Refusal, Shard};

use super::checks::{Invariant, Violation, violated};
use super::moves::{Happened, Landing};
use super::mutants::Mutant;
use super::tiny::{TinyEntry, TinyShard};
use super::world::{Lane, Shape, Thing, World, frame};

impl Lane {
    fn hear(&mut self, n: u8, reply: Reply) {
        if self.open && n == self.accepted + 1 {
            match (Errand { side: self.side }).step(reply) {
                None => self.open = false,
                Some(again) => self.side = again.side,
            }
        }
    }

    fn accept(&mut self, n: u8) {
        if n == self.accepted + 1 {
            self.hear(n, Reply::Decided);
            self.accepted = n;
        }
    }
}

impl Shape {
    pub fn sup_of(&self, site: usize) -> usize {
        self.sites[site].into()
    }

    /// What the supernode does with something a client wants: the realm first, then the shard.
    pub fn enter(
        &self,
        world: &mut World,
        site: usize,
        entry: TinyEntry,
    ) -> Result<Admitted, Refusal> {
        let sup = &world.sups[self.sup_of(site)];
        if !self.has(Mutant::ServeFenced) {
            sup.realm.serves()?;
        }
        let state = &mut world.sites[site];
        if self.has(Mutant::AcceptSealed) && matches!(state.shard, TinyShard::Sealed(_)) {
            state.log.push(entry);
            return Ok(Admitted::Log(Position(state.log.len() as u64 - 1)));
        }
        let (shard, admitted) = state.shard.enter(&entry)?;
        if admitted != Admitted::Forward {
            state.log.push(entry);
        }
        state.shard = shard;
        Ok(admitted)
    }

    /// The same without entering anything: would it?
    pub fn would(&self, world: &World, site: usize, entry: TinyEntry) -> Result<Admitted, Refusal> {
        if !self.has(Mutant::ServeFenced) {
            world.sups[self.sup_of(site)].realm.serves()?;
        }
        if self.has(Mutant::AcceptSealed) && matches!(world.sites[site].shard, Shard::Sealed(_)) {
            return Ok(Admitted::Log(Position(0)));
        }
        world.sites[site].shard.enter(&entry).map(|(_, admitted)| admitted)
    }

    pub fn post(&self, world: &mut World, lane: usize, n: u8) -> Happened {
        let up = world.sups[self.sup_of(self.site_of_lane(lane))].up;
        let state = &mut world.lanes[lane];
        if n > self.frames || n <= state.accepted || state.refused {
            return Ok(false);
        }
        state.open = true;
        match state.side {
            Side::Supernode if up => state.at_s |= 1 << n,
            Side::Supernode => return Ok(false),
            Side::DataCentre => state.at_c |= 1 << n,
        }
        Ok(true)
    }

    pub fn post_at_s(&self, world: &mut World, lane: usize, n: u8, forgotten: bool) -> Happened {
        let (site, mailbox) = (self.site_of_lane(lane), self.lanes[lane]);
        if world.lanes[lane].at_s & 1 << n == 0 || !world.sups[self.sup_of(site)].up {
            return Ok(false);
        }
        world.lanes[lane].at_s &= !(1 << n);
        let id = frame(lane, n);
        let entry = Entry::Appended { mailbox, frame: id };
        match self.would(world, site, entry) {
            Err(refusal) => {
                world.lanes[lane].hear(n, Reply::Refused(Side::Supernode, refusal));
                return Ok(!forgotten);
            }
            Ok(Admitted::Forward) => {
                world.lanes[lane].at_c |= 1 << n;
                return Ok(!forgotten);
            }
            Ok(_) => {}
        }
        let state = &world.sites[site];
        if state.log.contains(&Entry::Revoked { mailbox, token: lane as u8 }) {
            return Ok(!forgotten && refused(&mut world.lanes[lane], n));
        }
        let queued = state.queued(mailbox).any(|(_, frame)| frame == id);
        let was = state.log.contains(&entry);
        if queued || was && !forgotten {
            world.lanes[lane].pending |= 1 << n;
            return Ok(!forgotten);
        }
        if forgotten && !was {
            return Ok(false);
        }
        if state.queued(mailbox).count() >= self.quota.into() {
            world.lanes[lane].hear(n, Reply::Refused(Side::Supernode, Refusal::Busy));
            return Ok(!forgotten);
        }
        if forgotten {
            world.left.repeats -= 1;
        }
        let _ = self.enter(world, site, entry);
        world.lanes[lane].pending |= 1 << n;
        Ok(true)
    }

    /// `accepted` goes out: the entry is on the disk, or its recipient has it.
    pub fn s_accepts(&self, world: &mut World, lane: usize, n: u8) -> Happened {
        let (site, mailbox) = (self.site_of_lane(lane), self.lanes[lane]);
        let state = &world.sites[site];
        let volatile =
            state.queued(mailbox).any(|(at, id)| id == frame(lane, n) && at >= state.durable);
        let sup = &world.sups[self.sup_of(site)];
        if world.lanes[lane].pending & 1 << n == 0 || !sup.up {
            return Ok(false);
        }
        if volatile && !self.has(Mutant::AnswerVolatile) {
            return Ok(false);
        }
        if sup.realm.serves().is_err() {
            if self.has(Mutant::ServeFenced) {
                return violated(Invariant::FencedAccepts, format!("lane {lane} frame {n}"));
            }
            world.lanes[lane].pending &= !(1 << n);
            return Ok(true);
        }
        let rogue = state.rogue;
        let lane = &mut world.lanes[lane];
        lane.pending &= !(1 << n);
        if rogue {
            lane.excused |= 1 << n;
        }
        lane.accept(n);
        Ok(true)
    }

    pub fn post_at_c(&self, world: &mut World, lane: usize, n: u8, how: Landing) -> Happened {
        let (site, mailbox) = (self.site_of_lane(lane), self.lanes[lane]);
        if world.lanes[lane].at_c & 1 << n == 0 {
            return Ok(false);
        }
        world.lanes[lane].at_c &= !(1 << n);
        let plain = how == Landing::Answered;
        if !self.has(Mutant::AcceptUnowned)
            && let Err(refusal) = Ledger::accepts(world.sites[site].ledger.as_ref())
        {
            world.lanes[lane].hear(n, Reply::Refused(Side::DataCentre, refusal));
            return Ok(plain);
        }
        let ended = Entry::Revoked { mailbox, token: lane as u8 };
        if world.sites[site].things.iter().any(|thing| thing.entry == ended) {
            return Ok(plain && refused(&mut world.lanes[lane], n));
        }
        let entry = Entry::Appended { mailbox, frame: frame(lane, n) };
        let frames = &mut world.boxes[usize::from(mailbox)].frames;
        let known = frames.iter().any(|thing| thing.entry == entry);
        let budget = match how {
            Landing::Answered => None,
            Landing::Lost => Some(&mut world.left.losses),
            Landing::Twice if known => Some(&mut world.left.repeats),
            Landing::Twice => return Ok(false),
        };
        if let Some(left) = budget {
            let Some(less) = left.checked_sub(1) else { return Ok(false) };
            *left = less;
        }
        if !known || how == Landing::Twice {
            if frames.len() >= self.quota.into() {
                world.lanes[lane].hear(n, Reply::Refused(Side::DataCentre, Refusal::Busy));
                return Ok(plain);
            }
            frames.push(Thing { entry, migration: 0, at: 0 });
        }
        if how != Landing::Lost {
            world.lanes[lane].accept(n);
        }
        Ok(true)
    }

    pub fn attach(&self, world: &mut World, mailbox: usize) -> Happened {
        let Berth::Away(side) = world.boxes[mailbox].berth else { return Ok(false) };
        let site = usize::from(self.boxes[mailbox]);
        let sup = &world.sups[self.sup_of(site)];
        let answer = match side {
            Side::Supernode if !sup.up => return Ok(false),
            Side::Supernode => {
                let realm = sup.realm.serves();
                let realm = if self.has(Mutant::ServeFenced) { Ok(()) } else { realm };
                realm.and_then(|()| world.sites[site].shard.attach())
            }
            Side::DataCentre => Ledger::accepts(world.sites[site].ledger.as_ref()),
        };
        let news = match answer {
            Ok(()) => News::Attached(side),
            Err(refusal) => News::Refused(side, refusal),
        };
        turn(world, mailbox, news);
        Ok(true)
    }

    pub fn deliver(&self, world: &mut World, mailbox: usize) -> Happened {
        let site = &world.sites[usize::from(self.boxes[mailbox])];
        let state = &world.boxes[mailbox];
        let reading = usize::from(state.reading);
        let (id, next) = match state.berth {
            Berth::At(Side::Supernode) if site.shard.keeps_attachments() => {
                let Some((at, id)) = site.queued(mailbox as u8).find(|(at, _)| *at >= reading)
                else {
                    return Ok(false);
                };
                (id, at + 1)
            }
            Berth::At(Side::DataCentre) => match state.frames.get(reading) {
                Some(Thing { entry: Entry::Appended { frame, .. }, .. }) => (*frame, reading + 1),
                _ => return Ok(false),
            },
            _ => return Ok(false),
        };
        let rogue = site.rogue && state.berth == Berth::At(Side::Supernode);
        world.boxes[mailbox].reading = next as u8;
        world.boxes[mailbox].owes = true;
        show(&mut world.lanes[usize::from(id >> 8)], id, rogue)?;
        Ok(true)
    }

    /// The device has taken over everything that was delivered.
    pub fn acknowledge(&self, world: &mut World, mailbox: usize) -> Happened {
        let site = usize::from(self.boxes[mailbox]);
        let state = &mut world.boxes[mailbox];
        if !state.owes {
            return Ok(false);
        }
        state.owes = false;
        match state.berth {
            Berth::At(Side::Supernode) => {
                let below = Position(state.reading.into());
                let entry = Entry::Acknowledged { mailbox: mailbox as u8, below };
                // Where it is not entered, the frames come again, and are dropped.
                let _ = self.enter(world, site, entry);
            }
            Berth::At(Side::DataCentre) => {
                state.frames.drain(..usize::from(state.reading));
                state.reading = 0;
            }
            _ => {}
        }
        Ok(true)
    }

    /// The supernode ends an attachment of a shard that moved.
    pub fn go(&self, world: &mut World, mailbox: usize) -> Happened {
        let site = usize::from(self.boxes[mailbox]);
        if world.boxes[mailbox].berth != Berth::At(Side::Supernode)
            || world.sites[site].shard.keeps_attachments()
        {
            return Ok(false);
        }
        let replaced = self.has(Mutant::ReplacedOnMove);
        turn(world, mailbox, if replaced { News::Replaced(Side::Supernode) } else { News::Go });
        Ok(true)
    }

    /// A sender learns of the next record; or it goes to the data centre for no good reason, and
    /// is sent back.
    pub fn record(&self, world: &mut World, lane: usize) -> Happened {
        let state = &mut world.lanes[lane];
        if state.side == Side::DataCentre {
            return Ok(false);
        }
        if let Some(again) = (Errand { side: state.side }).step(Reply::Record) {
            state.side = again.side;
        }
        Ok(true)
    }

    pub fn expire_at_s(&self, world: &mut World, mailbox: usize) -> Happened {
        let site = usize::from(self.boxes[mailbox]);
        let Some((at, id)) = world.sites[site].queued(mailbox as u8).next() else {
            return Ok(false);
        };
        let entry = Entry::Expired { mailbox: mailbox as u8, at: Position(at as u64) };
        if !world.sups[self.sup_of(site)].up || self.enter(world, site, entry).is_err() {
            return Ok(false);
        }
        world.left.expiries -= 1;
        world.lanes[usize::from(id >> 8)].excused |= 1 << (id & 255);
        Ok(true)
    }

    pub fn expire_at_c(&self, world: &mut World, mailbox: usize) -> Happened {
        let state = &mut world.boxes[mailbox];
        let Some(Thing { entry: Entry::Appended { frame, .. }, .. }) =
            state.frames.first().copied()
        else {
            return Ok(false);
        };
        // Before activation the supernode's copy may live on for a while.
        if !world.sites[usize::from(self.boxes[mailbox])].owned() {
            return Ok(false);
        }
        state.frames.remove(0);
        state.reading = state.reading.saturating_sub(1);
        world.left.expiries -= 1;
        world.lanes[usize::from(frame >> 8)].excused |= 1 << (frame & 255);
        Ok(true)
    }
}

/// The receiver's rule: at or below the highest is dropped, the next is shown, and what is missed
/// was given up. What a backup from before the migration makes a device miss is its limit, too.
fn show(lane: &mut Lane, id: u16, rogue: bool) -> Result<(), Violation> {
    let n = (id & 255) as u8;
    if n <= lane.shown {
        return Ok(());
    }
    if rogue {
        (lane.shown + 1..n).for_each(|missed| lane.excused |= 1 << missed);
    }
    if let Some(missed) = (lane.shown + 1..n).find(|missed| lane.excused & 1 << missed == 0) {
        let what = format!("lane {} frame {n} is shown before {missed}", id >> 8);
        return violated(Invariant::Order, what);
    }
    lane.shown = n;
    Ok(())
}

fn refused(lane: &mut Lane, n: u8) -> bool {
    if lane.open && n == lane.accepted + 1 {
        lane.refused = true;
        lane.open = false;
    }
    true
}

/// The berth's own rule, and where it reads from then on.
pub fn turn(world: &mut World, mailbox: usize, news: News) {
    let state = &mut world.boxes[mailbox];
    let before = state.berth;
    let (berth, errands) = state.berth.step(news);
    state.berth = match errands {
        Errands::Attach(side) | Errands::AttachLater(side) => Berth::Away(side),
        Errands::Wait | Errands::Hold => berth,
    };
    if state.berth != before {
        state.reading = 0;
        state.owes = false;
    }
}
