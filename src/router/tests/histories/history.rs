//! What happens: a list of small operations, each of which means something whatever came before
//! it, so that a history from which operations were taken is still one.

/// A history and what it is played on.
#[derive(Debug, Clone)]
pub(super) struct History {
    pub(super) setup: Setup,
    pub(super) ops: Vec<Op>,
}

/// What the relay of a history is like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub(super) mailboxes: u8,
    pub(super) connections: u8,
    /// Payload bytes in one ring.
    pub(super) ring_bytes: usize,
    /// Payload bytes that the rings of all mailboxes together may still take, where that is few.
    pub(super) rings_left: Option<usize>,
    /// Ids that all mailboxes together may still remember, where that is few.
    pub(super) memory_left: Option<usize>,
    /// A store that fails is opened again.
    pub(super) recovers: bool,
    /// The last life before everything is read ends with a kill.
    pub(super) killed_at_the_end: bool,
}

/// How many of the next operations happen before and after the store does what it was asked.
pub(super) type Within = (u8, u8);

/// One operation. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
pub(super) enum Op {
    /// A new frame for these mailboxes.
    Post { by: u8, to: Vec<u8>, size: u8, ttl: u8 },
    /// One of the last frames once more.
    Retry { by: u8, to: Vec<u8>, which: u8 },
    /// Attaches, wherever the mailbox is attached already.
    Attach { by: u8, mailbox: u8 },
    /// Detaches one slot.
    Detach { by: u8, slot: u8 },
    /// The connection is gone, and another takes its place.
    HangUp { by: u8 },
    /// The connection looks at what was left at its door.
    Look { by: u8 },
    /// One slot pulls once.
    Pull { by: u8, slot: u8, room: u8, within: Within },
    /// Acknowledges a part of what was delivered.
    Acknowledge { by: u8, slot: u8, part: u8 },
    /// A frame for a mailbox that is served here is posted, delivered and acknowledged at once.
    Converse { by: u8, mailbox: u8, size: u8 },
    /// Milliseconds go by.
    Wait { ms: u8 },
    /// The committer gets its turn.
    Turn { within: Within, fate: Fate },
    /// Hours go by.
    Pass { hours: u16 },
    /// What has expired goes.
    Expire,
    /// Mailboxes that are idle are forgotten; before that, a minute may go by.
    Sweep { after_a_minute: bool },
    /// Everybody does what there is to do, and then everything is counted.
    Settle,
    /// The relay ends in order and starts again.
    Restart,
    /// The relay is killed between two commits and starts again.
    Kill,
}

/// How a commit goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Fine,
    /// The store fails, and the batch is on the disk or not. What happens within happens before it
    /// fails and while there is no store.
    Fails {
        written: bool,
    },
    /// The relay is killed, and the batch is on the disk or not.
    Killed {
        written: bool,
    },
    /// The relay is killed when so many 256ths of the batch are on the disk.
    Torn {
        part: u8,
    },
}

impl Op {
    /// Whether it can happen while the store is at work.
    pub(super) fn fits_within(&self) -> bool {
        !matches!(self, Self::Turn { .. } | Self::Settle | Self::Restart | Self::Kill)
    }
}

/// Hours to live that posts choose from; 720 is the default.
pub(super) const TTLS: [u16; 5] = [720, 1, 2, 24, 2160];

/// A generator of numbers that follow from a seed (splitmix64).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let n = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }

    /// Below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// True once in `n` times.
    fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }
}

const KINDS: usize = 17;

impl History {
    /// The history of this seed. Each has its own taste in operations: one of them posts all the
    /// time and never acknowledges, another one is killed at every turn.
    pub(super) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let setup = Setup {
            mailboxes: dice.of(&[1, 1, 2, 3, 4]),
            connections: dice.of(&[1, 2, 2, 3, 5]),
            ring_bytes: dice.of(&[0, 512, 1536, 9_000, 70_000, 1 << 20]),
            rings_left: dice.once_in(5).then(|| dice.of(&[0, 600, 10_000])),
            memory_left: dice.once_in(8).then(|| dice.of(&[0, 2])),
            recovers: !dice.once_in(4),
            killed_at_the_end: dice.once_in(2),
        };
        let usual: [usize; KINDS] = [9, 3, 4, 1, 1, 4, 8, 6, 3, 7, 1, 1, 1, 1, 1, 1, 2];
        let weights = usual.map(|weight| weight * dice.of(&[0, 1, 1, 1, 2, 3]));
        let all: usize = weights.iter().sum();
        let count = dice.of(&[15, 40, 40, 80, 150]);
        let mut ops = Vec::with_capacity(count);
        while ops.len() < count && all > 0 {
            let mut at = dice.below(all);
            let is_it = |weight: &usize| at.checked_sub(*weight).map(|left| at = left).is_none();
            let kind = weights.iter().position(is_it).expect("it is below the sum of all");
            ops.push(dice.op(kind));
        }
        Self { setup, ops }
    }
}

impl Dice {
    fn op(&mut self, kind: usize) -> Op {
        let (by, slot) = (self.byte(), self.byte());
        match kind {
            0 => Op::Post {
                by,
                to: self.targets(),
                size: self.of(&[0, 0, 0, 1, 2, 3]),
                ttl: self.ttl(),
            },
            1 => Op::Retry { by, to: self.targets(), which: self.byte() },
            2 => Op::Attach { by, mailbox: self.byte() },
            3 => Op::Detach { by, slot },
            4 => Op::HangUp { by },
            5 => Op::Look { by },
            6 => Op::Pull { by, slot, room: self.byte(), within: self.within(4) },
            7 => Op::Acknowledge { by, slot, part: self.byte() },
            8 => Op::Wait { ms: self.of(&[1, 3, 6, 25]) },
            9 => Op::Turn { within: self.within(2), fate: self.fate() },
            10 => Op::Pass { hours: self.of(&[1, 2, 23, 721, 2161]) },
            11 => Op::Expire,
            12 => Op::Sweep { after_a_minute: !self.once_in(3) },
            13 => Op::Settle,
            14 => Op::Restart,
            15 => Op::Kill,
            _ => Op::Converse { by, mailbox: self.byte(), size: self.of(&[0, 0, 1]) },
        }
    }

    fn targets(&mut self) -> Vec<u8> {
        let count = self.of(&[1, 1, 1, 1, 2, 4]);
        (0..count).map(|_| self.byte()).collect()
    }

    fn ttl(&mut self) -> u8 {
        if self.once_in(2) { 0 } else { self.byte() }
    }

    fn within(&mut self, seldom: usize) -> Within {
        if self.once_in(seldom) { (self.of(&[0, 1, 2, 4]), self.of(&[0, 1, 3])) } else { (0, 0) }
    }

    fn fate(&mut self) -> Fate {
        match self.below(60) {
            0..3 => Fate::Fails { written: false },
            3..6 => Fate::Fails { written: true },
            6 => Fate::Killed { written: false },
            7 => Fate::Killed { written: true },
            8 | 9 => Fate::Torn { part: self.byte() },
            _ => Fate::Fine,
        }
    }
}
