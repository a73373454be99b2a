//! Frames that nobody can open yet, as far as they are in memory: which of them a new epoch's keys
//! open, and which have to go when there are too many. The frames themselves are in the vault.
//!
//! A frame of a group's next epoch is opened at the latest when all groups' slots have been walked to
//! their ends. What is still here then is junk, or of a group whose Welcome has not come. So only
//! that is kept short; what has just come has as much room as a whole mailbox.

use std::collections::BTreeMap;

use crate::seal::EpochKeys;
use crate::seal::frame::{self, START_BYTES};

/// Of frames that a complete walk did not open, so many are kept.
pub const SURVIVORS_MAX: usize = 1_000;
/// The same, in bytes together.
pub const SURVIVORS_BYTES_MAX: usize = 8 << 20;
/// Of all parked frames: twice what a relay keeps for a mailbox by default, as it keeps on filling
/// while it is emptied.
pub const PARKED_BYTES_MAX: usize = 32 << 20;
/// As many as there can be of the smallest size.
const PARKED_MAX: usize = PARKED_BYTES_MAX / 512;

#[derive(Debug)]
struct Frame {
    start: [u8; START_BYTES],
    bytes: usize,
    since_ms: u64,
}

/// All parked frames, by their rows' numbers: these are in the order of arrival.
#[derive(Debug, Default)]
pub(super) struct Parking {
    frames: BTreeMap<i64, Frame>,
    bytes: usize,
    /// Those up to here had come when a walk of all groups began that has come to its end.
    survived: i64,
}

impl Parking {
    /// A frame is parked. Returns the rows that have to go for it: the oldest.
    pub(super) fn arrive(&mut self, row: i64, payload: &[u8], since_ms: u64) -> Vec<i64> {
        let Some(start) = payload.first_chunk().copied() else { return vec![row] };
        self.bytes += payload.len();
        self.frames.insert(row, Frame { start, bytes: payload.len(), since_ms });
        let mut gone = Vec::new();
        // Survivors are older than all others, so they go first.
        while self.bytes > PARKED_BYTES_MAX || self.frames.len() > PARKED_MAX {
            let Some((row, frame)) = self.frames.pop_first() else { break };
            self.bytes -= frame.bytes;
            gone.push(row);
        }
        gone
    }

    /// The frame that came last.
    pub(super) fn last(&self) -> i64 {
        self.frames.last_key_value().map_or(0, |(row, _)| *row)
    }

    /// All groups were walked to their ends, since this row had come. Returns the rows that are too
    /// many now.
    pub(super) fn walked(&mut self, up_to: i64) -> Vec<i64> {
        self.survived = self.survived.max(up_to);
        let survivors = self.frames.range(..=self.survived);
        let (mut count, mut bytes) =
            survivors.fold((0, 0), |(count, bytes), (_, frame)| (count + 1, bytes + frame.bytes));
        let mut gone = Vec::new();
        while count > SURVIVORS_MAX || bytes > SURVIVORS_BYTES_MAX {
            let Some((row, frame)) = self.frames.pop_first() else { break };
            (count, bytes) = (count - 1, bytes - frame.bytes);
            self.bytes -= frame.bytes;
            gone.push(row);
        }
        gone
    }

    /// The frames of an epoch, as far as their hints tell.
    pub(super) fn of_epoch(&self, keys: &EpochKeys) -> Vec<i64> {
        let of_it = |(row, parked): (&i64, &Frame)| {
            frame::matches_start(keys, &parked.start).then_some(*row)
        };
        self.frames.iter().filter_map(of_it).collect()
    }

    pub(super) fn remove(&mut self, row: i64) {
        if let Some(frame) = self.frames.remove(&row) {
            self.bytes -= frame.bytes;
        }
    }

