//! The supernode: its process and its disk.

use valise_migration::client::{Berth, News, Side};
use valise_migration::importer::Input;
use valise_migration::realm::{Census, Realm};
use valise_migration::{Cursor, Entry, Epoch, Ledger, Migration, Record, Refusal, Request, Shard};

use super::checks::{Invariant, violated};
use super::clients::turn;
use super::moves::{Happened, Want};
use super::mutants::Mutant;
use super::tiny::{TinyRequest, TinyShard};
use super::world::{Backup, Shape, Site, Told, VOID, Wish, World, frame};

impl Shape {
    pub fn sites_of(&self, sup: usize) -> Vec<usize> {
        (0..self.sites.len()).filter(|site| usize::from(self.sites[*site]) == sup).collect()
    }

    // The supernode.

    pub fn sync(&self, world: &mut World, site: usize) -> Happened {
        let state = &mut world.sites[site];
        if !world.sups[usize::from(self.sites[site])].up || state.durable == state.log.len() {
            return Ok(false);
        }
        state.durable = state.log.len();
        Ok(true)
    }

    /// The record is on the disk, and the process knows it.
    pub fn written(&self, world: &mut World, site: usize) -> Happened {
        let sup = usize::from(self.sites[site]);
        let boot = world.sups[sup].boot;
        let TinyShard::Writing { to, .. } = world.sites[site].shard else { return Ok(false) };
        if !world.sups[sup].up {
            return Ok(false);
        }
        let settled = world.sites[site].shard.step(boot, Request::Written);
        let Ok((shard, None)) = settled else {
            return violated(Invariant::Contradiction, format!("Written: {settled:?}"));
        };
        self.put_on_disk(world, site, to)?;
        world.sites[site].shard = shard;
        if matches!(to, Record::Local { .. }) {
            world.sites[site].rogue = false;
        }
        self.observe(world, sup);
        Ok(true)
    }

    fn observe(&self, world: &mut World, sup: usize) {
        let sites = self.sites_of(sup);
        if let Ok(census) = Census::of(sites.iter().map(|site| world.sites[*site].shard)) {
            let numbers = sites.iter().filter_map(|site| world.sites[*site].ledger);
            let migration = numbers.map(|ledger| ledger.migration).max().unwrap_or(Migration(0));
            world.sups[sup].realm = world.sups[sup].realm.observe(census, migration);
            if matches!(world.sups[sup].realm, Realm::Draining(..)) {
                world.sups[sup].published = true;
            }
        }
    }

    fn put_on_disk(
        &self,
        world: &mut World,
        site: usize,
        to: Record<super::tiny::Tiny>,
    ) -> Happened {
        if matches!(to, Record::Gone { .. }) {
            self.check_wipe(world, site)?;
        }
        let plain = to == Record::Plain;
        world.sites[site].record = to;
        world.sites[site].durable = world.sites[site].log.len();
        if plain {
            self.compact(world, site);
        }
        if matches!(to, Record::Gone { .. }) {
            world.sites[site].log.clear();
            world.sites[site].durable = 0;
            self.all_on_disk(world, site);
        }
        Ok(true)
    }

    /// The log becomes what there is.
    fn compact(&self, world: &mut World, site: usize) {
        let (log, places) = world.sites[site].compact();
        for (mailbox, state) in world.boxes.iter_mut().enumerate() {
            let here = usize::from(self.boxes[mailbox]) == site;
            if here && state.berth == Berth::At(Side::Supernode) {
                state.reading = places[usize::from(state.reading)];
            }
        }
        self.all_on_disk(world, site);
        world.sites[site].durable = log.len();
        world.sites[site].log = log;
    }

    /// No answer waits for the disk any more.
    fn all_on_disk(&self, world: &mut World, site: usize) {
        for (op, (of, _)) in world.ops.iter_mut().zip(&self.ops) {
            if usize::from(*of) == site
                && let Some((_, until)) = &mut op.pending
            {
                *until = 0;
            }
        }
    }

    pub fn told_at_s(&self, world: &mut World, site: usize, told: usize) -> Happened {
        let sup = usize::from(self.sites[site]);
        if told >= world.sites[site].to_s.len() || !world.sups[sup].up {
            return Ok(false);
        }
        let Told { who, boot, request } = world.sites[site].to_s.remove(told);
        let process = &world.sups[sup];
        let result = if boot != process.boot && !self.has(Mutant::ShowAnyBoot) {
            Err(Refusal::OtherBoot)
        } else {
            process.realm.allows(&request).and_then(|()| self.shard_step(world, site, request))
        };
        self.observe(world, sup);
        if let Some(importer) = who {
            let input = Input::Told(result);
            self.importer_step(world, site, importer, Want::Move, input)?;
        }
        Ok(true)
    }

