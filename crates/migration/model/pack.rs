//! States as few bytes, and back.

use std::collections::VecDeque;

use valise_migration::client::{Berth, Side};
use valise_migration::importer::{Action, Importer, Known, Report};
use valise_migration::plan::{Plan, Removal, Write};
use valise_migration::realm::Realm;
use valise_migration::{
    Boot, Cursor, Entry, Epoch, Ledger, Migration, Position, Record, Request, Seal, Shard, Stage,
    Version,
};

use super::tiny::Tiny;

/// Where bytes are read from.
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().expect("a packed state is whole");
        self.0 = rest;
        *first
    }
}

/// Both ways.
pub trait Pack: Sized {
    fn pack(&self, out: &mut Vec<u8>);
    fn unpack(from: &mut Bytes<'_>) -> Self;
}

impl Pack for u8 {
    fn pack(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }
    fn unpack(from: &mut Bytes<'_>) -> Self {
        from.byte()
    }
}

impl Pack for bool {
    fn pack(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn unpack(from: &mut Bytes<'_>) -> Self {
        from.byte() != 0
    }
}

macro_rules! whole {
    ($($of:ty),*) => {$(impl Pack for $of {
        fn pack(&self, out: &mut Vec<u8>) {
            out.extend_from_slice(&self.to_le_bytes());
        }
        fn unpack(from: &mut Bytes<'_>) -> Self {
            let (bytes, rest) = from.0.split_at(size_of::<Self>());
            from.0 = rest;
            Self::from_le_bytes(bytes.try_into().expect("split there"))
        }
    })*};
}
whole!(u16, u32);

/// Numbers that stay small in a model.
macro_rules! small {
    ($($name:ident: $of:ty),*) => {$(impl Pack for $name {
        fn pack(&self, out: &mut Vec<u8>) {
            out.push(u8::try_from(self.0).expect("small in a model"));
        }
        fn unpack(from: &mut Bytes<'_>) -> Self {
            Self(<$of>::from(from.byte()))
        }
    })*};
}
small!(Migration: u32, Version: u32, Boot: u128, Epoch: u64, Position: u64);

impl<T: Pack> Pack for Option<T> {
    fn pack(&self, out: &mut Vec<u8>) {
        self.is_some().pack(out);
        if let Some(some) = self {
            some.pack(out);
        }
    }
    fn unpack(from: &mut Bytes<'_>) -> Self {
        bool::unpack(from).then(|| T::unpack(from))
    }
}

impl<T: Pack> Pack for Vec<T> {
    fn pack(&self, out: &mut Vec<u8>) {
        out.push(u8::try_from(self.len()).expect("short in a model"));
        self.iter().for_each(|item| item.pack(out));
    }
    fn unpack(from: &mut Bytes<'_>) -> Self {
        (0..from.byte()).map(|_| T::unpack(from)).collect()
    }
}

impl<T: Pack> Pack for Box<T> {
    fn pack(&self, out: &mut Vec<u8>) {
        (**self).pack(out);
    }
    fn unpack(from: &mut Bytes<'_>) -> Self {
        Self::new(T::unpack(from))
    }
}

impl Pack for () {
    fn pack(&self, _: &mut Vec<u8>) {}
    fn unpack(_: &mut Bytes<'_>) -> Self {}
}

/// A struct, field by field.
#[macro_export]
macro_rules! pack_struct {
    ($name:ty { $($field:ident),* $(,)? }) => {
        impl $crate::model::pack::Pack for $name {
            fn pack(&self, out: &mut Vec<u8>) {
                $($crate::model::pack::Pack::pack(&self.$field, out);)*
            }
            fn unpack(from: &mut $crate::model::pack::Bytes<'_>) -> Self {
                $(let $field = $crate::model::pack::Pack::unpack(from);)*
                Self { $($field),* }
            }
        }
    };
}

/// An enum: a byte for the variant, then its fields.
macro_rules! pack_enum {
    ($name:ty { $($tag:literal => $variant:ident $( ( $($tuple:ident),* ) )? $( { $($field:ident),* } )?),* $(,)? }) => {
        impl Pack for $name {
            fn pack(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant $( ( $($tuple),* ) )? $( { $($field),* } )? => {
                        out.push($tag);
                        $($($tuple.pack(out);)*)?
                        $($($field.pack(out);)*)?
                    })*
                }
            }
            fn unpack(from: &mut Bytes<'_>) -> Self {
                match from.byte() {
                    $($tag => {
                        $($(let $tuple = Pack::unpack(from);)*)?
                        $($(let $field = Pack::unpack(from);)*)?
                        Self::$variant $( ( $($tuple),* ) )? $( { $($field),* } )?
                    })*
                    tag => unreachable!("no variant {tag}"),
                }
            }
        }
    };
}

pack_struct!(Cursor<Tiny> { next, digest });
pack_struct!(Seal<Tiny> { migration, version, end });
pack_struct!(Ledger<Tiny> { migration, version, boot, stage });
pack_struct!(Report<Tiny> { boot, shard, durable });
pack_struct!(Known<Tiny> { report, ledger });
pack_struct!(Write<Tiny, ()> { at, entry, body });
pack_struct!(Plan<Tiny, ()> { from, to, removals, writes });
pack_enum!(Entry<Tiny> {
    0 => Appended { mailbox, frame },
    1 => Acknowledged { mailbox, below },
    2 => Expired { mailbox, at },
    3 => Revoked { mailbox, token },
    4 => Put { slot, put },
    5 => Offered { mailbox, item },
    6 => Withdrawn { mailbox, below },
    7 => Taken { mailbox, item },
    8 => Spent { code },
    9 => Sealed,
});
pack_enum!(Removal<Tiny> {
    0 => Frames { mailbox, below },
    1 => Frame { mailbox, at },
    2 => Items { mailbox, below },
    3 => Item { mailbox, item },
});
pack_enum!(Stage<Tiny> { 0 => Importing(cursor), 1 => Aborted, 2 => Owned(cursor) });
pack_enum!(Record<Tiny> {
    0 => Plain,
    1 => Local { migration, version },
    2 => Sealed(seal),
    3 => Forward { migration, end },
    4 => Gone { migration },
});
pack_enum!(Shard<Tiny> {
    0 => Plain,
    1 => Local { migration, version, log },
    2 => Unsure { migration, log },
    3 => Writing { to, log },
    4 => Sealed(seal),
    5 => Forward { migration, end },
    6 => Gone { migration },
});
pack_enum!(Request<Tiny> {
    0 => Begin { ledger, existing },
    1 => Seal { migration, version },
    2 => Show { ledger, own },
    3 => Wipe { ledger, users },
    4 => Written,
});
pack_enum!(Importer<Tiny, ()> {
    0 => Idle,
    1 => Asking,
    2 => Reading(report),
    3 => Fetching(known, ledger),
    4 => Removing(known, ledger, plan),
    5 => Changing(known, ledger),
    6 => Clearing(known, ledger),
    7 => Telling(known),
});
pack_enum!(Action<Tiny, ()> {
    0 => Report,
    1 => ReadLedger,
    2 => Fetch(from_place),
    3 => Remove(migration, removals),
    4 => Change { before, after, writes },
    5 => Clear(ledger),
    6 => Tell(boot, request),
});
pack_enum!(Realm {
    0 => Active(epoch),
    1 => Preparing(epoch, migration),
    2 => Copying(epoch, migration),
    3 => Cutting(epoch, migration),
    4 => Draining(epoch, migration),
    5 => Retired(epoch, migration),
    6 => Fenced(epoch),
});
pack_enum!(Side { 0 => Supernode, 1 => DataCentre });
pack_enum!(Berth { 0 => Away(side), 1 => At(side), 2 => TakenOver });

impl Pack for usize {
    fn pack(&self, out: &mut Vec<u8>) {
        out.push(u8::try_from(*self).expect("small in a model"));
    }
    fn unpack(from: &mut Bytes<'_>) -> Self {
        from.byte().into()
    }
}

/// States that wait, as bytes in blocks: a queue of many million would not fit as values.
#[derive(Default)]
pub struct Queue {
    blocks: VecDeque<Vec<u8>>,
    read: usize,
    pub waiting: usize,
}

impl Queue {
    const BLOCK: usize = 1 << 20;

    pub fn push(&mut self, packed: &[u8]) {
        let len = u16::try_from(packed.len()).expect("a state is short");
        let full = |block: &Vec<u8>| block.len() + packed.len() + 2 > Self::BLOCK;
        if self.blocks.back().is_none_or(full) {
            self.blocks.push_back(Vec::with_capacity(Self::BLOCK));
        }
        let block = self.blocks.back_mut().expect("pushed above");
        block.extend_from_slice(&len.to_le_bytes());
        block.extend_from_slice(packed);
        self.waiting += 1;
    }

    pub fn pop(&mut self, into: &mut Vec<u8>) -> bool {
        while self.blocks.front().is_some_and(|block| block.len() == self.read) {
            if self.blocks.len() == 1 {
                return false;
            }
            self.blocks.pop_front();
            self.read = 0;
        }
        let Some(block) = self.blocks.front() else { return false };
        let len = usize::from(u16::from_le_bytes([block[self.read], block[self.read + 1]]));
        self.read += 2;
        into.clear();
        into.extend_from_slice(&block[self.read..self.read + len]);
        self.read += len;
        self.waiting -= 1;
        true
    }
}
