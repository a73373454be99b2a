//! What can happen next, and what the world is then. Every decision is asked of the crate.

use valise_migration::importer::Aim;
use valise_migration::realm::Realm;
use valise_migration::{Migration, Shard, Stage};

use super::checks::Violation;
use super::mutants::Mutant;
use super::world::{Shape, Wish, World};

/// One thing that happens. Numbers name supernodes, sites, lanes and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    // Clients.
    Post { lane: u8, n: u8 },
    PostReachesS { lane: u8, n: u8, forgotten: bool },
    SAccepts { lane: u8, n: u8 },
    PostReachesC { lane: u8, n: u8, how: Landing },
    Ask { op: u8 },
    OpReachesS { op: u8 },
    SAnswers { op: u8 },
    OpReachesC { op: u8, lost: bool },
    Attach { mailbox: u8 },
    Deliver { mailbox: u8 },
    Acknowledge { mailbox: u8 },
    Go { mailbox: u8 },
    Record { lane: u8 },
    RecordForOp { op: u8 },
    Hello { sup: u8 },
    // The supernode.
    Sync { site: u8 },
    Written { site: u8 },
    ToldReachesS { site: u8, told: u8 },
    ExpireAtS { mailbox: u8 },
    Crash { sup: u8, written: bool },
    Restart { sup: u8 },
    Backup { sup: u8 },
    Restore { sup: u8 },
    // The importer and the data centre.
    Work { site: u8, importer: u8, want: Want, all: bool },
    GiveUp { site: u8, importer: u8 },
    AskedReachesC { site: u8, asked: u8, want: Want, again: bool },
    ExpireAtC { mailbox: u8 },
    // Broken rules.
    Broken { site: u8 },
}

/// What becomes of a post at the data centre.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landing {
    /// Stored if it is new, and answered.
    Answered,
    /// Stored if it is new; the answer is lost.
    Lost,
    /// Stored though it is there already.
    Twice,
}

/// What the operator wants just then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Move,
    Release,
    Abort,
}

pub type Happened = Result<bool, Violation>;

impl Shape {
    /// Everything that may be possible; some of it turns out not to be.
    pub fn moves(&self, world: &World, out: &mut Vec<Move>) {
        out.clear();
        self.client_moves(world, out);
        for (number, sup) in world.sups.iter().enumerate() {
            let sup_number = number as u8;
            if !sup.up {
                out.push(Move::Restart { sup: sup_number });
            } else if world.left.crashes > 0 {
                out.push(Move::Crash { sup: sup_number, written: false });
                out.push(Move::Crash { sup: sup_number, written: true });
            }
            if self.faults.restores > 0 && sup.backup.is_none() && sup.up && !sup.restored {
                out.push(Move::Backup { sup: sup_number });
            }
            if world.left.restores > 0 && sup.backup.is_some() {
                out.push(Move::Restore { sup: sup_number });
            }
            if sup.published && sup.up {
                out.push(Move::Hello { sup: sup_number });
            }
        }
        for number in 0..world.sites.len() {
            self.site_moves(world, number, out);
        }
    }

    fn client_moves(&self, world: &World, out: &mut Vec<Move>) {
        for (number, lane) in world.lanes.iter().enumerate() {
            let lane_number = number as u8;
            for n in lane.accepted + 1..=self.frames {
                let next = n == lane.accepted + 1;
                let pipelined = self.has(Mutant::Pipeline) && n == lane.accepted + 2 && lane.open;
                if !lane.refused && (next || pipelined) {
                    out.push(Move::Post { lane: lane_number, n });
                }
            }
            for n in 1..=self.frames {
                let bit = 1 << n;
                if lane.at_s & bit != 0 {
                    out.push(Move::PostReachesS { lane: lane_number, n, forgotten: false });
                    if world.left.repeats > 0 {
                        out.push(Move::PostReachesS { lane: lane_number, n, forgotten: true });
                    }
                }
                if lane.pending & bit != 0 {
                    out.push(Move::SAccepts { lane: lane_number, n });
                }
                if lane.at_c & bit != 0 {
                    for how in [Landing::Answered, Landing::Lost, Landing::Twice] {
                        out.push(Move::PostReachesC { lane: lane_number, n, how });
                    }
                }
            }
            if self.records {
                out.push(Move::Record { lane: lane_number });
            }
        }
        for (number, state) in world.ops.iter().enumerate() {
            let op = number as u8;
            if state.told.is_none() {
                out.push(Move::Ask { op });
                if self.records {
                    out.push(Move::RecordForOp { op });
                }
            }
            if state.at_s {
                out.push(Move::OpReachesS { op });
            }
            if state.pending.is_some() {
                out.push(Move::SAnswers { op });
            }
            if state.at_c {
                out.push(Move::OpReachesC { op, lost: false });
                out.push(Move::OpReachesC { op, lost: true });
            }
        }
        for mailbox in 0..world.boxes.len() as u8 {
            out.push(Move::Attach { mailbox });
            out.push(Move::Deliver { mailbox });
            out.push(Move::Acknowledge { mailbox });
            out.push(Move::Go { mailbox });
            if world.left.expiries > 0 {
                out.push(Move::ExpireAtS { mailbox });
                out.push(Move::ExpireAtC { mailbox });
            }
        }
    }

