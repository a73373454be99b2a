//! The supernode's process and disk, the importer, and the data centre's stream.

use valise_migration::client::{Berth, News, Side};
use valise_migration::importer::{Action, Importer, Input, Report};
use valise_migration::plan::Removal;
use valise_migration::realm::{Census, Realm};
use valise_migration::{
    Cursor, Entry, Epoch, Ledger, Line, Migration, Position, Record, Refusal, Request, Shard, Stage,
};

use super::checks::{Invariant, Violation, violated};
use super::clients::turn;
use super::moves::{Happened, Move, Want};
use super::mutants::Mutant;
use super::tiny::{TinyAction, TinyLedger, TinyRemoval, TinyRequest, TinyShard};
use super::world::{Asked, Backup, Shape, Site, Thing, Told, VOID, Wish, World, frame};

/// Requests under way to one side, at most: one that is waited for and some that are not.
const FLIGHT: usize = 3;

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

    fn put_on_disk(&self, world: &mut World, site: usize, to: Record<super::tiny::Tiny>) -> Happened {
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
        for (op, (of, _)) in world.ops.iter_mut().zip(&self.ops) {
            if usize::from(*of) == site
                && let Some((_, until)) = &mut op.pending
            {
                *until = 0;
            }
        }
        world.sites[site].durable = log.len();
        world.sites[site].log = log;
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

    fn shard_step(
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
                let existing = log.iter().fold(Cursor::start(), |cursor, entry| cursor.after(entry));
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
            (Request::Show { ledger, own }, TinyShard::Sealed(seal))
                if self.has(Mutant::UnsealWithoutVersion) && ledger.version == seal.version =>
            {
                Request::Show { ledger: Ledger { version: ledger.version.next(), ..ledger }, own }
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
                let lines = (from..until).map(|at| Line {
                    entry: state.log[at],
                    body: state.lives(at).then_some(()),
                });
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

    fn importer_step(
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
        if state.ledger != before && !(blind && state.ledger.is_some()) {
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

    // Broken rules that are moves of their own.

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
            (Some(Mutant::AbortAlone), TinyShard::Local { .. }) if up => {
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
        if let Some(asked) = state.to_c.iter_mut().find(|asked| asked.who.is_some() && waits(asked)) {
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

/// For traces: what a move was.
impl std::fmt::Display for Move {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

pub type Checked = Result<(), Violation>;
