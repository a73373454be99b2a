//! What cannot happen, seen without making a world to try it in. Only for speed: a move that is
//! let through and cannot happen is found out when it is tried.

use valise_migration::client::{Berth, Side};
use valise_migration::importer::{Action, Importer};
use valise_migration::{Refusal, Shard};

use super::moves::{Landing, Move, Want};
use super::world::{Shape, World};

impl Shape {
    pub fn possible(&self, world: &World, what: Move) -> bool {
        let up = |site: u8| world.sups[usize::from(self.sites[usize::from(site)])].up;
        let of_lane = |lane: u8| self.site_of_lane(lane.into()) as u8;
        let of_box = |mailbox: u8| self.boxes[usize::from(mailbox)];
        match what {
            Move::Post { lane, n } => {
                let state = &world.lanes[usize::from(lane)];
                let bit = 1 << n;
                n <= self.frames
                    && !state.refused
                    && match state.side {
                        Side::Supernode => up(of_lane(lane)) && state.at_s & bit == 0,
                        Side::DataCentre => state.at_c & bit == 0,
                    }
            }
            Move::PostReachesS { lane, n, .. } => {
                world.lanes[usize::from(lane)].at_s & 1 << n != 0 && up(of_lane(lane))
            }
            Move::SAccepts { lane, n } => {
                world.lanes[usize::from(lane)].pending & 1 << n != 0 && up(of_lane(lane))
            }
            Move::PostReachesC { lane, n, how } => {
                let budget = match how {
                    Landing::Answered => true,
                    Landing::Lost => world.left.losses > 0,
                    Landing::Twice => world.left.repeats > 0,
                };
                budget && world.lanes[usize::from(lane)].at_c & 1 << n != 0
            }
            Move::Ask { op } => {
                let state = &world.ops[usize::from(op)];
                state.told.is_none()
                    && match state.side {
                        Side::Supernode => !state.at_s && up(self.ops[usize::from(op)].0),
                        Side::DataCentre => !state.at_c,
                    }
            }
            Move::OpReachesS { op } => {
                world.ops[usize::from(op)].at_s && up(self.ops[usize::from(op)].0)
            }
            Move::SAnswers { op } => {
                world.ops[usize::from(op)].pending.is_some() && up(self.ops[usize::from(op)].0)
            }
            Move::OpReachesC { op, lost } => {
                world.ops[usize::from(op)].at_c && (!lost || world.left.losses > 0)
            }
            Move::Attach { mailbox } => {
                let site = of_box(mailbox);
                match world.boxes[usize::from(mailbox)].berth {
                    Berth::Away(Side::Supernode) => {
                        let shard = world.sites[usize::from(site)].shard;
                        up(site) && shard.attach() != Err(Refusal::Busy)
                    }
                    Berth::Away(Side::DataCentre) => true,
                    _ => false,
                }
            }
            Move::Deliver { mailbox } => {
                let state = &world.boxes[usize::from(mailbox)];
                let reading = usize::from(state.reading);
                match state.berth {
                    Berth::At(Side::Supernode) => {
                        reading < world.sites[usize::from(of_box(mailbox))].log.len()
                    }
                    Berth::At(Side::DataCentre) => reading < state.frames.len(),
                    _ => false,
                }
            }
            Move::Acknowledge { mailbox } => world.boxes[usize::from(mailbox)].owes,
            Move::Go { mailbox } => {
                let shard = world.sites[usize::from(of_box(mailbox))].shard;
                world.boxes[usize::from(mailbox)].berth == Berth::At(Side::Supernode)
                    && !shard.keeps_attachments()
            }
            Move::Record { lane } => world.lanes[usize::from(lane)].side == Side::Supernode,
            Move::RecordForOp { op } => world.ops[usize::from(op)].side == Side::Supernode,
            Move::Sync { site } => {
                let state = &world.sites[usize::from(site)];
                up(site) && state.durable < state.log.len()
            }
            Move::Written { site } => {
                up(site) && matches!(world.sites[usize::from(site)].shard, Shard::Writing { .. })
            }
            Move::ToldReachesS { site, told } => {
                up(site) && usize::from(told) < world.sites[usize::from(site)].to_s.len()
            }
            Move::ExpireAtS { mailbox } => up(of_box(mailbox)),
            Move::ExpireAtC { mailbox } => !world.boxes[usize::from(mailbox)].frames.is_empty(),
            Move::Restart { sup } => !world.sups[usize::from(sup)].up,
            Move::Work { site, importer, want, all } => {
                let state = &world.sites[usize::from(site)];
                match state.importers[usize::from(importer)] {
                    Importer::Idle | Importer::Asking => up(site) && all && want == Want::Move,
                    Importer::Reading(_) => all,
                    Importer::Fetching(..) => up(site) && want == Want::Move,
                    _ => false,
                }
            }
            Move::GiveUp { site, importer } => {
                !matches!(
                    world.sites[usize::from(site)].importers[usize::from(importer)],
                    Importer::Idle | Importer::Asking | Importer::Reading(_)
                ) && (world.left.timeouts > 0 || !self.waits(world, site.into(), importer))
            }
            Move::AskedReachesC { site, asked, want, .. } => {
                let to_c = &world.sites[usize::from(site)].to_c;
                to_c.get(usize::from(asked)).is_some_and(|asked| {
                    let decides = matches!(asked.action, Action::Change { .. } | Action::Clear(_));
                    want == Want::Move || asked.who.is_some() && decides
                })
            }
            _ => true,
        }
    }

    /// Whether an importer's question may still be answered.
    pub fn waits(&self, world: &World, site: usize, importer: u8) -> bool {
        let state = &world.sites[site];
        let who = Some(importer);
        match state.importers[usize::from(importer)] {
            Importer::Idle | Importer::Asking | Importer::Reading(_) => true,
            Importer::Fetching(..) => world.sups[usize::from(self.sites[site])].up,
            Importer::Telling(_) => state.to_s.iter().any(|told| told.who == who),
            _ => state.to_c.iter().any(|asked| asked.who == who),
        }
    }
}
