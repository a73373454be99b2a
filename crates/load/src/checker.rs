//! Was every promise kept? Senders log what they posted and what the relay answered, receivers log
//! what their application would show; one walk along both logs tells. Pure: no clock, no I/O.
//!
//! A *lane* is one conversation with one target. Its frames are counted 1, 2, 3, ..., so that both
//! logs of a lane without incident are one range each, however many frames went through.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ranges::Ranges;

/// Examples kept of what went wrong.
const EXAMPLES_MAX: usize = 20;

/// What the sender of a lane knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct SentLane {
    invoked: u64,
    accepted: Ranges,
    refused: Ranges,
}

/// What the receiver of a lane saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShownLane {
    shown: Ranges,
    highest: Option<u64>,
    /// Came behind a higher counter and was dropped for it, without ever having been shown.
    late: Ranges,
    duplicate: u64,
    reordered: u64,
    redelivered: u64,
}

/// One lane, both sides.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lane {
    /// The sender's side.
    pub(crate) sent: SentLane,
    /// The receiver's side.
    pub(crate) shown: ShownLane,
}

/// What a receiver got that belongs to no lane of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Strays {
    /// Bytes that fit no hash.
    pub(crate) corrupt: u64,
    /// Intact frames that were never posted to this receiver.
    pub(crate) phantom: u64,
}

/// The judgement, counted per target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Verdict {
    /// Accepted and never shown. Must be 0.
    pub(crate) lost: u64,
    /// Shown twice. Must be 0.
    pub(crate) duplicate: u64,
    /// Came behind a later frame of its conversation. Must be 0.
    pub(crate) reordered: u64,
    /// Shown and never sent to this recipient, or refused to its sender. Must be 0.
    pub(crate) phantom: u64,
    /// Delivered with other bytes than were sent. Must be 0.
    pub(crate) corrupt: u64,
    /// Delivered again and dropped before the application saw it: allowed.
    pub(crate) redelivered: u64,
    /// Frames sent.
    pub(crate) sent: u64,
    /// Frames the relay accepted.
    pub(crate) accepted: u64,
    /// Frames the relay refused for good.
    pub(crate) refused: u64,
    /// Frames whose outcome never became known. For signals: all of them.
    pub(crate) unknown: u64,
    /// Frames shown to the recipients' application.
    pub(crate) shown: u64,
    /// A few of the frames that went wrong.
    pub(crate) examples: Vec<String>,
}

impl SentLane {
    /// Logs that the lane's next frame is posted; its counter.
    pub(crate) fn invoke(&mut self) -> u64 {
        self.invoked += 1;
        self.invoked
    }

    /// The relay promised to deliver it.
    pub(crate) fn accept(&mut self, counter: u64) {
        self.accepted.insert(counter);
    }

    /// The relay said it did not take it, on each attempt. Without either it stays unknown.
    pub(crate) fn refuse(&mut self, counter: u64) {
        self.refused.insert(counter);
    }
}

impl ShownLane {
    /// The application showed the frame.
    pub(crate) fn show(&mut self, counter: u64) {
        if !self.shown.insert(counter) {
            self.duplicate += 1;
        } else if self.highest.is_some_and(|highest| counter < highest) {
            self.reordered += 1;
        }
        self.highest = self.highest.max(Some(counter));
    }

    /// The inbox dropped the frame: an innocent copy, or one that came too late to be shown.
    pub(crate) fn dropped(&mut self, counter: u64) {
        if self.shown.contains(counter) || !self.late.insert(counter) {
            self.redelivered += 1;
        }
    }
}

