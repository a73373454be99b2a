//! Several small worlds instead of one large one: each has what it is about, and little else.

use super::moves::{Move, Want};
use super::mutants::Mutant;
use super::world::{Left, Shape, Wish};

/// One device, one shard, one supernode, and nothing that goes wrong.
pub fn base(lanes: usize, frames: u8) -> Shape {
    Shape {
        sites: vec![0],
        boxes: vec![0],
        lanes: vec![0; lanes],
        frames,
        ops: vec![],
        items: 0,
        quota: 15,
        importers: 1,
        singles: false,
        records: false,
        faults: Left::default(),
        prelude: vec![],
        ends: true,
        mutant: None,
    }
}

/// A name, what it is about, and the shape.
pub struct Configuration {
    pub name: &'static str,
    pub about: &'static str,
    pub shape: Shape,
}

/// Each broken rule, with a world in which it can be noticed.
pub fn seeded(mutant: Mutant) -> Shape {
    let crash = Left { crashes: 1, ..Left::default() };
    let late = Left { timeouts: 1, ..Left::default() };
    let release = Left { releases: 2, timeouts: 1, ..Left::default() };
    let abort = Left { aborts: 1, timeouts: 1, ..Left::default() };
    let restore = Left { restores: 1, timeouts: 1, ..Left::default() };
    let with = |mut shape: Shape, faults: Left| {
        shape.faults = faults;
        shape.mutant = Some(mutant);
        shape
    };
    let asking = |ops: &[Wish], items: u8| {
        let mut shape = base(0, 0);
        shape.ops = ops.iter().map(|wish| (0, *wish)).collect();
        shape.items = items;
        shape
    };
    match mutant {
        // Before a frame is lost, the supernode could never be wiped: that would be found first.
        Mutant::ActivateEarly => {
            let mut shape = base(1, 1);
            shape.ends = false;
            with(shape, Left::default())
        }
        Mutant::UnsealByTimeout
        | Mutant::AcceptSealed
        | Mutant::WipeSealed
        | Mutant::ReplacedOnMove => with(base(1, 1), Left::default()),
        Mutant::ForwardReturns => with(base(1, 1), crash),
        Mutant::AcceptUnowned => {
            let mut shape = base(1, 1);
            shape.records = true;
            with(shape, Left::default())
        }
        Mutant::AbortAlone => with(base(1, 1), late),
        Mutant::Pipeline => with(base(1, 2), crash),
        Mutant::AnswerVolatile => with(base(1, 2), crash),
        Mutant::ExportVolatile => with(base(1, 1), crash),
        Mutant::UnsealWithoutVersion | Mutant::ActivateBlindly | Mutant::TwoRecords => {
            with(base(1, 1), release)
        }
        Mutant::SealLowered => with(base(1, 1), release),
        Mutant::ImportBlindly => {
            with(asking(&[Wish::Take, Wish::Take], 1), Left { repeats: 1, ..late })
        }
        Mutant::RemoveLater => with(asking(&[Wish::Take, Wish::Take], 1), late),
        Mutant::ForgetTakes => with(asking(&[Wish::Take, Wish::Take], 2), Left::default()),
        Mutant::ForgetSlots => with(asking(&[Wish::Put(1), Wish::Put(2)], 0), Left::default()),
        Mutant::ForgetCodes => with(asking(&[Wish::Spend(0), Wish::Spend(1)], 0), Left::default()),
        Mutant::ForgetRevocations => {
            let mut shape = base(1, 1);
            shape.ops = vec![(0, Wish::Revoke(0))];
            with(shape, Left::default())
        }
        Mutant::ForgetExpiries => {
            let mut shape = base(1, 2);
            shape.quota = 1;
            with(shape, Left { expiries: 1, ..Left::default() })
        }
        Mutant::RemoveAnyMigration => {
            let mut shape = base(1, 2);
            shape.prelude = imported();
            with(shape, abort)
        }
        Mutant::ClearEverything => with(base(1, 1), abort),
        Mutant::OpenUncleared => {
            let mut shape = asking(&[Wish::Take, Wish::Take], 1);
            shape.prelude = begun();
            shape.prelude.extend(fetched());
            with(shape, abort)
        }
        Mutant::ServeUnsure | Mutant::ShowAnyBoot => with(base(1, 1), restore),
        Mutant::ServeFenced => {
            let mut shape = base(1, 1);
            shape.prelude = vec![Move::Backup { sup: 0 }];
            shape.prelude.extend(begun());
            shape.prelude.extend(moved());
            with(shape, restore)
        }
    }
}

const WORK: Move = Move::Work { site: 0, importer: 0, want: Want::Move, all: true };
const ASKED: Move = Move::AskedReachesC { site: 0, asked: 0, want: Want::Move, again: false };
const TOLD: Move = Move::ToldReachesS { site: 0, told: 0 };
const WRITTEN: Move = Move::Written { site: 0 };

/// The shard has a log.
fn begun() -> Vec<Move> {
    vec![WORK, WORK, ASKED, TOLD, WRITTEN]
}

/// What there is, is imported.
fn fetched() -> Vec<Move> {
    vec![WORK, WORK, WORK, ASKED]
}