    fn site_moves(&self, world: &World, number: usize, out: &mut Vec<Move>) {
        let (state, site) = (&world.sites[number], number as u8);
        if state.durable < state.log.len() {
            out.push(Move::Sync { site });
        }
        if matches!(state.shard, Shard::Writing { .. }) {
            out.push(Move::Written { site });
        }
        for told in 0..state.to_s.len() as u8 {
            out.push(Move::ToldReachesS { site, told });
        }
        let mut wants = vec![Want::Move];
        if world.left.releases > 0 {
            wants.push(Want::Release);
        }
        if world.left.aborts > 0 {
            wants.push(Want::Abort);
        }
        for &want in &wants {
            for importer in 0..self.importers {
                out.push(Move::Work { site, importer, want, all: true });
                if self.singles {
                    out.push(Move::Work { site, importer, want, all: false });
                }
            }
            for asked in 0..state.to_c.len() as u8 {
                out.push(Move::AskedReachesC { site, asked, want, again: false });
                if world.left.repeats > 0 {
                    out.push(Move::AskedReachesC { site, asked, want, again: true });
                }
            }
        }
        for importer in 0..self.importers {
            out.push(Move::GiveUp { site, importer });
        }
        if self.mutant.is_some() {
            out.push(Move::Broken { site });
        }
    }

    /// The world after a move; none if it cannot happen, or changes nothing.
    pub fn apply(&self, world: &World, what: Move) -> Result<Option<World>, Violation> {
        if !self.possible(world, what) {
            return Ok(None);
        }
        let mut next = world.clone();
        let happened = match what {
            Move::Post { lane, n } => self.post(&mut next, lane.into(), n),
            Move::PostReachesS { lane, n, forgotten } => {
                self.post_at_s(&mut next, lane.into(), n, forgotten)
            }
            Move::SAccepts { lane, n } => self.s_accepts(&mut next, lane.into(), n),
            Move::PostReachesC { lane, n, how } => self.post_at_c(&mut next, lane.into(), n, how),
            Move::Ask { op } => self.ask(&mut next, op.into()),
            Move::OpReachesS { op } => self.op_at_s(&mut next, op.into()),
            Move::SAnswers { op } => self.s_answers(&mut next, op.into()),
            Move::OpReachesC { op, lost } => self.op_at_c(&mut next, op.into(), lost),
            Move::Attach { mailbox } => self.attach(&mut next, mailbox.into()),
            Move::Deliver { mailbox } => self.deliver(&mut next, mailbox.into()),
            Move::Acknowledge { mailbox } => self.acknowledge(&mut next, mailbox.into()),
            Move::Go { mailbox } => self.go(&mut next, mailbox.into()),
            Move::Record { lane } => self.record(&mut next, lane.into()),
            Move::RecordForOp { op } => self.record_for_op(&mut next, op.into()),
            Move::Hello { sup } => self.hello(&mut next, sup.into()),
            Move::Sync { site } => self.sync(&mut next, site.into()),
            Move::Written { site } => self.written(&mut next, site.into()),
            Move::ToldReachesS { site, told } => {
                self.told_at_s(&mut next, site.into(), told.into())
            }
            Move::ExpireAtS { mailbox } => self.expire_at_s(&mut next, mailbox.into()),
            Move::Crash { sup, written } => {
                next.left.crashes = next.left.crashes.saturating_sub(1);
                self.crash(&mut next, sup.into(), written)
            }
            Move::Restart { sup } => self.restart(&mut next, sup.into()),
            Move::Backup { sup } => self.back_up(&mut next, sup.into()),
            Move::Restore { sup } => self.restore(&mut next, sup.into()),
            Move::Work { site, importer, want, all } => {
                self.work(&mut next, site.into(), importer, want, all)
            }
            Move::GiveUp { site, importer } => self.give_up(&mut next, site.into(), importer),
            Move::AskedReachesC { site, asked, want, again } => {
                self.asked_at_c(&mut next, site.into(), asked.into(), want, again)
            }
            Move::ExpireAtC { mailbox } => self.expire_at_c(&mut next, mailbox.into()),
            Move::Broken { site } => self.broken(&mut next, site.into()),
        }?;
        if !happened || next == *world {
            return Ok(None);
        }
        self.check(&next)?;
        next.settle();
        Ok(Some(next))
    }