impl Verdict {
    /// Whether every promise was kept.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.duplicate + self.reordered + self.phantom + self.corrupt == 0
    }

    /// One walk along all lanes.
    pub(crate) fn of(lanes: &[Lane], strays: Strays) -> Self {
        let mut verdict =
            Self { phantom: strays.phantom, corrupt: strays.corrupt, ..Self::default() };
        for (index, lane) in lanes.iter().enumerate() {
            verdict.add(index, lane);
        }
        verdict
    }

    /// Adds the judgement of other clients, of this process or another one.
    pub(crate) fn merge(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicate += other.duplicate;
        self.reordered += other.reordered;
        self.phantom += other.phantom;
        self.corrupt += other.corrupt;
        self.redelivered += other.redelivered;
        self.sent += other.sent;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.shown += other.shown;
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES_MAX);
    }

    fn add(&mut self, index: usize, Lane { sent, shown }: &Lane) {
        let lost = sent.accepted.without(&shown.shown).without(&shown.late);
        let invented = shown.shown.without(&Ranges::up_to(sent.invoked));
        let refused_and_shown = sent.refused.without(&sent.refused.without(&shown.shown));
        self.lost += lost.len();
        self.duplicate += shown.duplicate;
        self.reordered += shown.reordered + shown.late.len();
        self.phantom += invented.len() + refused_and_shown.len();
        self.redelivered += shown.redelivered;
        self.sent += sent.invoked;
        self.unknown += sent.invoked - sent.accepted.len() - sent.refused.len();
        self.accepted += sent.accepted.len();
        self.refused += sent.refused.len();
        self.shown += shown.shown.len();
        for (what, counters) in [
            ("lost", &lost),
            ("reordered", &shown.late),
            ("phantom", &invented),
            ("phantom (refused)", &refused_and_shown),
        ] {
            let room = EXAMPLES_MAX.saturating_sub(self.examples.len());
            self.examples
                .extend(counters.first(room).map(|n| format!("{what}: frame {n} of lane {index}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lane whose ten frames were all accepted, and shown in this order.
    fn lane(shown: &[u64]) -> Lane {
        let mut lane = Lane::default();
        for _ in 0..10 {
            let counter = lane.sent.invoke();
            lane.sent.accept(counter);
        }
        for &counter in shown {
            lane.shown.show(counter);
        }
        lane
    }

    const ALL: [u64; 10] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

    fn clean() -> Verdict {
        Verdict { sent: 10, accepted: 10, shown: 10, ..Verdict::default() }
    }

    fn judge(lane: Lane) -> Verdict {
        Verdict::of(&[lane], Strays::default())
    }

    fn counts(verdict: &Verdict) -> Verdict {
        Verdict { examples: Vec::new(), ..verdict.clone() }
    }

    #[test]
    fn a_clean_lane_is_clean() {
        assert_eq!(judge(lane(&ALL)), clean());
        assert!(clean().is_clean());
    }

    #[test]
    fn one_lost_is_seen_as_lost_only() {
        let verdict = judge(lane(&[1, 2, 3, 4, 6, 7, 8, 9, 10]));
        assert_eq!(counts(&verdict), Verdict { lost: 1, shown: 9, ..clean() });
        assert_eq!(verdict.examples, ["lost: frame 5 of lane 0"]);
        assert!(!verdict.is_clean());
    }

    #[test]
    fn the_last_one_lost_is_seen() {
        let verdict = judge(lane(&ALL[..9]));
        assert_eq!(counts(&verdict), Verdict { lost: 1, shown: 9, ..clean() });
    }

    #[test]
    fn one_shown_twice_is_seen_as_duplicate_only() {
        for shown in [[&ALL[..5], &[5, 6, 7, 8, 9, 10]].concat(), [&ALL[..], &[1]].concat()] {
            let verdict = judge(lane(&shown));
            assert_eq!(counts(&verdict), Verdict { duplicate: 1, ..clean() }, "{shown:?}");
            assert!(!verdict.is_clean());
        }
    }

    #[test]
    fn one_shown_late_is_seen_as_reordered_only() {
        let verdict = judge(lane(&[1, 2, 4, 3, 5, 6, 7, 8, 9, 10]));
        assert_eq!(counts(&verdict), Verdict { reordered: 1, ..clean() });
        assert!(!verdict.is_clean());
    }

    /// What really happens to a frame that is overtaken: the inbox drops it. It is one mistake.
    #[test]
    fn one_dropped_for_being_late_is_seen_as_reordered_only() {
        let mut lane = lane(&[1, 2, 4, 5, 6, 7, 8, 9, 10]);
        lane.shown.dropped(3);
        let verdict = judge(lane);
        assert_eq!(counts(&verdict), Verdict { reordered: 1, shown: 9, ..clean() });
        assert_eq!(verdict.examples, ["reordered: frame 3 of lane 0"]);
    }

    #[test]
    fn one_never_posted_is_seen_as_phantom_only() {
        let verdict = judge(lane(&[&ALL[..], &[11]].concat()));
        assert_eq!(counts(&verdict), Verdict { phantom: 1, shown: 11, ..clean() });
        let strays = Strays { phantom: 1, corrupt: 0 };
        let verdict = Verdict::of(&[lane(&ALL)], strays);
        assert_eq!(counts(&verdict), Verdict { phantom: 1, ..clean() });
        assert!(!verdict.is_clean());
    }

    #[test]
    fn one_refused_and_shown_all_the_same_is_seen_as_phantom_only() {
        let mut lane = lane(&[&ALL[..], &[11]].concat());
        let counter = lane.sent.invoke();
        lane.sent.refuse(counter);
        let verdict = judge(lane);
        let expected = Verdict { phantom: 1, sent: 11, refused: 1, shown: 11, ..clean() };
        assert_eq!(counts(&verdict), expected);
    }

    #[test]
    fn one_corrupt_is_seen_as_corrupt() {
        let strays = Strays { phantom: 0, corrupt: 1 };
        let verdict = Verdict::of(&[lane(&ALL)], strays);
        assert_eq!(counts(&verdict), Verdict { corrupt: 1, ..clean() });
        assert!(!verdict.is_clean());
    }

    #[test]
    fn copies_the_inbox_dropped_are_counted_and_allowed() {
        let mut lane = lane(&ALL);
        lane.shown.dropped(3);
        lane.shown.dropped(9);
        let verdict = judge(lane);
        assert_eq!(counts(&verdict), Verdict { redelivered: 2, ..clean() });
        assert!(verdict.is_clean());
    }

    #[test]
    fn an_unknown_outcome_may_be_shown_or_not() {
        let mut shown = lane(&[&ALL[..], &[11]].concat());
        shown.sent.invoke();
        let verdict = judge(shown);
        assert!(verdict.is_clean());
        assert_eq!(verdict.unknown, 1);
        let mut not_shown = lane(&ALL);
        not_shown.sent.invoke();
        assert!(judge(not_shown).is_clean());
    }

    #[test]
    fn a_refused_frame_leaves_a_gap_that_is_allowed() {
        let mut lane = Lane::default();
        for counter in 1..4 {
            assert_eq!(lane.sent.invoke(), counter);
            if counter == 2 {
                lane.sent.refuse(counter);
            } else {
                lane.sent.accept(counter);
                lane.shown.show(counter);
            }
        }
        let verdict = judge(lane);
        assert!(verdict.is_clean());
        assert_eq!((verdict.accepted, verdict.refused, verdict.shown), (2, 1, 2));
    }
}
