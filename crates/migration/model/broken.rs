//! Broken rules that are moves of their own.

use valise_migration::importer::{Action, Input};
use valise_migration::{Record, Request};

use super::datacentre::FLIGHT;
use super::moves::{Happened, Want};
use super::mutants::Mutant;
use super::tiny::TinyShard;
use super::world::{Asked, Shape, Told, World};

impl Shape {
    pub fn broken(&self, world: &mut World, site: usize) -> Happened {
        let sup = usize::from(self.sites[site]);
        let up = world.sups[sup].up;
        let state = &mut world.sites[site];
        match (self.mutant, state.shard) {
            (Some(Mutant::UnsealByTimeout), TinyShard::Sealed(seal)) if up => {
                let (migration, version, log) = (seal.migration, seal.version, seal.end);
                state.record = Record::Local { migration, version };
                state.shard = TinyShard::Local { migration, version, log };
            }
            (Some(Mutant::AbortAlone), TinyShard::Sealed(_)) if up => {
                state.record = Record::Plain;
                state.shard = TinyShard::Plain;
                state.durable = state.log.len();
            }
            (Some(Mutant::SealLowered), TinyShard::Sealed(mut seal)) if seal.version.0 > 1 => {
                seal.version.0 -= 1;
                state.record = Record::Sealed(seal);
                state.shard = TinyShard::Sealed(seal);
            }
            (Some(Mutant::ActivateEarly), TinyShard::Sealed(seal)) => {
                let Some(before) = state.ledger else { return Ok(false) };
                let Ok(cursor) = before.importing() else { return Ok(false) };
                let early = valise_migration::Seal { end: cursor, ..seal };
                let Ok(after) = before.activate(early) else { return Ok(false) };
                if state.to_c.len() == FLIGHT {
                    return Ok(false);
                }
                let action = Action::Change { before: Some(before), after, writes: vec![] };
                state.to_c.push(Asked { who: None, action });
            }
            (Some(Mutant::UnsealWithoutVersion), TinyShard::Sealed(_))
            | (Some(Mutant::ShowAnyBoot), TinyShard::Unsure { .. })
                if up =>
            {
                let Some(ledger) = state.ledger.filter(|_| state.to_s.len() < FLIGHT) else {
                    return Ok(false);
                };
                let boot = world.sups[sup].boot;
                let request = Request::Show { ledger, own: None };
                state.to_s.push(Told { who: None, boot, request });
            }
            (Some(Mutant::OpenUncleared | Mutant::RemoveLater | Mutant::WipeSealed), _) => {
                return self.broken_importer(world, site);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The importer goes on before an answer came, or asks what it must not.
    fn broken_importer(&self, world: &mut World, site: usize) -> Happened {
        let state = &mut world.sites[site];
        let waits = |asked: &Asked| match asked.action {
            Action::Clear(_) => self.has(Mutant::OpenUncleared),
            Action::Remove(..) => self.has(Mutant::RemoveLater),
            _ => false,
        };
        if let Some(asked) = state.to_c.iter_mut().find(|asked| asked.who.is_some() && waits(asked))
        {
            let importer = asked.who.take().unwrap_or_default();
            return self.importer_step(world, site, importer, Want::Move, Input::Removed);
        }
        if let (true, Some(ledger)) = (self.has(Mutant::WipeSealed), state.ledger)
            && matches!(state.shard, TinyShard::Sealed(_))
        {
            let request = Request::Wipe { ledger, users: 0 };
            return self.shard_step(world, site, request).map_or(Ok(false), |()| Ok(true));
        }
        Ok(false)
    }
}
