//! The importer, and the data centre's stream.

use valise_migration::client::{Berth, Side};
use valise_migration::importer::{Action, Importer, Input, Report};
use valise_migration::plan::Removal;
use valise_migration::{Entry, Ledger, Line, Migration, Position, Refusal, Stage};

use super::checks::{Invariant, violated};
use super::moves::{Happened, Want};
use super::mutants::Mutant;
use super::tiny::{TinyAction, TinyLedger, TinyRemoval};
use super::world::{Asked, Shape, Site, Thing, Told, World};

/// Requests under way to one side, at most: one that is waited for and some that are not.
pub const FLIGHT: usize = 3;

impl Shape {
    // The importer.

    pub fn work(
        &self,
        world: &mut World,
        site: usize,
        importer: u8,
        want: Want,
        all: bool,
    ) -> Happened {
        let sup = usize::from(self.sites[site]);
        let state = &world.sites[site];
        let up = world.sups[sup].up;
        let volatile = self.has(Mutant::ExportVolatile);
        let durable = if volatile { state.log.len() } else { state.durable };
        match &state.importers[usize::from(importer)] {
            Importer::Idle | Importer::Asking if !up || !all || want != Want::Move => Ok(false),
            Importer::Idle | Importer::Asking => {
                let report = Report {
                    boot: world.sups[sup].boot,
                    shard: state.shard,
                    durable: Position(durable as u64),
                };
                if matches!(state.importers[usize::from(importer)], Importer::Idle) {
                    self.importer_step(world, site, importer, want, Input::Woken)?;
                }
                self.importer_step(world, site, importer, want, Input::Report(report))
            }
            Importer::Reading(_) if all => {
                let input = Input::Ledger(state.ledger);
                self.charged_step(world, site, importer, want, input)
            }
            Importer::Fetching(_, ledger) if up && want == Want::Move => {
                let from = ledger.importing().map_or(0, |cursor| cursor.next.0 as usize);
                if from > durable {
                    let input = Input::Lines(None, vec![]);
                    return self.importer_step(world, site, importer, want, input);
                }
                let until = if all { durable } else { durable.min(from + 1) };
                if !all && until == durable {
                    return Ok(false);
                }
                let lines = (from..until)
                    .map(|at| Line { entry: state.log[at], body: state.lives(at).then_some(()) });
                let input = Input::Lines(Some(state.cursor(from).digest), lines.collect());
                self.importer_step(world, site, importer, want, input)
            }
            _ => Ok(false),
        }
    }

    /// Where what is wanted makes a difference, it costs; where it makes none, it is no move.
    fn charged_step(
        &self,
        world: &mut World,
        site: usize,
        importer: u8,
        want: Want,
        input: Input<super::tiny::Tiny, ()>,
    ) -> Happened {
        if want == Want::Move {
            return self.importer_step(world, site, importer, want, input);
        }
        let mut usual = world.clone();
        let as_usual = self.importer_step(&mut usual, site, importer, Want::Move, input.clone());
        let happened = self.importer_step(world, site, importer, want, input)?;
        if as_usual.is_ok() && usual == *world {
            return Ok(false);
        }
        match want {
            Want::Release => world.left.releases -= 1,
            _ => world.left.aborts -= 1,
        }
        Ok(happened)
    }

    pub fn importer_step(
        &self,
        world: &mut World,
        site: usize,
        importer: u8,
        want: Want,
        input: Input<super::tiny::Tiny, ()>,
    ) -> Happened {
        let aim = self.aim(world, site, want);
        let state = &mut world.sites[site];
        let place = usize::from(importer);
        let before = state.importers[place].clone();
        let (next, action) = match before.step(aim, input) {
            Ok(step) => step,
            // The operator's wish came too late, or a number was used meanwhile.
            Err(Refusal::Owned | Refusal::OtherMigration | Refusal::NotThere) => {
                (Importer::Idle, None)
            }
            // A restored supernode and a report from before it.
            Err(Refusal::OutOfOrder | Refusal::GivenUp)
                if world.sups[usize::from(self.sites[site])].boot.0 > 1
                    || self.importers > 1
                    || self.faults.timeouts > 0 =>
            {
                (Importer::Idle, None)
            }
            Err(refusal) => {
                let what = format!("importer {importer} of {site}: {refusal}");
                return violated(Invariant::Contradiction, what);
            }
        };
        state.importers[place] = next;
        let Some(action) = action else { return Ok(true) };
        self.dispatch(state, importer, action)
    }

    fn dispatch(&self, state: &mut Site, importer: u8, action: TinyAction) -> Happened {
        let who = Some(importer);
        match action {
            Action::Report | Action::ReadLedger | Action::Fetch(_) => Ok(true),
            Action::Tell(boot, request) => {
                if state.to_s.len() == FLIGHT {
                    return Ok(false);
                }
                state.to_s.push(Told { who, boot, request });
                Ok(true)
            }
            other => {
                if state.to_c.len() == FLIGHT {
                    return Ok(false);
                }
                state.to_c.push(Asked { who, action: self.mutated_action(other) });
                Ok(true)
            }
        }
    }

