//! Scripts: what some clients do, one after the other. Everything follows from the seed. A step says
//! what is wanted; who is meant is found by the stage, in the same way wherever it is played.

/// Owners, each with one mailbox.
pub const MAILBOXES: usize = 3;

/// Clients: the first ones are the owners' first devices.
pub const CLIENTS: usize = 5;

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Join,
    Attach,
    TakeOver,
    Detach,
    /// The client ends its connection in order.
    Close,
    /// It is gone without a word.
    Vanish,
    IssuePost,
    Post,
    PostToAll,
    /// The same frame again, by the same capabilities.
    Repeat,
    /// The same frame again, by others of the same mailboxes.
    RepeatElse,
    Signal,
    Acknowledge,
    /// For an attachment that has ended.
    AcknowledgeLate,
    RevokePost,
    RevokeMember,
    PutSlot,
    RepeatPut,
    GetSlots,
    Publish,
    RepeatPublication,
    Take,
    /// Something that is refused.
    Wrong,
}

/// How often each is wanted, of all.
const WEIGHTS: [(What, u64); 23] = [
    (What::Join, 1),
    (What::Attach, 10),
    (What::TakeOver, 7),
    (What::Detach, 4),
    (What::Close, 3),
    (What::Vanish, 3),
    (What::IssuePost, 3),
    (What::Post, 16),
    (What::PostToAll, 6),
    (What::Repeat, 6),
    (What::RepeatElse, 3),
    (What::Signal, 6),
    (What::Acknowledge, 10),
    (What::AcknowledgeLate, 2),
    (What::RevokePost, 3),
    (What::RevokeMember, 1),
    (What::PutSlot, 4),
    (What::RepeatPut, 2),
    (What::GetSlots, 2),
    (What::Publish, 3),
    (What::RepeatPublication, 1),
    (What::Take, 8),
    (What::Wrong, 5),
];

/// One step, with numbers by which the stage chooses.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub what: What,
    pub client: usize,
    pub mailbox: usize,
    /// Where the client connects, if it has to.
    pub place: usize,
    pub choice: usize,
}

/// A script of so many steps.
pub fn script(seed: u64, steps: usize) -> Vec<Step> {
    let mut dice = Dice(seed);
    (0..steps).map(|_| step(&mut dice)).collect()
}

fn step(dice: &mut Dice) -> Step {
    let mut left = dice.below(WEIGHTS.iter().map(|(_, weight)| weight).sum());
    let what = WEIGHTS.iter().find(|(_, weight)| {
        let found = left < *weight;
        left = left.saturating_sub(*weight);
        found
    });
    Step {
        what: what.unwrap().0,
        client: dice.below(CLIENTS as u64) as usize,
        mailbox: dice.below(MAILBOXES as u64) as usize,
        place: dice.below(1 << 16) as usize,
        choice: dice.below(1 << 16) as usize,
    }
}

/// Numbers that follow from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let n = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (n ^ (n >> 31)) % end
    }
}