    pub fn shard_step(
        &self,
        world: &mut World,
        site: usize,
        request: TinyRequest,
    ) -> Result<(), Refusal> {
        let boot = world.sups[usize::from(self.sites[site])].boot;
        let request = self.filled(world, site, request)?;
        let request = self.mutated(world, site, request, boot);
        let state = &mut world.sites[site];
        let (shard, record) = match (state.shard, request) {
            (TinyShard::Sealed(seal), Request::Wipe { .. }) if self.has(Mutant::WipeSealed) => {
                let to = Record::Gone { migration: seal.migration };
                (TinyShard::Writing { to, log: seal.end }, Some(to))
            }
            (TinyShard::Sealed(seal), Request::Show { ledger, .. })
                if self.has(Mutant::UnsealWithoutVersion) && ledger.version == seal.version =>
            {
                let Ledger { migration, version, .. } = ledger;
                let to = Record::Local { migration, version };
                (TinyShard::Writing { to, log: seal.end }, Some(to))
            }
            (shard, request) => shard.step(boot, request)?,
        };
        if let Some(Record::Sealed(_)) = record
            && matches!(state.shard, TinyShard::Local { .. })
        {
            state.log.push(Entry::Sealed);
        }
        if let (Request::Begin { .. }, Some(_)) = (request, record) {
            self.compact(world, site);
            world.sites[site].durable = world.sites[site].log.len();
        }
        world.sites[site].shard = shard;
        Ok(())
    }

    /// What only the supernode knows.
    fn filled(
        &self,
        world: &World,
        site: usize,
        request: TinyRequest,
    ) -> Result<TinyRequest, Refusal> {
        let state = &world.sites[site];
        Ok(match request {
            // The log's first entries are what is on the disk.
            Request::Begin { .. } if state.durable < state.log.len() => return Err(Refusal::Busy),
            Request::Begin { ledger, .. } => {
                let log = state.compact().0;
                let existing = log.iter().fold(Cursor::start(), Cursor::after);
                Request::Begin { ledger, existing }
            }
            Request::Show { ledger, .. } => {
                let own = ledger.importing().ok().and_then(|cursor| {
                    let places = cursor.next.0 as usize;
                    (places <= state.durable).then(|| state.cursor(places).digest)
                });
                Request::Show { ledger, own }
            }
            Request::Wipe { ledger, .. } => {
                let here = |(mailbox, state): (usize, &super::world::Mailbox)| {
                    usize::from(self.boxes[mailbox]) == site
                        && state.berth == Berth::At(Side::Supernode)
                };
                let users = world.boxes.iter().enumerate().filter(|pair| here(*pair)).count();
                Request::Wipe { ledger, users }
            }
            other => other,
        })
    }

    fn mutated(
        &self,
        world: &World,
        site: usize,
        request: TinyRequest,
        boot: valise_migration::Boot,
    ) -> TinyRequest {
        match (request, world.sites[site].shard) {
            (Request::Show { ledger, own }, _) if self.has(Mutant::ShowAnyBoot) => {
                Request::Show { ledger: Ledger { boot, ..ledger }, own }
            }
            (request, _) => request,
        }
    }

    /// The process ends. What was not synced is gone; a record that was under way may be there.
    pub fn crash(&self, world: &mut World, sup: usize, written: bool) -> Happened {
        if !world.sups[sup].up {
            return Ok(false);
        }
        let pending = |site: &usize| matches!(world.sites[*site].shard, Shard::Writing { .. });
        if written && !self.sites_of(sup).iter().any(pending) {
            return Ok(false);
        }
        world.sups[sup].up = false;
        for site in self.sites_of(sup) {
            if let (TinyShard::Writing { to, .. }, true) = (world.sites[site].shard, written) {
                self.put_on_disk(world, site, to)?;
            }
            self.forget_connections(world, site);
            let state = &mut world.sites[site];
            let durable = state.durable;
            state.log.truncate(durable);
            state.to_s.clear();
            state.shard = self.restarted(state);
        }
        Ok(true)
    }