    /// What the importer of a site is to do.
    pub fn aim(&self, world: &World, site: usize, want: Want) -> Aim {
        let state = &world.sites[site];
        // Cut over only when every shard of the realm has its log.
        let realm = world.sups[usize::from(self.sites[site])].realm;
        let move_on = |migration| match realm {
            Realm::Copying(..) | Realm::Cutting(..) => Aim::Cut(migration),
            _ => Aim::Copy(migration),
        };
        match want {
            Want::Release => Aim::Release,
            Want::Abort => Aim::Abort,
            Want::Move => match state.ledger {
                Some(ledger) if matches!(ledger.stage, Stage::Owned(_)) => Aim::Wipe { users: 0 },
                Some(ledger) if matches!(ledger.stage, Stage::Aborted) => {
                    move_on(ledger.migration.next())
                }
                Some(ledger) => move_on(ledger.migration),
                None => move_on(Migration(1)),
            },
        }
    }

    /// With no fault more, what should happen next so that everything ends well: one fixed
    /// schedule. That it does end, from every state, is what "completion is reachable" means here.
    pub fn helpful(&self, world: &World) -> Result<Option<(Move, World)>, Violation> {
        let mut list = Vec::new();
        for number in 0..world.sites.len() {
            let (state, site) = (&world.sites[number], number as u8);
            list.push(Move::Restart { sup: self.sites[number] });
            list.push(Move::Written { site });
            list.push(Move::Sync { site });
            (0..state.to_s.len() as u8)
                .for_each(|told| list.push(Move::ToldReachesS { site, told }));
            (0..state.to_c.len() as u8).for_each(|asked| {
                list.push(Move::AskedReachesC { site, asked, want: Want::Move, again: false });
            });
        }
        for (lane, state) in world.lanes.iter().enumerate() {
            let bits = (1..=self.frames).filter(|n| state.pending & 1 << n != 0);
            list.extend(bits.map(|n| Move::SAccepts { lane: lane as u8, n }));
        }
        (0..world.ops.len() as u8).for_each(|op| list.push(Move::SAnswers { op }));
        for mailbox in 0..world.boxes.len() as u8 {
            list.extend([
                Move::Go { mailbox },
                Move::Deliver { mailbox },
                Move::Acknowledge { mailbox },
                Move::Attach { mailbox },
            ]);
        }
        for number in (0..world.sites.len()).filter(|number| !self.rests(world, *number)) {
            let site = number as u8;
            for importer in 0..self.importers {
                list.push(Move::Work { site, importer, want: Want::Move, all: true });
                list.push(Move::GiveUp { site, importer });
            }
        }
        for (number, state) in world.lanes.iter().enumerate() {
            let lane = number as u8;
            for n in 1..=self.frames {
                list.push(Move::PostReachesS { lane, n, forgotten: false });
                list.push(Move::PostReachesC { lane, n, how: Landing::Answered });
            }
            list.push(Move::Post { lane, n: state.accepted + 1 });
        }
        for op in 0..world.ops.len() as u8 {
            list.push(Move::OpReachesS { op });
            list.push(Move::OpReachesC { op, lost: false });
            list.push(Move::Ask { op });
        }
        for what in list {
            if let Some(next) = self.apply(world, what)? {
                return Ok(Some((what, next)));
            }
        }
        Ok(None)
    }

    /// Whether an importer has nothing to do there, or waits for other shards of its realm.
    fn rests(&self, world: &World, number: usize) -> bool {
        let site = &world.sites[number];
        let sup = usize::from(self.sites[number]);
        let moved = |other: usize| {
            matches!(world.sites[other].shard, Shard::Forward { .. } | Shard::Gone { .. })
        };
        if let (Some(ledger), Shard::Local { migration, .. }) = (site.ledger, site.shard) {
            let cursor = ledger.importing().map(|cursor| cursor.next.0 as usize);
            let copies = matches!(self.aim(world, number, Want::Move), Aim::Copy(_));
            return copies && cursor == Ok(site.durable) && ledger.migration == migration;
        }
        let waits = world.sups[sup].restored || !self.sites_of(sup).into_iter().all(moved);
        site.owned()
            && match site.shard {
                Shard::Gone { .. } => true,
                Shard::Forward { .. } => waits,
                _ => false,
            }
    }

    /// Everything is at the data centre, answered, shown, and the supernode is wiped; one that was
    /// put back from a backup may keep what it has: it is no part of the log that moved.
    pub fn complete(&self, world: &World) -> bool {
        let sites = world.sites.iter().enumerate().all(|(number, site)| {
            let restored = world.sups[usize::from(self.sites[number])].restored;
            let left = matches!(site.shard, Shard::Forward { .. }) && restored;
            site.owned() && (left || matches!(site.shard, Shard::Gone { .. }))
        });
        let lanes = world.lanes.iter().all(|lane| {
            let all = lane.accepted == self.frames || lane.refused;
            let kept = (lane.shown + 1..=lane.accepted).all(|n| lane.excused & 1 << n != 0);
            all && kept
        });
        sites && lanes && world.ops.iter().all(|op| op.told.is_some())
    }

    /// The requests that are about a lane's token.
    pub fn revoked_told(&self, world: &World, lane: usize) -> bool {
        self.ops
            .iter()
            .zip(&world.ops)
            .any(|((_, wish), op)| *wish == Wish::Revoke(lane as u8) && op.told == Some(0))
    }
}

/// For traces.
impl std::fmt::Display for Move {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}
