//! Larger worlds, one random way through each: what the explorer cannot reach for their size.

use super::checks::{Invariant, Violation, violated};
use super::moves::Move;
use super::world::{Left, Shape, Wish, World};

/// Random moves of one run.
const MOVES: usize = 700;
/// Moves to a good end, at most.
const REST: usize = 4_000;

/// What a run was.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ran {
    pub moves: usize,
    pub accepted: usize,
}

/// A run that went wrong.
#[derive(Debug)]
pub struct Failed {
    pub seed: u64,
    pub after: usize,
    pub violation: Violation,
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) % sides
    }
}

/// The world of a seed: up to three supernodes, six shards, eight devices, fourteen lanes.
fn shape(dice: &mut Dice) -> Shape {
    let sups = 1 + dice.roll(3) as u8;
    let mut sites: Vec<u8> = (0..sups).collect();
    (0..dice.roll(4)).for_each(|_| sites.push(dice.roll(sups.into()) as u8));
    let boxes: Vec<u8> =
        (0..1 + dice.roll(8)).map(|_| dice.roll(sites.len() as u64) as u8).collect();
    let lanes: Vec<u8> =
        (0..1 + dice.roll(14)).map(|_| dice.roll(boxes.len() as u64) as u8).collect();
    let mut ops = Vec::new();
    for _ in 0..dice.roll(6) {
        let first = boxes[0];
        let lane = dice.roll(lanes.len() as u64) as u8;
        ops.push(match dice.roll(4) {
            0 => (sites.len() as u8 - 1, Wish::Put(ops.len() as u8 + 1)),
            1 => (first, Wish::Take),
            2 => (boxes[usize::from(lanes[usize::from(lane)])], Wish::Revoke(lane)),
            _ => (0, Wish::Spend(ops.len() as u8)),
        });
    }
    let faults = Left {
        crashes: dice.roll(4) as u8,
        timeouts: dice.roll(6) as u8,
        releases: dice.roll(4) as u8,
        aborts: dice.roll(3) as u8,
        restores: u8::from(dice.roll(4) == 0),
        expiries: dice.roll(4) as u8,
        repeats: dice.roll(4) as u8,
        losses: dice.roll(4) as u8,
    };
    Shape {
        sites,
        boxes,
        lanes,
        frames: 1 + dice.roll(10) as u8,
        ops,
        items: dice.roll(5) as u8,
        quota: 2 + dice.roll(30) as u8,
        importers: 1 + dice.roll(2) as u8,
        singles: true,
        records: true,
        faults,
        prelude: vec![],
        ends: true,
        mutant: None,
    }
}

/// One run: a seed decides everything.
///
/// # Errors
/// What went wrong, with the seed.
pub fn run(seed: u64) -> Result<Ran, Box<Failed>> {
    let mut dice = Dice(seed);
    let shape = shape(&mut dice);
    let mut world = shape.world();
    let mut ran = Ran::default();
    let failed = |after, violation| Box::new(Failed { seed, after, violation });
    let mut moves = Vec::new();
    let mut patience = 0;
    while ran.moves < MOVES && patience < 200 {
        shape.moves(&world, &mut moves);
        let what = moves[dice.roll(moves.len() as u64) as usize];
        patience += 1;
        if is_fault(what) && dice.roll(40) != 0 {
            continue;
        }
        match shape.apply(&world, what) {
            Ok(Some(next)) => {
                (world, patience) = (next, 0);
                ran.moves += 1;
            }
            Ok(None) => {}
            Err(violation) => return Err(failed(ran.moves, violation)),
        }
    }
    for _ in 0..REST {
        if shape.complete(&world) {
            ran.accepted = world.lanes.iter().map(|lane| usize::from(lane.accepted)).sum();
            return Ok(ran);
        }
        match shape.helpful(&world) {
            Ok(Some((_, next))) => world = next,
            Ok(None) => break,
            Err(violation) => return Err(failed(ran.moves, violation)),
        }
        ran.moves += 1;
    }
    let stuck = violated::<()>(Invariant::Stuck, summary(&world)).expect_err("violated");
    Err(failed(ran.moves, stuck))
}

fn is_fault(what: Move) -> bool {
    matches!(
        what,
        Move::Crash { .. }
            | Move::Restore { .. }
            | Move::Backup { .. }
            | Move::GiveUp { .. }
            | Move::ExpireAtC { .. }
            | Move::ExpireAtS { .. }
    )
}

fn summary(world: &World) -> String {
    let shards: Vec<String> = world
        .sites
        .iter()
        .map(|site| format!("{:?} / {:?} / {:?}", site.shard, site.ledger, site.importers))
        .collect();
    format!("{shards:#?}\n{:?}\n{:?}\n{:?}", world.lanes, world.boxes, world.ops)
}
