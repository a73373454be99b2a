//! A mailbox served by this node: a window of frames between what was read and what was pulled.
//! No I/O, no clock.

use std::collections::VecDeque;

use crate::mailbox::Pulled;
use crate::store::{Frame, Seq};

/// What is known of a served mailbox.
#[derive(Debug, Default)]
pub(super) struct Serving {
    /// Frames that were read and not pulled, in order.
    ring: VecDeque<Frame>,
    ring_bytes: usize,
    /// Frames that were pulled and not acknowledged: as many as a window holds.
    flying: VecDeque<Seq>,
    /// Everything at or below was acknowledged.
    floor: Seq,
    /// Everything at or below is in the ring, or has been, or is gone.
    read: Seq,
    /// The newest frame that is known of.
    newest: Seq,
    /// Somebody reads.
    reading: bool,
}

impl Serving {
    /// Serves what comes after the floor; `newest` is in the store.
    pub(super) fn begin(&mut self, floor: Seq, newest: Seq) {
        self.floor = floor;
        self.read = self.read.max(floor);
        self.newest = self.newest.max(newest);
    }

    /// A frame was stored, after `before` of the same mailbox. Returns whether there is something
    /// to pull that was not there.
    pub(super) fn pushed(&mut self, frame: Frame, before: Seq, ring_bytes: usize) -> bool {
        self.newest = self.newest.max(frame.seq);
        let next = frame.seq > self.read && before <= self.read && !self.reading;
        if next && self.ring_bytes + frame.payload.len() <= ring_bytes {
            self.take_in(frame);
            return true;
        }
        false
    }

    /// The newest frame is at least this one.
    pub(super) fn heard_of(&mut self, newest: Seq) {
        self.newest = self.newest.max(newest);
    }

    /// After which frame to read, and how many bytes, if it is time to; then somebody reads until
    /// [`Self::read_on`] says otherwise.
    pub(super) fn begin_reading(&mut self, ring_bytes: usize) -> bool {
        let wanted = self.wants(ring_bytes) && !self.reading;
        self.reading |= wanted;
        wanted
    }

    /// The same for whoever reads: where to go on, or that there is nothing more for now.
    pub(super) fn read_on(&mut self, ring_bytes: usize) -> Option<(Seq, usize)> {
        self.reading = self.wants(ring_bytes);
        self.reading.then(|| (self.read, ring_bytes - self.ring_bytes))
    }

    /// What the store gave, in order. Returns whether there is something to pull.
    pub(super) fn found(&mut self, frames: Vec<Frame>) -> bool {
        let before = self.ring.len();
        for frame in frames {
            self.newest = self.newest.max(frame.seq);
            if frame.seq > self.read {
                self.take_in(frame);
            }
        }
        self.ring.len() > before
    }

    /// There is nothing after what was read, up to here: acknowledged or expired.
    pub(super) fn nothing_up_to(&mut self, seq: Seq) {
        self.read = self.read.max(seq);
    }

    /// Takes frames out: one at least if there is one, then as many as fit.
    pub(super) fn pull(&mut self, bytes_max: usize) -> Vec<Pulled> {
        let mut pulled = Vec::new();
        let mut bytes = 0;
        while let Some(frame) = self.ring.front() {
            bytes += frame.payload.len();
            if !pulled.is_empty() && bytes > bytes_max {
                break;
            }
            let Frame { seq, frame_id, payload, .. } =
                self.ring.pop_front().expect("there is a front");
            self.ring_bytes -= payload.len();
            self.flying.push_back(seq);
            pulled.push(Pulled { seq, frame_id, payload });
        }
        if self.ring.is_empty() {
            self.ring = VecDeque::new();
        }
        pulled
    }

    /// Whether no frame is left with `after < seq <= up_to`, as far as anybody knows.
    pub(super) fn has_nothing_between(&self, after: Seq, up_to: Seq) -> bool {
        let first = self.ring.iter().map(|frame| frame.seq).find(|seq| *seq > after);
        self.read >= up_to && first.is_none_or(|first| first > up_to)
    }