    /// A broken importer leaves something out.
    fn mutated_action(&self, action: TinyAction) -> TinyAction {
        match action {
            Action::Change { before, after, mut writes } => {
                writes.retain(|write| match write.entry {
                    Entry::Revoked { .. } => !self.has(Mutant::ForgetRevocations),
                    Entry::Put { .. } => !self.has(Mutant::ForgetSlots),
                    Entry::Spent { .. } => !self.has(Mutant::ForgetCodes),
                    _ => true,
                });
                Action::Change { before, after, writes }
            }
            Action::Remove(migration, mut removals) => {
                removals.retain(|removal| match removal {
                    Removal::Item { .. } => !self.has(Mutant::ForgetTakes),
                    Removal::Frame { .. } => !self.has(Mutant::ForgetExpiries),
                    _ => true,
                });
                Action::Remove(migration, removals)
            }
            other => other,
        }
    }

    pub fn give_up(&self, world: &mut World, site: usize, importer: u8) -> Happened {
        let waiting = self.waits(world, site, importer);
        if waiting {
            let Some(less) = world.left.timeouts.checked_sub(1) else { return Ok(false) };
            world.left.timeouts = less;
        }
        world.sites[site].forget(importer);
        self.importer_step(world, site, importer, Want::Move, Input::Unknown)
    }

    // The data centre.

    pub fn asked_at_c(
        &self,
        world: &mut World,
        site: usize,
        asked: usize,
        want: Want,
        again: bool,
    ) -> Happened {
        if asked >= world.sites[site].to_c.len() {
            return Ok(false);
        }
        let Asked { mut who, action } = world.sites[site].to_c.remove(asked);
        if again {
            // It happens now, and once more later, when nobody waits for it.
            world.sites[site].to_c.push(Asked { who: None, action: action.clone() });
            world.left.repeats -= 1;
        }
        if who.is_none() && want != Want::Move {
            return Ok(false);
        }
        let input = match action {
            Action::Change { before, after, writes } => {
                match self.change(world, site, before, after, writes) {
                    Some(true) => Input::Changed,
                    Some(false) => Input::Conflict,
                    None => {
                        // The batch would not fit: no answer that helps.
                        who = who.inspect(|importer| world.sites[site].forget(*importer));
                        Input::Unknown
                    }
                }
            }
            Action::Remove(migration, removals) => {
                for removal in removals {
                    self.remove(world, site, migration, removal);
                }
                Input::Removed
            }
            Action::Clear(ledger) => {
                self.clear(world, site, ledger.migration);
                Input::Removed
            }
            _ => return Ok(false),
        };
        match who {
            Some(importer) => self.charged_step(world, site, importer, want, input),
            None => Ok(true),
        }
    }

    /// An atomic batch: all of it or nothing; none where it would not fit.
    fn change(
        &self,
        world: &mut World,
        site: usize,
        before: Option<TinyLedger>,
        after: TinyLedger,
        writes: Vec<valise_migration::plan::Write<super::tiny::Tiny, ()>>,
    ) -> Option<bool> {
        let state = &mut world.sites[site];
        let blind = match (before, after.stage) {
            (Some(_), Stage::Owned(_)) => self.has(Mutant::ActivateBlindly),
            (Some(_), Stage::Importing(_)) => self.has(Mutant::ImportBlindly) && !state.owned(),
            _ => false,
        };
        let mut after = after;
        if let (true, Some(now), Some(old)) = (self.has(Mutant::TwoRecords), state.ledger, before)
            && let (Ok(_), Ok(_)) = (now.importing(), old.importing())
            && now.migration == old.migration
        {
            match after.stage {
                Stage::Importing(_) if after.version == old.version => {
                    if now.stage != old.stage {
                        return Some(false);
                    }
                    after = Ledger { stage: after.stage, ..now };
                }
                _ if now.version != old.version => return Some(false),
                _ => {}
            }
        } else if state.ledger != before && !(blind && state.ledger.is_some()) {
            return Some(false);
        }
        let migration = after.migration.0 as u8;
        let mut boxes = world.boxes.clone();
        for write in &writes {
            let thing = Thing { entry: write.entry, migration, at: write.at.0 as u8 };
            if let Entry::Appended { mailbox, .. } = write.entry {
                let frames = &mut boxes[usize::from(mailbox)].frames;
                if frames.len() >= self.quota.into() {
                    return None;
                }
                frames.push(thing);
            }
        }
        world.boxes = boxes;
        for write in writes {
            if !matches!(write.entry, Entry::Appended { .. }) {
                let at = write.at.0 as u8;
                state.things.push(Thing { entry: write.entry, migration, at });
            }
        }
        state.ledger = Some(after);
        Some(true)
    }

    fn remove(&self, world: &mut World, site: usize, migration: Migration, removal: TinyRemoval) {
        let any = self.has(Mutant::RemoveAnyMigration);
        self.take_away(world, site, |thing| {
            let meant = any && thing.migration > 0 || u32::from(thing.migration) == migration.0;
            meant && removal.covers(Position(thing.at.into()), &thing.entry)
        });
    }

    fn clear(&self, world: &mut World, site: usize, until: Migration) {
        let all = self.has(Mutant::ClearEverything);
        self.take_away(world, site, |thing| {
            all || thing.migration > 0 && u32::from(thing.migration) <= until.0
        });
    }

    fn take_away(&self, world: &mut World, site: usize, gone: impl Fn(&Thing) -> bool) {
        world.sites[site].things.retain(|thing| !gone(thing));
        for (mailbox, state) in world.boxes.iter_mut().enumerate() {
            if usize::from(self.boxes[mailbox]) == site {
                if state.berth == Berth::At(Side::DataCentre) {
                    let read = &state.frames[..usize::from(state.reading)];
                    state.reading -= read.iter().filter(|thing| gone(thing)).count() as u8;
                }
                state.frames.retain(|thing| !gone(thing));
            }
        }
    }
}
