//! The pauses that people notice in a stretch of a run: for each sender, the longest time from the
//! intended post of a frame to its acceptance; for each lane, the longest silence of a steady stream
//! beyond its own period. What is still waited for when the stretch ends counts with its age.

use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

use crate::latency;

/// The longest of each, since the stretch began.
pub(crate) struct Pauses {
    /// Per client, in nanoseconds.
    longest_post: Vec<AtomicU64>,
    /// Per lane, when a frame was last shown, in nanoseconds of the run's clock; 0: not yet.
    last_shown: Vec<AtomicU64>,
    /// Per lane, in nanoseconds.
    longest_silence: Vec<AtomicU64>,
}

/// What a stretch had.
pub(crate) struct Paused {
    /// One for each client that had a frame accepted or waited for it.
    pub(crate) send: Histogram<u64>,
    /// One for each lane on which something was shown.
    pub(crate) receive: Histogram<u64>,
}

impl Pauses {
    pub(crate) fn new(lanes: usize, clients: usize) -> Self {
        let zeros = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            longest_post: zeros(clients),
            last_shown: zeros(lanes),
            longest_silence: zeros(lanes),
        }
    }

    /// A frame of this client was accepted, so long after it was to be posted.
    pub(crate) fn accepted(&self, client: usize, took_ns: u64) {
        self.longest_post[client].fetch_max(took_ns, Ordering::Relaxed);
    }

    /// A frame was shown.
    pub(crate) fn shown(&self, lane: usize, now_ns: u64) {
        let before_ns = self.last_shown[lane].swap(now_ns.max(1), Ordering::Relaxed);
        if before_ns > 0 {
            let silence_ns = now_ns.saturating_sub(before_ns);
            self.longest_silence[lane].fetch_max(silence_ns, Ordering::Relaxed);
        }
    }

    /// Ends the stretch; the next one begins. `waiting` are frames without an outcome: whose, and
    /// since when. `period_ns` is that of each lane's stream.
    pub(crate) fn cut(
        &self,
        now_ns: u64,
        period_ns: u64,
        waiting: impl IntoIterator<Item = (usize, u64)>,
    ) -> Paused {
        for (client, begun_ns) in waiting {
            self.accepted(client, now_ns.saturating_sub(begun_ns));
        }
        let mut paused = Paused { send: latency::histogram(), receive: latency::histogram() };
        for longest in &self.longest_post {
            match longest.swap(0, Ordering::Relaxed) {
                0 => {}
                longest_ns => paused.send.saturating_record(longest_ns),
            }
        }
        for (longest, last) in self.longest_silence.iter().zip(&self.last_shown) {
            let last_ns = last.load(Ordering::Relaxed);
            let longest_ns = longest.swap(0, Ordering::Relaxed);
            if last_ns > 0 {
                let silence_ns = longest_ns.max(now_ns.saturating_sub(last_ns));
                paused.receive.saturating_record(silence_ns.saturating_sub(period_ns));
            }
        }
        paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three significant digits.
    fn is_about(found: u64, expected: u64) {
        assert!(found.abs_diff(expected) * 500 <= expected, "{found} is not {expected}");
    }

    #[test]
    fn the_longest_of_each_counts() {
        let pauses = Pauses::new(2, 3);
        for took_ns in [5_000, 70_000, 6_000] {
            pauses.accepted(1, took_ns);
        }
        for now_ns in [100_000, 200_000, 900_000, 1_000_000] {
            pauses.shown(0, now_ns);
        }
        let paused = pauses.cut(1_000_000, 100_000, []);
        assert_eq!(
            (paused.send.len(), paused.receive.len()),
            (1, 1),
            "who did nothing is not in it"
        );
        is_about(paused.send.max(), 70_000);
        is_about(paused.receive.max(), 600_000);
    }

    #[test]
    fn what_is_still_waited_for_counts() {
        let pauses = Pauses::new(1, 1);
        pauses.shown(0, 1_000);
        let paused = pauses.cut(501_000, 100_000, [(0, 201_000)]);
        is_about(paused.send.max(), 300_000);
        is_about(paused.receive.max(), 400_000);
    }

    #[test]
    fn a_stretch_begins_anew() {
        let pauses = Pauses::new(1, 1);
        pauses.accepted(0, 9_000_000);
        pauses.shown(0, 1_000);
        pauses.shown(0, 9_000_000);
        pauses.cut(9_000_000, 0, []);
        pauses.shown(0, 9_050_000);
        let paused = pauses.cut(9_050_000, 0, []);
        assert_eq!(paused.send.len(), 0);
        is_about(paused.receive.max(), 50_000);
    }
}
