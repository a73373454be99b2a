//! Breadth first over everything that can happen.
//!
//! A state is kept as a fingerprint of 62 bits; those that wait are kept as bytes; of each state
//! its parent and the number of the move from it, so that a way to it can be walked again.

use std::time::Instant;

use super::checks::{Invariant, Violation, violated};
use super::moves::Move;
use super::pack::{Bytes, Pack, Queue};
use super::world::{Shape, World};

/// Longest way to a good end that counts as one.
const WALK_MAX: usize = 600;

/// What was found.
#[derive(Debug)]
pub struct Explored {
    pub states: usize,
    pub edges: u64,
    /// Moves to the farthest state.
    pub depth: usize,
    pub seconds: f64,
    /// Whether every state was looked at.
    pub whole: bool,
    /// Largest number of bytes of a state.
    pub bytes: usize,
    pub found: Option<Counterexample>,
}

/// A way to a state that must not be, shortest first.
#[derive(Debug)]
pub struct Counterexample {
    pub violation: Violation,
    pub moves: Vec<Move>,
}

const SEEN: u64 = 1;
const GOOD: u64 = 2;
const FLAGS: u64 = SEEN | GOOD;

/// Fingerprints with two flags, open addressing.
struct Table {
    slots: Vec<u64>,
    used: usize,
}

impl Table {
    fn new() -> Self {
        Self { slots: vec![0; 1 << 16], used: 0 }
    }

    fn slot(&self, print: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = (print >> 2) as usize & mask;
        while self.slots[at] != 0 && (self.slots[at] ^ print) & !FLAGS != 0 {
            at = (at + 1) & mask;
        }
        at
    }

    /// Sets a flag; whether it was set.
    fn flag(&mut self, print: u64, flag: u64) -> bool {
        let at = self.slot(print);
        if self.slots[at] == 0 {
            self.used += 1;
        }
        let was = self.slots[at] & flag != 0;
        self.slots[at] = self.slots[at] | print | flag;
        if self.used * 10 > self.slots.len() * 7 {
            self.grow();
        }
        was
    }

    fn has(&self, print: u64, flag: u64) -> bool {
        self.slots[self.slot(print)] & flag != 0
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.slots);
        self.slots = vec![0; old.len() * 2];
        for entry in old.into_iter().filter(|entry| *entry != 0) {
            let at = self.slot(entry & !FLAGS);
            self.slots[at] = entry;
        }
    }
}

/// Eight bytes at a time, multiplied and folded.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    let mut state: u64 = 0x243F_6A88_85A3_08D3 ^ bytes.len() as u64;
    let mut fold = |word: u64| {
        let product =
            u128::from(state ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        state = (product as u64) ^ ((product >> 64) as u64);
    };
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        fold(u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    fold(u64::from_le_bytes(last));
    fold(0x1319_8A2E_0370_7344);
    (state & !FLAGS).max(4)
}

/// A search, as far as it is.
struct Search<'a> {
    shape: &'a Shape,
    table: Table,
    queue: Queue,
    parents: Vec<u32>,
    ordinals: Vec<u8>,
    packed: Vec<u8>,
}

/// Looks at every state, or at the first `limit`.
pub fn explore(shape: &Shape, limit: usize, mut tick: impl FnMut(usize, usize, usize)) -> Explored {
    let start = Instant::now();
    let mut search = Search {
        shape,
        table: Table::new(),
        queue: Queue::default(),
        parents: vec![0],
        ordinals: vec![0],
        packed: Vec::new(),
    };
    let mut explored = Explored {
        states: 0,
        edges: 0,
        depth: 0,
        seconds: 0.0,
        whole: true,
        bytes: 0,
        found: None,
    };
    search.admit(&shape.world());
    // The first state of the next depth.
    let mut deeper = 1;
    let (mut number, mut bytes, mut moves) = (0, Vec::new(), Vec::new());
    while search.queue.pop(&mut bytes) {
        if number == deeper {
            explored.depth += 1;
            deeper = search.parents.len();
            tick(explored.depth, search.parents.len(), search.queue.waiting);
        }
        explored.bytes = explored.bytes.max(bytes.len());
        let world = World::unpack(&mut Bytes(&bytes));
        if let Err((violation, last)) =
            search.expand(number, &world, &mut moves, &mut explored.edges)
        {
            let mut way = search.way(number);
            way.extend(last);
            explored.found = Some(Counterexample { violation, moves: way });
            break;
        }
        number += 1;
        if search.parents.len() >= limit {
            explored.whole = search.queue.waiting == 0;
            break;
        }
    }
    explored.states = search.parents.len();
    explored.seconds = start.elapsed().as_secs_f64();
    explored
}

impl Search<'_> {
    fn print(&mut self, world: &World) -> u64 {
        self.packed.clear();
        world.pack(&mut self.packed);
        fingerprint(&self.packed)
    }

    /// Whether it is new.
    fn admit(&mut self, world: &World) -> bool {
        let print = self.print(world);
        let new = !self.table.flag(print, SEEN);
        if new {
            self.queue.push(&self.packed);
        }
        new
    }

    fn expand(
        &mut self,
        number: usize,
        world: &World,
        moves: &mut Vec<Move>,
        edges: &mut u64,
    ) -> Result<(), (Violation, Vec<Move>)> {
        self.shape.moves(world, moves);
        for (ordinal, what) in moves.iter().enumerate() {
            let next = self.shape.apply(world, *what);
            let Some(next) = next.map_err(|violation| (violation, vec![*what]))? else { continue };
            *edges += 1;
            if self.admit(&next) {
                self.parents.push(number as u32);
                self.ordinals.push(u8::try_from(ordinal).expect("few moves"));
            }
        }
        if self.shape.ends { self.ends_well(world) } else { Ok(()) }
    }

    /// Walks the helpful schedule until something that is known to end well.
    fn ends_well(&mut self, world: &World) -> Result<(), (Violation, Vec<Move>)> {
        let (mut prints, mut walked) = (Vec::new(), Vec::new());
        let mut state = world.clone();
        loop {
            let print = self.print(&state);
            if self.table.has(print, GOOD) {
                break;
            }
            prints.push(print);
            if self.shape.complete(&state) {
                break;
            }
            let step =
                self.shape.helpful(&state).map_err(|violation| (violation, walked.clone()))?;
            let Some((what, next)) = step.filter(|_| walked.len() < WALK_MAX) else {
                let after = walked.len();
                walked.truncate(40);
                let stuck = violated::<()>(Invariant::Stuck, format!("{after} moves on"));
                return Err((stuck.expect_err("violated"), walked));
            };
            walked.push(what);
            state = next;
        }
        for print in prints {
            self.table.flag(print, GOOD);
        }
        Ok(())
    }

    /// The moves to a state.
    fn way(&self, number: usize) -> Vec<Move> {
        let mut ordinals = Vec::new();
        let mut at = number;
        while at != 0 {
            ordinals.push(self.ordinals[at]);
            at = self.parents[at] as usize;
        }
        let (mut world, mut moves, mut way) = (self.shape.world(), Vec::new(), Vec::new());
        for ordinal in ordinals.into_iter().rev() {
            self.shape.moves(&world, &mut moves);
            let what = moves[usize::from(ordinal)];
            world = self.shape.apply(&world, what).ok().flatten().expect("it was walked before");
            way.push(what);
        }
        way
    }
}