    /// Takes out what came before this time.
    pub(super) fn expire(&mut self, before_ms: u64) -> Vec<i64> {
        let old = self.frames.iter().filter(|(_, frame)| frame.since_ms < before_ms);
        let old: Vec<i64> = old.map(|(row, _)| *row).collect();
        old.iter().for_each(|row| self.remove(*row));
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    fn keys() -> EpochKeys {
        let bytes = valise_client::random::bytes;
        EpochKeys { epoch: 3, hint: bytes(), envelope: bytes(), slot: bytes() }
    }

    fn junk(len: usize) -> Vec<u8> {
        let mut junk = vec![0x5a; len];
        junk[..8].copy_from_slice(&valise_client::random::bytes::<8>());
        junk
    }

    /// Frames of a size that came as rows `first..first + count`; what had to go.
    fn fill(parking: &mut Parking, first: i64, count: i64, size: usize) -> Vec<i64> {
        let frame = junk(size);
        (first..first + count).flat_map(|row| parking.arrive(row, &frame, 7)).collect()
    }

    #[test]
    fn what_no_walk_has_tried_is_not_crowded_out() {
        let mut parking = Parking::default();
        assert!(fill(&mut parking, 1, 2_000, 512).is_empty());
        assert_eq!(parking.last(), 2_000);
        // The walk began when 1,500 had come: the newest 500 are not judged yet.
        assert_eq!(parking.walked(1_500), (1..=500).collect::<Vec<_>>());
        assert_eq!(parking.frames.len(), 1_500);
        assert!(parking.walked(1_500).is_empty());
        // The newest stay, the oldest survivors go.
        assert_eq!(parking.walked(1_600), (501..=600).collect::<Vec<_>>());
        // A walk that ends late says nothing new.
        assert!(parking.walked(900).is_empty());
        let left = fill(&mut parking, 2_001, 3_000, 512);
        assert!(left.is_empty(), "there is room for what comes");
        assert_eq!(parking.walked(2_500).len(), 900);
        assert_eq!(parking.frames.len(), 1_000 + 2_500);
    }

    #[test]
    fn bytes_are_bounded_too() {
        for (count, size, survivors) in
            [(2_000, 512, 1_000), (2_000, 8_192, 1_000), (300, 65_536, 128)]
        {
            let mut parking = Parking::default();
            assert!(fill(&mut parking, 1, count, size).is_empty());
            let gone = parking.walked(count);
            assert_eq!(parking.frames.len(), survivors, "{size}");
            assert_eq!(gone.len() + survivors, count as usize);
            assert_eq!(gone.first(), Some(&1), "the oldest go");
        }
        let mut parking = Parking::default();
        let gone = fill(&mut parking, 1, 513, 65_536);
        assert_eq!(gone, [1], "32 MiB of what nobody has judged");
        assert_eq!(parking.bytes, PARKED_BYTES_MAX);
        parking.walked(2);
        assert_eq!(fill(&mut parking, 514, 2, 65_536), [2, 3], "survivors go first");
        let mut parking = Parking::default();
        assert_eq!(fill(&mut parking, 1, 65_537, 512), [1]);
    }

    #[test]
    fn an_epochs_frames_are_found_by_their_hints() {
        let (ours, other) = (keys(), keys());
        let poke = wire::Envelope { poke: true, ..Default::default() };
        let mut parking = Parking::default();
        let mut found = Vec::new();
        for row in 1..100 {
            let of_ours = row % 7 == 3;
            let payload = match row % 7 {
                3 => frame::seal(&ours, &poke).unwrap().to_vec(),
                4 => frame::seal(&other, &poke).unwrap().to_vec(),
                _ => junk(512),
            };
            parking.arrive(row, &payload, row as u64);
            found.extend(of_ours.then_some(row));
        }
        assert_eq!(parking.of_epoch(&ours), found);
        parking.remove(3);
        parking.remove(3);
        assert_eq!(parking.of_epoch(&ours), found[1..]);
        assert_eq!(parking.expire(50).len(), 48);
        assert_eq!(parking.bytes, 50 * 512);
        assert!(parking.expire(50).is_empty());
        assert_eq!(parking.arrive(200, &[1; 19], 1), [200], "that is no frame");
    }
}