    /// Everything up to here is acknowledged. Returns how many frames that are.
    pub(super) fn acknowledge(&mut self, up_to: Seq) -> u64 {
        let mut count = 0;
        while self.flying.front().is_some_and(|seq| *seq <= up_to) {
            self.flying.pop_front();
            count += 1;
        }
        if self.flying.is_empty() {
            self.flying = VecDeque::new();
        }
        self.floor = self.floor.max(up_to);
        count
    }

    /// Everything at or below was acknowledged.
    pub(super) fn floor(&self) -> Seq {
        self.floor
    }

    /// The newest frame that is known of.
    pub(super) fn newest(&self) -> Seq {
        self.newest
    }

    /// Half of the ring is read at a time, so that reading is not about single frames.
    fn wants(&self, ring_bytes: usize) -> bool {
        self.newest > self.read && self.ring_bytes <= ring_bytes / 2
    }

    fn take_in(&mut self, frame: Frame) {
        self.read = frame.seq;
        self.ring_bytes += frame.payload.len();
        self.ring.push_back(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract::frame;

    fn pulled(serving: &mut Serving) -> Vec<u64> {
        serving.pull(usize::MAX).iter().map(|pulled| pulled.seq.0).collect()
    }

    #[test]
    fn what_is_pushed_in_order_needs_no_reading() {
        let mut serving = Serving::default();
        serving.begin(Seq(0), Seq(0));
        assert!(serving.pushed(frame(1, 4, 512), Seq(0), 4_096));
        assert!(serving.pushed(frame(1, 9, 512), Seq(4), 4_096));
        assert!(!serving.pushed(frame(1, 9, 512), Seq(4), 4_096), "once");
        assert!(!serving.begin_reading(4_096));
        assert_eq!(pulled(&mut serving), [4, 9]);
    }

    #[test]
    fn a_gap_is_read() {
        let mut serving = Serving::default();
        serving.begin(Seq(2), Seq(2));
        assert!(!serving.pushed(frame(1, 9, 512), Seq(4), 4_096), "4 is missing");
        assert!(serving.begin_reading(4_096));
        assert!(!serving.begin_reading(4_096), "one reads");
        assert!(!serving.pushed(frame(1, 11, 512), Seq(9), 4_096), "while somebody reads");
        assert_eq!(serving.read_on(4_096), Some((Seq(2), 4_096)));
        assert!(serving.found(vec![frame(1, 4, 512), frame(1, 9, 512)]));
        assert_eq!(serving.read_on(4_096).map(|(after, _)| after), Some(Seq(9)), "11 is known of");
        assert!(serving.found(vec![frame(1, 9, 512), frame(1, 11, 512)]), "9 is left out");
        assert_eq!(serving.read_on(4_096), None);
        assert_eq!(pulled(&mut serving), [4, 9, 11]);
    }

    #[test]
    fn a_full_ring_waits_until_it_is_pulled() {
        let mut serving = Serving::default();
        serving.begin(Seq(0), Seq(0));
        assert!(serving.pushed(frame(1, 1, 512), Seq(0), 1_024));
        assert!(serving.pushed(frame(1, 2, 512), Seq(1), 1_024));
        assert!(!serving.pushed(frame(1, 3, 512), Seq(2), 1_024));
        assert!(!serving.pushed(frame(1, 4, 512), Seq(3), 1_024), "behind what did not fit");
        assert!(!serving.begin_reading(1_024), "there is no room to read into");
        assert_eq!(serving.pull(512).len(), 1);
        assert!(serving.begin_reading(1_024));
        assert_eq!(serving.read_on(1_024), Some((Seq(2), 512)));
    }

    #[test]
    fn what_is_gone_is_not_waited_for() {
        let mut serving = Serving::default();
        serving.begin(Seq(3), Seq(8));
        assert!(!serving.has_nothing_between(Seq(3), Seq(8)));
        serving.nothing_up_to(Seq(8));
        assert!(serving.has_nothing_between(Seq(3), Seq(8)));
        assert!(serving.pushed(frame(1, 9, 512), Seq(0), 4_096));
        assert!(serving.has_nothing_between(Seq(3), Seq(8)));
        assert!(!serving.has_nothing_between(Seq(3), Seq(9)));
        assert_eq!(pulled(&mut serving), [9]);
        assert_eq!((serving.acknowledge(Seq(9)), serving.acknowledge(Seq(9))), (1, 0));
        assert_eq!(serving.floor(), Seq(9));
    }
}