    fn restarted(&self, state: &Site) -> TinyShard {
        let log = state.cursor(state.log.len());
        match (state.record, TinyShard::restart(state.record, log)) {
            (Record::Local { migration, version }, _) if self.has(Mutant::ServeUnsure) => {
                TinyShard::Local { migration, version, log }
            }
            (Record::Forward { migration, .. }, _) if self.has(Mutant::ForwardReturns) => {
                TinyShard::Local { migration, version: valise_migration::Version(0), log }
            }
            (_, shard) => shard,
        }
    }

    fn forget_connections(&self, world: &mut World, site: usize) {
        for lane in 0..world.lanes.len() {
            if self.site_of_lane(lane) == site {
                world.lanes[lane].at_s = 0;
                world.lanes[lane].pending = 0;
            }
        }
        for (op, (of, _)) in world.ops.iter_mut().zip(&self.ops) {
            if usize::from(*of) == site {
                op.at_s = false;
                op.pending = None;
            }
        }
        for mailbox in 0..world.boxes.len() {
            if usize::from(self.boxes[mailbox]) == site {
                turn(world, mailbox, News::Lost(Side::Supernode));
            }
        }
    }

    pub fn restart(&self, world: &mut World, sup: usize) -> Happened {
        if world.sups[sup].up {
            return Ok(false);
        }
        world.sups[sup].up = true;
        world.sups[sup].boot = world.sups[sup].boot.next();
        Ok(true)
    }

    pub fn back_up(&self, world: &mut World, sup: usize) -> Happened {
        let sites = self.sites_of(sup);
        let durable = |site: &usize| {
            let state = &world.sites[*site];
            state.log[..state.durable].to_vec()
        };
        let backup = Backup {
            realm: world.sups[sup].realm,
            records: sites.iter().map(|site| world.sites[*site].record).collect(),
            logs: sites.iter().map(durable).collect(),
        };
        world.sups[sup].backup = Some(Box::new(backup));
        Ok(true)
    }

    /// The disk is what it was. What it had promised since then and nobody else knows is lost, by
    /// whoever restored it; where the data centre owns the shard, nothing is.
    pub fn restore(&self, world: &mut World, sup: usize) -> Happened {
        let Some(backup) = world.sups[sup].backup.clone() else { return Ok(false) };
        if self.sites_of(sup).iter().all(|site| world.sites[*site].ledger.is_none()) {
            return Ok(false);
        }
        world.left.restores -= 1;
        if world.sups[sup].up {
            self.crash(world, sup, false)?;
        }
        world.sups[sup].realm = backup.realm;
        world.sups[sup].restored = true;
        world.sups[sup].backup = None;
        for (number, site) in self.sites_of(sup).into_iter().enumerate() {
            let state = &mut world.sites[site];
            state.record = backup.records[number];
            state.log.clone_from(&backup.logs[number]);
            state.durable = state.log.len();
            state.shard = self.restarted(state);
            state.rogue = state.record == Record::Plain && state.ledger.is_some();
            if !state.owned() {
                self.write_off(world, site);
            }
        }
        Ok(true)
    }

    fn write_off(&self, world: &mut World, site: usize) {
        let state = &world.sites[site];
        for (lane, sender) in world.lanes.iter_mut().enumerate() {
            if self.site_of_lane(lane) == site {
                let queued: Vec<u16> = state.queued(self.lanes[lane]).map(|(_, id)| id).collect();
                for n in sender.shown + 1..=sender.accepted {
                    if !queued.contains(&frame(lane, n)) {
                        sender.excused |= 1 << n;
                    }
                }
            }
        }
        for (op, (of, wish)) in world.ops.iter_mut().zip(&self.ops) {
            let Some(answer) = op.told.filter(|_| usize::from(*of) == site) else { continue };
            let known = state.log.iter().any(|entry| match (*wish, *entry) {
                (Wish::Put(_), Entry::Put { put, .. }) => put == answer,
                (Wish::Take, Entry::Taken { item, .. }) => item == answer,
                (Wish::Revoke(lane), Entry::Revoked { token, .. }) => token == lane,
                (Wish::Spend(_), Entry::Spent { .. }) => true,
                _ => false,
            });
            if !known {
                op.told = Some(VOID);
            }
        }
    }

    /// Somebody who knows the next record says hello.
    pub fn hello(&self, world: &mut World, sup: usize) -> Happened {
        let process = &mut world.sups[sup];
        if !process.published || !process.up {
            return Ok(false);
        }
        process.realm = process.realm.hello(Epoch(2));
        Ok(true)
    }
}
