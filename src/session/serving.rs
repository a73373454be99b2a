//! One attachment's deliveries: their numbers, the window, and what an acknowledgement covers.

use std::collections::VecDeque;

use valise_proto::limits::{ATTACHMENT_WINDOW_BYTES, PAYLOAD_BYTES_MAX};

use crate::store::Seq;

/// An `Ack` of something that was never delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckInvalid;

/// The deliveries of one attachment. Between frames it holds no memory of its own.
#[derive(Debug)]
pub struct Serving {
    delivered: u64,
    acknowledged: u64,
    in_flight: VecDeque<(Seq, u32)>,
    in_flight_bytes: usize,
    cursor: Seq,
    catch_up: Option<Seq>,
}

impl Serving {
    /// Delivery begins after `floor`; the client has caught up once `last` is delivered.
    pub fn new(floor: Seq, last: Seq) -> Self {
        Self {
            delivered: 0,
            acknowledged: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            cursor: floor,
            catch_up: Some(last),
        }
    }

    /// The last frame delivered: pull after it.
    pub fn cursor(&self) -> Seq {
        self.cursor
    }

    /// How many payload bytes may be pulled now. With nothing in flight one frame always may.
    pub fn room(&self) -> usize {
        if self.in_flight.is_empty() {
            return ATTACHMENT_WINDOW_BYTES;
        }
        let room = ATTACHMENT_WINDOW_BYTES.saturating_sub(self.in_flight_bytes);
        // A pull yields at least one frame, so less than the largest frame is no room.
        if room < PAYLOAD_BYTES_MAX { 0 } else { room }
    }

    /// Notes a delivery and returns its number.
    pub fn deliver(&mut self, seq: Seq, bytes: usize) -> u64 {
        let bytes = u32::try_from(bytes).expect("a payload has at most 64 KiB");
        self.delivered += 1;
        self.in_flight.push_back((seq, bytes));
        self.in_flight_bytes += bytes as usize;
        self.cursor = seq;
        self.delivered
    }

    /// Up to where the client has not caught up yet, if it has not.
    pub fn to_catch_up(&self) -> Option<Seq> {
        self.catch_up
    }

    /// What there was up to here is gone without having been delivered.
    pub fn skip_to(&mut self, seq: Seq) {
        self.cursor = self.cursor.max(seq);
    }

    /// Whether the client has just caught up; true once.
    pub fn caught_up(&mut self) -> bool {
        let reached = self.catch_up.is_some_and(|last| self.cursor >= last);
        if reached {
            self.catch_up = None;
        }
        reached
    }

    /// The deliveries up to `n` are acknowledged: up to which frame that is, if it says anything new.
    ///
    /// # Errors
    /// [`AckInvalid`] for a delivery that never was.
    pub fn acknowledge(&mut self, n: u64) -> Result<Option<Seq>, AckInvalid> {
        if n > self.delivered {
            return Err(AckInvalid);
        }
        let mut last = None;
        while self.acknowledged < n {
            let (seq, bytes) = self.in_flight.pop_front().expect("what is not acknowledged flies");
            self.in_flight_bytes -= bytes as usize;
            self.acknowledged += 1;
            last = Some(seq);
        }
        if self.in_flight.is_empty() {
            self.in_flight = VecDeque::new();
        }
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_are_cumulative_and_never_ahead() {
        let mut serving = Serving::new(Seq(10), Seq(12));
        assert_eq!(serving.deliver(Seq(11), 512), 1);
        assert_eq!(serving.deliver(Seq(12), 512), 2);
        assert_eq!(serving.deliver(Seq(15), 512), 3);
        assert_eq!(serving.acknowledge(2), Ok(Some(Seq(12))));
        assert_eq!(serving.acknowledge(2), Ok(None), "a repeated one says nothing new");
        assert_eq!(serving.acknowledge(1), Ok(None), "an older one neither");
        assert_eq!(serving.acknowledge(4), Err(AckInvalid));
        assert_eq!(serving.acknowledge(3), Ok(Some(Seq(15))));
    }

    #[test]
    fn the_window_is_bytes_and_always_takes_one_frame() {
        let mut serving = Serving::new(Seq(0), Seq(0));
        assert_eq!(serving.room(), ATTACHMENT_WINDOW_BYTES);
        serving.deliver(Seq(1), PAYLOAD_BYTES_MAX);
        assert_eq!(serving.room(), ATTACHMENT_WINDOW_BYTES - PAYLOAD_BYTES_MAX);
        serving.deliver(Seq(2), 512);
        assert_eq!(serving.room(), 0);
        serving.acknowledge(2).unwrap();
        assert_eq!(serving.room(), ATTACHMENT_WINDOW_BYTES);
    }

    #[test]
    fn caught_up_is_said_once_even_for_an_empty_mailbox() {
        let mut serving = Serving::new(Seq(7), Seq(7));
        assert!(serving.caught_up());
        assert!(!serving.caught_up());
        let mut serving = Serving::new(Seq(7), Seq(9));
        assert!(!serving.caught_up());
        serving.deliver(Seq(9), 512);
        assert!(serving.caught_up());
        let mut serving = Serving::new(Seq(7), Seq(9));
        assert_eq!(serving.to_catch_up(), Some(Seq(9)));
        serving.skip_to(Seq(9));
        assert!(serving.caught_up());
        assert_eq!((serving.to_catch_up(), serving.cursor()), (None, Seq(9)));
        serving.skip_to(Seq(8));
        assert_eq!(serving.cursor(), Seq(9), "never back");
    }
}
