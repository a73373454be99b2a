//! Everything there is: supernodes with disk and memory, the data centre's shards, importers, the
//! network between them, senders, devices, and other requests.

use valise_migration::client::{Berth, Side};
use valise_migration::ledger::Stage;
use valise_migration::realm::Realm;
use valise_migration::{Boot, Cursor, Entry, Epoch, Position};

use super::moves::Move;
use super::mutants::Mutant;
use super::tiny::{
    Tiny, TinyAction, TinyCursor, TinyEntry, TinyImporter, TinyLedger, TinyRecord, TinyRequest,
    TinyShard,
};
use crate::pack_struct;

/// What does not change during a run.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The supernode of each shard.
    pub sites: Vec<u8>,
    /// The shard of each mailbox. A mailbox is one device's.
    pub boxes: Vec<u8>,
    /// The mailbox of each lane: a sender's frames for it, in order.
    pub lanes: Vec<u8>,
    /// Frames of each lane.
    pub frames: u8,
    /// Other requests, each with its shard.
    pub ops: Vec<(u8, Wish)>,
    /// Items that the bundle of mailbox 0 has at the start.
    pub items: u8,
    /// Frames a mailbox holds, here and there.
    pub quota: u8,
    /// Importers of each shard, beside each other.
    pub importers: u8,
    /// Whether batches of one entry are tried as well as batches of all.
    pub singles: bool,
    /// Whether clients may go to the data centre at any time, as if they knew the next record.
    pub records: bool,
    /// What may go wrong.
    pub faults: Left,
    /// Moves that are made before anything is left to chance.
    pub prelude: Vec<Move>,
    /// Whether it is looked at, too, that everything can end well.
    pub ends: bool,
    /// The rule that is broken, if any.
    pub mutant: Option<Mutant>,
}

/// A request that is no post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// A value for slot 0.
    Put(u8),
    /// An item of mailbox 0's bundle.
    Take,
    /// The end of a lane's token.
    Revoke(u8),
    /// An invite code, used by one of two.
    Spend(u8),
}

/// How much may still go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    /// Crashes of a supernode: what was not synced is gone.
    pub crashes: u8,
    /// Importers that crash, or give an answer up.
    pub timeouts: u8,
    /// Aborts of a cutover.
    pub releases: u8,
    /// Aborts of a migration.
    pub aborts: u8,
    /// Supernodes put back from a backup.
    pub restores: u8,
    /// Frames whose time is over.
    pub expiries: u8,
    /// Requests to the data centre that happen twice; frames stored twice.
    pub repeats: u8,
    /// Answers of the data centre to clients that are lost.
    pub losses: u8,
}

pack_struct!(Left { crashes, timeouts, releases, aborts, restores, expiries, repeats, losses });

/// All state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    pub sups: Vec<Sup>,
    pub sites: Vec<Site>,
    pub lanes: Vec<Lane>,
    pub boxes: Vec<Mailbox>,
    pub ops: Vec<Op>,
    pub left: Left,
}

pack_struct!(World { sups, sites, lanes, boxes, ops, left });

/// A supernode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sup {
    pub up: bool,
    pub boot: Boot,
    /// On the disk.
    pub realm: Realm,
    /// It was put back from a backup.
    pub restored: bool,
    /// The record of the next epoch is in the directory.
    pub published: bool,
    /// Of its disk, taken at some time.
    pub backup: Option<Box<Backup>>,
}

pack_struct!(Sup { up, boot, realm, restored, published, backup });

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    pub realm: Realm,
    pub records: Vec<TinyRecord>,
    pub logs: Vec<Vec<TinyEntry>>,
}

pack_struct!(Backup { realm, records, logs });

/// A shard: here, there, and in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    // At the supernode: the disk, then the memory.
    pub record: TinyRecord,
    pub log: Vec<TinyEntry>,
    /// Entries of the log that are on the disk.
    pub durable: usize,
    pub shard: TinyShard,
    /// Put back from before the migration: it knows nothing of it, and no one can tell it but an
    /// importer or a newer client. What it does until then is the stated limit, and not counted.
    pub rogue: bool,
    // Under way to the supernode, and to the data centre.
    pub to_s: Vec<Told>,
    pub to_c: Vec<Asked>,
    // At the data centre. Frames are with their mailboxes.
    pub ledger: Option<TinyLedger>,
    pub things: Vec<Thing>,
    // Beside it.
    pub importers: Vec<TinyImporter>,
}