/// The empty shard is sealed, moved, and the supernode knows.
fn moved() -> Vec<Move> {
    vec![WORK, WORK, TOLD, WRITTEN, WORK, WORK, WORK, ASKED, ASKED, TOLD, WRITTEN]
}

/// The first frame is accepted, delivered and imported.
fn imported() -> Vec<Move> {
    let mut moves = vec![
        Move::Post { lane: 0, n: 1 },
        Move::PostReachesS { lane: 0, n: 1, forgotten: false },
        Move::Sync { site: 0 },
        Move::SAccepts { lane: 0, n: 1 },
        Move::Attach { mailbox: 0 },
        Move::Deliver { mailbox: 0 },
    ];
    moves.extend(begun());
    moves.extend(fetched());
    moves
}

/// The worlds that were explored; docs/MIGRATION-MODEL.md has the figures.
pub fn all() -> Vec<Configuration> {
    let faults = |crashes, timeouts, releases, aborts| Left {
        crashes,
        timeouts,
        releases,
        aborts,
        ..Left::default()
    };
    let mut list = Vec::new();
    let mut add = |name, about, shape: Shape, faults| {
        list.push(Configuration { name, about, shape: Shape { faults, ..shape } });
    };
    add("small", "one frame, a crash and an importer's", base(1, 1), faults(1, 1, 0, 0));
    add("small-release", "one frame, and the cutover is aborted", base(1, 1), faults(0, 1, 2, 0));
    add("small-abort", "one frame, and the migration is given up", base(1, 1), faults(0, 1, 0, 1));
    let back = Left { restores: 1, ..Left::default() };
    add("small-zombie", "one frame, and a backup", base(1, 1), back);
    add(
        "cut",
        "a sender, its frames one by one, a crash and an importer's",
        base(1, 2),
        faults(1, 1, 0, 0),
    );
    add("release", "the cutover is aborted and tried again", base(1, 2), faults(1, 1, 2, 0));
    add("abort", "the migration is given up and begun anew", base(1, 2), faults(1, 1, 0, 1));
    let repeats = Left { repeats: 1, losses: 1, ..faults(0, 1, 2, 0) };
    add(
        "repeat",
        "what is asked of the data centre happens twice, answers are lost",
        base(1, 2),
        repeats,
    );
    add("senders", "two senders to one mailbox", base(2, 1), faults(1, 1, 2, 0));
    let mut devices = base(2, 1);
    (devices.boxes, devices.lanes) = (vec![0, 0], vec![0, 1]);
    add(
        "devices",
        "two devices of the recipient in one shard",
        devices.clone(),
        faults(1, 1, 0, 0),
    );
    let mut shards = base(2, 1);
    (shards.sites, shards.boxes, shards.lanes) = (vec![0, 0], vec![0, 1], vec![0, 1]);
    add(
        "shards",
        "its two devices in two shards of one supernode",
        shards.clone(),
        faults(1, 0, 0, 0),
    );
    let mut realms = shards;
    realms.sites = vec![0, 1];
    add("realms", "two supernodes into one data centre", realms, faults(1, 0, 0, 0));
    let mut twins = base(1, 1);
    twins.importers = 2;
    add("importers", "two importers of one shard beside each other", twins, faults(0, 1, 2, 0));
    let restore = |timeouts, crashes, aborts| Left {
        restores: 1,
        timeouts,
        crashes,
        aborts,
        ..Left::default()
    };
    add("zombie", "the supernode is put back from a backup", base(1, 2), restore(1, 0, 0));
    let mut news = base(1, 1);
    news.records = true;
    add("fence", "and meets clients that know the next record", news, restore(0, 1, 0));
    let mut quota = base(1, 3);
    quota.quota = 1;
    let expiries = Left { expiries: 1, ..faults(1, 1, 0, 0) };
    add("quota", "a full mailbox, a frame whose time is over", quota, expiries);
    let asking = |ops: &[Wish], items| {
        let mut shape = base(0, 0);
        shape.ops = ops.iter().map(|wish| (0, *wish)).collect();
        shape.items = items;
        shape
    };
    let lost = |faults| Left { losses: 1, ..faults };
    add(
        "slots",
        "two values for one slot",
        asking(&[Wish::Put(1), Wish::Put(2)], 0),
        lost(faults(1, 1, 2, 1)),
    );
    add(
        "bundles",
        "three takes of two items",
        asking(&[Wish::Take, Wish::Take, Wish::Take], 2),
        lost(faults(1, 1, 2, 0)),
    );
    add(
        "codes",
        "two who use one invite code",
        asking(&[Wish::Spend(0), Wish::Spend(1)], 0),
        lost(faults(1, 1, 2, 1)),
    );
    let mut ended = base(1, 2);
    ended.ops = vec![(0, Wish::Revoke(0))];
    add("revocations", "a token is ended while it is used", ended, faults(1, 1, 2, 0));
    let restored = Left { restores: 1, ..faults(0, 1, 0, 0) };
    add(
        "zombie-bundles",
        "a backup that does not know what was handed out",
        asking(&[Wish::Take, Wish::Take], 2),
        restored,
    );
    let mut batches = base(1, 2);
    batches.singles = true;
    add("batches", "entries one by one as well as all at once", batches, faults(1, 1, 0, 0));
    list
}
