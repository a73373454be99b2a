//! Requests that are no posts: slots, bundles, codes, revocations.

use valise_migration::client::{Errand, Reply, Side};
use valise_migration::{Entry, Ledger};

use super::moves::Happened;
use super::mutants::Mutant;
use super::tiny::TinyEntry;
use super::world::{EMPTY, SPENT, Shape, Thing, VOID, Wish, World};

impl Shape {
    pub fn ask(&self, world: &mut World, op: usize) -> Happened {
        let up = world.sups[self.sup_of(self.ops[op].0.into())].up;
        let state = &mut world.ops[op];
        if state.told.is_some() {
            return Ok(false);
        }
        match state.side {
            Side::Supernode => state.at_s |= up,
            Side::DataCentre => state.at_c = true,
        }
        Ok(true)
    }

    pub fn op_at_s(&self, world: &mut World, op: usize) -> Happened {
        let (site, wish) = (usize::from(self.ops[op].0), self.ops[op].1);
        if !world.ops[op].at_s || !world.sups[self.sup_of(site)].up {
            return Ok(false);
        }
        world.ops[op].at_s = false;
        if world.ops[op].told.is_some() || world.ops[op].pending.is_some() {
            return Ok(true);
        }
        let state = &world.sites[site];
        let there = (0..state.log.len()).filter(|at| state.lives(*at)).map(|at| state.log[at]);
        let (entry, answer) = self.decide(wish, there.collect());
        let probe = entry.unwrap_or(Entry::Spent { code: 0 });
        match self.would(world, site, probe) {
            Err(refusal) => {
                let errand = Errand { side: world.ops[op].side };
                if let Some(again) = errand.step(Reply::Refused(Side::Supernode, refusal)) {
                    world.ops[op].side = again.side;
                }
                return Ok(true);
            }
            Ok(_) => {
                if let Some(entry) = entry {
                    let _ = self.enter(world, site, entry);
                }
            }
        }
        world.ops[op].pending = Some((answer, world.sites[site].log.len() as u8));
        Ok(true)
    }

    /// What is entered, if anything, and what is answered: the rules of slots, bundles, codes and
    /// revocations, the same on both sides.
    fn decide(&self, wish: Wish, there: Vec<TinyEntry>) -> (Option<TinyEntry>, u8) {
        match wish {
            Wish::Put(put) => {
                let taken = there.iter().find_map(|entry| match *entry {
                    Entry::Put { put, .. } => Some(put),
                    _ => None,
                });
                match taken {
                    Some(put) => (None, put),
                    None => (Some(Entry::Put { slot: 0, put }), put),
                }
            }
            Wish::Take => {
                let item = there.iter().find_map(|entry| match *entry {
                    Entry::Offered { mailbox: 0, item } => Some(item),
                    _ => None,
                });
                match item {
                    Some(item) => (Some(Entry::Taken { mailbox: 0, item }), item),
                    None => (None, EMPTY),
                }
            }
            Wish::Revoke(lane) => {
                let mailbox = self.lanes[usize::from(lane)];
                let entry = Entry::Revoked { mailbox, token: lane };
                ((!there.contains(&entry)).then_some(entry), 0)
            }
            Wish::Spend(_) => {
                let entry = Entry::Spent { code: 0 };
                if there.contains(&entry) { (None, SPENT) } else { (Some(entry), 0) }
            }
        }
    }

    pub fn s_answers(&self, world: &mut World, op: usize) -> Happened {
        let site = usize::from(self.ops[op].0);
        let Some((answer, until)) = world.ops[op].pending else { return Ok(false) };
        let (state, sup) = (&world.sites[site], &world.sups[self.sup_of(site)]);
        let early = self.has(Mutant::AnswerVolatile);
        if !sup.up || usize::from(until) > state.durable && !early {
            return Ok(false);
        }
        let fenced = sup.realm.serves().is_err();
        let void = state.rogue;
        world.ops[op].pending = None;
        if !fenced && world.ops[op].told.is_none() {
            world.ops[op].told = Some(if void { VOID } else { answer });
        }
        Ok(true)
    }

    pub fn op_at_c(&self, world: &mut World, op: usize, lost: bool) -> Happened {
        let (site, wish) = (usize::from(self.ops[op].0), self.ops[op].1);
        if !world.ops[op].at_c {
            return Ok(false);
        }
        world.ops[op].at_c = false;
        if world.ops[op].told.is_some() {
            return Ok(!lost);
        }
        if let Err(refusal) = Ledger::accepts(world.sites[site].ledger.as_ref()) {
            let errand = Errand { side: world.ops[op].side };
            if let Some(again) = errand.step(Reply::Refused(Side::DataCentre, refusal)) {
                world.ops[op].side = again.side;
            }
            return Ok(!lost);
        }
        let there = world.sites[site].things.iter().map(|thing| thing.entry);
        let (entry, answer) = self.decide(wish, there.collect());
        let things = &mut world.sites[site].things;
        match entry {
            Some(Entry::Taken { item, .. }) => {
                things.retain(
                    |thing| !matches!(thing.entry, Entry::Offered { item: of, .. } if of == item),
                );
            }
            Some(entry) => things.push(Thing { entry, migration: 0, at: 0 }),
            None => {}
        }
        if lost {
            let Some(less) = world.left.losses.checked_sub(1) else { return Ok(false) };
            world.left.losses = less;
        } else {
            world.ops[op].told = Some(answer);
        }
        Ok(true)
    }

    pub fn record_for_op(&self, world: &mut World, op: usize) -> Happened {
        let state = &mut world.ops[op];
        if state.side == Side::DataCentre {
            return Ok(false);
        }
        state.side = Side::DataCentre;
        Ok(true)
    }
}