pack_struct!(Site { record, log, durable, shard, rogue, to_s, to_c, ledger, things, importers });

/// A request to a supernode. Its connection ends with the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub who: Option<u8>,
    pub boot: Boot,
    pub request: TinyRequest,
}

pack_struct!(Told { who, boot, request });

/// A request to the data centre. It may happen long after nobody waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub who: Option<u8>,
    pub action: TinyAction,
}

pack_struct!(Asked { who, action });

/// Something that is stored at the data centre, a client's (migration 0) or imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thing {
    pub entry: TinyEntry,
    pub migration: u8,
    pub at: u8,
}

pack_struct!(Thing { entry, migration, at });

/// A sender's frames for one mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// Frames 1 to this were answered `accepted`.
    pub accepted: u8,
    /// The next one is being posted.
    pub open: bool,
    /// Where it is posted next.
    pub side: Side,
    /// Its token was revoked: no more posts.
    pub refused: bool,
    /// Posts under way to the supernode, entered there and not answered, under way to the data
    /// centre: a bit for each frame.
    pub at_s: u16,
    pub pending: u16,
    pub at_c: u16,
    /// Frames 1 to this were shown by the device's app.
    pub shown: u8,
    /// Frames that are promised to nobody: expired, or lost with what a backup did not have.
    pub excused: u16,
}

pack_struct!(Lane { accepted, open, side, refused, at_s, pending, at_c, shown, excused });

/// A mailbox and its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    pub berth: Berth,
    /// Where it reads: a place in the supernode's log, or in the data centre's frames.
    pub reading: u8,
    /// Something was delivered that it has not acknowledged.
    pub owes: bool,
    /// Frames at the data centre.
    pub frames: Vec<Thing>,
}

pack_struct!(Mailbox { berth, reading, owes, frames });

/// A request that is no post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    pub side: Side,
    pub at_s: bool,
    /// Entered at the supernode: the answer, and how much of the log has to be on the disk.
    pub pending: Option<(u8, u8)>,
    pub at_c: bool,
    /// The answer it got.
    pub told: Option<u8>,
}

impl super::pack::Pack for (u8, u8) {
    fn pack(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.0, self.1]);
    }
    fn unpack(from: &mut super::pack::Bytes<'_>) -> Self {
        (u8::unpack(from), u8::unpack(from))
    }
}

pack_struct!(Op { side, at_s, pending, at_c, told });

/// An answer that counts for nothing: a backup does not know of it.
pub const VOID: u8 = 255;
/// The bundle is empty.
pub const EMPTY: u8 = 254;
/// The code was used by somebody else, or by this one in a try whose answer was lost.
pub const SPENT: u8 = 253;

/// A frame's id.
pub fn frame(lane: usize, n: u8) -> u16 {
    (lane as u16) << 8 | u16::from(n)
}

impl World {
    /// What is under way has no order: worlds that differ in nothing else are one.
    pub fn settle(&mut self) {
        for site in &mut self.sites {
            if site.to_s.len() > 1 {
                site.to_s.sort_by_cached_key(packed);
            }
            if site.to_c.len() > 1 {
                site.to_c.sort_by_cached_key(packed);
            }
        }
    }
}

fn packed<T: super::pack::Pack>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    value.pack(&mut out);
    out
}

impl Shape {
    /// The world before anything happened.
    pub fn world(&self) -> World {
        let sups = 1 + self.sites.iter().max().copied().unwrap_or(0);
        let mut sites: Vec<Site> = self.sites.iter().map(|_| Site::new(self)).collect();
        for item in 0..self.items {
            let site = &mut sites[usize::from(self.boxes[0])];
            site.log.push(Entry::Offered { mailbox: 0, item });
            site.durable = site.log.len();
        }
        let lane = Lane {
            accepted: 0,
            open: false,
            side: Side::Supernode,
            refused: false,
            at_s: 0,
            pending: 0,
            at_c: 0,
            shown: 0,
            excused: 0,
        };
        let mailbox = Mailbox {
            berth: Berth::Away(Side::Supernode),
            reading: 0,
            owes: false,
            frames: vec![],
        };
        let op = Op { side: Side::Supernode, at_s: false, pending: None, at_c: false, told: None };
        let sup = Sup {
            up: true,
            boot: Boot(1),
            realm: Realm::Active(Epoch(1)),
            restored: false,
            published: false,
            backup: None,
        };
        let world = World {
            sups: vec![sup; sups.into()],
            sites,
            lanes: vec![lane; self.lanes.len()],
            boxes: vec![mailbox; self.boxes.len()],
            ops: vec![op; self.ops.len()],
            left: self.faults,
        };
        self.prelude.iter().fold(world, |world, what| {
            let next = self.apply(&world, *what).expect("nothing goes wrong in a prelude");
            next.unwrap_or_else(|| panic!("{what} cannot happen"))
        })
    }

    pub fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    pub fn site_of_lane(&self, lane: usize) -> usize {
        self.boxes[usize::from(self.lanes[lane])].into()
    }
}

impl Site {
    fn new(shape: &Shape) -> Self {
        Self {
            record: TinyRecord::Plain,
            log: vec![],
            durable: 0,
            shard: TinyShard::Plain,
            rogue: false,
            to_s: vec![],
            to_c: vec![],
            ledger: None,
            things: vec![],
            importers: vec![TinyImporter::Idle; shape.importers.into()],
        }
    }

    pub fn owned(&self) -> bool {
        matches!(self.ledger, Some(TinyLedger { stage: Stage::Owned(_), .. }))
    }

    /// Whether what was entered here is still there: a frame that is neither acknowledged nor
    /// expired, an item that was neither taken nor withdrawn.
    pub fn lives(&self, at: usize) -> bool {
        let place = Position(at as u64);
        let after = &self.log[at + 1..];
        match self.log[at] {
            Entry::Appended { mailbox, .. } => !after.iter().any(|later| match *later {
                Entry::Acknowledged { mailbox: of, below } => of == mailbox && place < below,
                Entry::Expired { mailbox: of, at } => of == mailbox && at == place,
                _ => false,
            }),
            Entry::Offered { mailbox, item } => !after.iter().any(|later| match *later {
                Entry::Taken { mailbox: of, item: taken } => of == mailbox && taken == item,
                Entry::Withdrawn { mailbox: of, below } => of == mailbox && place < below,
                _ => false,
            }),
            Entry::Revoked { .. } | Entry::Put { .. } | Entry::Spent { .. } => true,
            _ => false,
        }
    }

    /// Places of the living frames of a mailbox.
    pub fn queued(&self, mailbox: u8) -> impl Iterator<Item = (usize, u16)> + '_ {
        self.log.iter().enumerate().filter_map(move |(at, entry)| match *entry {
            Entry::Appended { mailbox: of, frame } if of == mailbox && self.lives(at) => {
                Some((at, frame))
            }
            _ => None,
        })
    }

    /// The log's end, or its cursor at an earlier place.
    pub fn cursor(&self, places: usize) -> TinyCursor {
        self.log[..places].iter().fold(Cursor::<Tiny>::start(), Cursor::after)
    }

    /// A log that says what there is and nothing else; and for each old place the new one.
    pub fn compact(&self) -> (Vec<TinyEntry>, Vec<u8>) {
        let mut log = Vec::new();
        let mut places = Vec::new();
        for (at, entry) in self.log.iter().enumerate() {
            places.push(log.len() as u8);
            if self.lives(at) {
                log.push(*entry);
            }
        }
        places.push(log.len() as u8);
        (log, places)
    }

    /// What is under way of an importer that does not wait any more.
    pub fn forget(&mut self, importer: u8) {
        let who = Some(importer);
        self.to_s.iter_mut().filter(|told| told.who == who).for_each(|told| told.who = None);
        self.to_c.iter_mut().filter(|asked| asked.who == who).for_each(|asked| asked.who = None);
    }
}
